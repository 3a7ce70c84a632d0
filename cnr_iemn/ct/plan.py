"""From the headers of a folder to the slices of one scan, in order, or the reason why not. No pixel is read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.headers import SliceHeader
from cnr_iemn.errors import ScanError

SAME_POSITION_MM = 0.01
ORIENTATION_TOLERANCE = 1e-3  # per direction cosine
SPACING_TOLERANCE_MM = 1e-4
SHORT_STACK = 3  # slices; scouts and test images come in such stacks

_GEOMETRY = {
    "orientation": "ImageOrientationPatient",
    "position": "ImagePositionPatient",
    "spacing": "PixelSpacing",
}


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


@dataclass(frozen=True)
class _Stack:
    """Slices of one series, size, orientation and pixel spacing, of which ``slices[0]`` is an example."""

    slices: list[SliceHeader]

    @property
    def normal(self) -> NDArray[np.float64]:
        """The slices' normal as a unit vector with its z upwards; the median makes it independent of the order."""
        cosines = np.median([header.orientation for header in self.slices], axis=0)
        normal: NDArray[np.float64] = np.cross(cosines[:3], cosines[3:])
        normal /= max(float(np.linalg.norm(normal)), 1e-9)
        return -normal if normal[2] < 0 else normal

    @property
    def positions(self) -> NDArray[np.float64]:
        return np.array([header.position for header in self.slices])

    @property
    def is_axial(self) -> bool:
        return bool(self.normal[2] >= 0.9)

    def __str__(self) -> str:
        first = self.slices[0]
        row, column = first.spacing or (0.0, 0.0)
        size = f"{first.pixels.rows}x{first.pixels.columns} pixels of {row:.3f}x{column:.3f} mm"
        return f"{len(self.slices)} images of {size} ({first.name} and others)"


def plan_scan(scan: str, headers: Sequence[SliceHeader]) -> ScanPlan:
    """Return the order of the slices of the longest axial stack. Raises ScanError."""
    images = [header for header in headers if not header.localizer]
    findings = [f"ignored: {len(headers) - len(images)} localizer(s)"] if len(images) < len(headers) else []
    if not images:
        raise ScanError(f"{scan}: only localizers, no slices. Copy the scan itself into the folder.")
    for header in images:
        _check_geometry(header)
    stacks = _split(images)
    main = _longest_axial(scan, stacks)
    z, slices, copies = _order(main)
    if len(slices) < 2:
        raise ScanError(f"{scan}: one slice position only. A scan needs two at least, or it has no slice distance.")
    step = float(np.median(-np.diff(z)))
    for stack in stacks:
        if stack is not main:
            _check_not_a_part(scan, main, z, step, stack)
            findings.append(f"ignored: another stack of {stack}")
    _check_steps(scan, z, step)
    row, column = _spacing(main)
    findings += _geometry_findings(main, slices) + _identity_findings(slices)
    return ScanPlan(tuple(slices), tuple(copies), z, (step, row, column), tuple(findings))


def _check_geometry(header: SliceHeader) -> None:
    for field, keyword in _GEOMETRY.items():
        if getattr(header, field) is None:
            raise ScanError(
                f"{header.name}: {keyword} is missing or not made of numbers. The order of the slices rests on it, so "
                "the scan is refused. Copy the file again, or export the scan anew."
            )
    if header.pixels.rows is None or header.pixels.columns is None:
        raise ScanError(f"{header.name}: Rows or Columns is missing (header cut?). Scan refused; copy it again.")


def _split(headers: Sequence[SliceHeader]) -> list[_Stack]:
    """Group by series, size, orientation and pixel spacing, the last two within their tolerance."""
    stacks: list[_Stack] = []
    for header in headers:
        home = next((stack for stack in stacks if _belongs(header, stack.slices[0])), None)
        if home is None:
            stacks.append(_Stack([header]))
        else:
            home.slices.append(header)
    return stacks


def _belongs(header: SliceHeader, other: SliceHeader) -> bool:
    if header.series != other.series:
        return False
    if (header.pixels.rows, header.pixels.columns) != (other.pixels.rows, other.pixels.columns):
        return False
    return _close(header.orientation, other.orientation, ORIENTATION_TOLERANCE) and _close(
        header.spacing, other.spacing, SPACING_TOLERANCE_MM
    )


def _close(one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float) -> bool:
    return (
        one is not None and other is not None and all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))
    )


