"""Which folders and files below a folder are CT scans, and their ids."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from pydicom.config import disable_value_validation

from cnr_iemn.ct.io.dicom_file import UnreadableFileError, suppress_library_messages
from cnr_iemn.ct.io.folders import folders_with_files, is_litter, natural_key
from cnr_iemn.ct.io.slice_files import file_kind
from cnr_iemn.ct.io.slice_header import CT_CLASSES, OTHER_SCANS, read_headers
from cnr_iemn.errors import CohortError, ScanError
from cnr_iemn.utils.lookahead import LOOKS, map_ahead
from cnr_iemn.utils.sandbox import run_limited
from cnr_iemn.utils.text import visible

NIFTI, ZIP = (".nii", ".nii.gz"), ".zip"
_OTHER_VOLUMES = (".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".nii.bz2", ".nii.xz", ".nii.zst")
"""Read as NIfTI, too, so that they are refused for what they are and not passed over."""
_NOT_CT = "\0"  # no UID
_BATCH = 64  # folders that a worker looks at in one go


def scan_name(path: Path) -> str:
    """Return the name of a scan's folder, or of its file without the suffix: the scan's id.

    What no file can hold or a terminal would obey, such as bytes that are not UTF-8, is replaced (``visible``).
    """
    name = Path(os.path.abspath(path)).name
    if not os.path.isdir(path):  # a file that is out of reach keeps its id
        for suffix in (*NIFTI, *_OTHER_VOLUMES, ZIP):
            if name.lower().endswith(suffix):
                return visible(name[: -len(suffix)])
    return visible(name)


def is_nifti(path: Path) -> bool:
    """Tell whether the file is named like a NIfTI volume, or one of another format."""
    return path.name.lower().endswith((*NIFTI, *_OTHER_VOLUMES)) and not is_litter(path)


def is_zip(path: Path) -> bool:
    """Tell whether the file is named like a zip."""
    return path.name.lower().endswith(ZIP) and not is_litter(path)


def find_scans(root: Path, *, workers: int = 0, label: str | None = None) -> list[tuple[str, Path]]:
    """Return id and path of each scan at or below ``root``, in natural order; see ``scan_ids``.

    A folder that holds CT files is one scan, with all folders below it; neighbours that hold parts of one series are
    one scan, their parent. Every zip and every NIfTI file is one. So that they are refused by name, these count, too: a
    folder of another modality's images (``OTHER_SCANS``) with no scan below it, one that cannot be listed or reached or
    lies too deep, and one on which a worker is lost.

    Args:
        root: A folder, zip or NIfTI file.
        workers: Limited processes that read the headers, which can be made to take all memory or time; 0: this process.
        label: What messages call ``root`` in place of its path.

    Raises:
        CohortError: No scan was found.
    """
    if root.is_file() and (is_nifti(root) or is_zip(root)):
        return [(scan_name(root), root)]
    label = label or visible(str(root))
    if not root.is_dir():
        reason = "" if os.path.lexists(root) else ": it does not exist. If its disk is not mounted, mount it"
        raise CohortError(
            f"{label} is not a folder, zip or NIfTI file{reason}. Give one of these with a scan, or a folder with many "
            "of them."
        )
    paths, links = _scans_below(root, workers)
    if not paths:
        hint = f" {links} link(s) were not followed." if links else ""
        with os.scandir(root) as entries:
            hint += "" if any(entries) else " It is empty: if its disk is not mounted, mount it."
        raise CohortError(
            f"No CT scan (DICOM, zip, NIfTI) at or below {label}.{hint} Give the folder that holds the scans."
        )
    return list(zip(scan_ids(root, paths), paths, strict=True))


def scan_ids(root: Path, paths: Sequence[Path]) -> list[str]:
    """Return an id for each scan below ``root``: its name, or its path below ``root`` where several have that name.

    Where even the paths read alike, once ``visible``, the later ones are numbered.
    """
    own_names = list(map_ahead(scan_name, paths))
    names = Counter(own_names)
    unique_ids: set[str] = set()
    ids: list[str] = []
    for path, own_name in zip(paths, own_names, strict=True):
        name = own_name if names[own_name] == 1 else visible(path.relative_to(root).as_posix())
        numbered = (name if k == 1 else f"{name} ({k})" for k in count(1))
        ids.append(next(scan_id for scan_id in numbered if scan_id not in unique_ids))
        unique_ids.add(ids[-1])
    return ids


@dataclass
class _Folder:
    """A folder that may be a scan. ``single``: its files that each may be one; ``series``: as of ``_series_in``."""

    path: Path
    single: list[Path]
    series: str | None = None


def _scans_below(root: Path, workers: int) -> tuple[list[Path], int]:
    """Return the folders and files that are scans, in natural order, and the number of links that lead nowhere new."""
    lost: list[Path] = []
    folders: list[_Folder] = []
    n_links = 0

    def batches(threads: ThreadPoolExecutor) -> Iterator[list[tuple[Path, list[str]]]]:
        """Names of files are kept for no longer than their folders are looked at: a cohort has tens of millions."""
        nonlocal n_links
        listing = folders_with_files(root, lambda folder, *_: lost.append(folder), threads=threads)
        while batch := list(islice(listing, _BATCH)):
            n_links += sum(links for _, _, links in batch)
            folders.extend(_Folder(path, [file for file in files if _is_single(file)]) for path, files, _ in batch)
            yield [(path, [file.name for file in files]) for path, files, _ in batch]

    with ThreadPoolExecutor(LOOKS) as threads:
        for number, series in _series_of(batches(threads), workers):
            for folder, name in zip(folders[_BATCH * number :], series, strict=False):
                folder.series = name
    return _choose_scans(folders, lost), n_links


def _choose_scans(folders: list[_Folder], lost: list[Path]) -> list[Path]:
    """Return the scans in natural order. ``folders``: from the top down; ``lost``: folders to be refused."""
    leaves = dict.fromkeys(lost, "")  # folder -> its series
    single: list[Path] = []
    other_scans: list[Path] = []
    for folder in folders:
        if any(path in leaves for path in (folder.path, *folder.path.parents)):
            continue
        if folder.series == _NOT_CT:
            other_scans.append(folder.path)
        elif folder.series is not None:
            leaves[folder.path] = folder.series
        else:  # beside slices, such a file is a mask or a copy
            single += folder.single
    scans = {*_merge_parts(leaves), *single}
    above = {path for scan in scans for path in (scan, *scan.parents)}
    scans.update(path for path in other_scans if path not in above)
    return sorted(scans, key=lambda path: natural_key(path.as_posix()))


def _is_single(path: Path) -> bool:
    """Tell whether a file may be a scan by itself."""
    return is_nifti(path) or is_zip(path) or _may_be_a_scan(path)


def _may_be_a_scan(path: Path) -> bool:
    """Tell whether this is a link without a target that is named as a scan's folder may be."""
    return path.is_symlink() and not path.exists() and not path.suffix and not is_litter(path)


