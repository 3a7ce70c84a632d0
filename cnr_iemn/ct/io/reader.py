"""A folder of DICOM files, a zip or a NIfTI file becomes a volume, or is refused."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.acquisition import typical
from cnr_iemn.ct.io.dicom_file import suppress_library_messages
from cnr_iemn.ct.io.discovery import is_nifti, is_zip, scan_name
from cnr_iemn.ct.io.folders import unpacked
from cnr_iemn.ct.io.hounsfield import (
    RowCheck,
    check_plausible,
    check_rescale,
    check_uniform_rescale,
    has_rescale,
    to_hu,
)
from cnr_iemn.ct.io.nifti import read_nifti
from cnr_iemn.ct.io.passes import check_one_pass
from cnr_iemn.ct.io.pixel_data import check_format, decode_pixels, frames_of, is_lossy
from cnr_iemn.ct.io.slice_files import find_slices
from cnr_iemn.ct.io.slice_header import SliceHeader
from cnr_iemn.ct.io.slice_order import plan_scan
from cnr_iemn.ct.volume import MAX_VOXELS, Volume, check_lengths
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions


@suppress_library_messages()
def read_scan(
    path: str | Path, options: ReadOptions = STRICT, *, scan: str | None = None, numbered: bool = False
) -> Volume:
    """Return a scan: a folder of DICOM files, a zip of one, or a NIfTI file (.nii, .nii.gz).

    Args:
        path: The folder or file.
        options: What would otherwise be refused.
        scan: What messages and findings call it, by default the name of the folder or file.
        numbered: Messages call a file by its number in place of its name.

    Raises:
        ScanError: It is no axial CT that can be read with certainty; the message has file, reason and remedy.
    """
    path = Path(path)
    scan = scan_name(path) if scan is None else scan
    if os.path.isfile(path) and is_nifti(path):  # unlike Path.is_file, False where the system refuses the look
        volume = read_nifti(path, scan, options)
        check_lengths(scan, "voxels", *volume.spacing_mm)
        return volume
    if os.path.isfile(path) and is_zip(path):
        with unpacked(path, scan) as folder:
            return read_dicom(folder, scan, options, numbered=numbered)
    return read_dicom(path, scan, options, numbered=numbered)


def read_dicom(path: Path, scan: str, options: ReadOptions = STRICT, *, numbered: bool = False) -> Volume:
    """Return the scan in a folder: its headers are planned first, then each file is read and each slice decoded once.

    Raises ScanError.
    """
    headers, findings = find_slices(path, scan, options, numbered=numbered)
    plan = plan_scan(scan, headers, options)
    for header in (*plan.slices, *(copy for _, copy in plan.copies)):
        check_format(header.pixels, header.name)
        check_rescale(header, options)
    check_uniform_rescale(plan.slices, options)
    first = plan.slices[0].pixels
    shape = (len(plan.slices), first.rows or 0, first.columns or 0)
    if np.prod(shape, dtype=np.int64) > MAX_VOXELS:
        raise ScanError(
            RefusalCode.TOO_LARGE,
            f"{scan}: {shape[0]} slices of {shape[1]}x{shape[2]} are more than {MAX_VOXELS:,} voxels.",
        )
    hu = np.empty(shape, dtype=np.int16)
    files = _Files(options)
    padded = sum(files.read(header, hu[index]) for index, header in enumerate(plan.slices))
    files.rows.verify()
    for index, header in plan.copies:
        _check_copy(scan, files, hu[index], plan.slices[index], header)
    if not options.assume_hu:
        check_plausible(hu, padded, scan)
    check_one_pass(scan, hu)
    findings += _option_findings(plan.slices, options)
    if plan.copies:
        findings += (f"{len(plan.copies)} file(s) with position and pixels of another one dropped",)
    if any(is_lossy(header.pixels) for header in plan.slices):
        findings += ("compressed with loss: the pixel values are not the scanner's",)
    source = source_digest(files.digests)
    phantom = any(header.phantom for header in plan.slices)
    acquisition = typical([header.acquisition for header in plan.slices])
    return Volume(hu, plan.spacing_mm, plan.z_mm, findings + plan.findings, phantom, source, acquisition)


def source_digest(digests: Collection[bytes]) -> str:
    """Return ``Volume.source_sha256`` of a scan. ``digests``: SHA-256 of the bytes of its files, each once."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


class _Files:
    """Slices from files, of which the last one stays in memory: neighbouring slices may be frames of one file.

    ``digests``: hashes of the bytes of all files read. ``rows``: to be verified once all are.
    """

    def __init__(self, options: ReadOptions) -> None:
        self.digests: set[bytes] = set()
        self.rows = RowCheck()
        self._options = options
        self._path: Path | None = None
        self._frames: list[bytes] = []

    def read(self, header: SliceHeader, out: NDArray[np.int16]) -> int:
        """Write one slice's HU to ``out``; return how many pixels are padding."""
        if header.path != self._path:
            self._open(header)
        stored = decode_pixels(self._frames[header.frame], header.pixels, header.name, self._options)
        if not self._options.allow_range_mismatch:
            self.rows.add(stored, header)
        return to_hu(stored, header, out)

    def _open(self, header: SliceHeader) -> None:
        try:
            data = header.path.read_bytes()
        except OSError as error:
            raise ScanError(
                RefusalCode.NO_ACCESS,
                f"{header.name}: cannot be read ({error.strerror}). Check the disk and the permissions.",
            ) from error
        self._frames = frames_of(data, header.pixels, header.name)
        self._path = header.path
        self.digests.add(hashlib.sha256(data).digest())


def _check_copy(scan: str, files: _Files, hu: NDArray[np.int16], first: SliceHeader, second: SliceHeader) -> None:
    """Refuse a second slice at a position unless its pixels are the same."""
    pixels = np.empty_like(hu)
    files.read(second, pixels)
    if not np.array_equal(hu, pixels):
        raise ScanError(
            RefusalCode.SAME_POSITION,
            f"{scan}: {first.name} and {second.name} have the same position but other pixels: two reconstructions or "
            "two times in one series. Leave only one of them in the folder.",
        )


def _option_findings(slices: tuple[SliceHeader, ...], options: ReadOptions) -> tuple[str, ...]:
    """Return a finding for each option by which a check of the pixels was left out."""
    findings = []
    without = sum(not has_rescale(header) for header in slices)
    if without:
        findings.append(f"{without} slice(s) without rescaling taken as HU (ingest.allow_missing_rescale)")
    if options.allow_range_mismatch:
        findings.append(
            "decoded ranges not compared with the files' own, rescaling not compared among the slices, JPEG streams "
            "not checked (ingest.allow_range_mismatch)"
        )
    if options.assume_hu:
        findings.append("values not checked for being HU (ingest.assume_hu)")
    return tuple(findings)
