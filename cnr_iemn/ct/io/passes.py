"""Several passes of one body in one series: apart where something tells them apart, refused where nothing does."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.slice_header import SliceHeader
from cnr_iemn.errors import RefusalCode, ScanError

SAME_POSITION_MM = 0.01
SHORT_STACK = 3  # slices; scouts and test images come in such stacks
_MAX_PASSES = 4  # that the order of numbers or times may tell; numbers without any order make more, shorter runs
_OVERLAP = 0.5  # of the shorter part's extent: slabs that follow each other share a few slices at most
_SAME_THICKNESS = 0.02  # of the largest; what rounding leaves
_JUMP_MM = 5.0  # of the table or of the images' corner; less may be jitter
_LUNG_TO_TISSUE_HU = (-950, 250)
_MIN_HU = 3.0  # mean, between the slices of two passes
_ALTERNATION = 1.25  # how much farther the next slice is than the one after it

Groups = list[list[int]]

_ATTRIBUTES: dict[str, Callable[[SliceHeader], object]] = {
    "ConvolutionKernel": lambda header: header.kernel,
    "AcquisitionNumber": lambda header: header.acquisition_number,
    "SliceThickness": lambda header: header.acquisition.slice_thickness_mm,
    "KVP": lambda header: header.acquisition.kvp,
    "ContrastBolusAgent": lambda header: header.pass_attributes.contrast,
    "TemporalPositionIdentifier": lambda header: header.pass_attributes.temporal,
    "NominalPercentageOfCardiacPhase": lambda header: header.pass_attributes.phase,
    "TriggerTime": lambda header: header.pass_attributes.trigger_ms,
    "FrameOfReferenceUID": lambda header: header.pass_attributes.frame,
    "PatientID": lambda header: header.pass_attributes.patient,
    "ImageType": lambda header: header.pass_attributes.computed,
}
_VARIABLE_WITHIN_A_SCAN = ("AcquisitionNumber", "TriggerTime")
_ORDERS: dict[str, Callable[[SliceHeader], float | None]] = {
    "InstanceNumber": lambda header: header.instance_number,
    "AcquisitionTime": lambda header: header.pass_attributes.time,
}


def groups_by_attribute(slices: Sequence[SliceHeader]) -> dict[str, Groups]:
    """Return for each attribute of which the slices have several values the indices of the slices with each value."""
    result = {}
    for keyword, value in _ATTRIBUTES.items():
        groups: dict[object, list[int]] = defaultdict(list)
        for index, header in enumerate(slices):
            groups[str(value(header))].append(index)  # text, for a number that is not known equals nothing
        if len(groups) > 1 and not (keyword == "SliceThickness" and _same_thickness(slices)):
            result[keyword] = list(groups.values())
    for keyword, values in _lengths(slices).items():
        if np.isfinite(values).all() and np.ptp(values) > _JUMP_MM:
            high = values > (values.min() + values.max()) / 2
            result[keyword] = [np.flatnonzero(~high).tolist(), np.flatnonzero(high).tolist()]
    return result


def _same_thickness(slices: Sequence[SliceHeader]) -> bool:
    values = np.array([header.acquisition.slice_thickness_mm for header in slices], np.float64)  # None becomes NaN
    return bool(np.isfinite(values).all() and np.ptp(values) <= _SAME_THICKNESS * values.max())


def _lengths(slices: Sequence[SliceHeader]) -> dict[str, NDArray[np.float64]]:
    corners = np.array([header.position or (np.nan,) * 3 for header in slices], np.float64)
    table = [
        np.nan if header.pass_attributes.table_mm is None else header.pass_attributes.table_mm for header in slices
    ]
    return {
        "TableHeight": np.array(table),
        "ImagePositionPatient (x)": corners[:, 0],
        "ImagePositionPatient (y)": corners[:, 1],
    }


def passes(slices: Sequence[SliceHeader], heights: NDArray[np.float64]) -> tuple[str, Groups]:
    """Return the attribute that divides the slices into passes within each other, and the indices of each pass.

    Args:
        slices: Of one stack; where several have one position, their order is not looked at.
        heights: Of each slice along the normal, mm [slices].

    Returns:
        The keyword and two groups at least; '' and one group where there is one pass.
    """
    for keyword, groups in groups_by_attribute(slices).items():
        if interleaved(groups, heights):
            return keyword, groups
    repeats = bool((np.diff(np.sort(heights)) <= SAME_POSITION_MM).any())
    for keyword, value in ({} if repeats else _ORDERS).items():
        values = [value(header) for header in slices]
        numbers = [number for number in values if number is not None]
        if len(numbers) == len(values):
            groups = _runs(np.array(numbers), heights, unique=keyword == "InstanceNumber")
            if len(groups) <= _MAX_PASSES and interleaved(groups, heights, all_long=True):
                return keyword, groups
    return "", [list(range(len(slices)))]


def interleaved(groups: Groups, heights: NDArray[np.float64], *, all_long: bool = False) -> bool:
    """Tell whether two groups of more than 3 slices share half of the shorter one's extent.

    ``all_long``: only where every group has more than 3.
    """
    long_groups = [heights[group] for group in groups if len(group) > SHORT_STACK]
    if all_long and len(long_groups) < len(groups):
        return False
    extents = sorted((float(group.min()), float(group.max())) for group in long_groups)
    for index, (low, high) in enumerate(extents):
        for other_low, other_high in extents[index + 1 :]:
            shared = min(high, other_high) - other_low
            if shared > _OVERLAP * min(high - low, other_high - other_low):
                return True
    return False


def _runs(values: NDArray[np.float64], heights: NDArray[np.float64], *, unique: bool) -> Groups:
    """Return the passes that an order gives: how often the slices, as numbered, go through the body.

    ``unique``: each slice of a pass has its own number, so that numbers which all come equally often tell passes.
    """
    counts = Counter(values.tolist())
    frequencies = set(counts.values())
    if unique and len(counts) > SHORT_STACK and len(frequencies) == 1 and frequencies != {1}:
        rank: Counter[float] = Counter()
        groups: dict[int, list[int]] = defaultdict(list)
        for index in np.argsort(-heights, kind="stable"):
            groups[rank[values[index]]].append(int(index))
            rank[values[index]] += 1
        return list(groups.values())
    upwards = len(counts) > 1 and np.corrcoef(values, heights)[0, 1] > 0
    order = np.lexsort((heights if upwards else -heights, values))
    runs: Groups = [[int(order[0])]]
    for index in order[1:]:
        run = runs[-1]
        step = heights[index] - heights[run[-1]]
        if len(run) > 1 and step * (heights[run[-1]] - heights[run[0]]) < 0:
            runs.append([int(index)])
        else:
            run.append(int(index))
    return runs


def mixture_findings(slices: Sequence[SliceHeader]) -> list[str]:
    """Return a finding for each attribute in which the slices of a scan, from head to foot, differ."""
    lengths = _lengths(slices)  # a tilted scan's corner moves from slice to slice
    return [
        f"{keyword} differs among the slices ({len(groups)} values): parts of several scans?"
        for keyword, groups in groups_by_attribute(slices).items()
        if (_jumps(lengths[keyword]) if keyword in lengths else len(groups) < len(slices))
        and keyword not in _VARIABLE_WITHIN_A_SCAN
    ]


def _jumps(values: NDArray[np.float64]) -> bool:
    steps = np.diff(values)
    return bool(np.abs(steps - np.median(steps)).max() > _JUMP_MM)


def check_one_pass(scan: str, hu: NDArray[np.int16]) -> None:
    """Refuse slices that alternate: each is more like the second, third or fourth after it than like the next.

    Args:
        scan: What the message calls the scan.
        hu: HU, int16 [slices, rows, columns]; every eighth row and column is looked at.

    Raises:
        ScanError: Two to four passes are mixed slice by slice.
    """
    sample = np.clip(hu[:, ::8, ::8], *_LUNG_TO_TISSUE_HU).astype(np.int32)
    if len(sample) < 4 * _MAX_PASSES:
        return
    distance = [float(np.abs(sample[lag:] - sample[:-lag]).mean()) for lag in range(1, _MAX_PASSES + 1)]
    if distance[0] > max(_MIN_HU, _ALTERNATION * min(distance[1:])):
        n = int(np.argmin(distance[1:])) + 2
        raise ScanError(
            RefusalCode.SEVERAL_PASSES,
            f"{scan}: each slice resembles the one {n} further on more than the next: {n} passes, such as breath in "
            "and out, lie in one series, and its headers do not tell them apart. Scan refused; export one pass alone.",
        )
