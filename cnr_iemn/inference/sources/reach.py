"""Whether scans can be reached: a disk that is not mounted tells nothing of the scans on it."""

import os
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISDIR

from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.errors import InputError, RefusalCode
from cnr_iemn.utils.lookahead import map_ahead
from cnr_iemn.utils.text import visible


def reach_problem(source: Path | ImageStack) -> str | None:
    """Return why nothing is at a scan's place, as the end of a sentence; None where something is.

    The mount point of a disk that is not mounted is an empty folder.
    """
    if isinstance(source, ImageStack):
        return None if any(map(os.path.exists, source.files)) else "does not exist"
    try:
        if not S_ISDIR(source.stat().st_mode):
            return None
        with os.scandir(source) as entries:
            return None if any(entries) else "is an empty folder"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"


def require_reach(scans: Sequence[tuple[str, Path | ImageStack]], *, anonymous: bool) -> None:
    """Refuse an input none of whose scans can be reached: predictions of them are not replaced by refusals.

    Args:
        scans: Id and source of each.
        anonymous: Whether the message must not name them.

    Raises:
        InputError: Nothing is at the place of any scan.
    """
    if any(problem is None for problem in map_ahead(reach_problem, [source for _, source in scans])):
        return
    _, source = scans[0]
    path = source.files[0] if isinstance(source, ImageStack) else source
    place = "the first" if anonymous else visible(str(path))
    raise InputError(
        f"None of the {len(scans)} scans of the input can be reached; {place} "
        f"{reach_problem(source)}. If their disk is not mounted, mount it; otherwise correct the paths. Nothing was "
        "predicted, and earlier predictions stay as they are.",
        [RefusalCode.NOT_FOUND],
    )
