"""Which folders are CT scans, and which files below a folder belong to its scan."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from cnr_iemn.ct.io.dicom_file import BROKEN_LINK, UnreadableFileError, suppress_library_messages
from cnr_iemn.ct.io.folders import folders_with_files, is_litter, natural_key
from cnr_iemn.ct.io.slice_header import CT_CLASSES, OTHER_SCANS, SliceHeader, read_headers
from cnr_iemn.errors import CohortError, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions
from cnr_iemn.utils.sandbox import run_limited
from cnr_iemn.utils.text import visible

NIFTI, ZIP = (".nii", ".nii.gz"), ".zip"
_OTHER_VOLUMES = (".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".nii.bz2", ".nii.xz", ".nii.zst")
"""Read as NIfTI, too, so that they are refused for what they are and not passed over."""
_NOT_CT = "\0"  # no UID
MAX_SLICES = 20_000
"""Slices below one folder."""


def scan_name(path: Path) -> str:
    """Return the name of a scan's folder, or of its file without the suffix: the scan's id.

    What no file can hold or a terminal would obey, such as bytes that are not UTF-8, is replaced (``visible``).
    """
    name = Path(os.path.abspath(path)).name
    if path.is_file():
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


def find_slices(
    root: Path, scan: str, options: ReadOptions = STRICT, *, numbered: bool = False
) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Return the headers of all CT images below one scan's folder, and findings on what was left out.

    Litter and other DICOM objects are counted, never fatal. A damaged file that may be a slice is: a lost slice at the
    end of a scan leaves no gap, and every label would shift.

    Args:
        root: The folder.
        scan: What messages call it.
        options: ``allow_unreadable`` leaves damaged files out.
        numbered: Messages call a file by its number among all files, in natural order, in place of its name.

    Raises:
        ScanError: There are no slices, too many, or a file or folder that cannot be read may hold some.
    """
    if not root.is_dir():
        if root.is_symlink() and not root.exists():
            raise ScanError(f"{scan}: {BROKEN_LINK}")
        raise ScanError(f"{scan}: is not a folder. Give the folder that holds the scan's DICOM files.")
    slices: list[SliceHeader] = []
    objects: list[SliceHeader] = []
    unreadable: list[tuple[Path, str]] = []
    counts: Counter[str] = Counter()  # of what is ignored, by kind
    for path, headers in _headers_below(root, scan, counts, numbered=numbered):
        if isinstance(headers, UnreadableFileError):
            unreadable.append((path, str(headers)))
        elif headers[0].sop_class in CT_CLASSES:
            slices += headers
        else:
            objects += headers
        if len(slices) > MAX_SLICES:
            raise ScanError(f"{scan}: more than {MAX_SLICES:,} slices below it. Name the folder of one scan.")
    series = {header.series for header in slices if header.series}
    for header in objects:
        kind = header.sop_class or "unknown DICOM object"
        if header.series in series:  # a slice whose class is damaged; reports and masks have series of their own
            unreadable.append((header.path, f"{header.name}: of class {kind}, but of the slices' own series."))
        else:
            counts[kind] += 1
    damaged = _count_unreadable(unreadable, {file_kind(header.path) for header in slices}, counts, options)
    ignored = ", ".join(f"{kind} ({n})" for kind, n in sorted(counts.items()) if n)
    if not slices:
        first = f" The first, {unreadable[0][1]}" if unreadable else ""
        raise ScanError(
            f"{scan}: no CT image in it ({f'found {ignored}' if ignored else 'it is empty'}).{first} Give the folder "
            "that holds the scan's DICOM files."
        )
    n_folders = len({header.path.parent for header in slices})
    findings = (
        (n_folders > 1, f"slices from {n_folders} folders"),
        (damaged, f"{damaged} damaged file(s) among the slices left out (ingest.allow_unreadable)"),
        (ignored, f"ignored: {ignored}"),
    )
    return slices, tuple(text for applies, text in findings if applies)


