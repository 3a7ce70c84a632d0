"""The answers of predict.py in its output folder, a file a scan: what an interrupted command does not do again."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from typing_extensions import TypedDict

from cnr_iemn import __version__
from cnr_iemn.ct.source_signature import source_signature
from cnr_iemn.errors import RefusalCode, RunError
from cnr_iemn.inference.input_checks import Source
from cnr_iemn.inference.scan_result import ScanPrediction, file_stem
from cnr_iemn.inference.sources.reach import reach_problem
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.stage2.ensemble import LoadedEnsemble
from cnr_iemn.stage2.new_scans import NewScan
from cnr_iemn.utils.atomic_io import exclusive, write_bytes_atomic
from cnr_iemn.utils.lookahead import map_ahead
from cnr_iemn.utils.text import visible

log = logging.getLogger(__name__)

FOLDER = ".answers"
_SUFFIX, _LOCK = ".safetensors", ".lock"
_STEM = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_State = Literal["pending", "current", "kept"]
"""What there is for a scan; kept: an earlier prediction of one that is out of reach (decision 0091)."""
_OUTPUT_FILE = re.compile(rf"{_STEM}\.html|features/{_STEM}\.safetensors|dicom/{_STEM}/(report|capture|lungs)\.dcm")
"""Files that predict.py writes for single scans, relative to its output folder."""


@dataclass(frozen=True)
class Answer:
    """What predict.py says of one scan.

    Attributes:
        scan_id: The scan's id.
        engine: What ran the networks.
        files: Written for this scan, relative to the output folder.
        refused: Why there is no prediction; None where there is one.
        code: The refusal's; None where there is a prediction.
        prediction: The entry in predictions.json; None where refused.
        probabilities: What the networks say of the slices; None where refused.
    """

    scan_id: str
    engine: str
    files: tuple[str, ...] = ()
    refused: str | None = None
    code: RefusalCode | None = None
    prediction: ScanPrediction | None = None
    probabilities: NewScan | None = None


class _Record(TypedDict):
    """The JSON of an answer. ``source``, ``place``, ``request``: what it was made from, see ``AnswerFolder``."""

    scan_id: str
    source: str
    place: str
    request: str
    engine: str
    files: list[str]
    refused: str | None
    code: RefusalCode | None
    prediction: ScanPrediction | None
    phantom: bool
    grey_sha256: str


_RECORD = TypeAdapter(_Record)


def request_digest(loaded: LoadedEnsemble, settings: Mapping[str, object]) -> str:
    """Return the SHA-256 of what an answer depends on beside its scan: the ensemble with its files, and settings."""
    values = [SCHEMA_VERSION, __version__, loaded.name, asdict(loaded.ensemble), dict(settings)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class AnswerFolder:
    """The answers in an output folder. A file is there with all of its answer, or as it was.

    Args:
        output: The output folder.
        request: ``request_digest`` of this command; answers of another one are given again.
        engine: What must have run the networks; None for any.
        signature: Of a scan's files; an answer is of these files.
        place: Hash of where a scan's files are; "" where this must not or cannot be told.

    Attributes:
        out_of_reach: Scans whose earlier prediction ``pending`` has found to stay.
    """

    def __init__(
        self,
        output: Path,
        request: str,
        *,
        engine: str | None = None,
        signature: Callable[[Source], str] = source_signature,
        place: Callable[[Source], str] = lambda _: "",
    ) -> None:
        self.output, self.folder = output, output / FOLDER
        self.out_of_reach: set[str] = set()
        self._request, self._engine, self._signature, self._place = request, engine, signature, place
        self._sources: dict[str, tuple[str, str]] = {}

    @contextmanager
    def lock(self, part: str | None = None) -> Iterator[None]:
        """Keep other commands from the output folder; with the name of a part, from this part of it.

        Folders made for it go where they hold no answer in the end.

        Raises:
            RunError: Another command writes there.
        """
        new = [folder for folder in (self.output, *self.output.parents) if not folder.exists()]
        try:
            with ExitStack() as stack:
                stack.enter_context(exclusive(self.folder / _LOCK, self._refuse, shared=part is not None))
                if part is not None:
                    stack.enter_context(exclusive(self.folder / f".{part.replace(' ', '-')}{_LOCK}", self._refuse))
                yield
        finally:
            if not any(self._paths()):
                with suppress(RunError, OSError):  # another part is at work; something else is in a folder
                    self._remove_folders(new)

    def _refuse(self) -> NoReturn:
        raise RunError(
            f"Another predict.py writes into {visible(str(self.output))}. Wait until it ends, or give another folder "
            "(output=)."
        )

    def _remove_folders(self, new: Sequence[Path]) -> None:
        with exclusive(self.folder / _LOCK, self._refuse):
            for lock in self.folder.glob(f".*{_LOCK}"):
                lock.unlink()
            (self.folder / _LOCK).unlink(missing_ok=True)
            for folder in (self.folder, *new):
                folder.rmdir()

    def jobs(self, scans: Sequence[tuple[str, Source]]) -> Iterator[tuple[str, Source]]:
        """Yield the scans; what their files are is noted before they are read, so that a later change shows."""
        looks = map_ahead(lambda scan: (self._signature(scan[1]), self._place(scan[1])), scans)
        with closing(looks):
            for (scan_id, source), origin in zip(scans, looks, strict=True):
                self._sources[scan_id] = origin
                yield scan_id, source

    def pending(self, scans: Sequence[tuple[str, Source]], *, redo: str) -> list[tuple[str, Source]]:
        """Return the scans to predict. ``redo``: of those with an answer, changed ones, refused ones too, or all."""
        states = list(map_ahead(partial(self._state, redo=redo), scans))
        pending = [scan for scan, state in zip(scans, states, strict=True) if state == "pending"]
        self.out_of_reach = {scan for (scan, _), state in zip(scans, states, strict=True) if state == "kept"}
        if not pending:
            log.info("Each of the %d scans has an answer; redo=all predicts them again.", len(scans))
        elif len(pending) < len(scans):
            log.info("%d of %d scans have an answer; the others follow.", len(scans) - len(pending), len(scans))
        return pending

    def _state(self, scan: tuple[str, Source], *, redo: str) -> _State:
        """Return what there is for a scan: an answer counts if it is of this request and its files are there.

        It is current if its source is unchanged. A prediction is kept if nothing is at the place that it is from.
        """
        scan_id, source = scan
        entry = self._read(scan_id)
        if entry is None:
            return "pending"
        record, answer = entry
        whole = (
            record["request"] == self._request
            and (self._engine is None or answer.engine == self._engine)
            and all((self.output / name).is_file() for name in answer.files)
        )
        if not whole:
            return "pending"
        counts = redo == "changed" or (redo == "refused" and answer.refused is None)
        if counts and record["source"] == self._signature(source):
            return "current"
        if answer.refused is not None or record["place"] == "" or record["place"] != self._place(source):
            return "pending"
        return "pending" if reach_problem(source) is None else "kept"

    def read(self, scan_id: str) -> Answer | None:
        """Return the answer for a scan; None where there is none, or a damaged one."""
        entry = self._read(scan_id)
        return None if entry is None else entry[1]

    def write(self, answer: Answer) -> None:
        """Write an answer, after its files; those of an earlier answer that it does not have are removed."""
        earlier = self.read(answer.scan_id)
        if earlier is not None:
            remove_files(self.output, set(earlier.files) - set(answer.files))
        scan = answer.probabilities
        source, place = self._sources.pop(answer.scan_id, ("", ""))
        record: _Record = {
            "scan_id": answer.scan_id,
            "source": source,
            "place": place,
            "request": self._request,
            "engine": answer.engine,
            "files": list(answer.files),
            "refused": answer.refused,
            "code": answer.code,
            "prediction": answer.prediction,
            "phantom": scan is not None and scan.phantom,
            "grey_sha256": "" if scan is None else scan.grey_sha256,
        }
        tensors: dict[str, NDArray[Any]] = {}
        if scan is not None:
            tensors = {"z_mm": scan.z_mm, "networks": np.ascontiguousarray(scan.networks)}
        text = json.dumps(record)
        metadata = {"answer": text, "sha256": content_sha256(text, tensors)}
        write_bytes_atomic(self._path(answer.scan_id), save(tensors, metadata=metadata))

    def remove_others(self, scan_ids: Sequence[str]) -> None:
        """Remove the answers for scans that the input no longer holds, with their files."""
        current = {self._path(scan_id) for scan_id in scan_ids}
        for path in sorted(set(self._paths()) - current):
            entry = _read_record(path)
            remove_files(self.output, () if entry is None else entry[0]["files"])
            path.unlink(missing_ok=True)

    def _path(self, scan_id: str) -> Path:
        return self.folder / f"{file_stem(scan_id)}{_SUFFIX}"

    def _paths(self) -> Iterator[Path]:
        return self.folder.glob(f"[!.]*{_SUFFIX}")

    def _read(self, scan_id: str) -> tuple[_Record, Answer] | None:
        entry = _read_record(self._path(scan_id))
        if entry is None or entry[0]["scan_id"] != scan_id:
            return None
        record, scan = entry
        answer = Answer(
            scan_id,
            record["engine"],
            tuple(record["files"]),
            record["refused"],
            record["code"],
            record["prediction"],
            scan,
        )
        return record, answer


def _read_record(path: Path) -> tuple[_Record, NewScan | None] | None:
    """Return what a file holds, None where it is missing or its checksum differs."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        text = metadata.get("answer", "")
        if metadata.get("sha256") != content_sha256(text, tensors):
            return None
        record = _RECORD.validate_python(json.loads(text))
    except (OSError, SafetensorError, ValidationError, json.JSONDecodeError):
        return None
    if record["prediction"] is None:
        return record, None
    return record, NewScan(tensors["z_mm"], record["phantom"], record["grey_sha256"], tensors["networks"])


def content_sha256(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of a file's text and tensors, by which damage shows."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def remove_files(output: Path, names: Iterable[str]) -> None:
    """Remove files of single scans, by their names relative to the output folder; no other file, whatever its name."""
    removable = {name for name in names if _OUTPUT_FILE.fullmatch(name)}
    for name in removable:
        (output / name).unlink(missing_ok=True)
    for folder in {(output / name).parent for name in removable} - {output}:
        with suppress(OSError):  # it holds something, or is not there
            folder.rmdir()
