"""Which images of a folder form one stack, and which stack is the scan."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.acquisition import told_kernel
from cnr_iemn.ct.headers import SliceHeader
from cnr_iemn.errors import ScanError

SAME_POSITION_MM = 0.01
ORIENTATION_TOLERANCE = 1e-3  # per direction cosine
SPACING_TOLERANCE_MM = 1e-4
_MOST_TOLD = 9_999  # a longer series number may be a date or somebody's
NOT_TOLD = "one of more than 4 digits"
SHORT_STACK = 3  # slices; scouts and test images come in such stacks


@dataclass(frozen=True)
class Stack:
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
        """ImagePositionPatient of every slice, mm [n, 3]."""
        return np.array([header.position for header in self.slices])

    @property
    def is_axial(self) -> bool:
        """Whether the slices lie across the patient's long axis, within about 26 degrees."""
        return bool(self.normal[2] >= 0.9)

    def __str__(self) -> str:
        first = self.slices[0]
        row, column = first.spacing or (0.0, 0.0)
        size = f"{first.pixels.rows}x{first.pixels.columns} pixels of {row:.3f}x{column:.3f} mm"
        return f"{len(self.slices)} images of {size} ({first.name} and others)"


def told(key: str, value: object) -> str:
    """Return how messages name a kernel or a series number, which may hold anything, so that it can be chosen by."""
    if key == "kernel":
        return told_kernel(str(value))
    return str(value) if value is None or abs(int(str(value))) <= _MOST_TOLD else NOT_TOLD


def split(headers: Sequence[SliceHeader]) -> list[Stack]:
    """Group by series, size, orientation and pixel spacing, the last two within their tolerance.

    Where positions repeat within such a group, it is split further by kernel or acquisition.
    """
    stacks: list[Stack] = []
    for header in headers:
        home = next((stack for stack in stacks if _belongs(header, stack.slices[0])), None)
        if home is None:
            stacks.append(Stack([header]))
        else:
            home.slices.append(header)
    return [part for stack in stacks for part in _unmixed(stack)]


def _unmixed(stack: Stack) -> list[Stack]:
    """Split a stack in which positions repeat by kernel or acquisition, where that leaves each position once.

    Copies of a file differ in neither and stay, for their pixels to be compared.
    """
    if not _repeats(stack):
        return [stack]
    for key in ("kernel", "acquisition"):
        groups: dict[object, list[SliceHeader]] = defaultdict(list)
        for header in stack.slices:
            groups[getattr(header, key)].append(header)
        parts = [Stack(slices) for slices in groups.values()]
        if len(parts) > 1 and not any(_repeats(part) for part in parts):
            return parts
    return [stack]


def _repeats(stack: Stack) -> bool:
    return bool((np.diff(np.sort(stack.positions @ stack.normal)) <= SAME_POSITION_MM).any())


def _belongs(header: SliceHeader, other: SliceHeader) -> bool:
    if header.series != other.series:
        return False
    if (header.pixels.rows, header.pixels.columns) != (other.pixels.rows, other.pixels.columns):
        return False
    return close_to(header.orientation, other.orientation, ORIENTATION_TOLERANCE) and close_to(
        header.spacing, other.spacing, SPACING_TOLERANCE_MM
    )


def close_to(one: tuple[float, ...] | None, other: tuple[float, ...] | None, tolerance: float) -> bool:
    """Tell whether both are there and no number differs by more than the tolerance."""
    return (
        one is not None and other is not None and all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))
    )


def longest_axial(scan: str, stacks: list[Stack]) -> Stack:
    """Return the stack that is the scan. Raises ScanError where none is axial or a second one is half as long."""
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
            raise ScanError(f"{scan}: two stacks that could be the scan: {main}, and {other}. {_choice(main, other)}")
    return main


def _choice(one: Stack, other: Stack) -> str:
    """Say how to choose between two stacks: by the first of the permissions that tells them apart."""
    for key in ("kernel", "series_number"):
        values = [{getattr(header, key) for header in stack.slices} for stack in (one, other)]
        if all(len(value) == 1 and value - {None, ""} for value in values) and values[0] != values[1]:
            first, second = (told(key, next(iter(value))) for value in values)
            if NOT_TOLD not in (first, second):
                return f"Choose with ingest.{key}={first} or ingest.{key}={second}."
    return "Leave only the one you mean in the folder."


def check_not_a_part(scan: str, main: Stack, z: NDArray[np.float64], step: float, other: Stack) -> None:
    """Refuse a parallel stack that continues the scan or fills a gap: the scan would be split between the two."""
    if abs(float(main.normal @ other.normal)) < 0.999:
        return
    distance = np.abs((other.positions @ main.normal)[:, None] - z[None, :]).min(axis=1)
    if ((distance > 0.5 * step) & (distance <= 1.5 * step)).any():
        raise ScanError(
            f"{scan}: {other} continue the stack of {main}, but differ in series, size, orientation or pixel spacing: "
            "a split scan. Without them labels would shift. Export the scan as one series."
        )
