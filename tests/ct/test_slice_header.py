"""Header values and compressed frames are those that pydicom reads."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.sequence import Sequence

from benchmarks.damage import CODECS, make_slice
from cnr_iemn.ct.io.dicom_file import Elements
from cnr_iemn.ct.io.pixel_data import frames_of
from cnr_iemn.ct.io.slice_header import read_headers
from tests.planted import plant, save

PIXELS = b"\xe0\x7f\x10\x00"


def chest(codec: str, path: Path, seed: int = 0) -> Path:
    """A file made by code, with sequences of either length within each other."""
    path.write_bytes(make_slice(codec, np.random.default_rng(seed))[0])
    ds = pydicom.dcmread(path)
    inner, middle = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "two"
    middle.PurposeOfReferenceCodeSequence = Sequence([inner, Dataset()])
    middle.add_new(0x00091010, "UT", "text")
    ds.ReferencedImageSequence = Sequence([middle, middle])
    ds.RequestAttributesSequence = Sequence([middle])
    for item in (ds, middle):
        for element in item:
            if element.VR == "SQ":
                element.is_undefined_length = True
    for number, item in enumerate((inner, middle)):
        item.is_undefined_length_sequence_item = number == 1
    ds.SpecificCharacterSet, ds.ConvolutionKernel = "ISO_IR 192", "Bäcker"
    ds.XRayTubeCurrent = None
    ds.save_as(path)
    return path


@pytest.mark.parametrize("codec", CODECS)
def test_values_are_those_that_pydicom_gives(codec: str, tmp_path: Path) -> None:
    """With another character set the same bytes are another text, whatever was converted before."""
    for encoding, kernel in (("ISO_IR 192", "Bäcker"), ("ISO_IR 100", "BÃ¤cker"), ("ISO_IR 192", "Bäcker")):
        path = chest(codec, tmp_path / "a.dcm")
        ds = pydicom.dcmread(path)
        ds.SpecificCharacterSet, ds.ConvolutionKernel = encoding, kernel
        ds.save_as(path)
        elements, ds = Elements(pydicom.dcmread(path)), pydicom.dcmread(path)
        for element in ds:
            if element.VR != "SQ" and element.keyword:
                assert elements.get(element.keyword) == element.value
        (header,) = read_headers(path, "a.dcm")
        assert (header.kernel, header.position) == (kernel, (0, 0, 0))


@pytest.mark.parametrize("all_elements", [False, True])
def test_planted_elements_of_every_kind_change_nothing(all_elements: bool, tmp_path: Path) -> None:
    path = chest("JPEG Lossless", tmp_path / "a.dcm")
    (before,) = read_headers(path, "a.dcm")
    ds = pydicom.dcmread(path)
    plant(ds, all_elements=all_elements)
    save(ds, path)
    (header,) = read_headers(path, "a.dcm")
    assert (header.position, header.spacing, header.pixels.rows) == (
        before.position,
        before.spacing,
        before.pixels.rows,
    )


@pytest.mark.parametrize("length", [2**15 - 5000, 2**15, 2**18])
def test_a_header_longer_than_the_first_bytes_is_read_whole(length: int, tmp_path: Path) -> None:
    path = chest("native", tmp_path / "a.dcm")
    ds = pydicom.dcmread(path)
    ds.add_new(0x00091011, "UT", "x" * length)
    ds.save_as(path)
    (header,) = read_headers(path, "a.dcm")
    assert (header.position, header.pixels.offset) == ((0, 0, 0), path.read_bytes().find(PIXELS))


@pytest.mark.parametrize("codec", CODECS)
def test_the_frame_is_the_one_that_pydicom_finds(codec: str, tmp_path: Path) -> None:
    path = chest(codec, tmp_path / "a.dcm")
    (header,) = read_headers(path, "a.dcm")
    value = pydicom.dcmread(path).PixelData
    expected = value if codec in ("native", "deflated") else next(generate_frames(value, number_of_frames=1))
    assert frames_of(path.read_bytes(), header.pixels, "a.dcm") == [expected]
