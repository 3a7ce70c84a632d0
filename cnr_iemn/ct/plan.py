"""From the headers of a folder to the slices of one scan, in order, or the reason why not. No pixel is read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.acquisition import code_of
from cnr_iemn.ct.headers import SliceHeader
from cnr_iemn.ct.stacks import SAME_POSITION_MM, Stack, check_not_a_part, close_to, longest_axial, split, told
from cnr_iemn.errors import ScanError
from cnr_iemn.permissions import STRICT, Permissions

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

    ``copies``: further files at a position that ``slices`` already holds, with its index; the scan stands only if their
    pixels are the same. ``z_mm`` and ``spacing_mm``: as in ``Volume``.
    """

    slices: tuple[SliceHeader, ...]
    copies: tuple[tuple[int, SliceHeader], ...]
    z_mm: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    findings: tuple[str, ...]


def plan_scan(scan: str, headers: Sequence[SliceHeader], allowed: Permissions = STRICT) -> ScanPlan:
    """Return the order of the slices of the longest axial stack. Raises ScanError."""
    images = [header for header in headers if not header.localizer]
    findings = [f"ignored: {len(headers) - len(images)} localizer(s)"] if len(images) < len(headers) else []
    if not images:
        raise ScanError(f"{scan}: only localizers, no slices. Copy the scan itself into the folder.")
    images = _chosen(scan, images, allowed, findings)
    if allowed.allow_missing_position:
        images = _placed(images, findings)
    for header in images:
        _check_geometry(header)
    stacks = split(images)
    main = longest_axial(scan, stacks)
    z, slices, copies = _order(main)
    if len(slices) < 2:
        raise ScanError(
            f"{scan}: one slice position only. A scan needs two at least, or it has no slice distance. "
            "Copy the whole series."
        )
    step = float(np.median(-np.diff(z)))
    for stack in stacks:
        if stack is not main:
            check_not_a_part(scan, main, z, step, stack)
            findings.append(f"ignored: another stack of {stack}")
    findings += _check_steps(scan, z, step, allowed)
    row, column = _spacing(main)
    findings += _geometry_findings(main, slices) + _identity_findings(slices)
    return ScanPlan(tuple(slices), tuple(copies), z, (step, row, column), tuple(findings))


def _chosen(scan: str, images: list[SliceHeader], allowed: Permissions, findings: list[str]) -> list[SliceHeader]:
    """Keep the images of the kernel and the series that the user names."""
    for key, value, keyword in (
        ("kernel", allowed.kernel, "ConvolutionKernel"),
        ("series_number", allowed.series_number, "SeriesNumber"),
    ):
        if value is None:
            continue
        there = Counter(told(key, getattr(header, key)) for header in images)
        kept = [header for header in images if value in (getattr(header, key), code_of(str(getattr(header, key))))]
        if not kept:
            listed = ", ".join(f"{name} ({count})" for name, count in sorted(there.items()))
            raise ScanError(f"{scan}: no image of ingest.{key}={value}; {keyword} is {listed}. Give one of these.")
        if len(kept) < len(images):
            findings.append(f"ignored: {len(images) - len(kept)} image(s) of another {keyword} than ingest.{key} names")
        images = kept
    return images


def _placed(images: list[SliceHeader], findings: list[str]) -> list[SliceHeader]:
    """Put an axial position at SliceLocation where ImagePositionPatient is missing."""
    placed = [
        header
        if header.position is not None or header.slice_location is None
        else replace(
            header,
            position=(0.0, 0.0, header.slice_location),
            orientation=header.orientation or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        )
        for header in images
    ]
    count = sum(old is not new for old, new in zip(images, placed, strict=True))
    if count:
        findings.append(f"{count} slice(s) without ImagePositionPatient ordered by SliceLocation, taken as axial")
    return placed


def _check_geometry(header: SliceHeader) -> None:
    for field, keyword in _GEOMETRY.items():
        if getattr(header, field) is None:
            way_out = (
                ", or set ingest.allow_missing_position=true to order by SliceLocation"
                if field != "spacing" and header.position is None and header.slice_location is not None
                else ""
            )
            raise ScanError(
                f"{header.name}: {keyword} is missing or makes no sense. The order of the slices rests on it, so "
                f"the scan is refused. Copy the file again, or export the scan anew{way_out}."
            )
    if header.pixels.rows is None or header.pixels.columns is None:
        raise ScanError(f"{header.name}: Rows or Columns is missing (header cut?). Scan refused; copy it again.")


def _order(stack: Stack) -> tuple[NDArray[np.float64], list[SliceHeader], list[tuple[int, SliceHeader]]]:
    """Sort head first; return one position and slice each, and the further slices at a position."""
    heights = stack.positions @ stack.normal
    order = sorted(range(len(heights)), key=lambda i: (-heights[i], stack.slices[i].name))
    z: list[float] = []
    slices: list[SliceHeader] = []
    copies: list[tuple[int, SliceHeader]] = []
    for i in order:
        if z and z[-1] - heights[i] <= SAME_POSITION_MM:
            copies.append((len(slices) - 1, stack.slices[i]))
        else:
            z.append(float(heights[i]))
            slices.append(stack.slices[i])
    return np.array(z), slices, copies


def _check_steps(scan: str, z: NDArray[np.float64], step: float, allowed: Permissions) -> list[str]:
    steps = -np.diff(z)
    tolerance = max(0.01 * step, 0.05)
    wrong = np.flatnonzero(np.abs(steps - step) > tolerance)
    if not len(wrong):
        return []
    i = int(wrong[0])
    where = f"between z={z[i + 1]:.1f} and z={z[i]:.1f} mm"
    times = np.rint(steps[wrong] / step)
    if (times >= 2).all() and (np.abs(steps[wrong] - times * step) <= times * tolerance).all():
        missing = int((times - 1).sum())
        more = f", and at {len(wrong) - 1} more places" if len(wrong) > 1 else ""
        found = f"{missing} slice{'s' * (missing > 1)} missing {where} (gap {steps[i]:g}, usual {step:g}){more}"
        remedy = "Labels would shift. Copy the scan again with all its slices"
    else:
        found = f"the slice distance changes: {steps[i]:g} mm {where}, usual {step:g} mm ({len(wrong)} such places)"
        remedy = "Slices are missing, or two scans lie in one series. Export the scan again as one regular stack"
    if allowed.allow_gaps:
        return [f"{found}; kept as it is (ingest.allow_gaps)"]
    raise ScanError(f"{scan}: {found}. {remedy}, or set ingest.allow_gaps=true to keep the {len(z)} slices there are.")


def _spacing(stack: Stack) -> tuple[float, float]:
    row, column = np.median([header.spacing for header in stack.slices], axis=0)
    return float(row), float(column)


def _geometry_findings(stack: Stack, slices: list[SliceHeader]) -> list[str]:
    findings = []
    path = np.array(slices[0].position, dtype=float) - np.array(slices[-1].position, dtype=float)
    cosine = float(path @ stack.normal / np.linalg.norm(path))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > 0.5:
        findings.append(f"gantry tilt: the slices lean by {tilt:.1f} degrees; kept as they are")
    row, column = _spacing(stack)
    if abs(row - column) > 0.01 * column:
        findings.append(f"pixels are not square: {row:.3f} x {column:.3f} mm")
    if not close_to(slices[0].orientation, (1, 0, 0, 0, 1, 0), 0.5):
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
