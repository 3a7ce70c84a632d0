"""Deflated DICOM files, inflated within bounds."""

import zlib
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag

from cnr_iemn.errors import ScanError

MAX_FILE_BYTES = 2**26
"""Of a file with one slice, as it is and inflated."""

MAX_ITEMS = 400_000
"""Of all sequences of an inflated file; 20 for each frame of the longest scan. pydicom takes 700 bytes for one."""
_ITEM = b"\xfe\xff\x00\xe0"

GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
"""How the element (0002,0000), whose value says how long the file meta information is, begins."""


def inflate(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Return file meta information and dataset of a deflated file, of which at most MAX_FILE_BYTES are inflated.

    pydicom inflates without a limit, and 600 kB can hold gigabytes. Raises ScanError; ValueError where the file does
    not say where its meta information ends.
    """
    if data[132:140] != GROUP_LENGTH:
        raise ValueError("no group length")
    end = 144 + int.from_bytes(data[140:144], "little")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data[end:], MAX_FILE_BYTES)
    if stream.unconsumed_tail:
        raise ScanError(f"{name}: inflates to more than {MAX_FILE_BYTES:,} bytes, no CT slice. Scan refused.")
    if inflated.count(_ITEM) > MAX_ITEMS:
        raise ScanError(f"{name}: inflates to more than {MAX_ITEMS:,} sequence items, no CT slice. Scan refused.")
    return data[132:end], inflated


def read_deflated(path: Path, name: str, tags: list[int | str]) -> Dataset:
    """Return these elements of a deflated file. Raises ScanError, or what pydicom raises on a damaged one."""
    meta, inflated = inflate(path.read_bytes(), name)
    dataset = read_dataset(
        BytesIO(inflated), is_implicit_VR=False, is_little_endian=True, specific_tags=[int(Tag(tag)) for tag in tags]
    )
    plain = Dataset(dataset)
    plain.set_original_encoding(False, True)
    plain.file_meta = FileMetaDataset(read_dataset(BytesIO(meta), is_implicit_VR=False, is_little_endian=True))
    return plain
