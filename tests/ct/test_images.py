"""Image slices as public sets have them: somebody's window, colours that are grey, litter beside them."""

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.image_stack import ImageStack, read_images
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.preprocess import prepare_scan
from cnr_iemn.data.readers.manifest import read_manifest
from cnr_iemn.errors import ScanError

WINDOW = (-1000, 400)


def chest(darkest: int = 60) -> np.ndarray:
    """A slice in somebody's window: no pixel near black, none near air's HU; uint8 [128, 128]."""
    y, x = np.mgrid[:128, :128]
    image = np.full((128, 128), float(darkest))
    image[((x - 64) / 58) ** 2 + ((y - 64) / 42) ** 2 <= 1] = 190
    for side in (-1, 1):
        image[lung(side)] = darkest + 15
    image += np.random.default_rng(0).normal(0, 4, image.shape)
    return image.clip(max(darkest - 10, 0), 255).astype(np.uint8)


def lung(side: int) -> np.ndarray:
    y, x = np.mgrid[:128, :128]
    inside: np.ndarray = ((x - 64 - 26 * side) / 19) ** 2 + ((y - 62) / 29) ** 2 <= 1
    return inside


def stack(folder: Path, image: np.ndarray, suffix: str = ".png", **values: object) -> ImageStack:
    path = folder / f"s{suffix}"
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 70] if suffix == ".jpg" else [])
    return ImageStack("s", (path,), **values)


def tinted(by: int, image: np.ndarray) -> np.ndarray:
    colours = np.repeat(image[..., None], 3, -1).astype(int)
    colours[..., 0] += by
    return colours.clip(0, 255).astype(np.uint8)


def arrow(image: np.ndarray) -> np.ndarray:
    """One small mark of an annotation."""
    colours = np.repeat(image[..., None], 3, -1)
    colours[20:23, 20:26] = (0, 0, 255)
    return colours


def opaque(image: np.ndarray, alpha: int = 255) -> np.ndarray:
    return np.dstack([np.repeat(image[..., None], 3, -1), np.full(image.shape, alpha, np.uint8)])


@pytest.mark.parametrize("darkest", [0, 40, 60, 90])
def test_windowed_slices_are_read_whoever_windowed_them_and_their_lungs_found(darkest, tmp_path):
    prepared = prepare_scan(stack(tmp_path, chest(darkest)), size=128)
    truth = lung(-1) | lung(1)
    result = prepared.lungs[0]
    assert 2 * np.count_nonzero(result & truth) / (np.count_nonzero(result) + np.count_nonzero(truth)) > 0.95
    np.testing.assert_array_equal(prepared.grey[0], chest(darkest))


@pytest.mark.parametrize(
    "image",
    [
        np.repeat(chest()[..., None], 3, -1),
        opaque(chest()),
        np.dstack([chest()] * 3 + [np.full((128, 128), 255, np.uint8)]),
    ],
    ids=["RGB", "RGBA", "RGBA of a grey image"],
)
def test_equal_channels_are_grey(image, tmp_path):
    volume = read_images(stack(tmp_path, image), window=WINDOW)
    np.testing.assert_array_equal(volume.hu, read_images(stack(tmp_path, chest()), window=WINDOW).hu)
    assert not any("colour" in finding for finding in volume.findings)


def test_a_palette_is_applied(tmp_path):
    from PIL import Image

    picture = Image.fromarray(255 - chest(), "P")
    picture.putpalette([255 - level for level in range(256) for _ in range(3)])  # index 0 is white
    picture.save(tmp_path / "p.png")
    volume = read_images(ImageStack("s", (tmp_path / "p.png",)), window=WINDOW)
    np.testing.assert_array_equal(volume.hu, read_images(stack(tmp_path, chest()), window=WINDOW).hu)


@pytest.mark.parametrize(("image", "suffix"), [(tinted(6, chest()), ".png"), (tinted(6, chest()), ".jpg")])
def test_a_tint_is_taken_as_grey_and_told(image, suffix, tmp_path):
    volume = read_images(stack(tmp_path, image, suffix), window=WINDOW)
    assert "1 image(s) in colour that is almost grey, taken as grey" in volume.findings
    plain = read_images(stack(tmp_path, chest(), suffix), window=WINDOW).hu
    assert np.abs(volume.hu - plain).mean() < 15  # HU, of 1,400


