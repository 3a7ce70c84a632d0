"""Every kind of input in one folder: what is taken is answered alike, what is not gives its documented reason."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import ScanError
from cnr_iemn.inference.input_checks import find_new_scans, prepare_new_scan
from cnr_iemn.inference.run_report import STAGES, RunReport
from cnr_iemn.utils.json_io import read_json
from tests.ct.conftest import Builder, make_slices, recode, write
from tests.ct.hazard import put
from tests.documented import documented
from tests.planted import leaks
from tests.test_privacy import predict

pytestmark = pytest.mark.slow

REASONS = [row[1] for row in documented("what the reason says")]
CODES = {row[1]: row[3] for row in documented("what the reason says")}


def changed(**values: object) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        slices = make_slices(series=f"1.{len(folder.name)}.{sum(folder.name.encode())}")
        for ds in slices:
            put(**values)(ds)
        write(folder, slices)

    return make


def taken_from(choose: Callable[[list[Dataset]], list[Dataset]]) -> Callable[[Path], object]:
    return lambda folder: write(folder, choose(make_slices(series=f"1.{sum(folder.name.encode())}")))


def two_series(folder: Path) -> None:
    for number in (1, 2):
        slices = make_slices(series=f"1.7{number}")
        for ds in slices:
            ds.SeriesNumber = number
        write(folder, slices, [f"{number}-{k}.dcm" for k in range(Builder.n)])


def last_file(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        changed()(folder)
        path = folder / "IM0023.dcm"
        path.write_bytes(change(path.read_bytes()))

    return make


def other_syntax(folder: Path) -> None:
    slices = make_slices(series="1.79")
    recode(slices[5], uid.JPEG2000Lossless).file_meta.TransferSyntaxUID = uid.MPEG2MPML
    write(folder, slices)


def zip_outside(folder: Path) -> None:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        archive.writestr("../../x.dcm", b"x")


def headless_nifti(folder: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, folder.with_suffix(".nii"))


def nifti(affine: np.ndarray, qform: np.ndarray | None = None) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        image = nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), affine)
        image.set_qform(affine if qform is None else qform, 1)
        nibabel.save(image, folder.with_suffix(".nii"))

    return make


SCANNER = np.array([[-0.8, 0, 0, 6], [0, -0.8, 0, 7], [0, 0, 2, -100], [0, 0, 0, 1]])


BAD: dict[str, Callable[[Path], object]] = {
    "no CT image in it": changed(SOPClassUID=uid.MRImageStorage),
    "the slices are not axial": changed(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
    "only localizers": changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "slices, at least 20 are needed": taken_from(lambda slices: slices[:19]),
    "no lungs found": changed(),
    "inverted or not in HU": changed(RescaleIntercept=1023),
    "cannot be brought to HU": changed(RescaleSlope=None),
    "missing between": taken_from(lambda slices: [*slices[:9], *slices[10:]]),
    "two stacks that could be the scan": two_series,
    "truncated copy?": last_file(lambda data: data[:-300]),
    "It lies among the slices": last_file(lambda data: data[:100]),
    "ImagePositionPatient is missing": changed(ImagePositionPatient=None),
    "transfer syntax MPEG2MPML is not read": other_syntax,
    "the zip cannot be unpacked": lambda folder: folder.with_suffix(".zip").write_bytes(b"PK\3\4 no zip"),
    "would land outside its folder": zip_outside,
    "does not tell which end is the head": headless_nifti,
    "its two orientations contradict each other": nifti(SCANNER, SCANNER @ np.diag([-1, 1, 1, 1])),
    "voxels of": nifti(np.diag([1e-3, 1e-3, 1e-3, 1]) @ SCANNER),
    "cannot be read as NIfTI: it is": lambda folder: folder.with_suffix(".nrrd").write_bytes(b"NRRD0004"),
}
"""Scans to be refused, by what the reason says."""
NO_SCAN = ["is not a folder, zip or NIfTI file", "No CT scan (DICOM, zip, NIfTI)"]


def test_every_documented_refusal_is_tried() -> None:
    assert sorted(REASONS) == sorted([*NO_SCAN, *BAD])


@pytest.fixture(scope="module")
def bad_scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """Id and path of each bad scan, by what the reason says."""
    folder = tmp_path_factory.mktemp("bad")
    for k, make in enumerate(BAD.values()):
        make(folder / f"bad{k:02d}")
    return dict(zip(BAD, find_new_scans(folder, anonymous=False), strict=True))


@pytest.mark.parametrize("reason", BAD)
def test_each_by_itself_is_refused_with_its_reason(bad_scans: dict[str, tuple[str, Path]], reason: str) -> None:
    with pytest.raises(ScanError, match=re.escape(reason)) as caught:
        prepare_new_scan(PixelSettings(), False, bad_scans[reason])
    assert caught.value.code == CODES[reason]


@pytest.fixture
def good(tiny_study: Path) -> Path:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    return cohort.parent / "COVID-19 subjects" / "P005"


def test_each_kind_is_answered_alike_and_each_refusal_as_documented(
    tiny_study: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(good, source / "patient" / "study" / "CT")
    with zipfile.ZipFile(source / "patient" / "packed.zip", "w") as archive:
        for path in good.iterdir():
            archive.write(path, f"a/{path.name}")
    volume = read_scan(good)
    affine = np.diag([-volume.spacing_mm[2], -volume.spacing_mm[1], volume.spacing_mm[0], 1])
    nibabel.save(nibabel.Nifti1Image(volume.hu[::-1].transpose(2, 1, 0), affine), source / "converted.nii.gz")
    for k, make in enumerate(BAD.values()):
        make(source / f"bad{k:02d}")

    report = tmp_path / "run.json"
    assert predict(tiny_study, source, output, "pages=false", f"report={report}") == 1
    captured = capsys.readouterr().err
    assert f"{len(BAD)} of {len(BAD) + 3} scans were refused" in captured
    document = json.loads((output / "predictions.json").read_text())
    assert [answer["scan"] for answer in document["scans"]] == ["converted", "packed", "CT"]
    first, *rest = [list(answer["probabilities"].values()) for answer in document["scans"]]
    assert all(values == pytest.approx(first, abs=1e-6) for values in rest)
    for k, reason in enumerate(BAD):
        reason_text = document["refused"][f"bad{k:02d}"]
        assert reason in reason_text, reason_text
        assert re.match(rf"bad{k:02d}\b", reason_text), reason_text
        allows = next(row[2] for row in documented("what the reason says") if row[1] == reason)
        if allows:  # of the kernel and the series number, whichever tells them apart
            assert any(key in reason_text for key in re.findall(r"ingest\.\w+", allows)), reason_text
    table = pd.read_csv(output / "refused.csv").set_index("scan")
    assert table["reason"].to_dict() == document["refused"]
    assert table["code"].to_dict() == {f"bad{k:02d}": CODES[reason] for k, reason in enumerate(BAD)}
    assert document["codes"] == table["code"].to_dict()
    run = read_json(report, RunReport, again="")
    assert (run.status, run.exit_code, run.scans, run.answered) == ("partial", 1, len(BAD) + 3, 3)
    assert run.error is not None
    assert captured.endswith(f"Error: {run.error}\n")
    assert {scan: code for code, scans in run.refusals.items() for scan in scans} == table["code"].to_dict()
    assert run.files == sorted(path.name for path in output.iterdir() if path.name != ".answers")
    assert all(run.seconds[stage] > 0 for stage in STAGES)
    assert sum(run.seconds[stage] for stage in STAGES) <= run.seconds["total"]
    assert str(source) not in captured  # the output's path is the user's own word
    assert not leaks(output, (str(tmp_path),))


def test_nothing_that_can_be_answered_is_exit_code_2(
    tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for name, reason in zip(("nowhere", "empty"), NO_SCAN, strict=True):
        assert predict(tiny_study, tmp_path / name, tmp_path / "out") == 2
        assert reason in capsys.readouterr().err
        assert predict(tiny_study, tmp_path / name, tmp_path / "out", "anonymise_ids=true") == 2
        captured = capsys.readouterr().err
        assert reason in captured
        assert str(tmp_path) not in captured
    BAD["no lungs found"](tmp_path / "bad" / "P1")
    assert predict(tiny_study, tmp_path / "bad" / "P1", tmp_path / "out") == 2
    captured = capsys.readouterr().err
    assert "None of the 1 scans of the input can be classified:\n  P1: no lungs found" in captured
    assert "Traceback" not in captured
    assert not (tmp_path / "out").exists()


def test_ids_of_each_kind_of_input(good: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("x", b"")
    headless_nifti(tmp_path / "converted")
    for path, name in ((good, "P005"), (tmp_path / "packed.zip", "packed"), (tmp_path / "converted.nii", "converted")):
        assert find_new_scans(path, anonymous=False) == [(name, path)]
        assert find_new_scans(path, anonymous=True) == [("scan-0001", path)]
