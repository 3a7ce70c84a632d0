"""Names of scans and classes: validity and similarity."""

import unicodedata

from cnr_iemn.errors import CohortError

_ID_BYTES = 200  # of 255 that file systems take: while a scan is written, its folder has a longer name
_CLASS_LETTERS = 80
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # invisible: control, format, surrogate, line and paragraph characters
_STORE_FILES = {"refusals.json", "report.html", "report.json", "settings.json"}  # in the folder of the scans
_NO_NAMES = {"nan", "na", "null", "none", "missing", "unknown", "unlabelled", "unlabeled", "tbd"}
"""Words for a missing value, without case, spaces and punctuation."""
_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{k}" for port in ("com", "lpt") for k in range(10))}


def look_alike(text: str) -> str:
    """Return a name without case, spaces, punctuation and typographic forms.

    Args:
        text: The name of a class.

    Returns:
        Letters and digits alone, casefolded and in NFKC; the name itself where it has none of them.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(letter for letter in folded if letter.isalnum()) or text


def file_key(scan_id: str) -> str:
    """Return the folder's name of a scan as file systems compare it that ignore case and Unicode's normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", scan_id).casefold())


def id_fault(scan_id: str) -> str | None:
    """Return why a scan_id cannot be a folder's name on every system; None where it can."""
    hidden = _hidden(scan_id)
    if not scan_id or scan_id.startswith(".") or any(c in scan_id for c in "/\\"):
        reason = ""
    elif hidden:
        reason = f": it holds {hidden}"
    elif len(scan_id.encode()) > _ID_BYTES:
        reason = f": it is longer than {_ID_BYTES} bytes"
        scan_id = f"{scan_id[:20]}..."
    elif scan_id.endswith((".", " ")):
        reason = ": it ends in a dot or a space, which some systems drop"
    elif scan_id.casefold() in _STORE_FILES:
        reason = ": the slice store has a file of that name"
    elif scan_id.casefold().partition(".")[0].strip() in _WINDOWS:
        reason = ": Windows keeps that name for a device"
    else:
        return None
    return f"scan_id {scan_id!r} becomes a folder's name and cannot be used as one{reason}"


def class_fault(name: str) -> str | None:
    """Return why a name cannot be that of a class; None where it can."""
    hidden = _hidden(name)
    if not name.strip():
        return "the class is empty"
    if hidden:
        return f"class {name!r} holds {hidden}"
    if len(name) > _CLASS_LETTERS:
        return f"class {name[:20]!r}... is longer than {_CLASS_LETTERS} letters"
    return None


def lacks_name(text: str) -> bool:
    """Return whether a name means "no class": a word for a missing value, or marks such as ? and -."""
    return look_alike(text) in _NO_NAMES or not any(letter.isalnum() for letter in text)


def check_classes(names: tuple[str, ...], key: str) -> None:
    """Check a list of classes in the configuration. ``key``: its key. Names that look alike are allowed here.

    Raises:
        CohortError: A name cannot be used, is given twice, or there are fewer than two.
    """
    faults = [fault for fault in map(class_fault, names) if fault]
    faults += [f"{name} is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if len(names) < 2:
        faults.append(f"one class only ({', '.join(names)}); at least two are needed")
    if faults:
        raise CohortError(f"{key}={list(names)}: {'; '.join(faults)}. Give the names of the classes, healthy first.")


def _hidden(text: str) -> str | None:
    letter = next((c for c in text if unicodedata.category(c) in _HIDDEN), None)
    if letter is None:
        return None
    kind = "a byte that is not UTF-8" if unicodedata.category(letter) == "Cs" else "an invisible character"
    return f"{kind} (U+{ord(letter):04X})"
