"""What an ensemble's networks say of perturbed scans; kept scan by scan, so that an interruption costs one scan."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cnr_iemn import __version__
from cnr_iemn.ct.perturbations import MAGNITUDES, PERTURBATIONS, UNPERTURBED
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.ct.source_signature import source_signature
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.evaluation.robustness.robustness_metrics import AS_READ
from cnr_iemn.inference.answers import content_sha256
from cnr_iemn.inference.input_checks import Source, prepare_new_scan
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.inference.scan_result import file_stem
from cnr_iemn.schemas import SCHEMA_VERSION, TrainingScans
from cnr_iemn.stage1.training.hardware import usable_cores
from cnr_iemn.stage1.training.loggers.progress import show_progress
from cnr_iemn.utils.atomic_io import write_bytes_atomic
from cnr_iemn.utils.sandbox import refusal, run_limited

log = logging.getLogger(__name__)

FOLDER = ".robustness"
CHANGED = "other pixels than the study has"
MISSING = "no longer in the cohort"
_ALL = {AS_READ: UNPERTURBED, **PERTURBATIONS}
_OF_THE_MOMENT = {
    RefusalCode.MEMORY_LIMIT,
    RefusalCode.TIME_LIMIT,
    RefusalCode.DECODER_CRASH,
    RefusalCode.NO_ACCESS,
    RefusalCode.PROGRAM_FAULT,
}
"""Refusals that another attempt may not have: such scans are read again by the next command."""
_Job = tuple[str, Source, str]


@dataclass
class ScanAnswers:
    """One scan under every perturbation, by its name.

    ``channels``: as ``EnsembleNetworks.predict_scan`` returns them. ``refused``: the code of a refusal.
    """

    channels: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether each perturbation has an answer or a refusal."""
        return len(self.channels) + len(self.refused) == len(_ALL)


class AnswerFiles:
    """The answers of scans in a folder; one counts as long as networks, program, perturbations and files are the same.

    Args:
        folder: Where they are.
        networks: That give them.
    """

    def __init__(self, folder: Path, networks: EnsembleNetworks) -> None:
        self._folder = folder
        members = asdict(networks.ensemble)
        if not networks.ensemble.reads_features:  # else stage 2 has channels of its own
            del members["method"]
        self._request = [SCHEMA_VERSION, __version__, MAGNITUDES, list(_ALL), networks.engine, members]

    def key(self, source: Source) -> str:
        """Return the SHA-256 of what an answer for a scan depends on, its files as they are now."""
        return hashlib.sha256(json.dumps([*self._request, source_signature(source)]).encode()).hexdigest()

    def read(self, scan_id: str, key: str) -> ScanAnswers | None:
        """Return the answers of this key, None where there are none, or damaged ones."""
        try:
            with safe_open(self._path(scan_id), framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, SafetensorError):
            return None
        text = metadata.get("refused", "")
        if metadata.get("key") != key or metadata.get("sha256") != content_sha256(text, tensors):
            return None
        return ScanAnswers(tensors, json.loads(text))

    def write(self, scan_id: str, key: str, answers: ScanAnswers) -> None:
        """Write the answers for a scan, whole or not at all."""
        tensors = {name: np.ascontiguousarray(channels) for name, channels in answers.channels.items()}
        text = json.dumps(answers.refused)
        metadata = {"key": key, "refused": text, "sha256": content_sha256(text, tensors)}
        self._folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(self._path(scan_id), save(tensors, metadata=metadata))

    def _path(self, scan_id: str) -> Path:
        return self._folder / f"{file_stem(scan_id)}.safetensors"


def answer_perturbed(
    networks: EnsembleNetworks,
    store: SliceStore,
    sources: Mapping[str, Source],
    scan_ids: Sequence[str],
    files: AnswerFiles,
) -> dict[str, ScanAnswers]:
    """Return the networks' answers for scans, read again from their files as predict.py reads them.

    Args:
        networks: Of the ensemble.
        store: The slices that the study was trained on: a scan that gives others now is refused.
        sources: What each scan of the cohort is read from.
        scan_ids: The scans.
        files: Answers of an earlier command, and of this one.
    """
    answers = {scan_id: ScanAnswers(refused={AS_READ: MISSING}) for scan_id in scan_ids if scan_id not in sources}
    keys = {scan_id: files.key(sources[scan_id]) for scan_id in scan_ids if scan_id not in answers}
    answers |= {scan_id: scan for scan_id, key in keys.items() if (scan := files.read(scan_id, key)) is not None}
    pending = {scan_id: sources[scan_id] for scan_id in keys if scan_id not in answers}
    if len(pending) < len(keys):
        log.info("%d scans were perturbed before; %d follow.", len(keys) - len(pending), len(pending))
    if pending:
        finished = _answer_each(networks, store, pending)
        for scan_id, scan in show_progress(finished, len(pending), verb="Perturbing", unit="scans"):
            answers[scan_id] = scan
            if not _OF_THE_MOMENT & set(scan.refused.values()):
                files.write(scan_id, keys[scan_id], scan)
    return {scan_id: answers[scan_id] for scan_id in scan_ids}


def _answer_each(
    networks: EnsembleNetworks, store: SliceStore, sources: Mapping[str, Source]
) -> Iterator[tuple[str, ScanAnswers]]:
    """Yield id and answers of each scan as it is done. Other processes read ahead."""
    jobs: list[_Job] = [(scan_id, source, name) for scan_id, source in sources.items() for name in _ALL]
    prepare = partial(_prepare, networks.ensemble.pixels, networks.ensemble.training_scans)
    workers = 1 if networks.hardware.device.type == "cpu" else usable_cores()  # as in Predictor.reader_processes
    scans = {scan_id: ScanAnswers() for scan_id in sources}
    with closing(run_limited(prepare, jobs, workers=workers)) as results:
        for index, prepared in results:
            scan_id, _, name = jobs[index]
            scan = scans[scan_id]
            if isinstance(prepared, ScanError):
                scan.refused[name] = prepared.code.value
                if name == AS_READ:
                    log.warning("Left out of the robustness: %s", refusal(scan_id, prepared))
            elif name == AS_READ and not _is_stored(prepared, store, scan_id):
                scan.refused[name] = CHANGED
                log.warning("Left out of the robustness: %s has %s.", scan_id, CHANGED)
            else:
                scan.channels[name] = networks.predict_scan(prepared)
            if scan.complete:
                yield scan_id, scans.pop(scan_id)


def _prepare(pixels: PixelSettings, training: TrainingScans, job: _Job) -> PreparedScan:
    scan_id, source, name = job
    return prepare_new_scan(pixels, False, (scan_id, source), training=training, perturbation=_ALL[name])


def _is_stored(prepared: PreparedScan, store: SliceStore, scan_id: str) -> bool:
    """Tell whether a scan has the pixels on which the study was trained."""
    scan = store.scan(scan_id)
    arrays = prepared.grey, np.packbits(prepared.lungs, axis=-1)
    grey, lungs = (hashlib.sha256(array.tobytes()).hexdigest() for array in arrays)
    return (grey, lungs) == (scan.grey_sha256, scan.lungs_sha256)
