"""Hazards in the pixels of a file: their values, their rescaling, their encoding."""

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from tests.ct.conftest import Builder
from tests.ct.hazard import COPY_IT, Hazard, all_slices, one_slice, put, rewritten


def _dirty(ds: Dataset, k: int) -> None:
    ds.PixelData = (Builder.stored(ds) | 0xA000).tobytes()


def _not_extended(ds: Dataset, k: int) -> None:
    """Signed 12 bits whose sign is not carried into the upper four."""
    ds.PixelData = ((Builder.stored(ds).astype(int) - 1024) & 0x0FFF).astype("<u2").tobytes()
    ds.PixelRepresentation, ds.RescaleIntercept = 1, 0


def _padded(ds: Dataset, k: int) -> None:
    pixels = Builder.stored(ds).copy()
    pixels[:4] = -2000
    ds.PixelData = pixels.tobytes()
    ds.add_new(0x00280120, "SS", -2000)


def _padded_hu() -> np.ndarray:
    hu = Builder.expected_hu()
    hu[:, :4] = -1024
    return hu


def _rescale(k: int) -> tuple[float, int]:
    return (0.3, -1000 - k) if k % 2 else (2, -1000 - 10 * k)


def _own_rescale(ds: Dataset, k: int) -> None:
    """Each slice brings its own slope and intercept."""
    hu = Builder.stored(ds).astype(int) - 1024
    slope, intercept = _rescale(k)
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    ds.PixelData = np.where(hu == -1000, 0, np.rint((hu - intercept) / slope)).astype("<u2").tobytes()


def _own_rescale_hu() -> np.ndarray:
    hu = Builder.expected_hu().astype(float)
    for k, want in enumerate(hu):
        slope, intercept = _rescale(k)
        stored = np.where(want == -1000, 0, np.rint((want - intercept) / slope))
        hu[k] = np.maximum(np.rint(stored * slope + intercept), -1024)
    return hu.astype(np.int16)


