"""Which images of a folder form one stack, and which stack is the scan."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.io.acquisition import code_of, kernel_label
from cnr_iemn.ct.io.passes import SAME_POSITION_MM, SHORT_STACK, groups_by_attribute, passes
from cnr_iemn.ct.io.slice_header import SliceHeader
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.read_options import ReadOptions

ORIENTATION_TOLERANCE = 1e-3  # per direction cosine
SPACING_TOLERANCE_MM = 1e-4
_MAX_NUMBER = 9_999  # a longer series number may be a date or somebody's
_LONG_NUMBER = "one of more than 4 digits"


@dataclass(frozen=True)
class Stack:
    """Slices of one series, size, orientation and pixel spacing, of which ``slices[0]`` is an example.

    ``difference``: the attribute that separates them from other such slices between them, '' where there are none.
    """

    slices: list[SliceHeader]
    difference: str = ""

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
    def heights(self) -> NDArray[np.float64]:
        """Position of every slice along the normal, mm [n]."""
        heights: NDArray[np.float64] = self.positions @ self.normal
        return heights

    @property
    def is_axial(self) -> bool:
        """Whether the slices lie across the patient's long axis, within about 26 degrees."""
        return bool(self.normal[2] >= 0.9)

    def order(self) -> tuple[NDArray[np.float64], list[SliceHeader], list[tuple[int, SliceHeader]]]:
        """Return heights and slices, head first, one for each position; and each further slice with the index of its
        position.
        """
        heights = self.heights
        z: list[float] = []
        slices: list[SliceHeader] = []
        copies: list[tuple[int, SliceHeader]] = []
        for i in sorted(range(len(heights)), key=lambda i: (-heights[i], self.slices[i].name)):
            if z and z[-1] - heights[i] <= SAME_POSITION_MM:
                copies.append((len(slices) - 1, self.slices[i]))
            else:
                z.append(float(heights[i]))
                slices.append(self.slices[i])
        return np.array(z), slices, copies

    def __str__(self) -> str:
        first = self.slices[0]
        row, column = first.spacing or (0.0, 0.0)
        size = f"{first.pixels.rows}x{first.pixels.columns} pixels of {row:.3f}x{column:.3f} mm"
        return f"{len(self.slices)} images of {size} ({first.name} and others)"


def select_images(
    scan: str, images: Sequence[SliceHeader], options: ReadOptions, findings: list[str]
) -> list[SliceHeader]:
    """Return the slices in HU of the kernel and the series that the user names; what is left out is added as a finding.

    Raises ScanError where none is left.
    """
    slices = [header for header in images if not header.localizer]
    if not slices:
        raise ScanError(
            RefusalCode.LOCALIZERS_ONLY, f"{scan}: only localizers, no slices. Copy the scan itself into the folder."
        )
    if len(slices) < len(images):
        findings.append(f"ignored: {len(images) - len(slices)} localizer(s)")
    terms = ", ".join(sorted({header.pass_attributes.projection for header in slices} - {""}))
    images, slices = slices, [header for header in slices if not header.pass_attributes.projection]
    if not slices:
        raise ScanError(
            RefusalCode.DERIVED_IMAGES,
            f"{scan}: no plain slices: ImageType says {terms}, whose values are not the HU of single slices. "
            "Give the series from which these images were computed.",
        )
    if terms:
        findings.append(f"ignored: {len(images) - len(slices)} image(s) that are no slices (ImageType {terms})")
    slices = _select_by(scan, slices, "kernel", options.kernel, "ConvolutionKernel", findings)
    return _select_by(scan, slices, "series_number", options.series_number, "SeriesNumber", findings)


def _select_by(
    scan: str, images: list[SliceHeader], key: str, value: object, keyword: str, findings: list[str]
) -> list[SliceHeader]:
    if value is None:
        return images
    selection = [header for header in images if value in (getattr(header, key), code_of(str(getattr(header, key))))]
    if not selection:
        counts = Counter(_label(key, getattr(header, key)) for header in images)
        choices = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
        raise ScanError(
            RefusalCode.NO_MATCH,
            f"{scan}: no image of ingest.{key}={value}; {keyword} is {choices}. Give one of these.",
        )
    if len(selection) < len(images):
        findings.append(
            f"ignored: {len(images) - len(selection)} image(s) of another {keyword} than ingest.{key} names"
        )
    return selection


def _label(key: str, value: object) -> str:
    """Return how messages name a kernel or a series number, which may hold anything, so that it can be chosen by."""
    if key == "kernel":
        return kernel_label(str(value))
    return str(value) if value is None or abs(int(str(value))) <= _MAX_NUMBER else _LONG_NUMBER


