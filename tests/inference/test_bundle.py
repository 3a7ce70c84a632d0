"""A bundle predicts as its study, without the study; all its files are checked, and none describes the cohort."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import RunError
from cnr_iemn.inference import bundle_writer
from cnr_iemn.inference.bundle import open_bundle
from cnr_iemn.inference.bundle_writer import check_output, onnx_test_slices, write_bundle
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.inference.onnx_export import largest_difference
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage2.ensemble import LoadedEnsemble, load_study_ensemble, read_ensemble, signed_text, write_ensemble
from cnr_iemn.stage2.new_scans import read_new_scans
from cnr_iemn.stage2.scan_predictions import predict_sets
from cnr_iemn.utils.checksums import file_digests
from tests.pipeline import MODELS, ROOT, entry_point

pytestmark = pytest.mark.slow

MODEL, ENSEMBLE = MODELS[0], "+".join(MODELS)
FILES = {
    "README.md",
    "booster.ubj",
    "checksums.json",
    "config.json",
    "ensemble.json",
    "model.safetensors",
    f"onnx/{MODEL}.onnx",
    "provenance.json",
}
PLANTED = ("PLANTED-SCAN", "/planted/")


def load_networks(loaded: LoadedEnsemble) -> EnsembleNetworks:
    return EnsembleNetworks(loaded.folder, loaded.ensemble, choose_hardware(0), batch_size=64)


def plant(folder: Path, store: SliceStore) -> None:
    """Have the study of one model know a scan of the cohort, and name scans and folders wherever it may."""
    path = folder / "ensemble.json"
    ensemble = json.loads(path.read_text())
    ensemble["learnt_from"] = {"PLANTED-SCAN-1": store.scan("P005").grey_sha256}
    origin = json.loads((folder / "provenance.json").read_text())
    origin |= {"command": "python aggregate.py runs=/planted/runs", "left_out": ["PLANTED-SCAN-2"]}
    origin["runs"][0] |= {"command": "python train.py 'data.exclude=[PLANTED-SCAN-2]'", "weights": "/planted/w.pth"}
    (folder / "provenance.json").write_text(json.dumps(origin))
    path.write_text(signed_text({**ensemble, "files": file_digests(folder)}))


@pytest.fixture(scope="module")
def store(tiny_study: Path) -> SliceStore:
    record = json.loads((tiny_study / "runs" / "tiny" / MODEL / "seed0" / "run.json").read_text())
    return SliceStore(Path(record["store"]), read_ensemble(tiny_study / "runs", "tiny", ENSEMBLE).pixels)


@pytest.fixture(scope="module")
def scans(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans of the cohort, one of each class."""
    folder = tmp_path_factory.mktemp("input") / "scans"
    for source in ("Normal subjects/normal001", "COVID-19 subjects/P005", "Cap subjects/cap003"):
        (scan,) = tiny_study.glob(f"cache/phantom-*/{source}")
        shutil.copytree(scan, folder / scan.name)
    return folder


