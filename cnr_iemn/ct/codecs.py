"""One file's pixels as a two-dimensional array of stored values, checked against everything the file says of them."""

import sys
from collections.abc import Callable
from io import BytesIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder

from cnr_iemn.ct.deflated import inflate
from cnr_iemn.ct.elements import PARSE_ERRORS
from cnr_iemn.ct.jpeg_lossless import decode, only_image
from cnr_iemn.ct.pixel_format import PixelFormat
from cnr_iemn.ct.rescale import padding_beyond_bits
from cnr_iemn.ct.streams import DAMAGED, only_fragment, stream_shape, zero_filled
from cnr_iemn.errors import ScanError
from cnr_iemn.permissions import STRICT, Permissions

MIN_SIDE, MAX_SIDE = 16, 4096

_NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}
_CODESTREAMS: dict[str, Callable[[bytes], NDArray[np.integer]]] = {
    uid.JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    uid.JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLossless: imagecodecs.jpeg8_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
    uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    uid.JPEG2000: imagecodecs.jpeg2k_decode,
    uid.HTJ2KLossless: imagecodecs.htj2k_decode,
    uid.HTJ2KLosslessRPCL: imagecodecs.htj2k_decode,
    uid.HTJ2K: imagecodecs.htj2k_decode,
}
_JPEG_LOSSLESS = {uid.JPEGLossless, uid.JPEGLosslessSV1}
_LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless}
_BAD_COPY = "Scan refused; copy it again."


def is_lossy(pixels: PixelFormat) -> bool:
    """Tell whether compression has changed the pixel values."""
    return pixels.lossy or pixels.transfer_syntax in _LOSSY


def check_format(pixels: PixelFormat, name: str) -> None:
    """Refuse what is no grey CT image. Raises ScanError."""
    rows, columns, allocated, bits = (
        value or 0 for value in (pixels.rows, pixels.columns, pixels.bits_allocated, pixels.bits_stored)
    )
    requirements = (
        (min(rows, columns) >= MIN_SIDE, f"Rows x Columns is {rows}x{columns}, must be at least {MIN_SIDE}"),
        (max(rows, columns) <= MAX_SIDE, f"Rows x Columns is {rows}x{columns}, must be at most {MAX_SIDE}"),
        (pixels.samples == 1, f"SamplesPerPixel is {pixels.samples}, must be 1"),
        (pixels.photometric in {"MONOCHROME1", "MONOCHROME2"}, "PhotometricInterpretation must be MONOCHROME1 or 2"),
        (pixels.enhanced or pixels.frames in {None, 1}, "NumberOfFrames must be 1"),
        (allocated in {8, 16}, f"BitsAllocated is {pixels.bits_allocated}, must be 8 or 16"),
        (2 <= bits <= allocated, f"BitsStored is {pixels.bits_stored}, must be 2 to BitsAllocated ({allocated})"),
        (pixels.high_bit == bits - 1, f"HighBit is {pixels.high_bit}, must be BitsStored - 1 ({bits - 1})"),
    )
    for holds, problem in requirements:
        if not holds:
            raise ScanError(f"{name}: {problem}. Not a readable CT image; scan refused. Export it again.")
    if pixels.transfer_syntax not in _NATIVE | {uid.RLELossless} | set(_CODESTREAMS):
        syntax = uid.UID(pixels.transfer_syntax).keyword or "missing or unknown"
        raise ScanError(
            f"{name}: transfer syntax {syntax} is not read. Recode the scan, for instance as JPEG Lossless."
        )


def frames_of(data: bytes, pixels: PixelFormat, name: str) -> list[bytes]:
    """Return the encoded pixels of each frame in a whole DICOM file's bytes. Raises ScanError.

    ``pixels`` must have passed ``check_format``.
    """
    count = pixels.frames or 1
    if count == 1 and pixels.offset and pixels.transfer_syntax in _CODESTREAMS:
        only = only_fragment(data, pixels.offset)
        if only:
            return [only]
    encoded = _pixel_data(data, pixels, name)
    if pixels.transfer_syntax in _NATIVE:
        size = (pixels.rows or 0) * (pixels.columns or 0) * (pixels.bits_allocated or 0) // 8
        needed = size * count
        if len(encoded) not in {needed, needed + needed % 2}:
            cut = " (truncated copy?)" if len(encoded) < needed else ""
            raise ScanError(f"{name}: pixel data {len(encoded):,} bytes, needs {needed:,}{cut}. {_BAD_COPY}")
        return [encoded[size * index : size * (index + 1)] for index in range(count)]
    try:
        frames = list(generate_frames(encoded, number_of_frames=count))
    except (*PARSE_ERRORS, StopIteration) as error:
        raise ScanError(f"{name}: the pixel data holds no image ({type(error).__name__}). {_BAD_COPY}") from error
    if len(frames) != count:
        raise ScanError(f"{name}: {len(frames)} compressed images for {count} frames. {_BAD_COPY}")
    return frames


