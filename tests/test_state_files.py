"""Damaged files of our own are named with what to do, in every command that reads them: no traceback, exit code 2."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typing_extensions import TypedDict

from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import CohortError, RunError, StoreError
from cnr_iemn.inference.bundle import check_files, open_bundle, write_checksums
from cnr_iemn.phantom.cohort_writer import holds_cohort
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.utils.atomic_io import json_text
from cnr_iemn.utils.json_io import parse_json, read_json
from tests.builders import NO_SCANS
from tests.damages import KINDS, NESTED, damage, linked_copy
from tests.pipeline import MODELS, TINY, entry_point

pytestmark = pytest.mark.slow

ENSEMBLE = "+".join(MODELS)
WHAT_TO_DO = re.compile(r"Run (python )?(aggregate|train|prepare)\.py|overwrite=true|[Rr]emove|Name another")


class Shape(TypedDict):
    name: str


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_reader_names_the_file_and_what_to_do(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json_text({"schema_version": 2, "name": "three"}))
    assert read_json(path, Shape, again="Do it again.", extra="ignore") == {"name": "three"}
    damage(path, kind)
    with pytest.raises(RunError, match=r"state\.json .*Do it again\.$"):
        read_json(path, Shape, again="Do it again.", extra="ignore")


def test_a_message_quotes_no_more_than_a_line(tmp_path: Path) -> None:
    for data in (NESTED, b'{"schema_version": "' + b"9" * 10_000 + b'"}', b'["' + b"x" * 10_000 + b'"]'):
        with pytest.raises(RunError) as refused:
            parse_json(data, Shape, source="It", again="Do it again.")
        assert len(str(refused.value)) < 300


def run_json(folder: Path) -> tuple[Path, Callable[[], object]]:
    run = RunFolder.of(folder, "study", "resnext50", "seed0")
    run.start({"configuration": {"seed": 0}, "scans": NO_SCANS}, "")
    run.finish(status="finished", score=0.5)
    return run.path / "run.json", lambda: run.finished_score({"seed": 0}, overwrite=False)


def phantom_json(folder: Path) -> tuple[Path, Callable[[], object]]:
    arguments = {"schema_version": 2, "scans": {"Normal": 2}, "seed": 0}
    (folder / "phantom.json").write_text(json_text(arguments))
    (folder / "Index.csv").touch()
    return folder / "phantom.json", lambda: holds_cohort(folder, arguments)


def stored(folder: Path) -> SliceStore:
    scan, grey = folder / "P1", np.arange(4 * 32 * 32, dtype=np.uint8).reshape(4, 32, 32)
    scan.mkdir()
    np.save(scan / "grey.npy", grey)
    np.save(scan / "lungs.npy", grey[:, :, :4])
    facts = {"scan_id": "P1", "n_slices": 4, "size": 32, "spacing_mm": [2.0, 0.7, None], "z_mm": [3, 2.0, 1.0, None]}
    facts |= {"lung_litres": 4.5, "findings": ["a"], "phantom": True, "grey_sha256": "a", "lungs_sha256": "b"}
    (scan / "scan.json").write_text(json_text({**facts, "schema_version": 2}))
    source = {"files": "a", "source_sha256": "b", "acquisition": {"kernel": "B70f", "kvp": None, "header_bytes": 512}}
    (scan / "source.json").write_text(json_text(source))
    return SliceStore(folder, PixelSettings(size=32))


def in_the_store(name: str) -> Callable[[Path], tuple[Path, Callable[[], object]]]:
    def made(folder: Path) -> tuple[Path, Callable[[], object]]:
        store = stored(folder)
        reads = {"scan.json": store.scan, "source.json": store.acquisition, "grey.npy": store.grey}
        return folder / "P1" / name, lambda: reads.get(name, store.lungs)("P1")

    return made


READERS = {
    "run.json": run_json,
    "phantom.json": phantom_json,
    **{name: in_the_store(name) for name in ("scan.json", "source.json", "grey.npy", "lungs.npy")},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_its_file_and_what_to_do(name: str, kind: str, tmp_path: Path) -> None:
    path, read = READERS[name](tmp_path)
    if name != "scan.json":  # the store keeps what it has read of it
        read()
    damage(path, kind)
    if name == "source.json" and kind in ("missing", "a folder"):  # such a scan is prepared again
        read()
        return
    with pytest.raises((RunError, StoreError, CohortError)) as refused:
        read()
    said = str(refused.value)
    assert str(tmp_path) in said
    assert WHAT_TO_DO.search(said), said


def test_what_the_store_does_not_know_is_read_as_unknown(tmp_path: Path) -> None:
    store = stored(tmp_path)
    scan = store.scan("P1")
    assert np.isnan(scan.spacing_mm[2])
    assert scan.z_mm[:3] == (3.0, 2.0, 1.0)
    assert np.isnan(scan.z_mm[3])
    assert (store.acquisition("P1").kernel, store.acquisition("P1").header_bytes) == ("B70f", 512)
    assert np.isnan(store.acquisition("P1").kvp)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "ensemble.json", "checksums.json"])
def test_a_forged_bundle_of_damaged_files_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    """Its checksums are those of the damaged files, so that the readers themselves see them."""
    for each in ("booster.ubj", "model.safetensors", "ensemble.json", "config.json"):
        (tmp_path / each).write_text('{"ensemble": "one"}')
    write_checksums(tmp_path)
    check_files(tmp_path)
    damage(tmp_path / name, kind)
    if name != "checksums.json" and kind not in ("a folder", "missing"):
        write_checksums(tmp_path)
    with pytest.raises(RunError) as refused:
        open_bundle(tmp_path)
    assert str(tmp_path) in str(refused.value)


COMMANDS = {
    "train": [("resnext50/seed0/run.json", k) for k in ("cut", "a list", "other types", "nested", "not UTF-8")],
    "aggregate": [
        ("resnext50/seed0/run.json", "cut"),
        ("densenet161/seed0/run.json", "the version alone"),
        ("resnext50/seed0/predictions.parquet", "cut"),
        ("resnext50/seed0/predictions.parquet", "zeros"),
    ],
    "predict": [(f"ensembles/{ENSEMBLE}/ensemble.json", k) for k in KINDS if k != "a folder"]
    + [(f"ensembles/{ENSEMBLE}/booster.ubj", k) for k in KINDS]
    + [("resnext50/seed0/checkpoints/best.ckpt", k) for k in ("cut", "empty", "missing")],
    "export": [
        (f"ensembles/{ENSEMBLE}/{name}", kind)
        for name in ("booster.ubj", "provenance.json", "model_card.md")
        for kind in ("cut", "empty", "other types", "missing", "a folder")
    ],
    "compare": [(f"ensembles/{ENSEMBLE}/{name}", k) for name in ("metrics.json", "patients.csv") for k in KINDS],
}


@pytest.mark.parametrize(("command", "name", "kind"), [(c, *case) for c, cases in COMMANDS.items() for case in cases])
def test_every_command_ends_with_a_sentence(
    command: str, name: str, kind: str, tiny_study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = linked_copy(tiny_study / "runs" / "tiny", tmp_path / "runs" / "tiny")
    damage(study / name, kind)
    ensemble = [f"runs={tmp_path / 'runs'}", "study=tiny", f"ensemble=[{','.join(MODELS)}]"]
    words = {
        "train": [*TINY, f"ingest.cache={tiny_study / 'cache'}", f"runs={tmp_path / 'runs'}", "study=tiny"],
        "aggregate": [*ensemble, "permutations=0", "refits=0", "methods=false"],
        "predict": [*ensemble, f"input={tiny_study}", f"output={tmp_path / 'out'}", "gpus=0"],
        "export": [*ensemble, f"output={tmp_path / 'out'}", "onnx=false"],
        "compare": [*ensemble, "compare=other"],
    }[command]
    if command == "compare":
        linked_copy(tiny_study / "runs" / "tiny" / "ensembles", tmp_path / "runs" / "other" / "ensembles")
    made = entry_point("aggregate" if command == "compare" else command)
    assert made([*words, *(["model=resnext50"] if command == "train" else [])]) == 2
    said = capfd.readouterr().err
    assert Path(name).name in said or str(study) in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
