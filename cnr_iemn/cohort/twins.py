"""One scan under two names: on two sides of a split it would be learnt and then recognised."""

from collections import defaultdict
from collections.abc import Mapping

from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.errors import CohortError


def require_distinct(store: SliceStore, side: Mapping[str, str]) -> None:
    """Raise CohortError where scans with identical grey pixels stand on different sides.

    ``side``: by scan_id, what must not share a scan: training and validation, or folds.
    """
    of_pixels: dict[str, list[str]] = defaultdict(list)
    for scan_id in side:
        of_pixels[store.scan(scan_id).grey_sha256].append(scan_id)
    apart = [twins for twins in of_pixels.values() if len({side[scan_id] for scan_id in twins}) > 1]
    if apart:
        listed = "\n".join("  " + ", ".join(f"{scan_id} ({side[scan_id]})" for scan_id in twins) for twins in apart)
        left_out = ",".join(scan_id for twins in apart for scan_id in twins[1:])
        raise CohortError(
            f"Scans of different names have the same pixels and stand on different sides of the split:\n{listed}\n"
            "A network would recognise what it has learnt, and every figure would be too good. Leave the copies out "
            f"('data.exclude=[{left_out}]', in another study), or give them one patient_id in a manifest."
        )
