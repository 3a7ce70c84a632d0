"""A study trained on image slices answers scans of such slices, and no others, through the entry points."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.pipeline import QUICK, entry_point
from tests.test_manifest_pipeline import WORDS, write_cohort

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/own, trained on scans of three windowed PNG slices, and images/ with them."""
    folder = tmp_path_factory.mktemp("images")
    manifest, labels = write_cohort(folder, slices=3), folder / "labels.csv"
    rows = [f"s{k},{index},sick" for k in range(1, 16, 2) for index in range(3)]
    labels.write_text("\n".join(["scan_id,slice_index,class", *rows]) + "\n")
    runs = f"runs={folder / 'runs'}"
    words = [runs, f"data.csv={manifest}", f"data.slices={labels}", f"ingest.cache={folder / 'cache'}"]
    assert entry_point("train")([*WORDS, *words]) == 0
    assert entry_point("aggregate")([runs, "study=own", "ensemble=test_resnet", *QUICK]) == 0
    return folder


def predict(study: Path, source: Path | str, *words: str) -> int:
    options = (f"runs={study / 'runs'}", "study=own", "ensemble=test_resnet", "gpus=0", "engine=torch")
    return entry_point("predict")([f"input={source}", *options, *words])


def answers(output: Path) -> dict[str, dict[str, float]]:
    document = json.loads((output / "predictions.json").read_text(encoding="utf-8"))
    return {answer["scan"]: answer["probabilities"] for answer in document["scans"]}


def slices(study: Path, k: int) -> list[Path]:
    return [study / "images" / f"{k}-{index}.png" for index in range(3)]


def put(study: Path, folder: Path, k: int) -> Path:
    """Give scan k of the cohort a folder of its own."""
    folder.mkdir(parents=True)
    for index, path in enumerate(slices(study, k)):
        (folder / f"{index}.png").write_bytes(path.read_bytes())
    return folder


def test_images_are_answered_however_they_are_given(study: Path, tmp_path: Path) -> None:
    first = put(study, tmp_path / "in" / "a" / "P1", 12)
    put(study, tmp_path / "in" / "P2", 13)
    (first / "Thumbs.db").write_bytes(b"left by a file manager")
    assert predict(study, tmp_path / "in", f"output={tmp_path / 'all'}", "pages=false") == 0
    assert predict(study, first, f"output={tmp_path / 'one'}") == 0
    lines = ["scan_id,path,values", f"x,{first},windowed", f"y,{';'.join(map(str, slices(study, 13)))},"]
    (tmp_path / "scans.csv").write_text("\n".join(lines) + "\n")
    assert predict(study, tmp_path / "scans.csv", f"output={tmp_path / 'csv'}", "pages=false") == 0
    all_answers, single, csv_answers = (answers(tmp_path / name) for name in ("all", "one", "csv"))
    assert list(all_answers) == ["P1", "P2"]
    assert single == {"P1": all_answers["P1"]}
    assert csv_answers == {"x": all_answers["P1"], "y": all_answers["P2"]}
    page = (tmp_path / "one" / "P1.html").read_text(encoding="utf-8")
    assert "8-bit images taken as windowed" in page
    assert ">nan" not in page


def test_what_the_study_has_not_learnt_from_is_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(study, tmp_path / "in" / "P1", 12)
    affine = np.array([[-8.0, 0, 0, 6], [0, -8, 0, 7], [0, 0, 10, -100], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((48, 48, 24), np.int16), affine), tmp_path / "in" / "P2.nii")
    (tmp_path / "in" / "P3").mkdir()
    (tmp_path / "in" / "P3" / "0.png").write_bytes(slices(study, 14)[0].read_bytes())
    assert predict(study, tmp_path / "in", f"output={tmp_path / 'out'}", "pages=false") == 1
    captured = capsys.readouterr().err
    assert "P2: a scan in HU, but the study was trained on windowed 8-bit images" in captured
    assert "P3: 1 slices, at least 3 are needed: no training scan of the study has fewer" in captured
    assert list(answers(tmp_path / "out")) == ["P1"]
    assert predict(study, slices(study, 14)[0], f"output={tmp_path / 'file'}") == 2
    assert "14-0: 1 slices, at least 3 are needed" in capsys.readouterr().err


def test_a_study_of_hu_refuses_windowed_images(
    tiny_study: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(study, tmp_path / "P1", 12)
    words = [f"runs={tiny_study / 'runs'}", "study=tiny", "ensemble=[resnext50,densenet161]", "gpus=0", "engine=torch"]
    assert entry_point("predict")([f"input={tmp_path / 'P1'}", *words, f"output={tmp_path / 'out'}"]) == 2
    assert "P1: 8-bit images in an unknown window, but the study was trained on scans in HU" in capsys.readouterr().err


def test_names_that_are_no_text_are_replaced_and_no_name_is_told_where_none_may_be(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = os.fsencode(tmp_path / "in")
    names = [b"M\xfcller", b"M\xf6ller", b"two\nlines", b"l" * 250, b"P1"]
    for k, name in enumerate(names):
        put(study, Path(os.fsdecode(os.path.join(root, name))), k)
    (tmp_path / "in" / "P1" / "1.png").rename(Path(os.fsdecode(os.path.join(root, b"P1", b"\xe9\n.png"))))
    (tmp_path / "in" / "P1" / "2.png").write_bytes(b"no image")
    assert predict(study, tmp_path / "in", f"output={tmp_path / 'out'}") == 1
    captured = capsys.readouterr()
    assert "P1/2.png: cannot be decoded" in captured.err
    all_answers = answers(tmp_path / "out")
    assert sorted(all_answers) == sorted(["M\\udcfcller", "M\\udcf6ller", "two\\nlines", "l" * 250])
    assert len(list((tmp_path / "out").glob("*.html"))) == 4
    assert predict(study, tmp_path / "in", f"output={tmp_path / 'anonymous'}", "anonymise_ids=true", "pages=false") == 1
    captured = capsys.readouterr()
    assert "ller" not in captured.out + captured.err
    assert "2.png" not in captured.err
    assert "image 1: cannot be decoded" in captured.err or "image 2: cannot be decoded" in captured.err


def test_inputs_of_one_name_keep_their_answers(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single, second = put(study, tmp_path / "h1" / "CT", 12), put(study, tmp_path / "h2" / "CT", 13)
    for words, name in (((), "CT"), (("anonymise_ids=true",), "anonymised")):
        output = study / "runs" / "own" / "predictions" / name
        assert predict(study, single, "pages=false", *words) == 0
        first = answers(output)
        assert predict(study, single, "pages=false", *words) == 0  # its own are replaced
        capsys.readouterr()
        assert predict(study, second, "pages=false", *words) == 2
        assert f"{name} holds the predictions for another input of this name" in capsys.readouterr().err
        assert answers(output) == first
        assert predict(study, second, "pages=false", *words, f"output={tmp_path / name}") == 0
        assert [path.name for path in output.iterdir() if path.name.startswith(".")] == [".answers"]