def decode_pixels(encoded: bytes, pixels: PixelFormat, name: str, allowed: Permissions = STRICT) -> NDArray[np.integer]:
    """Return the stored values, [rows, columns], of one frame of ``frames_of``. Raises ScanError."""
    stored = (
        _decode_stream(encoded, pixels, name, allowed)
        if pixels.transfer_syntax in _CODESTREAMS
        else _decode_plain(encoded, pixels, name)
    )
    if stored.shape != (pixels.rows, pixels.columns):
        raise ScanError(f"{name}: header says {pixels.rows}x{pixels.columns}, decoded {stored.shape}. {_BAD_COPY}")
    low, high = int(stored.min()), int(stored.max())
    if pixels.signed or stored.dtype.kind != "u" or high >> (pixels.bits_stored or 16):
        stored = _within_bits(stored, pixels, name)
        low, high = int(stored.min()), int(stored.max())
    if low == high:
        raise ScanError(f"{name}: every pixel is {low}: damaged pixel data. {_BAD_COPY}")
    if not allowed.allow_range_mismatch:
        _check_range(stored, low, high, pixels, name)
    return stored


def _pixel_data(data: bytes, pixels: PixelFormat, name: str) -> bytes:
    """Return the value of Pixel Data (7FE0,0010)."""
    file = BytesIO(data)
    try:
        if pixels.offset is None:
            file = BytesIO(inflate(data, name)[1])
        else:
            file.seek(pixels.offset)
        dataset = read_dataset(file, not pixels.explicit, not pixels.big_endian)
        value = dataset.get("PixelData")
    except PARSE_ERRORS as error:
        raise ScanError(f"{name}: the pixel data cannot be parsed ({type(error).__name__}). {_BAD_COPY}") from error
    if not isinstance(value, bytes) or not value:
        raise ScanError(f"{name}: no PixelData (file cut?). {_BAD_COPY}")
    return value


def _decode_plain(encoded: bytes, pixels: PixelFormat, name: str) -> NDArray[np.integer]:
    """Decode native and RLE pixels with pydicom."""
    rows, columns, allocated = pixels.rows or 0, pixels.columns or 0, pixels.bits_allocated or 0
    if pixels.transfer_syntax == uid.RLELossless:
        encoded = encapsulate([encoded], has_bot=False)
    try:
        stored, _ = get_decoder(uid.UID(pixels.transfer_syntax)).as_array(
            encoded,
            raw=True,
            rows=rows,
            columns=columns,
            number_of_frames=1,
            samples_per_pixel=1,
            photometric_interpretation=pixels.photometric,
            pixel_representation=int(pixels.signed),
            bits_allocated=allocated,
            bits_stored=pixels.bits_stored,
            pixel_keyword="PixelData",
            pixel_vr="OW" if allocated == 16 or not pixels.explicit else "OB",
            correct_unused_bits=False,  # they may say that a pixel is padding; see _within_bits
            # not what else is installed: plugins differ in what damage they refuse, and pydicom tries one after another
            decoding_plugin="pydicom" if pixels.transfer_syntax == uid.RLELossless else "",
        )
    except (*PARSE_ERRORS, RuntimeError) as error:
        raise ScanError(f"{name}: the pixel data cannot be decoded ({type(error).__name__}). {_BAD_COPY}") from error
    return np.asarray(stored)


