"""A cohort from a CSV: every kind of scan, any classes, and every problem told at once with its line."""

from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from cnr_iemn.ct.io.image_stack import ImageStack, read_images
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.readers.manifest import read_manifest
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.data.splits import make_split
from cnr_iemn.errors import CohortError, ScanError
from cnr_iemn.read_options import ReadOptions


def chest(n: int = 6, seed: int = 0) -> np.ndarray:
    """HU of a body with two lungs, int16 [n, 48, 48], another noise in each slice."""
    hu = np.full((n, 48, 48), -1000, np.int16)
    hu[:, 6:42, 4:44] = 40
    hu[:, 12:34, 8:21] = hu[:, 12:34, 27:40] = -850
    return (hu + np.random.default_rng(seed).integers(-9, 10, hu.shape)).astype(np.int16)


def grey(hu: np.ndarray) -> np.ndarray:
    return np.rint((np.clip(hu, -1000, 400) + 1000) / 1400 * 255).astype(np.uint8)


def write_images(folder: Path, images: np.ndarray, suffix: str = ".png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"s{k + 8}{suffix}" for k in range(len(images))]  # s8, s9, s10: not in the order of their letters
    for path, image in zip(paths, images, strict=True):
        assert cv2.imwrite(str(path), image)
    return paths


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scans of every kind."""
    write_images(tmp_path / "eight", grey(chest()))
    write_images(tmp_path / "sixteen", (chest() + 1024).astype(np.uint16), ".tif")
    write_images(tmp_path / "loose", grey(chest(3)))
    affine = np.diag([-1.5, -1.5, 5, 1])
    nibabel.save(nibabel.Nifti1Image(chest()[::-1].transpose(2, 1, 0), affine), tmp_path / "n.nii.gz")
    return tmp_path


HEAD = "scan_id,path,class,values,offset,spacing_mm"


def test_every_kind_of_scan_goes_into_the_store(folder):
    manifest = write_csv(
        folder / "scans.csv",
        HEAD,
        "a,eight,healthy,windowed,,5 1.5 1.5",
        "b,sixteen,sick,hu,-1024,5 1.5 1.5",
        "c,n.nii.gz,sick,,,",
        "d,loose/s8.png;loose/s9.png,healthy,,,",
        "e,loose/s10.png,sick,,,",
    )
    cohort = read_manifest(manifest)
    assert cohort.classes == ("healthy", "sick")
    assert [scan.slice_labelled for scan in cohort.scans] == [True, False, False, True, True]
    store, failures = prepare_store(cohort, PixelSettings(size=48), cache=folder / "cache")
    assert failures == {}
    for scan_id in "abc":
        np.testing.assert_array_equal(store.grey(scan_id), grey(chest()))
        assert store.scan(scan_id).spacing_mm == (5, 1.5, 1.5)
    np.testing.assert_array_equal(store.lungs("a")[:], store.lungs("b")[:])
    assert store.scan("b").lung_litres == pytest.approx(6 * 2 * 22 * 13 * 5 * 1.5 * 1.5 / 1e6)
    np.testing.assert_array_equal(store.grey("d"), grey(chest(3))[:2])
    assert np.isnan(store.scan("d").lung_litres)
    assert np.isnan(store.scan("d").spacing_mm).all()
    assert "null" in (store.root / "d" / "scan.json").read_text()
    assert store.scan("e").n_slices == 1
    assert store.lungs("e")[0].sum() == 2 * 22 * 13
    made = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.npy")}
    prepare_store(cohort, PixelSettings(size=48), cache=folder / "cache")
    assert made == {path: path.stat().st_mtime_ns for path in store.root.rglob("*.npy")}


def test_another_way_of_reading_is_another_scan(folder):
    settings, cache = PixelSettings(size=48), folder / "cache"
    for offset in (-1024, -1000):
        lines = (HEAD, f"b,sixteen,sick,hu,{offset},", "a,eight,healthy,,,")
        store, _ = prepare_store(read_manifest(write_csv(folder / "scans.csv", *lines)), settings, cache=cache)
        want = grey(np.clip(chest() + 1024 + offset, -1024, None))
        np.testing.assert_array_equal(store.grey("b"), want)


def test_slice_labels(folder):
    manifest = write_csv(
        folder / "scans.csv", HEAD, "a,eight,healthy,,,", "b,sixteen,sick,hu,-1024,", "c,n.nii.gz,sick,,,"
    )
    labels = write_csv(folder / "slices.csv", "scan_id,slice_index,class", "b,2,sick", "b,3,sick", "b,4,healthy")
    cohort = read_manifest(manifest, slices=labels)
    assert cohort.scan("b").slice_labels(6, cohort.classes).tolist() == [0, 0, 1, 1, 0, 0]
    assert cohort.scan("a").slice_labels(6, cohort.classes).tolist() == [0] * 6
    assert cohort.scan("c").slice_labels(6, cohort.classes) is None


def test_labelled_normals_and_exclude(folder):
    lines = [f"{name},eight,healthy,,," for name in "abc"]
    manifest = write_csv(folder / "scans.csv", HEAD, *lines, "d,sixteen,sick,hu,-1024,")
    cohort = read_manifest(manifest, labelled_normals=1, exclude=["a"])
    assert [(scan.scan_id, scan.slice_labelled) for scan in cohort.scans] == [("b", True), ("c", False), ("d", False)]
    with pytest.raises(CohortError, match=r"data.exclude names z"):
        read_manifest(manifest, exclude=["z"])


def test_classes_may_be_given_in_order(folder):
    manifest = write_csv(folder / "scans.csv", HEAD, "b,sixteen,sick,hu,-1024,", "a,eight,healthy,,,")
    assert read_manifest(manifest).classes == ("healthy", "sick")  # known by its name
    assert read_manifest(manifest, classes=["sick", "healthy", "worse"]).classes == ("sick", "healthy", "worse")
    manifest = write_csv(folder / "scans.csv", HEAD, "b,sixteen,A,hu,-1024,", "a,eight,B,,,")
    with pytest.raises(CohortError, match=r"which of A, B is the healthy class\? Give data.classes="):
        read_manifest(manifest)
    assert read_manifest(manifest, classes=["B", "A"]).classes == ("B", "A")


def test_pictures_beside_dicom_files_are_no_slices(folder):
    for name in ("IM1", "IM2", "IM3"):
        (folder / "eight" / name).write_bytes(b"DICOM")
    for path in [*(folder / "eight").glob("s1?.png"), folder / "eight" / "s9.png"]:
        path.unlink()  # one picture and three others
    lines = (HEAD, "a,eight,healthy,,,", "b,sixteen,sick,hu,-1024,")
    assert read_manifest(write_csv(folder / "scans.csv", *lines)).scan("a").images is None
    (folder / "sixteen" / "notes.bin").write_bytes(b"x")
    with pytest.raises(CohortError, match=r"scans.csv:3: .*sixteen holds 6 images and 1 other files"):
        read_manifest(folder / "scans.csv")


def test_a_split_and_patients_of_its_own(folder):
    manifest = write_csv(
        folder / "scans.csv",
        "scan_id,path,class,split,patient_id",
        "a,eight,healthy,training,p1",
        "b,eight,healthy,training,p1",
        "c,n.nii.gz,sick,validation,p2",
    )
    cohort = read_manifest(manifest)
    assert cohort.split == {"a": "training", "b": "training", "c": "validation"}
    assert [scan.patient_id for scan in cohort.scans] == ["p1", "p1", "p2"]
    assert set(make_split(cohort, validation=0.5, seed=0)) == {"a", "b", "c"}


def test_every_problem_is_told_at_once_with_its_line(folder):
    manifest = write_csv(
        folder / "scans.csv",
        HEAD + ",split,patient_id",
        "a,nowhere,healthy,,,,training,p1",
        "b,eight,healthy,,,,validation,p1",
        "b,eight,sick,,,,training,p2",
        ".c,eight,sick,,,,training,p3",
        "d,eight,sick,raw,x,1 2,test,p4",
        "e,scans.csv,sick,,,,training,p5",
        "f,,worse,,,,training,p6",
        f"g,{'x' * 300}.png,sick,,,,training,p7",
    )
    labels = write_csv(
        folder / "slices.csv", "scan_id,slice_index,class", "b,6,healthy", "b,-1,healthy", "z,0,healthy", "b,0,worse"
    )
    with pytest.raises(CohortError) as caught:
        read_manifest(manifest, slices=labels, classes=["healthy", "sick"])
    text = str(caught.value)
    for problem in (
        f"scans.csv:2: path {folder / 'nowhere'} does not exist",
        "scans.csv:3: scan_id 'b' is given 2 times",
        "scans.csv:3: patient 'p1' is in validation here and in training at line 2",
        "scans.csv:4: scan_id 'b' is given 2 times",
        "scans.csv:5: scan_id '.c' becomes a folder's name",
        "scans.csv:6: values 'raw' is neither of windowed, hu",
        "scans.csv:6: offset 'x' is no number",
        "scans.csv:6: spacing_mm '1 2' is not three lengths",
        "scans.csv:6: split 'test' is neither training nor validation",
        "scans.csv:7: ",
        "scans.csv:8: path is empty",
        f"scans.csv:9: path {folder / ('x' * 300)}.png does not exist",
        "scans.csv:8: class 'worse' is none of healthy, sick",
        "slices.csv:2: slice_index '6' is no slice, counted from 0; b has 6 at most",
        "slices.csv:3: slice_index '-1' is no slice",
        "slices.csv:4: scan_id 'z' is not in the manifest",
        "slices.csv:5: class 'worse' is neither healthy nor sick, the class of the scan",
    ):
        assert problem in text, problem
    assert text.startswith("17 problem(s) in the manifest")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["scan_id,path", "a,eight"], "missing class; known are"),
        (["scan_id,path,class,colour", "a,eight,healthy,red"], "unknown colour"),
        (["scan_id,path,class"], "lists nothing"),
        (["scan_id,path,class", "a,eight,healthy"], "one class only"),
    ],
)
def test_a_manifest_that_is_none(lines, message, folder):
    with pytest.raises(CohortError, match=message):
        read_manifest(write_csv(folder / "scans.csv", *lines))
    with pytest.raises(CohortError, match="does not exist"):
        read_manifest(folder / "other.csv")


def stack(folder: Path, images: np.ndarray, suffix: str = ".png", **values: object) -> ImageStack:
    return ImageStack("P012", tuple(write_images(folder / "images", images, suffix)), **values)


def test_windowed_grey_comes_back_exactly(tmp_path):
    """A step of 8 bits is 5.5 HU: rounded to whole HU and windowed again, every level is the same."""
    levels = np.tile(np.arange(256, dtype=np.uint8), (16, 1))[None]
    hu = read_images(stack(tmp_path, levels), window=(-1000, 400), options=ReadOptions(assume_hu=True)).hu
    np.testing.assert_array_equal(grey(hu), levels)


@pytest.mark.parametrize(
    ("images", "values", "message"),
    [
        (grey(chest(1)), {"values": "hu"}, r"P012/s8\.png: pixels of type uint8, but values=hu needs 16 bits"),
        ((chest(1) + 1024).astype(np.uint16), {}, "pixels of type uint16, but values=windowed needs 8 bits"),
        ((chest(1) + 1024).astype(np.uint16), {"values": "hu"}, "no air near -1000 HU"),
        (np.random.default_rng(0).integers(0, 255, (1, 20, 20, 3)).astype(np.uint8), {}, "a colour image"),
    ],
)
def test_images_that_are_refused(images, values, message, tmp_path):
    with pytest.raises(ScanError, match=message):
        read_images(stack(tmp_path, images, **values), window=(-1000, 400))


def test_slices_of_two_sizes_and_a_damaged_one(tmp_path):
    images = stack(tmp_path, grey(chest(3)))
    cv2.imwrite(str(images.files[1]), grey(chest(1))[0, :40])
    with pytest.raises(ScanError, match=r"P012/s9\.png: \(40, 48\) pixels, the first slice has \(48, 48\)"):
        read_images(images, window=(-1000, 400))
    images.files[1].write_bytes(b"no image")
    with pytest.raises(ScanError, match=r"P012/s9\.png: cannot be decoded"):
        read_images(images, window=(-1000, 400))
    images.files[1].unlink()
    with pytest.raises(ScanError, match=r"P012/s9\.png: cannot be read"):
        read_images(images, window=(-1000, 400))


def test_grey_stored_as_three_equal_colours_is_grey(tmp_path):
    one = grey(chest(2))
    volume = read_images(stack(tmp_path, np.repeat(one[..., None], 3, axis=-1)), window=(-1000, 400))
    np.testing.assert_array_equal(grey(volume.hu), one)


def test_jpeg_says_that_it_is_lossy(tmp_path):
    volume = read_images(stack(tmp_path, grey(chest(2)), ".jpg"), window=(-1000, 400))
    assert "compressed with loss: the pixel values are not the scanner's" in volume.findings


def test_a_window_below_air_keeps_its_greys(tmp_path):
    levels = np.tile(np.arange(256, dtype=np.uint8), (16, 1))[None]
    hu = read_images(stack(tmp_path, levels), window=(-1350, 150)).hu
    assert hu[0, 0, [0, 255]].tolist() == [-1350, 150]


def test_pages_of_a_tiff_are_not_lost(tmp_path):
    path = tmp_path / "x.tif"
    assert cv2.imwritemulti(str(path), list(grey(chest(3))))
    with pytest.raises(ScanError, match="3 pages in one file"):
        read_images(ImageStack("P012", (path,)), window=(-1000, 400))
