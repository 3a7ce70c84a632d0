"""Scans on a disk that is not mounted: their earlier predictions stay, with a note (decision 0091)."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.ct.source_signature import place_signature, source_signature
from cnr_iemn.errors import CohortError, InputError, RefusalCode
from cnr_iemn.inference.answers import FOLDER, Answer, AnswerFolder
from cnr_iemn.inference.input_checks import Source, find_new_scans
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.inference.scan_result import ScanPrediction
from cnr_iemn.inference.sources.local_input import local_input
from cnr_iemn.inference.sources.reach import reach_problem, require_reach
from cnr_iemn.stage2.new_scans import NewScan
from tests.ct.conftest import make_slices, write
from tests.pipeline import MODELS, entry_point

NOTE = "an earlier prediction: the scan was out of reach when predict.py last looked"


def make_answer(scan_id: str, *, files: tuple[str, ...] = ()) -> Answer:
    """Return a prediction that nobody has made."""
    prediction: ScanPrediction = {
        "scan": scan_id,
        "phantom": True,
        "class": "CAP",
        "undecided": None,
        "calibrated": None,
        "probabilities": {"CAP": 1.0},
        "n_slices": 1,
        "lung_litres": 4.0,
        "findings": [],
        "contributions": None,
        "page": None,
        "dicom": None,
        "slices": [],
    }
    scan = NewScan(np.zeros(1), True, "grey", np.ones((1, 1, 1), np.float32))
    return Answer(scan_id, "torch", files, prediction=prediction, probabilities=scan)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with the scans P0, P1 and P2."""
    for k in range(3):
        (tmp_path / "disk" / f"P{k}").mkdir(parents=True)
        (tmp_path / "disk" / f"P{k}" / "1.dcm").write_bytes(b"x")
    return tmp_path / "disk"


def scans_of(disk: Path) -> list[tuple[str, Source]]:
    return [(f"P{k}", disk / f"P{k}") for k in range(3)]


def opened(disk: Path, request: str = "request", *, place: Callable[[Source], str] = place_signature) -> AnswerFolder:
    return AnswerFolder(disk.parent / "out", request, place=place)


def answered(disk: Path, *, place: Callable[[Source], str] = place_signature) -> None:
    """Answer the scans: P0 and P2 by a prediction, P1 by a refusal. P2 has a page."""
    answers = opened(disk, place=place)
    for scan_id, _ in answers.jobs(scans_of(disk)):
        if scan_id == "P1":
            answers.write(Answer("P1", "torch", refused="P1: no lungs", code=RefusalCode.NO_LUNGS))
            continue
        answers.write(make_answer(scan_id, files=("P2.html",) if scan_id == "P2" else ()))
    (disk.parent / "out" / "P2.html").write_text("page")


def unmount(disk: Path, kind: str) -> None:
    """Leave of a scan's folder nothing, or the mount point."""
    for scan in sorted(disk.iterdir()):
        scan.rename(disk.parent / f"away-{scan.name}")
        if kind == "mount point":
            scan.mkdir()


@pytest.mark.parametrize("kind", ["path", "mount point"])
@pytest.mark.parametrize("redo", ["changed", "refused", "all"])
def test_an_earlier_prediction_is_kept(kind: str, redo: str, disk: Path) -> None:
    answered(disk)
    unmount(disk, kind)
    answers = opened(disk)
    assert [scan_id for scan_id, _ in answers.pending(scans_of(disk), redo=redo)] == ["P1"]  # a refusal is not
    assert answers.out_of_reach == {"P0", "P2"}
    for k in range(3):
        shutil.rmtree(disk / f"P{k}", ignore_errors=True)
        (disk.parent / f"away-P{k}").rename(disk / f"P{k}")
    answers = opened(disk)
    assert answers.pending(scans_of(disk), redo="changed") == []
    assert answers.out_of_reach == set()


def test_a_prediction_is_kept_for_its_own_request_and_place_alone_and_only_whole(disk: Path, tmp_path: Path) -> None:
    answered(disk)
    shutil.rmtree(disk)
    for folder, request in ((disk, "another"), (tmp_path / "other", "request")):
        answers = opened(disk, request)
        assert len(answers.pending(scans_of(folder), redo="changed")) == 3
        assert answers.out_of_reach == set()
    (tmp_path / "out" / "P2.html").unlink()
    answers = opened(disk)
    answers.pending(scans_of(disk), redo="changed")
    assert answers.out_of_reach == {"P0"}


