"""A header that is walked over is the one that pydicom reads."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from benchmarks.damage import CODECS, make_slice
from cnr_iemn.ct import codecs, headers
from cnr_iemn.ct.headers import read_headers
from cnr_iemn.ct.quiet import unheard
from cnr_iemn.ct.streams import only_fragment
from cnr_iemn.errors import ScanError
from tests.ct.test_pydicom_files import _folder
from tests.planted import plant, save

PIXELS = b"\xe0\x7f\x10\x00"


@unheard()
def told(path: Path) -> str:
    """What is read of a file, or why it is refused."""
    try:
        return repr(read_headers(path, "a.dcm"))
    except ScanError as error:
        return str(error)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch):
    """What is told of a file, by pydicom and with the walk, and whether the walk was enough."""
    walk, walked = headers._usual, []

    def seen(*arguments: object) -> object:
        walked.append(walk(*arguments))
        return walked[-1]

    def ask(path: Path) -> tuple[str, str, bool]:
        walked.clear()
        monkeypatch.setattr(headers, "_usual", seen)
        ours = told(path)
        monkeypatch.setattr(headers, "_usual", lambda *_: None)
        return told(path), ours, walked[-1] is not None

    return ask


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
def test_usual_files_are_walked_over(codec: str, both, tmp_path: Path) -> None:
    pydicoms, ours, walked = both(chest(codec, tmp_path / "a.dcm"))
    assert walked == (codec != "deflated")
    assert ours == pydicoms
    assert "position=(" in ours


@pytest.mark.parametrize("all_elements", [False, True])
def test_planted_elements_of_every_kind_are_passed_over(
    all_elements: bool, both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "_FIRST_BYTES", 2**20)  # so many elements take more than is usual
    path = chest("JPEG Lossless", tmp_path / "a.dcm")
    ds = pydicom.dcmread(path)
    plant(ds, all_elements=all_elements)
    save(ds, path)
    pydicoms, ours, walked = both(path)
    assert ours == pydicoms
    assert walked


def test_a_character_set_of_another_kind_within_a_sequence_is_left_to_pydicom(both, tmp_path: Path) -> None:
    path = chest("native", tmp_path / "a.dcm")
    ds = pydicom.dcmread(path)
    ds.ReferencedImageSequence[0].SpecificCharacterSet = "ISO_IR 100"
    ds.save_as(path)
    data = path.read_bytes()
    vr = data.rindex(b"\x08\x00\x05\x00CS") + 4
    path.write_bytes(data[:vr] + b"US" + data[vr + 2 :])
    pydicoms, ours, walked = both(path)
    assert ours == pydicoms
    assert not walked


@pytest.mark.parametrize("more", range(-3, 4))
def test_meta_information_of_another_length_than_it_says_is_left_to_pydicom(more: int, both, tmp_path: Path) -> None:
    """The length moved by whole elements of this group and the next."""
    path = chest("native", tmp_path / "a.dcm")
    data = bytearray(path.read_bytes())
    end = 144 + int.from_bytes(data[140:144], "little")
    ends, at = [144], 144
    while len(ends) < 40 and at < end + 200:
        long = bytes(data[at + 4 : at + 6]) in (b"OB", b"UN", b"SQ", b"UT")
        at += 12 + int.from_bytes(data[at + 8 : at + 12], "little") if long else 8 + data[at + 6] + 256 * data[at + 7]
        ends.append(at)
    data[140:144] = (ends[ends.index(end) + more] - 144).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    pydicoms, ours, walked = both(path)
    assert ours == pydicoms
    assert walked == (more == 0)


def test_pydicoms_own_files_are_read_alike(both) -> None:
    walked = 0
    for path in sorted(_folder("pydicom", "data/test_files").rglob("*")):
        if path.is_file():
            pydicoms, ours, enough = both(path)
            assert ours == pydicoms, path.name
            walked += enough
    assert walked > 10


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers_are_read_or_refused_alike(seed: int, both, tmp_path: Path) -> None:
    """Bytes of the header flipped, taken out, put in and set to what ends or lengthens an element."""
    rng = np.random.default_rng(seed)
    path = chest("JPEG Lossless", tmp_path / "a.dcm", seed)
    whole = path.read_bytes()
    end = whole.index(PIXELS) + 12
    walked = 0
    for _ in range(400):
        data, at = bytearray(whole), int(rng.integers(126, end))
        match rng.integers(4):
            case 0:
                data[at] = int(rng.integers(256))
            case 1:
                del data[at : at + int(rng.integers(1, 9))]
            case 2:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 3:
                data[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(bytes(data))
        pydicoms, ours, enough = both(path)
        assert ours == pydicoms
        walked += enough
    assert 40 < walked < 400


@pytest.mark.parametrize("codec", CODECS)
def test_the_only_fragment_is_the_frame_that_pydicom_finds(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = chest(codec, tmp_path / "a.dcm")
    (header,) = read_headers(path, "a.dcm")
    whole = path.read_bytes()
    start, found = whole.find(PIXELS), 0
    rng = np.random.default_rng(0)
    for k in range(60):
        data = bytearray(whole)
        if k:  # where the pixels' own element, its items and the end of the file are
            at = int(rng.choice([*range(start, start + 28), *range(len(whole) - 10, len(whole))]))
            data[at : at + 1] = [b"", b"\0", b"\xff", b"\x04", b"\0\0"][rng.integers(5)]
        ours = outcome(bytes(data), header)
        with monkeypatch.context() as patched:
            patched.setattr(codecs, "only_fragment", lambda *_: None)
            assert outcome(bytes(data), header) == ours
        found += only_fragment(bytes(data), header.pixels.offset or 0) is not None
    assert (found > 5) == (codec not in ("native", "deflated"))


@unheard()
def outcome(data: bytes, header: headers.SliceHeader) -> list[bytes] | str:
    """The frames of a file, or why they are refused."""
    try:
        return codecs.frames_of(data, header.pixels, "a.dcm")
    except ScanError as error:
        return str(error)


@pytest.mark.parametrize("cut", [0, 100, 131, 140, 150, 400, 900, *range(-4, 12)])
def test_a_file_that_ends_in_its_header_is_left_to_pydicom(cut: int, both, tmp_path: Path) -> None:
    """From -4 to 11: so many bytes of the pixels' own element are left."""
    path = chest("native", tmp_path / "a.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole[: cut if cut > 99 or cut == 0 else whole.find(PIXELS) + cut])
    pydicoms, ours, enough = both(path)
    assert ours == pydicoms
    assert not enough


def test_a_header_longer_than_the_first_bytes_is_left_to_pydicom(both, tmp_path: Path) -> None:
    path = chest("native", tmp_path / "a.dcm")
    ds = pydicom.dcmread(path)
    ds.add_new(0x00091011, "UT", "x" * 40_000)
    ds.save_as(path)
    pydicoms, ours, enough = both(path)
    assert ours == pydicoms
    assert "position=(" in ours
    assert not enough
