"""Damaged files: how many wrong images come through undetected, and does anything hang or bring the parent down?

python -m benchmarks.fuzz --files 2000 --headers 2000 --seed 0 [--sample FOLDER]

Every codec gets its share of the files, each damaged at random in its pixel data; headers are damaged anywhere before
it. A file counts as undetected where it is read without an error and its HU differ. --sample: a folder of real JPEG
Lossless slices that carry the range tags, one of which is damaged too.
"""

import argparse
import io
import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from rich.console import Console
from rich.table import Table

from cnr_iemn.ct.codecs import check_format, decode_pixels, frames_of
from cnr_iemn.ct.headers import read_headers
from cnr_iemn.ct.limited import run_limited
from cnr_iemn.ct.rescale import check_rescale, to_hu
from cnr_iemn.errors import ScanError

SECONDS = 20.0
SIDE = 128

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
    "JPEG Lossless": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12),
    "JPEG-LS": imagecodecs.jpegls_encode,
    "JPEG 2000": lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="j2k"),
    "HTJ2K": lambda a: imagecodecs.htj2k_encode(a, reversible=True),
}


@dataclass(frozen=True)
class Job:
    """One damaged file, and the HU that it held before."""

    path: Path
    hu: NDArray[np.int16]


def read_one(job: Job) -> str:
    """Read the file as the reader does; return right, wrong or refused."""
    try:
        (header,) = read_headers(job.path, job.path.name)
        check_format(header.pixels, header.name)
        check_rescale(header)
        (frame,) = frames_of(job.path.read_bytes(), header.pixels, header.name)
        out = np.empty((header.pixels.rows or 0, header.pixels.columns or 0), np.int16)
        to_hu(decode_pixels(frame, header.pixels, header.name), header, out)
    except ScanError:
        return "refused"
    return "right" if np.array_equal(out, job.hu) else "wrong"


def make_slice(codec: str, rng: np.random.Generator) -> tuple[bytes, NDArray[np.int16]]:
    """Return the bytes of a CT slice with lung-like texture, its range tags included, and its HU."""
    field = rng.normal(size=(SIDE, SIDE)).cumsum(0).cumsum(1)
    field = (field - field.min()) / np.ptp(field)
    stored = (field * 1400 + rng.normal(0, 12, field.shape)).clip(0, 3000).astype(np.uint16)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SeriesInstanceUID, ds.Modality, ds.InstanceNumber = "1.2.3", "CT", 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.Rows, ds.Columns = [0.7, 0.7], SIDE, SIDE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = int(stored.min()), int(stored.max())
    ds.PixelData = stored.tobytes()
    if codec == "RLE":
        ds.compress(uid.RLELossless, generate_instance_uid=False)
    elif codec in _ENCODERS:
        ds.PixelData = encapsulate([_ENCODERS[codec](stored)])
        ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = CODECS[codec]
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue(), (stored.astype(np.int32) - 1024).astype(np.int16)


def damage(data: bytes, start: int, end: int, rng: np.random.Generator) -> bytes:
    """Change bytes ``start`` to ``end`` in one of the ways in which files are damaged."""
    array = np.frombuffer(data, np.uint8).copy()
    at = int(rng.integers(start, end))
    length = int(min(rng.integers(1, 200), end - at))
    kind = rng.integers(6)
    if kind == 0:
        array[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        array[at] = rng.integers(256)
    elif kind == 2:
        array[at : at + length] = 0
    elif kind == 3:
        array[at : at + length] = rng.integers(0, 256, length)
    elif kind == 4:
        return data[:at] + data[at + length :]  # a block is missing
    else:
        return data[:at]  # cut
    return array.tobytes()


def pixel_start(data: bytes) -> int:
    """Return where the pixel data begin; for deflated files, where the stream does."""
    at = data.find(b"\xe0\x7f\x10\x00")
    return at + 12 if at > 0 else 144 + int.from_bytes(data[140:144], "little")


def count(jobs: list[Job]) -> Counter[str]:
    """Read all files in limited processes; return how many were right, wrong, refused or ended their process."""
    counts: Counter[str] = Counter()
    for _, answer in run_limited(read_one, jobs, workers=os.cpu_count() or 1, memory_bytes=2**31, seconds=SECONDS):
        if isinstance(answer, str):
            counts[answer] += 1
        else:
            counts["hung" if "took more than" in str(answer) else "process lost"] += 1
    return counts


def write_jobs(folder: Path, name: str, files: int, data: list[tuple[bytes, NDArray[np.int16]]], *, header: bool,
               rng: np.random.Generator) -> list[Job]:  # fmt: skip
    """Write so many damaged files, of each slice in turn."""
    jobs = []
    for k in range(files):
        content, hu = data[k % len(data)]
        start = pixel_start(content)
        path = folder / f"{name}-{'h' if header else 'p'}{k}.dcm"
        path.write_bytes(damage(content, *((132, start) if header else (start, len(content))), rng))
        jobs.append(Job(path, hu))
    return jobs


def real_slice(folder: Path) -> tuple[bytes, NDArray[np.int16]]:
    """Return the bytes and HU of the middle file of a scan."""
    paths = sorted(folder.iterdir())
    path = paths[len(paths) // 2]
    (header,) = read_headers(path, path.name)
    out = np.empty((header.pixels.rows or 0, header.pixels.columns or 0), np.int16)
    frame = frames_of(path.read_bytes(), header.pixels, path.name)[0]
    to_hu(decode_pixels(frame, header.pixels, path.name), header, out)
    return path.read_bytes(), out


def main() -> None:
    """Print a table by codec; exit with 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--headers", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=Path)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    rng = np.random.default_rng(words.seed)
    sources = {codec: [make_slice(codec, rng) for _ in range(4)] for codec in CODECS}
    if words.sample:
        sources["JPEG Lossless, real"] = [real_slice(words.sample)]
    table = Table("damaged", "files", "refused", "right", "wrong, undetected", "process lost", "hung")
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for header, files in ((False, words.files), (True, words.headers)):
            for codec, data in sources.items():
                share = files // len(sources)
                counts = count(write_jobs(Path(temporary), codec, share, data, header=header, rng=rng))
                name = f"{codec}, {'header' if header else 'pixels'}"
                results[name] = {"files": share, **counts}
                wrong = f"{counts['wrong']} ({100 * counts['wrong'] / max(share, 1):.1f}%)"
                columns = (counts["refused"], counts["right"], wrong, counts["process lost"], counts["hung"])
                table.add_row(name, str(share), *map(str, columns))
    Console().print(table)
    if words.json:
        words.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    missed = [name for name, counts in results.items() if counts.get("hung")]
    for name, counts in results.items():
        if (
            name.startswith("JPEG Lossless")
            and name.endswith("pixels")
            and counts.get("wrong", 0) > 0.03 * counts["files"]
        ):
            missed.append(name)
    if missed:
        raise SystemExit(f"target missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