@pytest.fixture(scope="module")
def bundle(
    tiny_study: Path, store: SliceStore, scans: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A bundle of one backbone, moved away from a study that is no more, and what that study said of the scans."""
    folder = tmp_path_factory.mktemp("study")
    left_out = shutil.ignore_patterns("last.ckpt", "ensembles")
    shutil.copytree(tiny_study / "runs", folder / "runs", ignore=left_out)
    words = [f"runs={folder / 'runs'}", "study=tiny", f"ensemble={MODEL}"]
    assert entry_point("aggregate")([*words, "permutations=0", "refits=0", "methods=false"]) == 0
    plant(folder / "runs" / "tiny" / "ensembles" / MODEL, store)
    expected_folder = tmp_path_factory.mktemp("expected") / "study"
    assert entry_point("predict")([*words, f"input={scans}", f"output={expected_folder}", "gpus=0"]) == 0
    assert entry_point("export")([*words, f"output={folder / 'made' / 'bundle'}"]) == 0
    assert [path.name for path in (folder / "made").iterdir()] == ["bundle"]
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.move(folder / "made" / "bundle", moved)
    shutil.rmtree(folder)
    return moved, expected_folder


def test_a_bundle_has_the_documented_files(bundle: tuple[Path, Path]) -> None:
    folder, _ = bundle
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == FILES
    documented = re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "guide" / "bundle.md").read_text(), flags=re.M)
    assert {name.replace("<network>", MODEL) for name in documented} == FILES
    for name in FILES:
        assert not zipfile.is_zipfile(folder / name)  # as torch's own files are
        head = (folder / name).read_bytes()[:2]
        assert head != b"#!"  # a script
        assert not (head[:1] == b"\x80" and head[1] <= 5)  # a pickle of protocol 2 to 5


def test_study_and_bundle_agree(
    bundle: tuple[Path, Path], scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected_folder = bundle

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a bundle is not unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.chdir(tmp_path)
    assert entry_point("predict")([f"bundle={folder}", f"input={scans}", "gpus=0"]) == 0
    output = tmp_path / "predictions" / "scans"
    bundle_document, study_document = (
        json.loads((item / "predictions.json").read_text()) for item in (output, expected_folder)
    )
    assert len(bundle_document["scans"]) == 3
    assert bundle_document == study_document  # every key of every scan and slice, to the last digit
    new, old = (read_new_scans(item / "predictions.parquet") for item in (output, expected_folder))
    assert new.metadata == old.metadata  # so that aggregate.py takes the one for the other
    assert all(np.array_equal(scan.networks, old.scans[scan_id].networks) for scan_id, scan in new.scans.items())
    assert (output / "P005.html").read_text() == (expected_folder / "P005.html").read_text()


def test_a_bundle_contains_no_names_of_scans_or_folders(bundle: tuple[Path, Path], store: SliceStore) -> None:
    folder, _ = bundle
    ensemble = open_bundle(folder).ensemble
    digest = store.scan("P005").grey_sha256
    assert dict(ensemble.learnt_from) == {digest: digest}  # still known, by its pixels
    temporary = str(store.root.parents[2])
    for path in folder.rglob("*.*"):
        data = path.read_bytes()
        matches = [text for text in (*PLANTED, temporary, str(ROOT)) if text.encode() in data]
        assert not matches, path
        if path.suffix in (".json", ".md"):  # in the weights four letters come about by chance
            assert not re.search(r"P00\d|cap00\d|normal00\d", data.decode())
    origin = json.loads((folder / "provenance.json").read_text())
    assert (origin["left_out"], origin["runs"][0]["weights"]) == (1, "a file")
    assert origin["runs"][0]["checkpoint_sha256"] == ensemble.members[0].checkpoint_sha256


@contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_flipped_bit_is_refused_whatever_the_file(bundle: tuple[Path, Path], name: str) -> None:
    path = bundle[0] / name
    data = bytearray(path.read_bytes())
    for position in (0, len(data) // 2, len(data) - 1) if len(data) < 1e5 else (len(data) // 2,):
        data[position] ^= 1
        # of a digit in the checksums, the file is named that it is of
        pattern = "moved/" if name == "checksums.json" else re.escape(name)
        with changed(path, bytes(data)), pytest.raises(RunError, match=pattern):
            open_bundle(bundle[0])
        data[position] ^= 1


def test_checksums_in_another_format_are_refused(bundle: tuple[Path, Path]) -> None:
    path = bundle[0] / "checksums.json"
    with changed(path, path.read_bytes() + b"\n"), pytest.raises(RunError, match=r"checksums\.json"):
        open_bundle(bundle[0])


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_refused(bundle: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    path = shutil.move(bundle[0] / name, tmp_path / "gone")
    try:
        with pytest.raises(RunError, match=rf"(lacks|has no) {re.escape(name)}"):
            open_bundle(bundle[0])
    finally:
        shutil.move(path, bundle[0] / name)


def test_an_added_file_is_refused_before_anything_is_loaded(
    bundle: tuple[Path, Path], scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle[0] / ".gitattributes").touch()  # Hugging Face's own
    added = bundle[0] / "onnx" / "model.ckpt"
    added.touch()
    try:
        assert entry_point("predict")([f"bundle={bundle[0]}", f"input={scans}", f"output={tmp_path / 'out'}"]) == 2
    finally:
        added.unlink()
    assert "holds onnx/model.ckpt, which checksums.json does not list" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    open_bundle(bundle[0])


def test_a_bundle_with_another_preprocessing_version_is_refused(
    bundle: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnr_iemn.data.slice_store.PIXEL_VERSION", 0)
    with pytest.raises(RunError, match=r"another version of the program.*get one that this version wrote"):
        open_bundle(bundle[0])


def test_a_bundle_that_points_at_a_checkpoint_is_refused(bundle: tuple[Path, Path], tmp_path: Path) -> None:
    """A forger can write checksums; torch.load is out of reach all the same."""
    shutil.copytree(bundle[0], tmp_path / "forged", ignore=shutil.ignore_patterns("onnx"))
    ensemble = open_bundle(bundle[0]).ensemble
    forged = replace(ensemble, members=tuple(replace(item, checkpoint="x.ckpt") for item in ensemble.members))
    write_ensemble(tmp_path / "forged", forged)
    bundle_writer.write_checksums(tmp_path / "forged")
    with pytest.raises(RunError, match=r"has the weights of resnext50 in x\.ckpt"):
        open_bundle(tmp_path / "forged")


@pytest.fixture(scope="module")
def recipe() -> dict[str, Callable[..., Any]]:
    """The functions of docs/guide/bundle.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide" / "bundle.md").read_text(), flags=re.S)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    return names


def test_onnx_and_the_documented_recipe_give_torchs_predictions(
    bundle: tuple[Path, Path], store: SliceStore, tiny_study: Path, recipe: dict[str, Callable[..., Any]]
) -> None:
    """ONNX for every scan of the cohort, all slices at once; the recipe, slice by slice, for two."""
    loaded = open_bundle(bundle[0])
    (member,) = (replace(item, precision="32") for item in loaded.ensemble.members)
    exact = load_networks(replace(loaded, ensemble=replace(loaded.ensemble, members=(member,))))
    method = loaded.load_method()
    (listed,) = json.loads((bundle[0] / "ensemble.json").read_text())["members"]
    session = onnxruntime.InferenceSession(bundle[0] / "onnx" / f"{MODEL}.onnx")
    scan_ids = list(pd.read_csv(tiny_study / "runs" / "tiny" / "split.csv")["scan_id"])
    assert len(scan_ids) == 15
    for number, scan_id in enumerate(scan_ids):
        grey = store.grey(scan_id)
        (batch,) = exact.batches(member, store, scan_id, len(grey))
        torchs = exact.predict(member, [batch])
        inputs = {"image": (batch["image"].float() / 255).numpy(), "position": batch["position"].numpy()}
        onnxs = session.run(["class_probabilities"], inputs)[0]
        assert onnxs == pytest.approx(torchs, abs=1e-4)
        answers = predict_sets(method, {"torch": (torchs[None],), "onnx": (onnxs[None],)})
        assert answers[0].argmax() == answers[1].argmax()
        if number < 2:
            lungs = np.stack([store.lungs(scan_id)[k] for k in range(len(grey))])
            assert recipe["slice_probabilities"](bundle[0], listed, grey, lungs) == pytest.approx(torchs, abs=1e-4)
            assert recipe["scan_probabilities"](bundle[0], grey, lungs) == pytest.approx(answers[0], abs=1e-6)


def test_the_recipe_reads_a_scan_as_predict_does(
    bundle: tuple[Path, Path], scans: Path, store: SliceStore, recipe: dict[str, Callable[..., Any]]
) -> None:
    grey, lungs = recipe["pixels_of"](bundle[0], scans / "P005")
    assert np.array_equal(grey, store.grey("P005"))
    assert lungs.shape == grey.shape


def test_hugging_face_reads_the_folder(bundle: tuple[Path, Path]) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="comes with the extra timm")
    folder, _ = bundle
    card = hub.ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("other", "image-classification")
    assert "phantom" in card.data.tags
    assert PHANTOM_NOTICE in card.text.split("\n## ")[0]
    config = json.loads((folder / "config.json").read_text())
    ensemble = open_bundle(folder).ensemble
    assert tuple(config["id2label"][str(k)] for k in range(3)) == ensemble.classes
    assert (config["notice"], config["ensemble"]) == (PHANTOM_NOTICE, MODEL)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == {
            f"{MODEL}/{key}" for key in load_networks(open_bundle(folder)).networks[ensemble.members[0]].state_dict()
        }


