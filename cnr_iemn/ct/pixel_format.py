"""How a DICOM file stores its pixels, as its header says."""

from dataclasses import dataclass
from typing import NamedTuple

from cnr_iemn.ct.elements import Elements, integer, pixel_value


@dataclass(frozen=True)
class PixelFormat:
    """How a file stores its pixels; None where the header does not say.

    ``smallest``, ``largest``: the file's own statement of its stored range (0028,0106/0107). ``padding``: stored value
    outside the field of view (0028,0120), up to ``padding_limit`` (0028,0121). ``offset``: bytes before Pixel Data in
    the file, None where the file is deflated. ``enhanced``: of a multi-frame class. ``explicit``: the VR is;
    ``big_endian``: the byte order.
    """

    transfer_syntax: str
    offset: int | None
    enhanced: bool
    explicit: bool
    big_endian: bool
    rows: int | None
    columns: int | None
    samples: int | None
    photometric: str
    frames: int | None
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    signed: bool
    smallest: int | None
    largest: int | None
    padding: int | None
    padding_limit: int | None
    lossy: bool


class Encoding(NamedTuple):
    """How a file is written: its transfer syntax's UID, '' where it has none; whether the VR is explicit."""

    transfer_syntax: str
    explicit: bool
    big_endian: bool


def pixel_format(encoding: Encoding, elements: Elements, *, enhanced: bool, offset: int | None) -> PixelFormat:
    """Return what a header says of its file's pixels."""
    signed = elements.get("PixelRepresentation") == 1
    return PixelFormat(
        transfer_syntax=encoding.transfer_syntax,
        offset=offset,
        enhanced=enhanced,
        explicit=encoding.explicit,
        big_endian=encoding.big_endian,
        rows=integer(elements, "Rows"),
        columns=integer(elements, "Columns"),
        samples=integer(elements, "SamplesPerPixel"),
        photometric=str(elements.get("PhotometricInterpretation") or ""),
        frames=integer(elements, "NumberOfFrames"),
        bits_allocated=integer(elements, "BitsAllocated"),
        bits_stored=integer(elements, "BitsStored"),
        high_bit=integer(elements, "HighBit"),
        signed=signed,
        smallest=pixel_value(elements, "SmallestImagePixelValue", signed),
        largest=pixel_value(elements, "LargestImagePixelValue", signed),
        padding=pixel_value(elements, "PixelPaddingValue", signed),
        padding_limit=pixel_value(elements, "PixelPaddingRangeLimit", signed),
        lossy=elements.get("LossyImageCompression") == "01",
    )
