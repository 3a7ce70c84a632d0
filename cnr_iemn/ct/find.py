"""Which folders are CT scans, and which files below a folder belong to its scan."""

import os
from collections import Counter, defaultdict
from pathlib import Path

from cnr_iemn.ct.folders import folders_with_files, natural_key
from cnr_iemn.ct.headers import CT_CLASSES, OTHER_SCANS, SliceHeader, UnreadableFileError, read_headers
from cnr_iemn.ct.limited import run_limited
from cnr_iemn.ct.quiet import unheard
from cnr_iemn.errors import CohortError, ScanError
from cnr_iemn.permissions import STRICT, Permissions

NIFTI, ZIP = (".nii", ".nii.gz"), ".zip"
_NOT_CT = "\0"  # no UID
MAX_SLICES = 20_000
"""Slices below one folder."""


def scan_name(path: Path) -> str:
    """Return the name of a scan's folder, or of its file without the suffix: the scan's id."""
    name = Path(os.path.abspath(path)).name
    if path.is_file():
        for suffix in (*NIFTI, ZIP):
            if name.lower().endswith(suffix):
                return name[: -len(suffix)]
    return name


def is_nifti(path: Path) -> bool:
    """Tell whether the file is named like a NIfTI volume."""
    return path.name.lower().endswith(NIFTI)


def is_zip(path: Path) -> bool:
    """Tell whether the file is named like a zip."""
    return path.name.lower().endswith(ZIP)


def find_slices(
    root: Path, scan: str, allowed: Permissions = STRICT, *, numbered: bool = False
) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Return the headers of all CT images below one scan's folder, and findings on what was left out.

    ``scan``: what messages call it; ``numbered``: whether they call a file by its place among all files, in natural
    order, rather than by its name. Litter and other DICOM objects are counted, never fatal. A damaged file that may be
    a slice is: a lost slice at the end of a scan leaves no gap, and every label would shift. Raises ScanError.
    """
    if not root.is_dir():
        raise ScanError(f"{scan}: is not a folder. Give the folder that holds the scan's DICOM files.")
    slices: list[SliceHeader] = []
    others: Counter[str] = Counter()
    objects: list[SliceHeader] = []
    unreadable: list[tuple[Path, str]] = []

    def shown(path: Path, place: str) -> str:
        return f"{scan} {place}" if numbered else f"{scan}/{path.relative_to(root).as_posix()}"

    def refuse(folder: Path, reason: str) -> None:
        raise ScanError(f"{scan if folder == root else shown(folder, 'folder')}: {reason}")

    before = 0
    for _, files, links in folders_with_files(root, refuse):
        others["link"] += links
        for number, path in enumerate(files, before + 1):
            try:
                headers = read_headers(path, shown(path, f"file {number}"))
            except UnreadableFileError as error:
                unreadable.append((path, str(error)))
                continue
            if headers[0].sop_class in CT_CLASSES:
                slices += headers
            else:
                objects += headers
            if len(slices) > MAX_SLICES:
                raise ScanError(f"{scan}: more than {MAX_SLICES:,} slices below it. Name the folder of one scan.")
        before += len(files)
    series = {header.series for header in slices if header.series}
    for header in objects:
        kind = header.sop_class or "unknown DICOM object"
        if header.series in series:  # a slice whose class is damaged; reports and masks have series of their own
            unreadable.append((header.path, f"{header.name}: of class {kind}, but of the slices' own series."))
        else:
            others[kind] += 1
    damaged = _count_unreadable(unreadable, {file_kind(header.path) for header in slices}, others, allowed)
    ignored = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()) if count)
    if not slices:
        found = f"found {ignored}" if ignored else "it is empty"
        first = f" The first, {unreadable[0][1]}" if unreadable else ""
        raise ScanError(
            f"{scan}: no CT image in it ({found}).{first} Give the folder that holds the scan's DICOM files."
        )
    n_folders = len({header.path.parent for header in slices})
    findings = [f"slices from {n_folders} folders"] if n_folders > 1 else []
    findings += [f"{damaged} damaged file(s) among the slices left out (ingest.allow_unreadable)"] if damaged else []
    return slices, (*findings, f"ignored: {ignored}") if ignored else tuple(findings)


def _count_unreadable(
    unreadable: list[tuple[Path, str]], kinds: set[str], others: Counter[str], allowed: Permissions
) -> int:
    """Count files that are no DICOM among the others; refuse, or count and return, those that may be slices."""
    damaged = 0
    for path, reason in unreadable:
        if file_kind(path) not in kinds or is_litter(path):
            others["file that is no DICOM"] += 1
        elif allowed.allow_unreadable:
            damaged += 1
        else:
            raise ScanError(
                f"{reason} It lies among the slices; were it one of them, every label after it would shift. Copy the "
                "scan again, remove the file if it is no slice, or set ingest.allow_unreadable=true to leave it out."
            )
    return damaged


def file_kind(path: Path) -> str:
    """Return the suffix in lower case; '' for none, and for digits, which end a file named by its UID."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdecimal() else suffix


