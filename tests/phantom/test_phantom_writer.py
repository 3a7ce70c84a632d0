"""The phantom cohort on disk, as a reader meets it."""

import json
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.encaps import get_frame

from benchmarks.phantom_leakage import artefact_studies, header_features
from cnr_iemn.errors import CohortError
from cnr_iemn.phantom.cohort_writer import LABEL_COLUMNS, Job, Truth, scan_seed, write_cohort, write_tables
from cnr_iemn.phantom.dicom_writer import encode
from cnr_iemn.phantom.renderer import make_scan

pytestmark = pytest.mark.slow

ARGUMENTS = {
    "scans": {"Normal": 2, "COVID-19": 3, "CAP": 2},
    "labelled": {"COVID-19": 2, "CAP": 1},
    "seed": 4,
    "rows": 64,
    "n_slices": (8, 10),
}


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "cohort"
    write_cohort(root, **ARGUMENTS)
    return root


def series(folder):
    files = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    return sorted(files, key=lambda d: -float(d.ImagePositionPatient[2]))


def test_tree_and_index_are_as_published(cohort):
    scans = {p.name for folder in cohort.glob("* subjects") for p in folder.iterdir()}
    assert scans == {"normal001", "normal002", "P001", "P002", "P003", "cap001", "cap002"}
    assert (cohort / "Index.csv").read_text().splitlines() == [
        "Label Index,Diagnosis,Relative Path,Folder/ID",
        "0,COVID-19,./COVID-19/,P001",
        "1,COVID-19,./COVID-19/,P002",
        "2,CAP,./CAP/,cap001",
    ]
    updated, first = (np.load(cohort / f"Slice-level-labels{suffix}.npy") for suffix in ("-updated-1", ""))
    lobes = np.load(cohort / "Lobe-level-labels-updated-1.npy")
    assert (updated.shape, updated.dtype) == ((3, 200), np.int32)
    assert (first.shape, first.dtype) == ((3, 200), np.int64)
    assert (lobes.shape, lobes.dtype.kind) == ((3, 200, 5), "f")
    assert (lobes.any(2) == updated).all()


def test_files_hold_the_rendered_scan_and_its_labels(cohort):
    scan = make_scan(scan_seed(4, 2), "COVID-19", rows=64, n_slices=(8, 10))  # after two Normal scans
    files = series(cohort / "COVID-19 subjects" / "P001")
    stored = np.stack([imagecodecs.jpeg8_decode(get_frame(d.PixelData, 0)) for d in files])
    assert (stored.astype(int) - 1024 == scan.hu).all()
    labels = np.load(cohort / "Slice-level-labels-updated-1.npy")[0]
    assert (labels[: len(files)] == scan.labelled).all()
    assert not labels[len(files) :].any()
    steps = -np.diff([float(d.ImagePositionPatient[2]) for d in files])
    np.testing.assert_allclose(steps, scan.spacing_mm[0], atol=1e-3)
    assert [d.InstanceNumber for d in files] == list(range(1, len(files) + 1))


def test_headers_say_ct_and_phantom(cohort):
    for folder in (p for group in cohort.glob("* subjects") for p in group.iterdir()):
        for image in series(folder):
            pixels = imagecodecs.jpeg8_decode(get_frame(image.PixelData, 0))
            assert image.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
            assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
            assert (image.BitsAllocated, image.BitsStored, image.PixelRepresentation) == (16, 12, 0)
            assert (image.RescaleSlope, image.RescaleIntercept) == (1, -1024)
            assert image[0x0028, 0x0300].value == "YES"
            assert "PHANTOM" in image.Manufacturer
            assert (image.SmallestImagePixelValue, image.LargestImagePixelValue) == (pixels.min(), pixels.max())


def test_file_names_give_the_order_away_in_some_scans_only(tmp_path):
    root = tmp_path / "cohort"
    write_cohort(root, scans={"Normal": 12}, labelled={}, seed=1, rows=32, n_slices=(6, 8))
    in_order = []
    for folder in (root / "Normal subjects").iterdir():
        names = [path.name for path in sorted(folder.glob("*.dcm"), key=lambda p: pydicom.dcmread(p).InstanceNumber)]
        in_order.append(names == sorted(names))
    assert 0 < sum(in_order) < 12


def test_encoder_writes_first_order_prediction_that_three_decoders_read_alike():
    rng = np.random.default_rng(0)
    for image in (rng.integers(0, 4096, (64, 48)), np.zeros((32, 32)), np.arange(4096).reshape(64, 64)):
        stored = image.astype(np.uint16)
        stream = encode(stored)
        for decode in (imagecodecs.jpeg8_decode, imagecodecs.ljpeg_decode, imagecodecs.jpegsof3_decode):
            np.testing.assert_array_equal(decode(stream), stored)
        frame = stream.index(b"\xff\xc3")  # SOF3: lossless, Huffman
        scan = stream.index(b"\xff\xda")
        assert stream[frame + 4] == 12
        assert stream[scan + 7] == 1  # Ss: predictor selection value 1, as the transfer syntax demands
        assert stream.endswith(b"\xff\xd9")