def _decode_stream(encoded: bytes, pixels: PixelFormat, name: str, allowed: Permissions) -> NDArray[np.integer]:
    """Decode a JPEG, JPEG-LS or JPEG 2000 codestream whose own size, length and end are as they must be."""
    try:
        stream = encoded.rstrip(b"\0")  # padded to an even length
        shape = stream_shape(stream)
    except PARSE_ERRORS as error:
        raise ScanError(f"{name}: no JPEG stream in the pixel data ({type(error).__name__}). {_BAD_COPY}") from error
    if shape != (pixels.rows, pixels.columns):
        raise ScanError(
            f"{name}: header says {pixels.rows}x{pixels.columns}, JPEG stream says {shape[0]}x{shape[1]}. {_BAD_COPY}"
        )
    if not stream.endswith(b"\xff\xd9"):
        raise ScanError(f"{name}: the JPEG stream lacks its end marker (truncated copy?). {_BAD_COPY}")
    damage = zero_filled(stream) if pixels.transfer_syntax in uid.JPEG2000TransferSyntaxes else None
    if damage and not allowed.allow_range_mismatch:
        raise ScanError(f"{name}: {damage}: {DAMAGED}")
    if pixels.transfer_syntax in _JPEG_LOSSLESS and not allowed.allow_range_mismatch:
        try:
            image = only_image(stream)
            if image is not None:
                return decode(stream, image)
        except ValueError as error:
            raise ScanError(f"{name}: {error}: {DAMAGED}") from error
    return _decoded(stream, pixels, name)


def _decoded(stream: bytes, pixels: PixelFormat, name: str) -> NDArray[np.integer]:
    """Decode a codestream; an error that the decoder meets and does not raise counts as well.

    That of HTJ2K tells it to Python as one that cannot be raised, and returns what it has of the image.
    """
    unraised: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraised.append
    try:
        stored = np.asarray(_CODESTREAMS[pixels.transfer_syntax](stream))
    except (RuntimeError, ValueError) as error:  # each decoder of imagecodecs has its own RuntimeError
        raise ScanError(f"{name}: the JPEG stream cannot be decoded ({type(error).__name__}). {_BAD_COPY}") from error
    finally:
        sys.unraisablehook = hook
    if unraised:
        raise ScanError(f"{name}: the JPEG stream cannot be decoded to its end. {_BAD_COPY}")
    return stored


def _within_bits(stored: NDArray[np.integer], pixels: PixelFormat, name: str) -> NDArray[np.integer]:
    """Keep the BitsStored lower bits with their sign.

    Native files may hold anything in the unused bits. A codestream cannot: what does not fit is damaged. Decoders give
    signed values as unsigned ones where the stream has no sign, so only the bits count, not the dtype. Padding that
    needs more bits (such as 0x8000 beside 12) keeps its value, by which ``to_hu`` knows it.
    """
    bits, allocated = pixels.bits_stored or 16, pixels.bits_allocated or 16
    mask = (1 << bits) - 1
    wide = stored.astype(np.int32)
    value = wide & mask
    if pixels.signed:
        sign = 1 << (bits - 1)
        value = (value ^ sign) - sign
    beyond = padding_beyond_bits(wide, pixels)
    if beyond is not None:
        np.copyto(value, beyond, where=beyond != 0)
    if pixels.transfer_syntax in _CODESTREAMS:
        fits = (wide == value) | (wide == value & mask) | (wide == value & ((1 << allocated) - 1))
        if not (fits if beyond is None else fits | (beyond != 0)).all():
            raise ScanError(f"{name}: decoded values do not fit BitsStored {bits}: damaged pixel data. {_BAD_COPY}")
    return value


def _check_range(stored: NDArray[np.integer], low: int, high: int, pixels: PixelFormat, name: str) -> None:
    """Compare with the range that the file itself states, unless that is a placeholder or the pixels are lossy."""
    smallest, largest, bits = pixels.smallest, pixels.largest, pixels.bits_stored or 16
    if smallest is None or largest is None or smallest >= largest or is_lossy(pixels) or pixels.enhanced:
        return
    whole = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if pixels.signed else (0, (1 << bits) - 1)
    if (smallest, largest) in ((low, high), whole):
        return
    if pixels.padding is not None:  # some writers leave the padding out of the range
        inside = stored[stored != pixels.padding]
        if inside.size and (int(inside.min()), int(inside.max())) == (smallest, largest):
            return
    raise ScanError(
        f"{name}: decoded range {low}..{high} differs from the file's own {smallest}..{largest} (0028,0106/0107): "
        f"{DAMAGED}"
    )
