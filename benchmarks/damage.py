"""Synthetic CT slices in every codec, and kinds of damage to files."""

import io
from collections.abc import Callable

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

SIDE = 256

CODECS = {
    "native": uid.ExplicitVRLittleEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG Lossless": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
    "HTJ2K": uid.HTJ2KLossless,
}
_ENCODERS = {
    "JPEG Lossless": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=12),
    "JPEG-LS": imagecodecs.jpegls_encode,
    "JPEG 2000": lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="j2k"),
    "HTJ2K": lambda a: imagecodecs.htj2k_encode(a, reversible=True),
}

_Damage = Callable[[bytes, int, int, np.random.Generator], bytes]


def _overwrite(data: bytes, position: int, values: NDArray[np.uint8]) -> bytes:
    return data[:position] + values.tobytes() + data[position + len(values) :]


KINDS: dict[str, _Damage] = {
    "bit flipped": lambda data, position, _, rng: _overwrite(
        data, position, np.uint8([data[position] ^ 1 << rng.integers(8)])
    ),
    "byte changed": lambda data, position, _, rng: _overwrite(
        data, position, np.uint8([data[position] ^ rng.integers(1, 256)])
    ),
    "zeros": lambda data, position, length, _: _overwrite(data, position, np.zeros(length, np.uint8)),
    "noise": lambda data, position, length, rng: _overwrite(data, position, rng.integers(0, 256, length, np.uint8)),
    "block missing": lambda data, position, length, _: data[:position] + data[position + length :],
    "cut": lambda data, position, *_: data[:position],
}
"""Functions of a file's bytes, the position of the damage, its length (1 to 199 bytes) and a random generator."""


def damage(data: bytes, kind: str, start: int, end: int, rng: np.random.Generator) -> bytes:
    """Return the file with damage of this kind at a random position from ``start`` to ``end``."""
    position = int(rng.integers(start, end))
    length = int(min(rng.integers(1, 200), end - position))
    return KINDS[kind](data, position, length, rng)


def pixel_start(data: bytes) -> int:
    """Return the offset of the pixel data; for deflated files, of the stream."""
    tag = data.find(b"\xe0\x7f\x10\x00")
    return tag + 12 if tag > 0 else 144 + int.from_bytes(data[140:144], "little")


def make_slice(codec: str, rng: np.random.Generator) -> tuple[bytes, NDArray[np.int16]]:
    """Return the file of a CT slice with the tags of its range of values, and its HU, int16 [256, 256]."""
    stored = _chest(rng)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = "1.2.3", "CT", 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.Rows, ds.Columns = [1.4, 1.4], SIDE, SIDE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = int(stored.min()), int(stored.max())
    ds.PixelData = stored.tobytes()
    if codec == "RLE":
        # pydicom's encoder, whatever else is installed
        ds.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    elif codec in _ENCODERS:
        ds.PixelData = encapsulate([_ENCODERS[codec](stored)])
        ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = CODECS[codec]
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue(), (stored.astype(np.int32) - 1024).astype(np.int16)


def _chest(rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the stored 12-bit values of a body with two lungs on a table, with the noise and blur of a scanner."""
    hu = np.full((SIDE, SIDE), -1000, np.float32)
    shift = rng.integers(-8, 9, 2)
    for x, y, width, height, value in (
        (128, 128, 105, 75, -90),
        (128, 128, 100, 70, 40),
        (80, 120, 38, 50, -860),
        (176, 120, 38, 50, -860),
        (128, 180, 10, 10, 400),
    ):
        cv2.ellipse(hu, (int(x + shift[0]), int(y + shift[1])), (width, height), 0, 0, 360, value, cv2.FILLED)
    hu[226 + shift[1] : 230 + shift[1], 40:216] = -300
    noise = cv2.GaussianBlur(rng.normal(0, 1, hu.shape).astype(np.float32), (0, 0), 0.8)
    hu = cv2.GaussianBlur(hu, (0, 0), 0.8) + 18 * noise / noise.std()
    return (hu.round() + 1024).clip(0, 4095).astype(np.uint16)