def split(headers: Sequence[SliceHeader]) -> list[Stack]:
    """Group by series, size, orientation and pixel spacing, the last two within their tolerance.

    Where positions repeat within such a group, or passes lie within each other, it is split further.
    """
    stacks: list[Stack] = []
    for header in headers:
        home = next((stack for stack in stacks if _belongs(header, stack.slices[0])), None)
        if home is None:
            stacks.append(Stack([header]))
        else:
            home.slices.append(header)
    return [single for stack in stacks for single in _separate_passes(stack)]


def _separate_passes(stack: Stack) -> list[Stack]:
    """Split a stack in which positions repeat or passes lie within each other by an attribute of their slices.

    Copies of a file differ in nothing and stay, for their pixels to be compared.
    """
    if _repeats(stack):
        for keyword, groups in groups_by_attribute(stack.slices).items():
            stacks = [Stack([stack.slices[index] for index in group]) for group in groups]
            long = all(len(group) > SHORT_STACK for group in groups)
            if (long or keyword in ("ConvolutionKernel", "AcquisitionNumber")) and not any(map(_repeats, stacks)):
                return stacks
    keyword, groups = passes(stack.slices, stack.heights)
    return [Stack([stack.slices[index] for index in group], keyword) for group in groups]


def _repeats(stack: Stack) -> bool:
    return bool((np.diff(np.sort(stack.heights)) <= SAME_POSITION_MM).any())


def _belongs(header: SliceHeader, other: SliceHeader) -> bool:
    return (
        header.series == other.series
        and (header.pixels.rows, header.pixels.columns) == (other.pixels.rows, other.pixels.columns)
        and is_close(header.orientation, other.orientation, ORIENTATION_TOLERANCE)
        and is_close(header.spacing, other.spacing, SPACING_TOLERANCE_MM)
    )


def is_close(values: tuple[float, ...] | None, reference: tuple[float, ...] | None, tolerance: float) -> bool:
    """Tell whether both are there and no number differs by more than the tolerance."""
    return bool(values and reference and all(abs(a - b) <= tolerance for a, b in zip(values, reference, strict=True)))


def longest_axial(scan: str, stacks: list[Stack]) -> Stack:
    """Return the stack that is the scan. Raises ScanError where none is axial or a second one is half as long."""
    longest = max(stacks, key=lambda stack: len(stack.slices))
    axial = sorted((s for s in stacks if s.is_axial), key=lambda s: len(s.slices), reverse=True)
    if not axial or (not longest.is_axial and len(axial[0].slices) <= SHORT_STACK):
        raise ScanError(
            RefusalCode.NOT_AXIAL,
            f"{scan}: the slices are not axial (z of their normal is {longest.normal[2]:.2f}, at least 0.9 is needed): "
            "a coronal or sagittal reformat. Give the axial series.",
        )
    main, *rest = axial
    for other in rest:
        n = len(other.slices)
        if 2 * n >= len(main.slices) and (n > SHORT_STACK or len(main.slices) <= SHORT_STACK):
            differ = f" They lie within each other and differ in {other.difference}." if other.difference else ""
            raise ScanError(
                RefusalCode.SEVERAL_STACKS,
                f"{scan}: two stacks that could be the scan: {main}, and {other}.{differ} {_remedy(main, other)}",
            )
    return main


def _remedy(main: Stack, other: Stack) -> str:
    """Say how to choose between two stacks: by the first of the read options that tells them apart."""
    for key in ("kernel", "series_number"):
        values = [{getattr(header, key) for header in stack.slices} for stack in (main, other)]
        if all(len(value) == 1 and value - {None, ""} for value in values) and values[0] != values[1]:
            first, second = (_label(key, next(iter(value))) for value in values)
            if _LONG_NUMBER not in (first, second):
                return f"Choose with ingest.{key}={first} or ingest.{key}={second}."
    return "Leave only the one you mean in the folder."


def check_not_a_part(scan: str, main: Stack, z: NDArray[np.float64], step: float, other: Stack) -> None:
    """Refuse a parallel stack that continues the scan or fills a gap: the scan would be split between the two.

    Args:
        scan: What the message calls the scan.
        main: Its stack.
        z: Positions of the slices of ``main`` along its normal, mm [slices].
        step: Their distance, mm.
        other: Another stack of the folder.

    Raises:
        ScanError: It does.
    """
    if abs(float(main.normal @ other.normal)) < 0.999:
        return
    distance = np.abs((other.positions @ main.normal)[:, None] - z[None, :]).min(axis=1)
    if ((distance > 0.55 * step) & (distance <= 1.5 * step)).any():
        raise ScanError(
            RefusalCode.SPLIT_SCAN,
            f"{scan}: {other} continue the stack of {main}, but differ in series, size, orientation or pixel spacing: "
            "a split scan. Without them labels would shift. Export the scan as one series.",
        )
