"""From the headers of a folder to the slices of one scan, in order, or the reason why not. No pixel is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.acquisition import computation_findings
from cnr_iemn.ct.io.hounsfield import padding_findings
from cnr_iemn.ct.io.passes import mixture_findings
from cnr_iemn.ct.io.slice_header import SliceHeader
from cnr_iemn.ct.io.stacks import Stack, check_not_a_part, is_close, longest_axial, select_images, split
from cnr_iemn.ct.volume import check_lengths
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import STRICT, ReadOptions

Heights = NDArray[np.float64]

_UNITS_MM = (1.0, 0.1)  # to which archives round positions
_FEW = 8  # slices, among which steps of two lengths tell nothing
_MIN_LONG = 3  # steps of two units among those of one that are no accident
_GEOMETRY = {
    "orientation": "ImageOrientationPatient",
    "position": "ImagePositionPatient",
    "spacing": "PixelSpacing",
}

TURNED = "rows do not run to the patient's left or columns not to the back (prone?); kept as they are"
"""The finding of a scan whose left and right are not where a picture has them."""


@dataclass(frozen=True)
class ScanPlan:
    """The slices of one scan, head first, one for each position.

    Attributes:
        copies: Further files at a position of ``slices``, with its index; they must have the same pixels.
        z_mm, spacing_mm: As in ``Volume``.
    """

    slices: tuple[SliceHeader, ...]
    copies: tuple[tuple[int, SliceHeader], ...]
    z_mm: Heights
    spacing_mm: tuple[float, float, float]
    findings: tuple[str, ...]


def plan_scan(scan: str, headers: Sequence[SliceHeader], options: ReadOptions = STRICT) -> ScanPlan:
    """Return the order of the slices of the longest axial stack.

    Args:
        scan: What messages call the scan.
        headers: All CT images of its folder.
        options: What would otherwise be refused.

    Raises:
        ScanError: There is no such stack, several could be the scan, or its geometry is not certain.
    """
    findings: list[str] = []
    images = select_images(scan, headers, options, findings)
    if options.allow_missing_position:
        images = _fill_positions(images, findings)
    for header in images:
        _check_geometry(header)
    stacks = split(images)
    main = longest_axial(scan, stacks)
    z, slices, copies = main.order()
    if len(slices) < 2:
        raise ScanError(
            RefusalCode.MISSING_SLICES,
            f"{scan}: one slice position only. A scan needs two at least, or it has no slice distance. "
            "Copy the whole series.",
        )
    for stack in stacks:
        if stack is not main:
            check_not_a_part(scan, main, z, float(np.median(-np.diff(z))), stack)
            findings.append(f"ignored: another stack of {stack}")
    step, step_findings = _slice_step(scan, z, [header.instance_number for header in slices], options)
    check_lengths(scan, "a distance between slices", step)
    row, column = (float(mm) for mm in np.median([header.spacing for header in main.slices], axis=0))
    findings += step_findings + padding_findings(slices) + mixture_findings(slices)
    findings += computation_findings(header.pass_attributes for header in slices)
    findings += _geometry_findings(main, slices, row, column) + _identity_findings(slices)
    return ScanPlan(tuple(slices), tuple(copies), z, (step, row, column), tuple(findings))


def _fill_positions(images: list[SliceHeader], findings: list[str]) -> list[SliceHeader]:
    """Put an axial position at SliceLocation where ImagePositionPatient is missing."""
    axial = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    filled = [
        header
        if header.position is not None or header.slice_location is None
        else replace(header, position=(0.0, 0.0, header.slice_location), orientation=header.orientation or axial)
        for header in images
    ]
    count = sum(old is not new for old, new in zip(images, filled, strict=True))
    if count:
        findings.append(f"{count} slice(s) without ImagePositionPatient ordered by SliceLocation, taken as axial")
    return filled


def _check_geometry(header: SliceHeader) -> None:
    for field, keyword in _GEOMETRY.items():
        if getattr(header, field) is None:
            remedy = (
                ", or set ingest.allow_missing_position=true to order by SliceLocation"
                if field != "spacing" and header.position is None and header.slice_location is not None
                else ""
            )
            raise ScanError(
                RefusalCode.MISSING_GEOMETRY,
                f"{header.name}: {keyword} is missing or makes no sense. The order of the slices depends on it, so "
                f"the scan is refused. Copy the file again, or export the scan anew{remedy}.",
            )
    check_lengths(header.name, "pixels", *(header.spacing or ()))
    if header.pixels.rows is None or header.pixels.columns is None:
        raise ScanError(
            RefusalCode.DAMAGED_HEADER,
            f"{header.name}: Rows or Columns is missing (header cut?). Scan refused; copy it again.",
        )


def _geometry_findings(stack: Stack, slices: list[SliceHeader], row: float, column: float) -> list[str]:
    findings = []
    path = np.array(slices[0].position, dtype=float) - np.array(slices[-1].position, dtype=float)
    cosine = float(path @ stack.normal / np.linalg.norm(path))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > 0.5:
        findings.append(f"gantry tilt: the slices lean by {tilt:.1f} degrees; kept as they are")
    if abs(row - column) > 0.01 * column:
        findings.append(f"pixels are not square: {row:.3f} x {column:.3f} mm")
    if not is_close(slices[0].orientation, (1, 0, 0, 0, 1, 0), 0.5):
        findings.append(TURNED)
    return findings


def _identity_findings(slices: list[SliceHeader]) -> list[str]:
    findings = []
    distinct = len({(header.sop_instance, header.frame) for header in slices})
    if distinct < len(slices):
        findings.append(
            f"{len(slices)} slices share {distinct} SOPInstanceUID(s) (anonymised?); positions differ, all kept"
        )
    multi_frame = any(header.pixels.enhanced for header in slices)  # frames of one file share its InstanceNumber
    for field, keyword in (("instance_number", "InstanceNumber"), ("slice_location", "SliceLocation")):
        values = [getattr(header, field) for header in slices]
        if None not in values and not (multi_frame and field == "instance_number"):
            steps = np.diff(np.array(values, dtype=float))
            if not ((steps > 0).all() or (steps < 0).all()):
                findings.append(f"{keyword} does not follow the slices' positions; positions are used")
    return findings


def _slice_step(
    scan: str, z: Heights, numbers: Sequence[float | None], options: ReadOptions
) -> tuple[float, list[str]]:
    """Return the distance between a scan's slices and findings on it.

    Args:
        scan: What messages call the scan.
        z: Positions along the normal, mm [slices], descending, two at least.
        numbers: InstanceNumber of each slice, None where it has none.
        options: ``allow_gaps`` keeps a scan of irregular steps.

    Returns:
        The true step in mm, which is not the median of rounded ones, and findings.

    Raises:
        ScanError: Slices are missing or the distance changes.
    """
    steps = -np.diff(z)
    median = float(np.median(steps))
    if (np.abs(steps - median) <= _tolerance(median)).all():
        return float((z[0] - z[-1]) / len(steps)), []
    unit = _unit(z)
    if unit and _is_rounded(z, steps, unit, numbers):
        step = float(-np.polyfit(np.arange(len(z)), z, 1)[0])
        return step, [f"positions rounded to {unit:g} mm; by all of them together the slices are {step:.3g} mm apart"]
    by_number = _step_by_number(z, unit, numbers)
    step = by_number or _step_over_several(z, median, unit)
    problem, remedy = _irregularity(z, steps, step, unit)
    if not options.allow_gaps:
        raise ScanError(
            RefusalCode.MISSING_SLICES,
            f"{scan}: {problem}. {remedy}, or set ingest.allow_gaps=true to keep the {len(z)} slices there are.",
        )
    inliers = steps[np.abs(steps - step) <= max(_tolerance(step), unit)]
    if not by_number and np.median(np.abs(steps - step)) > _tolerance(step) and len(inliers):
        step = float(inliers.mean())
    return step, [f"{problem}; kept as it is (ingest.allow_gaps)"]


def _tolerance(step: float) -> float:
    return max(0.01 * step, 0.05)


def _unit(z: Heights) -> float:
    """Return the last digit that all positions have, in mm: 1 or 0.1; 0 where they have more digits."""
    return next((unit for unit in _UNITS_MM if np.abs(z / unit - np.rint(z / unit)).max() < 1e-4), 0.0)


def _is_rounded(z: Heights, steps: Heights, unit: float, numbers: Sequence[float | None]) -> bool:
    """Tell whether equal steps, rounded to ``unit``, give these positions: none is off by more than half of it.

    Where a step is one unit or two, a missing slice looks like rounding: then the slices' numbers must increase by one,
    and there must be more than an odd one.
    """
    if len(z) < _FEW or not _fits_line(np.arange(len(z)), z, unit / 2):
        return False
    units = np.rint(steps / unit)
    if units.min() > 1:
        return True
    if None in numbers or np.count_nonzero(units > 1) < _MIN_LONG:
        return False
    increments = np.diff(np.array(numbers, np.float64))
    return bool(units.min() == 1 and (increments == increments[0]).all() and abs(increments[0]) == 1)


def _fits_line(x: NDArray[np.number], z: Heights, tolerance: float) -> bool:
    """Tell whether a straight line over ``x`` passes all positions within ``tolerance`` mm."""
    from scipy.optimize import linprog  # takes a moment to import, and few scans need it

    sides = np.stack([x, np.ones(len(x))], axis=1).astype(np.float64)
    limits = np.concatenate([tolerance + z, tolerance - z]) + 1e-6
    line = linprog([0, 0], A_ub=np.concatenate([sides, -sides]), b_ub=limits, bounds=[(None, None)] * 2)
    return bool(line.status == 0)


def _step_by_number(z: Heights, unit: float, numbers: Sequence[float | None]) -> float | None:
    """Return the distance between slices whose numbers leave out those that are missing, None where they do not."""
    x = np.array([number for number in numbers if number is not None], np.float64)
    if len(x) < len(z) or not (np.diff(x) * (x[-1] - x[0]) > 0).all():
        return None
    if not _fits_line(x, z, max(unit / 2, 0.05)):
        return None
    step, median = float(abs(np.polyfit(x, z, 1)[0])), float(np.median(-np.diff(z)))
    return median if abs(step - median) <= 0.01 * median else step


def _step_over_several(z: Heights, median: float, unit: float) -> float:
    """Return the median step, or that over eight slices where rounding blurs single ones."""
    lag = min(_FEW, len(z) - 1)
    mean = float(np.median((z[:-lag] - z[lag:]) / lag))
    blurred = median <= _FEW * unit and _tolerance(median) < abs(mean - median) < unit
    return mean if blurred else median


def _irregularity(z: Heights, steps: Heights, step: float, unit: float) -> tuple[str, str]:
    """Return what is wrong with the steps, and what to do."""
    tolerance = max(_tolerance(step), unit)
    if not (np.abs(steps - step) > tolerance).any():
        tolerance = _tolerance(step)
    wrong = np.flatnonzero(np.abs(steps - step) > tolerance)
    i = int(wrong[0])
    place = f"between z={z[i + 1]:.1f} and z={z[i]:.1f} mm"
    times = np.rint(steps[wrong] / step)
    if (times >= 2).all() and (np.abs(steps[wrong] - times * step) <= times * tolerance).all():
        missing = int((times - 1).sum())
        more = f", and at {len(wrong) - 1} more places" if len(wrong) > 1 else ""
        problem = f"{missing} slice{'s' * (missing > 1)} missing {place} (gap {steps[i]:g}, usual {step:g}){more}"
        return problem, "Labels would shift. Copy the scan again with all its slices"
    problem = f"the slice distance changes: {steps[i]:g} mm {place}, usual {step:g} mm ({len(wrong)} such places)"
    return problem, "Slices are missing, or two scans lie in one series. Export the scan again as one regular stack"