def _longest_axial(scan: str, stacks: list[_Stack]) -> _Stack:
    longest = max(stacks, key=lambda stack: len(stack.slices))
    axial = sorted((s for s in stacks if s.is_axial), key=lambda s: len(s.slices), reverse=True)
    if not axial or (not longest.is_axial and len(axial[0].slices) <= SHORT_STACK):
        raise ScanError(
            f"{scan}: the slices are not axial (z of their normal is {longest.normal[2]:.2f}, at least 0.9 is needed): "
            "a coronal or sagittal reformat. Give the axial series."
        )
    main, *others = axial
    for other in others:
        n = len(other.slices)
        if 2 * n >= len(main.slices) and (n > SHORT_STACK or len(main.slices) <= SHORT_STACK):
            raise ScanError(
                f"{scan}: two stacks that could be the scan: {main}, and {other}. Leave only the one you "
                "mean in the folder."
            )
    return main


def _order(stack: _Stack) -> tuple[NDArray[np.float64], list[SliceHeader], list[tuple[int, SliceHeader]]]:
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


def _check_not_a_part(scan: str, main: _Stack, z: NDArray[np.float64], step: float, other: _Stack) -> None:
    """Refuse a parallel stack that continues the scan or fills a gap: the scan would be split between the two."""
    if abs(float(main.normal @ other.normal)) < 0.999:
        return
    distance = np.abs((other.positions @ main.normal)[:, None] - z[None, :]).min(axis=1)
    if ((distance > 0.5 * step) & (distance <= 1.5 * step)).any():
        raise ScanError(
            f"{scan}: {other} continue the stack of {main}, but differ in series, size, orientation or pixel spacing: "
            "a split scan. Without them labels would shift. Export the scan as one series."
        )


def _check_steps(scan: str, z: NDArray[np.float64], step: float) -> None:
    steps = -np.diff(z)
    tolerance = max(0.01 * step, 0.05)
    wrong = np.flatnonzero(np.abs(steps - step) > tolerance)
    if not len(wrong):
        return
    i = int(wrong[0])
    where = f"between z={z[i + 1]:.1f} and z={z[i]:.1f} mm"
    times = np.rint(steps[wrong] / step)
    if (times >= 2).all() and (np.abs(steps[wrong] - times * step) <= times * tolerance).all():
        missing = int((times - 1).sum())
        more = f", and at {len(wrong) - 1} more places" if len(wrong) > 1 else ""
        raise ScanError(
            f"{scan}: {missing} slice{'s' * (missing > 1)} missing {where} (gap {steps[i]:g}, usual {step:g}){more}. "
            "Labels would shift. Copy the scan again with all its slices."
        )
    raise ScanError(
        f"{scan}: the slice distance changes: {steps[i]:g} mm {where}, usual {step:g} mm ({len(wrong)} such places). "
        "Slices are missing, or two scans lie in one series. Export the scan again as one regular stack."
    )


def _spacing(stack: _Stack) -> tuple[float, float]:
    row, column = np.median([header.spacing for header in stack.slices], axis=0)
    return float(row), float(column)


def _geometry_findings(stack: _Stack, slices: list[SliceHeader]) -> list[str]:
    findings = []
    path = np.array(slices[0].position, dtype=float) - np.array(slices[-1].position, dtype=float)
    cosine = float(path @ stack.normal / np.linalg.norm(path))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > 0.5:
        findings.append(f"gantry tilt: the slices lean by {tilt:.1f} degrees; kept as they are")
    row, column = _spacing(stack)
    if abs(row - column) > 0.01 * column:
        findings.append(f"pixels are not square: {row:.3f} x {column:.3f} mm")
    if not _close(slices[0].orientation, (1, 0, 0, 0, 1, 0), 0.5):
        findings.append("rows do not run to the patient's left or columns not to the back (prone?); kept as they are")
    return findings


def _identity_findings(slices: list[SliceHeader]) -> list[str]:
    findings = []
    distinct = len({header.sop_instance for header in slices})
    if distinct < len(slices):
        findings.append(
            f"{len(slices)} slices share {distinct} SOPInstanceUID(s) (anonymised?); positions differ, all kept"
        )
    for field, keyword in (("instance_number", "InstanceNumber"), ("slice_location", "SliceLocation")):
        values = [getattr(header, field) for header in slices]
        if None not in values:
            steps = np.diff(np.array(values, dtype=float))
            if not ((steps > 0).all() or (steps < 0).all()):
                findings.append(f"{keyword} does not follow the slices' positions; positions are used")
    return findings
