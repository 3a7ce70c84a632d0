"""One file's pixels as an array of stored values, checked against everything that the file says of them."""

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

from cnr_iemn.ct.io.codestreams import DAMAGED, check_pixels, describe_zero_run, parse_single_scan, stream_shape
from cnr_iemn.ct.io.dicom_file import PARSE_ERRORS, inflate
from cnr_iemn.ct.io.slice_header import PixelFormat
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions

MIN_SIDE, MAX_SIDE = 16, 4096

_CODESTREAMS: dict[str, Callable[[bytes], NDArray[np.integer]]] = {
    **dict.fromkeys(uid.JPEGTransferSyntaxes, imagecodecs.jpeg8_decode),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, imagecodecs.jpegls_decode),
    **dict.fromkeys((uid.JPEG2000Lossless, uid.JPEG2000), imagecodecs.jpeg2k_decode),
    **dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), imagecodecs.htj2k_decode),
}
_JPEG_LOSSLESS = {uid.JPEGLossless, uid.JPEGLosslessSV1}
_LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless}
_BAD_COPY = "Scan refused; copy it again."
_OVERLAY_STEP = 16  # an overlay's steps are some hundred times those of the image below it


def is_lossy(pixels: PixelFormat) -> bool:
    """Tell whether compression has changed the pixel values."""
    return pixels.lossy or pixels.transfer_syntax in _LOSSY