def _big_endian(ds: Dataset, k: int) -> None:
    ds.PixelData = Builder.stored(ds).astype(">u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian


def _deflated(ds: Dataset, k: int) -> None:
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian


def _rle(ds: Dataset) -> None:
    ds.compress(uid.RLELossless, generate_instance_uid=False)


def _rle_marked_as_native(ds: Dataset) -> None:
    _rle(ds)
    rle = ds.PixelData
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.PixelData = rle + b"\0" * (len(rle) % 2)
    ds["PixelData"].is_undefined_length = False
    ds["PixelData"].VR = "OW"


def _other_size(ds: Dataset) -> None:
    ds.PixelData, ds.Rows = Builder.stored(ds)[:60].tobytes(), 60
    Builder.recode(ds, uid.JPEG2000Lossless).Rows = 64


def _half_zero(ds: Dataset) -> None:
    stream = next(generate_frames(Builder.recode(ds, uid.JPEG2000Lossless).PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([stream[: len(stream) // 2] + bytes(len(stream) // 2)])


def _zero_filled(syntax: str):
    """Noise, so that the stream is long; its second half is zeros, but its end marker is there."""

    def change(ds: Dataset) -> None:
        noise = np.random.default_rng(0).integers(0, 2000, (ds.Rows, ds.Columns))
        ds.PixelData = noise.astype("<u2").tobytes()
        stream = next(generate_frames(Builder.recode(ds, syntax).PixelData, number_of_frames=1)).rstrip(b"\0")
        half = len(stream) // 2
        ds.PixelData = encapsulate([stream[:half] + bytes(len(stream) - half - 2) + b"\xff\xd9"])

    return change


def _more_bytes(ds: Dataset) -> None:
    ds.PixelData += b"\0" * 64


def _coded(syntax: str):
    """Compress; the header states the range of the pixels."""

    def change(ds: Dataset, k: int) -> None:
        ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 24, 1034 + k
        if syntax == uid.RLELossless:
            _rle(ds)
        else:
            Builder.recode(ds, syntax)

    return all_slices(change)


_NO_RESCALE = (
    r", so the values cannot be brought to HU\. Scan refused; export it with its rescaling, or set "
    r"ingest\.allow_missing_rescale=true to take the stored values as HU\."
)

PIXELS = [
    Hazard("MONOCHROME1", all_slices(put(PhotometricInterpretation="MONOCHROME1"))),
    Hazard("padding -2000", all_slices(_padded, signed=True), hu=_padded_hu),
    Hazard("12 bits in 16", all_slices(_dirty), "high bits dirty"),
    Hazard("12 bits in 16", all_slices(_not_extended), "signed, not extended"),
    Hazard("slope of each slice, whole or fractional", all_slices(_own_rescale), hu=_own_rescale_hu),
    Hazard(
        "slope and intercept absent",
        all_slices(put(RescaleSlope=None, RescaleIntercept=None)),
        refusal=rf"P012/IM0000\.dcm: RescaleSlope or RescaleIntercept is missing or makes no sense{_NO_RESCALE}",
    ),
    Hazard("slope 0", all_slices(put(RescaleSlope=0)), refusal=rf"P012/IM0000\.dcm: RescaleSlope is 0{_NO_RESCALE}"),
    *(
        Hazard("compressed without loss", _coded(syntax), syntax.keyword)
        for syntax in (
            uid.RLELossless,
            uid.JPEGLossless,
            uid.JPEGLosslessSV1,
            uid.JPEGLSLossless,
            uid.JPEG2000Lossless,
            uid.HTJ2KLossless,
        )
    ),
    Hazard("deflated", all_slices(_deflated)),
    Hazard("big endian", all_slices(_big_endian)),
    Hazard(
        "wrong transfer syntax (RLE marked as native)",
        one_slice(_rle_marked_as_native),
        refusal=rf"P012/IM0005\.dcm: pixel data [\d,]+ bytes, needs 8,192 \(truncated copy\?\)\.{COPY_IT}",
    ),
    Hazard(
        "JPEG 2000 size differs from the header's",
        one_slice(_other_size),
        refusal=r"P012/IM0005\.dcm: header says 64x64, JPEG stream says 60x64\. Scan refused; copy it again\.",
    ),
    Hazard(
        "JPEG 2000 stream half zero",
        one_slice(_half_zero),
        refusal=rf"P012/IM0005\.dcm: the JPEG stream lacks its end marker \(truncated copy\?\)\.{COPY_IT}",
    ),
    *(
        Hazard(
            "JPEG 2000 stream half zero",
            one_slice(_zero_filled(syntax)),
            f"{name}, with its end marker",
            refusal=r"P012/IM0005\.dcm: its JPEG 2000 stream holds 128 zeros in a row from byte [\d,]+: damaged pixel "
            rf"data\.{COPY_IT[:-2]}, or set ingest\.allow_range_mismatch=true to accept it\.",
        )
        for name, syntax in (("JPEG 2000", uid.JPEG2000Lossless), ("HTJ2K", uid.HTJ2KLossless))
    ),
    Hazard(
        "one file cut in the pixels",
        rewritten(lambda data: data[:-4000]),
        refusal=rf"P012/IM0023\.dcm: pixel data 4,192 bytes, needs 8,192 \(truncated copy\?\)\.{COPY_IT}",
    ),
    Hazard(
        "one file without PixelData",
        one_slice(put(PixelData=None)),
        refusal=rf"P012/IM0005\.dcm: no PixelData \(file cut\?\)\.{COPY_IT}",
    ),
    Hazard(
        "excess pixel bytes",
        one_slice(_more_bytes),
        refusal=rf"P012/IM0005\.dcm: pixel data 8,256 bytes, needs 8,192\.{COPY_IT}",
    ),
    Hazard(
        "enhanced multi-frame",
        lambda dicom, folder: dicom.write(folder, [dicom.make_enhanced(order=range(dicom.n)[::-1])]),
    ),
]