def _headers_below(
    root: Path, scan: str, counts: Counter[str], *, numbered: bool
) -> Iterator[tuple[Path, list[SliceHeader] | UnreadableFileError]]:
    """Yield each file below a folder with its headers or the reason why it has none; count links."""

    def label(path: Path, number: str) -> str:
        return f"{scan} {number}" if numbered else visible(f"{scan}/{path.relative_to(root).as_posix()}")

    def refuse(folder: Path, reason: str) -> None:
        raise ScanError(f"{scan if folder == root else label(folder, 'folder')}: {reason}")

    number = 0
    for _, files, links in folders_with_files(root, refuse):
        counts["links to folders of the scan"] += links
        for path in files:
            number += 1
            try:
                yield path, read_headers(path, label(path, f"file {number}"))
            except UnreadableFileError as error:
                yield path, error


def _count_unreadable(
    unreadable: list[tuple[Path, str]], kinds: set[str], counts: Counter[str], options: ReadOptions
) -> int:
    """Count files that are no DICOM among the others; refuse, or count and return, those that may be slices."""
    damaged = 0
    for path, reason in unreadable:
        if file_kind(path) not in kinds or is_litter(path):
            counts["files that are not DICOM"] += 1
        elif options.allow_unreadable:
            damaged += 1
        else:
            raise ScanError(
                f"{reason} It lies among the slices; if it is one of them, every label after it would shift. Copy the "
                "scan again, remove the file if it is no slice, or set ingest.allow_unreadable=true to leave it out."
            )
    return damaged


def file_kind(path: Path) -> str:
    """Return the suffix in lower case; '' for none, and for digits, which end a file named by its UID."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdecimal() else suffix


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
        raise CohortError(
            f"{label} is no folder, zip or NIfTI file. Give one of these with a scan, or a folder with many of them."
        )
    lost: list[Path] = []
    folders = list(folders_with_files(root, lambda folder, _: lost.append(folder)))
    paths = _scans_among(folders, lost, workers)
    if not paths:
        links = sum(n_links for _, _, n_links in folders)
        hint = f" {links} link(s) were not followed." if links else ""
        raise CohortError(
            f"No CT scan (DICOM, zip, NIfTI) at or below {label}.{hint} Give the folder that holds the scans."
        )
    return list(zip(scan_ids(root, paths), paths, strict=True))


def scan_ids(root: Path, paths: Sequence[Path]) -> list[str]:
    """Return an id for each scan below ``root``: its name, or its path below ``root`` where several have that name.

    Where even the paths read alike, once ``visible``, the later ones are numbered.
    """
    names = Counter(map(scan_name, paths))
    ids: list[str] = []
    for path in paths:
        name = scan_name(path)
        name = name if names[name] == 1 else visible(path.relative_to(root).as_posix())
        numbered = (name if k == 1 else f"{name} ({k})" for k in count(1))
        ids.append(next(scan_id for scan_id in numbered if scan_id not in ids))
    return ids


def _scans_among(folders: list[tuple[Path, list[Path], int]], lost: list[Path], workers: int) -> list[Path]:
    """Return the folders and files that are scans, in natural order. ``lost``: folders to be refused."""
    leaves = dict.fromkeys(lost, "")  # folder -> its series
    single: list[Path] = []
    other_scans: list[Path] = []
    for (folder, files, _), series in zip(folders, _series_of([f for _, f, _ in folders], workers), strict=True):
        if any(folder.is_relative_to(leaf) for leaf in leaves):
            continue
        if series == _NOT_CT:
            other_scans.append(folder)
        elif series is not None:
            leaves[folder] = series
        else:  # beside slices, such a file is a mask or a copy
            single += [path for path in files if is_nifti(path) or is_zip(path) or _may_be_a_scan(path)]
    scans = {*_merge_parts(leaves), *single}
    scans |= {folder for folder in other_scans if not any(path.is_relative_to(folder) for path in scans)}
    return sorted(scans, key=lambda path: natural_key(path.as_posix()))


def _may_be_a_scan(path: Path) -> bool:
    """Tell whether this is a link without a target that is named as a scan's folder may be."""
    return path.is_symlink() and not path.exists() and not path.suffix and not is_litter(path)


def _series_of(folders: list[list[Path]], workers: int) -> list[str | None]:
    """Return ``_series_in`` of each folder's files; the empty series where a worker is lost on them."""
    if not workers:
        return [_series_in(files) for files in folders]
    answers = dict(run_limited(_series_in, folders, workers=workers))
    return ["" if isinstance(answer, ScanError) else answer for _, answer in sorted(answers.items())]


@suppress_library_messages()
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
