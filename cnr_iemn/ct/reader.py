"""A folder of DICOM files becomes a volume, rightly or not at all."""

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.codecs import check_format, decode_pixels, is_lossy
from cnr_iemn.ct.find import file_kind, find_slices, folders_with_files, is_litter, natural_key, scan_name
from cnr_iemn.ct.headers import CT_IMAGE, ENHANCED_CT, SliceHeader, UnreadableFileError, read_header
from cnr_iemn.ct.plan import plan_scan
from cnr_iemn.ct.rescale import check_plausible, check_rescale, to_hu
from cnr_iemn.ct.volume import Volume
from cnr_iemn.errors import CohortError, ScanError

MAX_VOXELS = 2**31


def read_scan(path: Path) -> Volume:
    """Return the scan in a folder: its headers are planned first, then each file is read and decoded once.

    The folder's name is the scan's name. Raises ScanError with file, reason and remedy where the folder holds no axial
    single-frame CT that can be read rightly.
    """
    scan = scan_name(path)
    headers, findings = find_slices(path)
    plan = plan_scan(scan, headers)
    for header in (*plan.slices, *(copy for _, copy in plan.copies)):
        check_format(header.pixels, header.name)
        check_rescale(header)
    first = plan.slices[0].pixels
    shape = (len(plan.slices), first.rows or 0, first.columns or 0)
    if np.prod(shape, dtype=np.int64) > MAX_VOXELS:
        raise ScanError(f"{scan}: {shape[0]} slices of {shape[1]}x{shape[2]} are more than {MAX_VOXELS:,} voxels.")
    hu = np.empty(shape, dtype=np.int16)
    padded, digests = 0, set()
    for index, header in enumerate(plan.slices):
        outside, digest = _read_slice(header, hu[index])
        padded += outside
        digests.add(digest)
    for index, header in plan.copies:
        digests.add(_check_copy(scan, hu[index], plan.slices[index], header))
    check_plausible(hu, padded, scan)
    if plan.copies:
        findings += (f"{len(plan.copies)} file(s) with position and pixels of another one dropped",)
    if any(is_lossy(header.pixels) for header in plan.slices):
        findings += ("compressed with loss: the pixel values are not the scanner's",)
    source = hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    phantom = any(header.phantom for header in plan.slices)
    return Volume(hu, plan.spacing_mm, plan.z_mm, findings + plan.findings, phantom, source)


def _read_slice(header: SliceHeader, out: NDArray[np.int16]) -> tuple[int, bytes]:
    """Write one file's HU to ``out``; return how many pixels are padding, and the hash of the file's bytes."""
    try:
        data = header.path.read_bytes()
    except OSError as error:
        raise ScanError(
            f"{header.name}: cannot be read ({error.strerror}). Check the disk and the permissions."
        ) from error
    stored = decode_pixels(data, header.pixels, header.name)
    return to_hu(stored, header, out), hashlib.sha256(data).digest()


def _check_copy(scan: str, kept: NDArray[np.int16], first: SliceHeader, second: SliceHeader) -> bytes:
    """Refuse a second file at a position unless its pixels are the same; return the hash of its bytes."""
    pixels = np.empty_like(kept)
    _, digest = _read_slice(second, pixels)
    if not np.array_equal(kept, pixels):
        raise ScanError(
            f"{scan}: {first.name} and {second.name} have the same position but other pixels: two reconstructions or "
            "two times in one series. Leave only one of them in the folder."
        )
    return digest


def find_scans(root: Path) -> list[tuple[str, Path]]:
    """Return id and folder of each scan at or below ``root``, in natural order. The id is the folder's name.

    A folder that holds CT files is one scan, with all folders below it; neighbours that hold parts of one series are
    one scan, their parent. Raises CohortError where there is none or two share an id; ScanError where a folder cannot
    be read.
    """
    if not root.is_dir():
        raise CohortError(f"{root} is not a folder. Give a folder with one DICOM scan, or with a folder for each scan.")
    leaves: dict[Path, str] = {}  # folder -> its series
    links = 0
    for folder, files, n_links in folders_with_files(root):
        links += n_links
        if not any(folder.is_relative_to(leaf) for leaf in leaves):
            series = _series_in(files)
            if series is not None:
                leaves[folder] = series
    if not leaves:
        hint = f" {links} link(s) were not followed." if links else ""
        raise CohortError(f"No CT scan in DICOM format at or below {root}.{hint} Give the folder that holds the scans.")
    folders = sorted(_merge_parts(leaves), key=lambda folder: natural_key(folder.as_posix()))
    by_id: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        by_id[scan_name(folder)].append(folder)
    for scan_id, same in by_id.items():
        if len(same) > 1:
            raise CohortError(
                f"{len(same)} scans are named {scan_id}: {same[0]} and {same[1]}. A scan's id is its folder's name: "
                "rename one, or give one of the folders above them at a time."
            )
    return [(scan_id, folder) for scan_id, (folder,) in by_id.items()]


def _series_in(files: list[Path]) -> str | None:
    """Return the series of the first CT file, None where there is none.

    A damaged file named like DICOM counts, so that its scan is refused by name and not passed over.
    """
    damaged = False
    for path in files:
        try:
            header = read_header(path, path.name)
        except UnreadableFileError:
            damaged |= file_kind(path) in {".dcm", ".ima"} and not is_litter(path)
            continue
        if header.sop_class in {CT_IMAGE, *ENHANCED_CT}:
            return header.series
    return "" if damaged else None


def _merge_parts(leaves: dict[Path, str]) -> set[Path]:
    """Put the parent in the place of neighbours that share a series."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for folder, series in leaves.items():
        groups[(folder.parent, series)].append(folder)
    parents = {parent for (parent, series), members in groups.items() if series and len(members) > 1}
    return parents | {folder for folder in leaves if folder.parent not in parents}
