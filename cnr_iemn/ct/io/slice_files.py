"""Which files below a scan's folder are its slices."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR

from cnr_iemn.ct.io.dicom_file import BROKEN_LINK, UnreadableFileError
from cnr_iemn.ct.io.folders import folders_with_files, is_litter
from cnr_iemn.ct.io.slice_header import CT_CLASSES, SliceHeader, read_headers
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions
from cnr_iemn.utils.text import visible

MAX_SLICES = 20_000
"""Slices below one folder."""


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
    _require_folder(root, scan)
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
            raise ScanError(
                RefusalCode.TOO_LARGE, f"{scan}: more than {MAX_SLICES:,} slices below it. Name the folder of one scan."
            )
    unreadable += _count_objects(objects, {header.series for header in slices if header.series}, counts)
    damaged = _count_unreadable(unreadable, {file_kind(header.path) for header in slices}, counts, options)
    ignored = ", ".join(f"{kind} ({n})" for kind, n in sorted(counts.items()) if n)
    if not slices:
        first = f" The first, {unreadable[0][1]}" if unreadable else ""
        raise ScanError(
            RefusalCode.NO_CT_IMAGE,
            f"{scan}: no CT image in it ({f'found {ignored}' if ignored else 'it is empty'}).{first} Give the folder "
            "that holds the scan's DICOM files.",
        )
    n_folders = len({header.path.parent for header in slices})
    findings = (
        (n_folders > 1, f"slices from {n_folders} folders"),
        (damaged, f"{damaged} damaged file(s) among the slices left out (ingest.allow_unreadable)"),
        (ignored, f"ignored: {ignored}"),
    )
    return slices, tuple(text for applies, text in findings if applies)


def _require_folder(root: Path, scan: str) -> None:
    try:
        mode = root.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        missing = "does not exist. If its disk is not mounted, mount it; otherwise give the scan's folder."
        reason = BROKEN_LINK if root.is_symlink() else missing
        raise ScanError(RefusalCode.NOT_FOUND, f"{scan}: {reason}") from None
    except OSError as error:  # such as a folder above it that may not be entered, or a server that does not answer
        raise ScanError(
            RefusalCode.NO_ACCESS, f"{scan}: cannot be reached ({error.strerror}). Check the disk and the permissions."
        ) from error
    if not S_ISDIR(mode):
        raise ScanError(
            RefusalCode.NOT_FOUND, f"{scan}: is not a folder. Give the folder that holds the scan's DICOM files."
        )


def _headers_below(
    root: Path, scan: str, counts: Counter[str], *, numbered: bool
) -> Iterator[tuple[Path, list[SliceHeader] | UnreadableFileError]]:
    """Yield each file below a folder with its headers or the reason why it has none; count links."""

    def label(path: Path, number: str) -> str:
        return f"{scan} {number}" if numbered else visible(f"{scan}/{path.relative_to(root).as_posix()}")

    def refuse(folder: Path, code: RefusalCode, reason: str) -> None:
        raise ScanError(code, f"{scan if folder == root else label(folder, 'folder')}: {reason}")

    number = 0
    for _, files, links in folders_with_files(root, refuse):
        counts["links to folders of the scan"] += links
        for path in files:
            number += 1
            try:
                yield path, read_headers(path, label(path, f"file {number}"))
            except UnreadableFileError as error:
                yield path, error


def _count_objects(objects: list[SliceHeader], series: set[str], counts: Counter[str]) -> list[tuple[Path, str]]:
    """Count DICOM objects of other classes; return those of the slices' ``series`` with the reason against them.

    Reports and masks have series of their own: such an object is a slice whose class is damaged.
    """
    suspects = []
    for header in objects:
        kind = header.sop_class or "unknown DICOM object"
        if header.series in series:
            suspects.append((header.path, f"{header.name}: of class {kind}, but of the slices' own series."))
        else:
            counts[kind] += 1
    return suspects


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
                RefusalCode.DAMAGED_FILE,
                f"{reason} It lies among the slices; if it is one of them, every label after it would shift. Copy the "
                "scan again, remove it if it is not a slice, or set ingest.allow_unreadable=true to leave it out.",
            )
    return damaged


def file_kind(path: Path) -> str:
    """Return the suffix in lower case; '' for none, and for digits, which end a file named by its UID."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdecimal() else suffix