def test_without_places_nothing_is_kept(disk: Path) -> None:
    """A number may be of another scan than last time, and a hash of its path must not be written."""
    answered(disk, place=lambda _: "")
    shutil.rmtree(disk)
    answers = opened(disk, place=lambda _: "")
    assert len(answers.pending(scans_of(disk), redo="changed")) == 3
    with local_input(str(disk.parent), anonymous=True) as anonymous, local_input(str(disk.parent)) as plain:
        assert anonymous.place(disk) == ""
        assert plain.place(disk) == place_signature(disk)


def test_a_scan_that_has_changed_is_not_kept(disk: Path) -> None:
    answered(disk)
    (disk / "P0" / "1.dcm").write_bytes(b"xx")
    (disk / "P2" / "1.dcm").unlink()
    (disk / "P2" / "report.txt").touch()
    answers = opened(disk)
    assert [scan_id for scan_id, _ in answers.pending(scans_of(disk), redo="changed")] == ["P0", "P2"]
    assert answers.out_of_reach == set()


def test_what_counts_as_out_of_reach(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    images = [ImageStack("x", (tmp_path / name,)) for name in ("none.png", "disk/P0/1.dcm")]
    problems = {path: reach_problem(tmp_path / path) for path in ("none", "link", "empty", "loop", "disk/P0/1.dcm/x")}
    assert problems == {
        "none": "does not exist",
        "link": "does not exist",
        "empty": "is an empty folder",
        "loop": "cannot be reached (Too many levels of symbolic links)",
        "disk/P0/1.dcm/x": "cannot be reached (Not a directory)",
    }
    assert reach_problem(tmp_path / ("x" * 300)) == "cannot be reached (File name too long)"
    assert [reach_problem(stack) for stack in images] == ["does not exist", None]
    assert reach_problem(disk) is reach_problem(disk / "P0" / "1.dcm") is None


def test_an_id_and_a_place_do_not_depend_on_the_disk(disk: Path, tmp_path: Path) -> None:
    for name in ("A.zip", "B.nii.gz", "C.png"):
        (disk / name).touch()
    write(disk / "D", make_slices(2))
    (tmp_path / "list.txt").write_text("disk/A.zip\ndisk/B.nii.gz\ndisk/C.png\ndisk/D\n")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "E").symlink_to(disk / "D")
    scans = find_new_scans(tmp_path / "list.txt", anonymous=False)
    links = find_new_scans(tmp_path / "links", anonymous=False)
    places = [place_signature(source) for _, source in [*scans, *links]]
    disk.rename(tmp_path / "away")
    gone = find_new_scans(tmp_path / "list.txt", anonymous=False)
    assert [scan for scan, _ in gone] == [scan for scan, _ in scans] == ["A", "B", "C.png", "D"]
    gone_links = find_new_scans(tmp_path / "links", anonymous=False)
    assert [scan for scan, _ in gone_links] == ["E"]
    assert [place_signature(source) for _, source in [*gone, *gone_links]] == places
    assert source_signature(gone[3][1]) != source_signature(tmp_path / "away" / "D")