def test_a_jpeg_is_told_whatever_its_name(tmp_path):
    files = stack(tmp_path, chest(), ".jpg").files[0].rename(tmp_path / "s.png")
    assert any(text.startswith("compressed with loss") for text in _findings(files))
    assert not any(text.startswith("compressed with loss") for text in _findings(stack(tmp_path, chest()).files[0]))


def _findings(path):
    return read_images(ImageStack("s", (path,)), window=WINDOW).findings


HU = (chest().astype(np.int16) - 100) * 8


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64, np.int32])
def test_tiff_of_hu_is_read(kind, tmp_path):
    hu = np.where(HU < -300, -1000, HU)
    volume = read_images(stack(tmp_path, hu.astype(kind), ".tif", values="hu"), window=WINDOW)
    np.testing.assert_array_equal(volume.hu[0], hu)


@pytest.mark.parametrize(
    ("image", "suffix", "values", "reason"),
    [
        (tinted(60, chest()), ".png", "windowed", "a colour image"),
        (arrow(chest()), ".png", "windowed", "a colour image"),
        (cv2.applyColorMap(chest(), cv2.COLORMAP_JET), ".jpg", "windowed", "a colour image"),
        (opaque(chest(), 128), ".png", "windowed", "partly transparent"),
        ((lung(1) * np.uint8(255)), ".png", "windowed", "2 grey values in all its pixels: a mask"),
        (np.full((128, 128), 77, np.uint8), ".png", "windowed", "1 grey values"),
        (np.digitize(chest(), [70, 90, 150]).astype(np.uint8), ".png", "windowed", "3 grey values"),
        (chest()[:9, :9], ".png", "windowed", "9 x 9 pixels, no CT slice"),
        (chest().astype(np.uint16) * 257, ".png", "windowed", "list the scan in a CSV with values=hu and offset"),
        (HU.astype(np.float32), ".tif", "windowed", "pixels of type float32"),
        (chest(), ".png", "hu", "values=hu needs 16 bits or more"),
        (np.where(HU < 0, np.nan, HU).astype(np.float32), ".tif", "hu", "pixels that are not numbers"),
        ((HU + 1000).astype(np.uint16), ".png", "hu", "no air near -1000 HU"),
    ],
)
def test_what_is_no_grey_slice_is_refused_for_what_it_is(image, suffix, values, reason, tmp_path):
    with pytest.raises(ScanError, match=reason):
        read_images(stack(tmp_path, image, suffix, values=values), window=WINDOW)


LITTER = ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", "@eaDir/0.png", "__MACOSX/._0.png", "__MACOSX/0.dcm")


def add_litter(folder: Path) -> None:
    for name in LITTER:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"left by a file manager")


def test_litter_is_no_slice_in_folders_of_images(tmp_path):
    for k in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "a" / f"{k}.png"), chest())
    add_litter(tmp_path / "a")
    (tmp_path / "m.csv").write_text("scan_id,path,class\na,a,sick\nb,a/0.png,healthy\n")
    scan = read_manifest(tmp_path / "m.csv").scan("a")
    assert scan.images is not None
    assert [path.name for path in scan.images.files] == ["0.png", "1.png", "2.png"]


def test_litter_is_no_slice_in_folders_and_zips_of_dicom(dicom, tmp_path):
    folder = dicom.write(tmp_path / "in" / "P012", dicom.make_slices())
    plain = read_scan(folder)
    add_litter(folder)
    for name in ("._P012.zip", "._a.nii.gz"):
        (tmp_path / "in" / name).write_bytes(b"left by macOS")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "packed.zip") as archive:
        assert "P012/__MACOSX/0.dcm" in archive.namelist()
    assert find_scans(tmp_path / "in") == [("P012", folder)]
    for source in (folder, tmp_path / "packed.zip"):
        volume = read_scan(source)
        np.testing.assert_array_equal(volume.hu, plain.hu)