def test_label_index_leaves_43_out_but_rows_do_not(tmp_path):
    scan = {"scan_id": "x"}
    truths = []
    for number in range(1, 51):
        row = np.zeros(10, bool)
        row[number % 10] = True
        job = Job(tmp_path, "COVID-19", number, 0, 64, (8, 10))
        truths.append(Truth(job, row, np.repeat(row[:, None], 5, 1), scan, pd.DataFrame({"scan_id": ["x"]})))
    write_tables(tmp_path, truths, {"COVID-19": 50})
    index = pd.read_csv(tmp_path / "Index.csv")
    assert list(index["Label Index"]) == [*range(43), *range(44, 51)]
    labels = np.load(tmp_path / "Slice-level-labels-updated-1.npy")
    assert labels.shape == (50, LABEL_COLUMNS)
    assert [int(np.argmax(row)) for row in labels] == [number % 10 for number in range(1, 51)]


def test_number_of_workers_changes_no_byte(cohort, tmp_path):
    write_cohort(tmp_path / "two", **ARGUMENTS, workers=2)
    assert contents(tmp_path / "two") == contents(cohort)


def test_same_cohort_again_does_nothing_and_another_is_refused(cohort):
    before = {p: p.stat().st_mtime_ns for p in cohort.rglob("*")}
    write_cohort(cohort, **ARGUMENTS)
    assert {p: p.stat().st_mtime_ns for p in cohort.rglob("*")} == before
    with pytest.raises(CohortError, match=r"seed: 4 there, 5 asked.*Remove that folder"):
        write_cohort(cohort, **{**ARGUMENTS, "seed": 5})


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CohortError, match="holds no phantom cohort"):
        write_cohort(tmp_path, **ARGUMENTS)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_nothing_appears_where_writing_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("cnr_iemn.phantom.cohort_writer.write_tables", fail)
    with pytest.raises(OSError, match="disk full"):
        write_cohort(tmp_path / "cohort", scans={"Normal": 1}, labelled={}, seed=0, rows=32, n_slices=(4, 5))
    assert [path.name for path in tmp_path.iterdir()] == [".cohort.lock"]


def test_of_several_that_write_one_cohort_the_others_wait(tmp_path, capsys):
    """Each opens the lock for itself, as processes do; one comes while what a killed one left stands there."""
    (tmp_path / ".cohort.partial" / "left").mkdir(parents=True)

    def write(_):
        write_cohort(tmp_path / "cohort", scans={"Normal": 3}, labelled={}, seed=0, rows=32, n_slices=(4, 5))
        return contents(tmp_path / "cohort")

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(write, range(4)))
    assert found == [found[0]] * 4
    assert sum("dcm" in str(name) for name in found[0]) >= 3 * 4
    assert capsys.readouterr().out.count("Another process writes") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cohort.lock", "cohort"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labelled": {"CAP": 3}}, "3 of 2 CAP scans cannot be slice-labelled"),
        ({"labelled": {"Normal": 1}}, "never slice-labelled"),
        ({"scans": {"Flu": 1}, "labelled": {}}, "Flu"),
        ({"n_slices": (20, 10)}, "rising range"),
        ({"rows": 8}, "32 to 1024"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, change, message):
    with pytest.raises(CohortError, match=message):
        write_cohort(tmp_path / "cohort", **{**ARGUMENTS, **change})
    assert not list(tmp_path.iterdir())


def test_truth_has_a_row_for_each_scan_and_lesion(cohort):
    scans, lesions = (pd.read_parquet(cohort / "truth" / f"{name}.parquet") for name in ("scans", "lesions"))
    assert len(scans) == 7
    assert set(lesions["scan_id"]) == {"P001", "P002", "P003", "cap001", "cap002"}
    assert json.loads((cohort / "phantom.json").read_text())["schema_version"] == 2


def test_headers_of_one_seed_are_the_same_for_every_class(tmp_path, monkeypatch):
    monkeypatch.setattr("cnr_iemn.phantom.cohort_writer.scan_seed", lambda *_: 77)
    write_cohort(tmp_path / "c", scans={"Normal": 1, "CAP": 1}, labelled={}, seed=0, rows=64, n_slices=(8, 10))
    rows = [header_features(next((tmp_path / "c" / n).iterdir())) for n in ("Normal subjects", "Cap subjects")]
    np.testing.assert_allclose(rows[0], rows[1], rtol=0.05, atol=80)  # file sizes and largest values follow lesions


def test_nothing_but_disease_tells_the_class(tmp_path):
    # six intervals at once: 99% each keeps the chance of a false alarm near 5%
    studies = artefact_studies(scans=12, rows=48, n_slices=(6, 8), seed=3, folder=tmp_path / "cohort", level=0.99)
    assert len(studies) == 6
    for name, (_, low, high) in studies.items():
        assert low <= 0.5 <= high, name