def test_networks_of_several_models_and_folds_stay_separate(tiny_study: Path, tmp_path: Path) -> None:
    loaded = load_study_ensemble(tiny_study / "runs", "tiny", ENSEMBLE)
    first, second = loaded.ensemble.members
    members = (replace(first, fold=0), replace(second, fold=0), replace(first, fold=1), replace(second, fold=1))
    changed_ensemble = replace(loaded, ensemble=replace(loaded.ensemble, members=members))
    folds = load_networks(changed_ensemble)
    with torch.no_grad():
        folds.networks[members[2]].class_head.bias.add_(1.0)  # what tells the folds of one model apart
    assert write_bundle(tmp_path / "bundle", changed_ensemble, folds, onnx=False, license_name="mit") == {}
    again = load_networks(open_bundle(tmp_path / "bundle"))
    for member, before in zip(again.networks, members, strict=True):
        expected, state = folds.networks[before].state_dict(), again.networks[member].state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
    assert [member.name for member in again.networks] == [f"{model}-fold{fold}" for fold in (0, 1) for model in MODELS]
    assert (tmp_path / "bundle" / "README.md").read_text().startswith('---\nlicense: "mit"\n')


def test_an_onnx_file_that_differs_from_torch_is_rejected(
    bundle: tuple[Path, Path], tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = open_bundle(bundle[0])
    networks = load_networks(loaded)
    member, network = next(iter(networks.networks.items()))
    noise = onnx_test_slices(loaded.ensemble.pixels.size)
    batches = list(networks.batches(member, noise, "test", bundle_writer.N_TEST_SLICES))
    exported = bundle[0] / "onnx" / f"{MODEL}.onnx"
    assert largest_difference(network, exported, batches) < 1e-5
    with torch.no_grad():
        network.class_head.bias[0] += 1e-2
    assert 1e-4 < largest_difference(network, exported, batches) < 1e-2
    (tmp_path / "model_card.md").touch()
    shutil.copy(loaded.files / "booster.ubj", tmp_path)
    monkeypatch.setattr(
        bundle_writer, "export_onnx", lambda _, path, **__: shutil.copytree(exported.parent, path.parent)
    )
    shutil.copy(tiny_study / "runs" / "tiny" / "ensembles" / ENSEMBLE / "provenance.json", tmp_path)
    ensemble = replace(loaded.ensemble, files=file_digests(tmp_path))
    changed_ensemble = replace(loaded, files=tmp_path, ensemble=ensemble)
    with pytest.raises(RunError, match=r"resnext50 differs from torch by .*e-03 in a probability, where 1e-04"):
        write_bundle(tmp_path / "new" / "bundle", changed_ensemble, networks, onnx=True, license_name="other")
    assert list((tmp_path / "new").iterdir()) == []


def test_only_an_older_bundle_is_replaced_and_only_on_request(bundle: tuple[Path, Path], tmp_path: Path) -> None:
    check_output(tmp_path / "new", overwrite=False)
    with pytest.raises(RunError, match="overwrite=true"):
        check_output(bundle[0], overwrite=False)
    copy = shutil.copytree(bundle[0], tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    check_output(copy, overwrite=True)
    with pytest.raises(RunError, match="is not a bundle, so it is not replaced"):
        check_output(tmp_path, overwrite=True)
    (copy / ".git").mkdir()
    with pytest.raises(RunError, match=r"holds \.git, which is not part of the bundle"):
        check_output(copy, overwrite=True)