def is_litter(path: Path) -> bool:
    """Tell whether the name is one that operating systems and archives leave behind."""
    return path.name.startswith(".") or path.name.lower() in {"dicomdir", "lockfile", "version", "readme", "license"}


def find_scans(root: Path, *, workers: int = 0, called: str | None = None) -> list[tuple[str, Path]]:
    """Return id and path of each scan at or below ``root``, in natural order. The id is the folder's or file's name.

    Those that share a name have their path below ``root`` for an id. A folder that holds CT files is one scan, with all
    folders below it; neighbours that hold parts of one series are one scan, their parent. Every zip and every NIfTI
    file is one. So that they are refused by name and not passed over, these count, too: a folder of another modality's
    images (``OTHER_SCANS``) with no scan below it, one that cannot be listed or reached or lies too deep, and one on
    which a worker is lost. ``workers``: limited processes that look into the files (see ``run_limited``), for a header
    can be made to take all memory or time; 0 looks in this process. ``called``: what messages call ``root`` in place
    of its path. Raises CohortError where there is none.
    """
    if root.is_file() and (is_nifti(root) or is_zip(root)):
        return [(scan_name(root), root)]
    shown = called or str(root)
    if not root.is_dir():
        raise CohortError(
            f"{shown} is no folder, zip or NIfTI file. Give one of these with a scan, or a folder with many of them."
        )
    lost: list[Path] = []
    folders = list(folders_with_files(root, lambda folder, _: lost.append(folder)))
    paths = _scans_among(folders, lost, workers)
    if not paths:
        links = sum(n_links for _, _, n_links in folders)
        hint = f" {links} link(s) were not followed." if links else ""
        raise CohortError(
            f"No CT scan (DICOM, zip, NIfTI) at or below {shown}.{hint} Give the folder that holds the scans."
        )
    names = Counter(scan_name(path) for path in paths)
    return [
        (name if names[name] == 1 else path.relative_to(root).as_posix(), path)
        for path, name in zip(paths, map(scan_name, paths), strict=True)
    ]


def _scans_among(folders: list[tuple[Path, list[Path], int]], lost: list[Path], workers: int) -> list[Path]:
    """Return the folders and files that are scans, in natural order. ``lost``: folders to be refused."""
    leaves = dict.fromkeys(lost, "")  # folder -> its series
    single: list[Path] = []
    others: list[Path] = []
    for (folder, files, _), series in zip(folders, _series_of([f for _, f, _ in folders], workers), strict=True):
        if any(folder.is_relative_to(leaf) for leaf in leaves):
            continue
        if series == _NOT_CT:
            others.append(folder)
        elif series is not None:
            leaves[folder] = series
        else:  # beside slices, such a file is a mask or a copy
            single += [path for path in files if is_nifti(path) or is_zip(path)]
    scans = {*_merge_parts(leaves), *single}
    scans |= {folder for folder in others if not any(path.is_relative_to(folder) for path in scans)}
    return sorted(scans, key=lambda path: natural_key(path.as_posix()))


def _series_of(folders: list[list[Path]], workers: int) -> list[str | None]:
    """Return ``_series_in`` of each folder's files; the empty series where a worker is lost on them."""
    if not workers:
        return [_series_in(files) for files in folders]
    answers = dict(run_limited(_series_in, folders, workers=workers))
    return ["" if isinstance(answer, ScanError) else answer for _, answer in sorted(answers.items())]


@unheard()
def _series_in(files: list[Path]) -> str | None:
    """Return the series of the first CT file, None where there is none, _NOT_CT where there is another scan.

    A damaged file named like DICOM counts, so that its scan is refused by name and not passed over.
    """
    damaged, other = False, False
    for path in files:
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
