"""How a scan was taken, from the headers to the store and the audit, and nowhere a word of the files."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from cnr_iemn.ct.io.acquisition import ABSENT, Acquisition, code_of
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.shortcut_features import shortcuts
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.evaluation.shortcut_audit import audit_shortcuts
from tests.ct.conftest import Builder

SECRET = "Doe^Jane"


def slices(dicom: type[Builder], **values: object) -> list[Dataset]:
    datasets = dicom.make_slices()
    for ds in datasets:
        for keyword, value in values.items():
            setattr(ds, keyword, value)
    return datasets


def test_every_property_arrives(dicom: type[Builder], tmp_path: Path) -> None:
    datasets = slices(dicom, ConvolutionKernel=[" B70f", "3"], Manufacturer="ACME", KVP="120", SliceThickness="2.0")
    for k, ds in enumerate(datasets):
        ds.XRayTubeCurrent = 100 + k
    datasets[3].ConvolutionKernel = "B31f"
    dicom.write(tmp_path / "P012", datasets)
    result = read_scan(tmp_path / "P012").acquisition
    assert result.kernel == hashlib.sha256(b"b70f/3").hexdigest()[:8]
    assert result.manufacturer == code_of("acme ")
    assert result.model == ABSENT
    assert result.transfer_syntax == uid.ExplicitVRLittleEndian
    assert (result.kvp, result.slice_thickness_mm, result.bits_stored) == (120, 2, 12)
    assert result.tube_current_ma == np.median(100 + np.arange(len(datasets)))
    rests = [path.stat().st_size - len(datasets[0].PixelData) for path in (tmp_path / "P012").iterdir()]
    assert np.median(rests) - 12 <= result.header_bytes <= np.median(rests)  # but for the head of the pixels' element


def test_what_a_file_does_not_say_is_missing_and_damage_refuses_nothing(dicom: type[Builder], tmp_path: Path) -> None:
    datasets = dicom.make_slices()
    for ds in datasets:
        del ds.SliceThickness
        ds.Manufacturer = "twelve bytes"
        ds.add_new("XRayTubeCurrent", "LO", "strong")
    dicom.write(tmp_path / "P012", datasets)
    for path in (tmp_path / "P012").iterdir():  # a double of 12 bytes, on which pydicom raises
        path.write_bytes(path.read_bytes().replace(b"\x08\x00\x70\x00LO", b"\x08\x00\x70\x00FD"))
    result = read_scan(tmp_path / "P012").acquisition
    assert (result.kernel, result.manufacturer) == (ABSENT, ABSENT)
    assert all(math.isnan(value) for value in (result.kvp, result.slice_thickness_mm, result.tube_current_ma))


def test_the_frames_of_one_file_say_it_in_their_own_groups(dicom: type[Builder], tmp_path: Path) -> None:
    file = dicom.make_enhanced()
    del file.SliceThickness
    for k, frame in enumerate(file.PerFrameFunctionalGroupsSequence):
        exposure, details, kernel = Dataset(), Dataset(), Dataset()
        exposure.XRayTubeCurrentInmA, details.KVP, kernel.ConvolutionKernel = 50.5 + k, 140.0, "B70f"
        frame.CTExposureSequence, frame.CTXRayDetailsSequence = [exposure], [details]
        frame.CTReconstructionSequence = [kernel]
    dicom.write(tmp_path / "P012", [file])
    result = read_scan(tmp_path / "P012").acquisition
    assert (result.kvp, result.slice_thickness_mm, result.kernel) == (140, 5, code_of("B70f"))
    assert result.tube_current_ma == 50.5 + (dicom.n - 1) / 2


@pytest.fixture
def cohort(dicom: type[Builder], tmp_path: Path) -> Cohort:
    """Sixteen scans of two classes, each with a kernel of its own; a name stands where it must not and where it may."""
    records = []
    for k in range(16):
        scan_id, label = f"s{k:02d}", ("a", "b")[k % 2]
        texts = {"ConvolutionKernel": f"{SECRET} {label}", "ManufacturerModelName": SECRET, "PatientName": SECRET}
        datasets = slices(dicom, **texts)[::3]
        for index, ds in enumerate(datasets):
            ds.InstanceNumber = index
        dicom.write(tmp_path / "scans" / scan_id, datasets)
        records.append(ScanRecord(scan_id, scan_id, tmp_path / "scans" / scan_id, label))
    return Cohort("planted", tmp_path / "scans", ("a", "b"), tuple(records))


def test_a_kernel_of_its_own_for_each_class_is_an_alarm_and_no_word_is_kept(cohort: Cohort, tmp_path: Path) -> None:
    store, failures = prepare_store(cohort, PixelSettings(size=32), cache=tmp_path / "cache")
    assert not failures
    scan_ids = [scan.scan_id for scan in cohort.scans]
    table = shortcuts(store, scan_ids)
    labels = np.array([cohort.classes.index(scan.label) for scan in cohort.scans])
    audit = audit_shortcuts(table, labels, scan_ids)
    assert audit is not None
    assert audit["alarm"]
    assert {name for name, auc in audit["by_shortcut"].items() if auc > 0.9} == {
        f"kernel {code_of(f'{SECRET} {label}')}" for label in cohort.classes
    }
    assert (table["field of view, mm"] == 64 * 0.7).all()
    for path in store.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes().lower()
            assert all(word.encode() not in data for word in ("doe", "jane")), path


def test_a_store_of_an_earlier_version_is_read_and_not_made_again(cohort: Cohort, tmp_path: Path) -> None:
    few = Cohort(cohort.name, cohort.root, cohort.classes, cohort.scans[:2])
    store, _ = prepare_store(few, PixelSettings(size=32), cache=tmp_path / "cache")
    path = store.root / "s00" / "source.json"
    text = path.read_text()
    path.write_text(text[: text.index(',\n "acquisition"')] + "\n}")
    before = path.stat().st_mtime_ns
    again, _ = prepare_store(few, PixelSettings(size=32), cache=tmp_path / "cache")
    assert path.stat().st_mtime_ns == before
    assert again.acquisition("s00") == Acquisition()
    assert SliceStore(store.root, store.settings).acquisition("s01").kernel == code_of(f"{SECRET} b")
    table = shortcuts(again, ["s00", "s01"])
    assert table["bits stored"].isna().tolist() == [True, False]
