"""A DICOM file's elements, parsed within bounds of memory, as plain values."""

import logging
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cnr_iemn.errors import RefusalCode, ScanError

PARSE_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,  # a value representation that DICOM does not have
    EOFError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""Raised by pydicom on damaged files."""
BROKEN_LINK = "is a link to something that is missing. Fetch it (git annex get, dvc pull) or copy the scan itself."
"""Ends the message on such a file or folder."""
MAX_FILE_BYTES = 2**26
"""Of a file with one slice, as it is and inflated."""
MAX_FRAMES_BYTES = 2**31
"""Of a multi-frame file."""
MAX_META_BYTES = 2**16
MAX_ITEMS = 400_000
"""Of all sequences of an inflated file; 20 for each frame of the longest scan. pydicom takes 700 bytes for one."""

_HEAD_BYTES, _MIN_REST = 2**15, 64  # read first; with less than that rest the header may continue
_ITEM = b"\xfe\xff\x00\xe0"
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
"""How the element (0002,0000), whose value says how long the file meta information is, begins."""
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""How a dataset begins that lacks the preamble: groups 0002 and 0008, little endian."""
_MAX_CACHED_BYTES = 256


class UnreadableFileError(ScanError):
    """The file is empty, no DICOM, or its header is damaged."""


@contextmanager
def suppress_library_messages() -> Iterator[None]:
    """Drop what pydicom and nibabel warn of or log: it quotes files, whose free text can hold names."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "nibabel.global")]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled


def read_elements(path: Path, name: str, tags: list[int | str]) -> tuple[Dataset, int | None]:
    """Return these elements of a file, and how many bytes precede its pixels, None where it is deflated.

    ``name``: what messages call the file.

    Raises:
        UnreadableFileError: It is no DICOM file or damaged.
        ScanError: It cannot be opened or is too large.
    """
    try:
        with path.open("rb") as file:
            return _read_elements(file, name, tags)
    except PARSE_ERRORS as error:
        raise UnreadableFileError(
            RefusalCode.DAMAGED_FILE, f"{name}: the DICOM header is damaged ({type(error).__name__})."
        ) from error
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise UnreadableFileError(RefusalCode.DAMAGED_FILE, f"{name}: {BROKEN_LINK}") from error
        raise ScanError(
            RefusalCode.NO_ACCESS, f"{name}: cannot be opened ({error.strerror}). Check the disk and the permissions."
        ) from error


def _read_elements(file: BinaryIO, name: str, tags: list[int | str]) -> tuple[Dataset, int | None]:
    start = file.read(144)
    if start[128:132] != b"DICM":
        if start[:2] in _FIRST_GROUPS:
            raise UnreadableFileError(
                RefusalCode.DAMAGED_FILE,
                f"{name}: begins like a DICOM dataset, but without the preamble and file meta information that say how "
                "to read it. Export the scan again as DICOM files.",
            )
        raise UnreadableFileError(
            RefusalCode.DAMAGED_FILE, f"{name}: not a DICOM file (empty, cut or of another kind)."
        )
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FRAMES_BYTES:
        raise ScanError(
            RefusalCode.TOO_LARGE, f"{name}: {size:,} bytes, more than any CT file. Remove it from the folder."
        )
    meta_bytes = int.from_bytes(start[140:144], "little") if start[132:140] == _GROUP_LENGTH else 0
    if DeflatedExplicitVRLittleEndian.encode() in file.read(min(max(meta_bytes, 1024), MAX_META_BYTES)):
        file.seek(0)
        return _read_deflated(file.read(), name, tags), None
    if meta_bytes > MAX_META_BYTES:
        raise UnreadableFileError(
            RefusalCode.DAMAGED_FILE, f"{name}: {meta_bytes:,} bytes of file meta information make no sense."
        )
    return _parse(file, min(_HEAD_BYTES, size), size, tags)


def _parse(file: BinaryIO, length: int, size: int, tags: list[int | str]) -> tuple[Dataset, int]:
    """Parse the first bytes in memory, where a damaged length reserves nothing; more where the header continues."""
    file.seek(0)
    head = BytesIO(file.read(length))
    try:
        dataset = pydicom.dcmread(head, stop_before_pixels=True, specific_tags=tags)
        if length == size or head.tell() + _MIN_REST < length:
            return dataset, head.tell()
    except PARSE_ERRORS:
        if length == size:
            raise
    return _parse(file, min(64 * length, size), size, tags)


def inflate(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Return file meta information and dataset of a deflated file, of which at most MAX_FILE_BYTES are inflated.

    pydicom inflates without a limit, and 600 kB can hold gigabytes.

    Raises:
        ScanError: There is more in it.
        ValueError: The file does not say where its meta information ends.
    """
    if data[132:140] != _GROUP_LENGTH:
        raise ValueError("no group length")
    end = 144 + int.from_bytes(data[140:144], "little")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data[end:], MAX_FILE_BYTES)
    if stream.unconsumed_tail:
        raise ScanError(
            RefusalCode.TOO_LARGE, f"{name}: inflates to more than {MAX_FILE_BYTES:,} bytes, no CT slice. Scan refused."
        )
    if inflated.count(_ITEM) > MAX_ITEMS:
        raise ScanError(
            RefusalCode.TOO_LARGE,
            f"{name}: inflates to more than {MAX_ITEMS:,} sequence items, no CT slice. Scan refused.",
        )
    return data[132:end], inflated