def check_format(pixels: PixelFormat, name: str) -> None:
    """Refuse what is no grey CT image. Raises ScanError."""
    rows, columns, allocated, bits = (
        n or 0 for n in (pixels.rows, pixels.columns, pixels.bits_allocated, pixels.bits_stored)
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
    for met, problem in requirements:
        if not met:
            raise ScanError(
                RefusalCode.PIXEL_FORMAT, f"{name}: {problem}. Not a readable CT image; scan refused. Export it again."
            )
    if pixels.transfer_syntax not in {*uid.UncompressedTransferSyntaxes, uid.RLELossless, *_CODESTREAMS}:
        syntax = uid.UID(pixels.transfer_syntax).keyword or "missing or unknown"
        raise ScanError(
            RefusalCode.TRANSFER_SYNTAX,
            f"{name}: transfer syntax {syntax} is not read. Recode the scan, for instance as JPEG Lossless.",
        )


def _damage(name: str, problem: str) -> ScanError:
    return ScanError(RefusalCode.DAMAGED_PIXELS, f"{name}: {problem}. {_BAD_COPY}")


def frames_of(data: bytes, pixels: PixelFormat, name: str) -> list[bytes]:
    """Return the encoded pixels of each frame in a whole DICOM file's bytes. Raises ScanError.

    ``pixels`` must have passed ``check_format``.
    """
    count = pixels.frames or 1
    encoded = _pixel_data(data, pixels, name)
    if pixels.transfer_syntax in uid.UncompressedTransferSyntaxes:
        size = (pixels.rows or 0) * (pixels.columns or 0) * (pixels.bits_allocated or 0) // 8
        needed = size * count
        if len(encoded) not in {needed, needed + needed % 2}:
            cut = " (truncated copy?)" if len(encoded) < needed else ""
            raise _damage(name, f"pixel data {len(encoded):,} bytes, needs {needed:,}{cut}")
        return [encoded[size * index : size * (index + 1)] for index in range(count)]
    try:
        frames = list(generate_frames(encoded, number_of_frames=count))
    except (*PARSE_ERRORS, StopIteration) as error:
        raise _damage(name, f"the pixel data holds no image ({type(error).__name__})") from error
    if len(frames) != count:
        raise _damage(name, f"{len(frames)} compressed images for {count} frames")
    return frames


def decode_pixels(encoded: bytes, pixels: PixelFormat, name: str, options: ReadOptions = STRICT) -> NDArray[np.integer]:
    """Return the stored values of one frame of ``frames_of``, integers [rows, columns].

    Raises:
        ScanError: They cannot be decoded, or contradict the header.
    """
    if pixels.transfer_syntax in _CODESTREAMS:
        stored = _decode_stream(encoded, pixels, name, options)
    elif pixels.transfer_syntax == uid.RLELossless:
        stored = _decode_rle(encoded, pixels, name)
    else:
        stored = _decode_native(encoded, pixels)
    if stored.shape != (pixels.rows, pixels.columns):
        raise _damage(name, f"header says {pixels.rows}x{pixels.columns}, decoded {stored.shape}")
    low, high = int(stored.min()), int(stored.max())
    if pixels.signed or stored.dtype.kind != "u" or high >> (pixels.bits_stored or 16):
        stored = _within_bits(stored, pixels, name, options)
        low, high = int(stored.min()), int(stored.max())
    if low == high:
        raise _damage(name, f"every pixel is {low}: damaged pixel data")
    if not options.allow_range_mismatch:
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
        raise _damage(name, f"the pixel data cannot be parsed ({type(error).__name__})") from error
    if not isinstance(value, bytes) or not value:
        raise _damage(name, "no PixelData (file cut?)")
    return value


def _decode_native(encoded: bytes, pixels: PixelFormat) -> NDArray[np.integer]:
    kind = f"{'>' if pixels.big_endian else '<'}{'i' if pixels.signed else 'u'}{(pixels.bits_allocated or 0) // 8}"
    return np.frombuffer(encoded, kind).reshape(pixels.rows or 0, pixels.columns or 0)


def _decode_rle(encoded: bytes, pixels: PixelFormat, name: str) -> NDArray[np.integer]:
    try:
        stored, _ = get_decoder(uid.RLELossless).as_array(
            encapsulate([encoded], has_bot=False),
            raw=True,
            rows=pixels.rows,
            columns=pixels.columns,
            number_of_frames=1,
            samples_per_pixel=1,
            photometric_interpretation=pixels.photometric,
            pixel_representation=int(pixels.signed),
            bits_allocated=pixels.bits_allocated,
            bits_stored=pixels.bits_stored,
            pixel_keyword="PixelData",
            correct_unused_bits=False,  # they may say that a pixel is padding, see _within_bits
            decoding_plugin="pydicom",  # plugins differ in what damage they refuse
        )
    except (*PARSE_ERRORS, RuntimeError) as error:
        raise _damage(name, f"the pixel data cannot be decoded ({type(error).__name__})") from error
    return np.asarray(stored)


def _decode_stream(encoded: bytes, pixels: PixelFormat, name: str, options: ReadOptions) -> NDArray[np.integer]:
    """Decode a JPEG, JPEG-LS or JPEG 2000 codestream whose own size, length and end are as they must be."""
    try:
        stream = encoded.rstrip(b"\0")  # padded to an even length
        shape = stream_shape(stream)
    except PARSE_ERRORS as error:
        raise _damage(name, f"no JPEG stream in the pixel data ({type(error).__name__})") from error
    if shape != (pixels.rows, pixels.columns):
        raise _damage(name, f"header says {pixels.rows}x{pixels.columns}, JPEG stream says {shape[0]}x{shape[1]}")
    if not stream.endswith(b"\xff\xd9"):
        raise _damage(name, "the JPEG stream lacks its end marker (truncated copy?)")
    damage = describe_zero_run(stream) if pixels.transfer_syntax in uid.JPEG2000TransferSyntaxes else None
    if damage and not options.allow_range_mismatch:
        raise ScanError(RefusalCode.DAMAGED_PIXELS, f"{name}: {damage}: {DAMAGED}")
    if pixels.transfer_syntax not in _JPEG_LOSSLESS or options.allow_range_mismatch:
        return _decode_strictly(stream, pixels, name)
    try:
        scan = parse_single_scan(stream)
        stored = _decode_strictly(stream, pixels, name)
        if scan is not None:
            check_pixels(stream, scan, stored)
    except ValueError as error:
        raise ScanError(RefusalCode.DAMAGED_PIXELS, f"{name}: {error}: {DAMAGED}") from error
    return stored


def _decode_strictly(stream: bytes, pixels: PixelFormat, name: str) -> NDArray[np.integer]:
    """Decode a codestream; an error that the decoder cannot raise counts: HTJ2K's returns what it has of the image."""
    unraised: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraised.append
    try:
        stored = np.asarray(_CODESTREAMS[pixels.transfer_syntax](stream))
    except (RuntimeError, ValueError) as error:  # each decoder of imagecodecs has its own RuntimeError
        raise _damage(name, f"the JPEG stream cannot be decoded ({type(error).__name__})") from error
    finally:
        sys.unraisablehook = hook
    if unraised:
        raise _damage(name, "the JPEG stream cannot be decoded to its end")
    return stored


def _within_bits(
    stored: NDArray[np.integer], pixels: PixelFormat, name: str, options: ReadOptions
) -> NDArray[np.int32]:
    """Return the BitsStored lower bits with their sign.

    Native files may hold anything in the unused bits. A codestream cannot: what does not fit is damaged. Decoders give
    signed values as unsigned ones where the stream has no sign, so only the bits count, not the dtype. Padding that
    needs more bits (such as 0x8000 beside 12) keeps its value, by which ``to_hu`` knows it.
    """
    bits, allocated = pixels.bits_stored or 16, pixels.bits_allocated or 16
    wide = stored.astype(np.int32)
    value = _lower_bits(wide, bits, signed=pixels.signed)
    padded, padding = _padding_beyond_bits(wide, pixels)
    np.copyto(value, padding, where=padded)
    if pixels.transfer_syntax in _CODESTREAMS:
        fits = (wide == value) | (wide == value & ((1 << bits) - 1)) | (wide == value & ((1 << allocated) - 1))
        if not (fits | padded).all():
            raise _damage(name, f"decoded values do not fit BitsStored {bits}: damaged pixel data")
        return value
    whole = _lower_bits(wide, allocated, signed=pixels.signed)
    np.copyto(whole, padding, where=padded)
    if bits < allocated and _upper_bits_count(whole, value, bits):
        if options.allow_range_mismatch:
            return whole
        raise ScanError(
            RefusalCode.RANGE_MISMATCH,
            f"{name}: values of {int(whole.min())}..{int(whole.max())} do not fit BitsStored {bits}, and the bits "
            "beyond are part of them: metal would be read as air. Scan refused; export it again, or set "
            "ingest.allow_range_mismatch=true to take the values with all their bits.",
        )
    return value


def _lower_bits(wide: NDArray[np.int32], bits: int, *, signed: bool) -> NDArray[np.int32]:
    value = wide & ((1 << bits) - 1)
    sign = 1 << (bits - 1)
    return (value ^ sign) - sign if signed else value


def _padding_beyond_bits(wide: NDArray[np.int32], pixels: PixelFormat) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Return where padding does not fit BitsStored, bool [rows, columns], and the values that have all bits there."""
    low, high = pixels.value_range
    first, last = pixels.padding_range or (low, low)
    whole = _lower_bits(wide, 16, signed=pixels.signed)
    return (whole >= first) & (whole <= last) & ((whole < low) | (whole > high)), whole


def _upper_bits_count(whole: NDArray[np.int32], value: NDArray[np.int32], bits: int) -> bool:
    """Tell whether the bits beyond are part of the values: few pixels have them, and they are no overlay or dirt.

    Those leave a pixel as its neighbours are once they are taken off; metal that has lost its upper bits stands out.
    """
    beyond = whole >> bits
    odd = whole != value  # padding has the same in both
    if not (beyond == -1).any():  # no sign is carried into them, so that a value which lacks that is a negative one
        odd &= beyond != 0
    if not 0 < np.count_nonzero(odd) < odd.size / 2:
        return False
    with_bits = without = 0
    for axis in (0, 1):
        edge = np.diff(odd.astype(np.int8), axis=axis) != 0
        with_bits += int(np.abs(np.diff(whole, axis=axis))[edge].sum(dtype=np.int64))
        without += int(np.abs(np.diff(value, axis=axis))[edge].sum(dtype=np.int64))
    return with_bits < _OVERLAY_STEP * without


def _check_range(stored: NDArray[np.integer], low: int, high: int, pixels: PixelFormat, name: str) -> None:
    """Compare with the range that the file itself states, unless that is a placeholder or the pixels are lossy."""
    smallest, largest = pixels.smallest, pixels.largest
    if smallest is None or largest is None or smallest >= largest or is_lossy(pixels) or pixels.enhanced:
        return
    if (smallest, largest) in ((low, high), pixels.value_range):
        return
    if pixels.padding is not None:  # some writers leave the padding out of the range
        inside = stored[stored != pixels.padding]
        if inside.size and (int(inside.min()), int(inside.max())) == (smallest, largest):
            return
    raise ScanError(
        RefusalCode.RANGE_MISMATCH,
        f"{name}: decoded range {low}..{high} differs from the file's own {smallest}..{largest} (0028,0106/0107): "
        f"{DAMAGED}",
    )