def _series_of(batches: Iterable[list[tuple[Path, list[str]]]], workers: int) -> Iterator[tuple[int, list[str | None]]]:
    """Yield number and ``_series_in`` of each batch of folders; the empty series where a worker is lost on one."""
    if not workers:
        yield from enumerate(map(_series_in_each, batches))
        return
    lost: dict[int, list[tuple[Path, list[str]]]] = {}
    batch_of: dict[int, list[tuple[Path, list[str]]]] = {}

    def numbered() -> Iterator[list[tuple[Path, list[str]]]]:
        for number, batch in enumerate(batches):
            batch_of[number] = batch
            yield batch

    for number, series in run_limited(_series_in_each, numbered(), workers=workers):
        batch = batch_of.pop(number)
        if isinstance(series, ScanError):
            lost[number] = batch
        else:
            yield number, series
    for number, batch in lost.items():  # again, each folder by itself
        answers = (answer for _, answer in run_limited(_series_in, batch, workers=1))  # in order: there is one worker
        yield number, ["" if isinstance(answer, ScanError) else answer for answer in answers]


@suppress_library_messages()
def _series_in_each(folders: list[tuple[Path, list[str]]]) -> list[str | None]:
    with disable_value_validation():  # both hold for the whole process: threads set and restore what is set already
        return list(map_ahead(_series_in, folders))


@suppress_library_messages()
def _series_in(listing: tuple[Path, list[str]]) -> str | None:
    """Return the series of a folder's first CT file, None where there is none, _NOT_CT where there is another scan.

    A damaged file named like DICOM counts, so that its scan is refused by name and not passed over.
    """
    damaged, other = False, False
    folder, names = listing
    for path in (folder / name for name in names):
        try:
            header = read_headers(path, path.name)[0]
        except UnreadableFileError:
            damaged |= file_kind(path) in {".dcm", ".ima"} and not is_litter(path)
            continue
        except ScanError:  # a CT file that cannot be right
            damaged = True
            continue
        if header.sop_class in CT_CLASSES:
            return header.series
        other |= header.sop_class in OTHER_SCANS
    return "" if damaged else _NOT_CT if other else None


def _merge_parts(leaves: dict[Path, str]) -> set[Path]:
    """Put the parent in the place of neighbours that all are of one series."""
    series: dict[Path, list[str]] = defaultdict(list)
    for folder, name in leaves.items():
        series[folder.parent].append(name)
    parents = {parent for parent, names in series.items() if len(names) > 1 and len(set(names)) == 1 and names[0]}
    return parents | {folder for folder in leaves if folder.parent not in parents}