def _read_deflated(data: bytes, name: str, tags: list[int | str]) -> Dataset:
    meta, inflated = inflate(data, name)
    dataset = read_dataset(BytesIO(inflated), False, True, specific_tags=[int(Tag(tag)) for tag in tags])
    plain = Dataset(dataset)
    plain.set_original_encoding(False, True, dataset.original_character_set)
    plain.file_meta = FileMetaDataset(read_dataset(BytesIO(meta), False, True))
    return plain


class Elements:
    """The elements of a header by keyword. The slices of a scan share most values, so each is converted only once."""

    def __init__(self, ds: Dataset) -> None:
        encodings = ds.original_character_set
        self._elements = {int(tag): element for tag, element in ds.items()}  # int: a tag of pydicom compares slowly
        self._encodings = (encodings,) if isinstance(encodings, str) else tuple(encodings)

    def get(self, keyword: str) -> object:
        """Return an element's value, None where it is missing. Raises one of PARSE_ERRORS where it is damaged."""
        tag = _tag(keyword)
        element = self._elements.get(tag)
        if element is None:
            return None
        if not isinstance(element, RawDataElement):
            return cast(object, element.value)
        value = element.value or empty_value_for_VR(element.VR, raw=True)
        convert = _convert_once if len(value or b"") <= _MAX_CACHED_BYTES else _convert
        return convert(tag, element.VR, value, element.is_implicit_VR, element.is_little_endian, self._encodings)

    def text(self, keyword: str) -> str:
        """Return a value as text, '' where it is missing."""
        return str(self.get(keyword) or "")

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the texts of a value with one, several or none."""
        value = self.get(keyword)
        if value is None or isinstance(value, str):
            return (value,) if value else ()
        return tuple(str(text) for text in value) if isinstance(value, Sequence) else ()

    def numbers(self, keyword: str, count: int, *, maximum: float = math.inf) -> tuple[float, ...] | None:
        """Return finite numbers; None where the element is missing, makes no sense or has another count than this.

        ``maximum``: of their absolute values.
        """
        try:
            value: Any = self.get(keyword)
            items = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
            values = tuple(float(item) for item in items)
        except (TypeError, ValueError):  # no value, or text that is no number
            return None
        valid = len(values) == count and all(math.isfinite(number) and abs(number) <= maximum for number in values)
        return values if valid else None

    def number(self, keyword: str) -> float | None:
        """Return one finite number, None where the element holds none."""
        values = self.numbers(keyword, 1)
        return values[0] if values else None

    def integer(self, keyword: str) -> int | None:
        """Return a whole number, None where the element holds none."""
        number = self.number(keyword)
        return None if number is None else int(number)

    def pixel_value(self, keyword: str, signed: bool) -> int | None:
        """Return a stored pixel value, which comes as bytes where the VR is implicit, and often as US though signed."""
        value = self.get(keyword)
        if isinstance(value, bytes) and len(value) == 2:
            value = int.from_bytes(value, "little")  # implicit VR is always little endian
        if not isinstance(value, int):
            return None
        value &= 0xFFFF
        return value - 0x10000 if signed and value >= 0x8000 else value


@lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"DICOM has no element {keyword}.")
    return int(tag)


def _convert(
    tag: int, vr: str | None, value: bytes | None, implicit: bool, little_endian: bool, encodings: tuple[str, ...]
) -> object:
    element = RawDataElement(Tag(tag), vr, len(value or b""), value, 0, implicit, little_endian)
    return convert_raw_data_element(element, encoding=list(encodings)).value


_convert_once = lru_cache(maxsize=4096)(_convert)