def test_one_scan_in_reach_is_enough(disk: Path, tmp_path: Path) -> None:
    missing: list[tuple[str, Source]] = [(f"Doe{k}", tmp_path / f"Doe{k}") for k in range(40)]
    require_reach([*missing, *scans_of(disk)], anonymous=False)
    with pytest.raises(InputError) as caught:
        require_reach(missing, anonymous=False)
    assert caught.value.codes == (RefusalCode.NOT_FOUND,)
    assert str(caught.value) == (
        f"None of the 40 scans of the input can be reached; {tmp_path / 'Doe0'} does not exist. If their disk is not "
        "mounted, mount it; otherwise correct the paths. Nothing was predicted, and earlier predictions stay as they "
        "are."
    )
    with pytest.raises(InputError, match="; the first does not exist") as caught:
        require_reach(missing, anonymous=True)
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnt", r"at or below .*mnt\. It is empty: if its disk is not mounted, mount it\. Give"),
        (
            "none",
            r"none is not a folder, zip or NIfTI file: it does not exist\. If its disk is not mounted, mount it\.",
        ),
        ("mnt/cohort.zip", "it does not exist"),
        ("mnt/DICOMDIR", "it does not exist"),
        ("mnt/list.txt", "it does not exist"),
    ],
)
def test_an_input_that_is_not_mounted_is_a_wrong_input(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    with pytest.raises(CohortError, match=reason), local_input(str(tmp_path / name)) as given:
        find_new_scans(given.path, anonymous=False)


def contents(output: Path) -> dict[str, bytes]:
    """Return all files of an output folder, the answers too."""
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


PLACES = {"a/P001": "P001", "b/P002": "P002", "b/P003.zip": "P003"}
"""Scans on two disks, and their names in the study's cohort."""


def write_disks(tiny_study: Path, folder: Path) -> None:
    """Write scans of the study's cohort to ``PLACES``."""
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    for place, name in PLACES.items():
        (scan,) = cohort.parent.glob(f"*/{name}")
        if place.endswith(".zip"):
            with zipfile.ZipFile(folder / place, "w") as archive:
                for file in sorted(scan.iterdir()):
                    archive.write(file, file.name)
        else:
            shutil.copytree(scan, folder / place)


@pytest.mark.slow
def test_a_list_whose_disks_are_not_mounted(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two disks: none is mounted, then one; then both again, when all files are as before and nothing was predicted."""
    write_disks(tiny_study, tmp_path)
    seen: list[object] = []
    plain = EnsembleNetworks.outputs

    def counted(self: EnsembleNetworks, scan: PreparedScan) -> object:
        seen.append(scan)
        return plain(self, scan)

    monkeypatch.setattr(EnsembleNetworks, "outputs", counted)
    listing, out, report = tmp_path / "list.txt", tmp_path / "out", tmp_path / "run.json"
    listing.write_text("".join(f"{place}\n" for place in PLACES))
    words = [f"runs={tiny_study / 'runs'}", "study=tiny", f"ensemble=[{','.join(MODELS)}]", "gpus=0", "engine=torch"]
    words += [f"input={listing}", f"output={out}", "pages=false", f"report={report}"]
    predict = entry_point("predict")
    assert predict(words) == 0
    first = contents(out)
    assert len(seen) == 3

    for disk in ("a", "b"):
        (tmp_path / disk).rename(tmp_path / f"away-{disk}")
    assert predict([*words, "redo=all"]) == 2
    assert "None of the 3 scans of the input can be reached" in capsys.readouterr().err
    assert contents(out) == first

    (tmp_path / "away-a").rename(tmp_path / "a")
    assert predict(words) == 1
    error = capsys.readouterr().err
    assert (
        "2 of 3 scans are out of reach, and their earlier predictions stay: P002, P003. If their disk is not" in error
    )
    document = json.loads((out / "predictions.json").read_text())
    assert {scan["scan"]: NOTE in scan["findings"] for scan in document["scans"]} == {
        "P001": False,
        "P002": True,
        "P003": True,
    }
    assert (out / "predictions.csv").read_text().count(NOTE) == 2
    assert document["refused"] == {}
    assert json.loads(report.read_text())["out_of_reach"] == ["P002", "P003"]
    answers = {name: data for name, data in first.items() if name.startswith(FOLDER)}
    assert answers.items() <= contents(out).items()
    assert predict([*words, "join=true"]) == 1  # as after parts
    assert json.loads((out / "predictions.json").read_text()) == document

    listing.write_text(listing.read_text() + "c/P004\n")  # which was never there
    assert predict(words) == 1
    document = json.loads((out / "predictions.json").read_text())
    assert (list(document["refused"]), document["codes"]) == (["P004"], {"P004": "not-found"})
    assert len(document["scans"]) == 3

    listing.write_text("".join(f"{place}\n" for place in PLACES))
    (tmp_path / "away-b").rename(tmp_path / "b")
    assert predict(words) == 0
    assert contents(out) == first
    assert len(seen) == 3
