"""Hazards in the order of the slices and in which of a folder's images are the scan."""

import random
import shutil
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from tests.ct.conftest import Builder
from tests.ct.hazard import Hazard, all_slices, one_slice, put

_OTHER_ORDER = ("InstanceNumber does not follow the slices' positions; positions are used",)
_NO_POSITION = (
    r"ImagePositionPatient is missing or makes no sense\. The order of the slices depends on it, so the scan is "
    r"refused\. Copy the file again, or export the scan anew, or set ingest\.allow_missing_position=true to order by "
    r"SliceLocation\."
)
_KEEP = r", or set ingest\.allow_gaps=true to keep the {n} slices there are\."
_STACK = r"{n} images of 64x64 pixels of {mm}x{mm} mm \(P012/IM00\d\d\.dcm and others\)"


def _shuffled(dicom: type[Builder], folder: Path) -> None:
    names = [f"IM{k:04d}.dcm" for k in range(dicom.n)]
    random.Random(2).shuffle(names)
    slices = dicom.make_slices()
    for k, ds in enumerate(slices):
        ds.InstanceNumber = 100 - k
    dicom.write(folder, slices, names)


def _scrambled(ds: Dataset, k: int) -> None:
    ds.InstanceNumber = 7 * k % 24  # 7 and 24 have no common divisor: each number once


def _jitter(ds: Dataset, k: int) -> None:
    sign = (-1) ** k
    ds.ImageOrientationPatient = [1, 1e-6 * sign, 0, 0, 1, 1e-6 * sign]
    ds.ImagePositionPatient = [-20, -20, -2.5 * k + 0.004 * sign]


def _not_a_number(ds: Dataset) -> None:
    ds.add_new(0x00200032, "DS", ["-20", "-20", "NaN"])


def _copies(dicom: type[Builder], folder: Path) -> None:
    dicom.write(folder, dicom.make_slices())
    for k in (3, 20):
        shutil.copy(folder / f"IM{k:04d}.dcm", folder / f"copy{k}.dcm")


def _twice(series: str = "1.2.3", **values: tuple[object, object]):
    """Write two scans of the same positions, the second 100 HU higher, with two values of some elements."""

    def make(dicom: type[Builder], folder: Path) -> None:
        both = dicom.make_slices(), dicom.make_slices(series=series)
        for index, slices in enumerate(both):
            for k, ds in enumerate(slices):
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"7.{index}.{k}"
                ds.RescaleIntercept = -1024 + 100 * index
                put(**{keyword: pair[index] for keyword, pair in values.items()})(ds)
        dicom.write(folder, both[0] + both[1])

    return make


def _with_localizer(series: str, kind: str):
    def make(dicom: type[Builder], folder: Path) -> None:
        scout = dicom.make_slices(1, series=series)[0]
        scout.ImageType, scout.SOPInstanceUID = ["ORIGINAL", "PRIMARY", kind], "1.2.9"
        scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        dicom.write(folder, [*dicom.make_slices(), scout])

    return make


def _without(*missing: int):
    def make(dicom: type[Builder], folder: Path) -> None:
        dicom.write(folder, [ds for k, ds in enumerate(dicom.make_slices()) if k not in missing])

    return make


def _closer(ds: Dataset, k: int) -> None:
    ds.ImagePositionPatient = [-20, -20, -2.5 * min(k, 15) - max(k - 15, 0)]


def _tilted(ds: Dataset, k: int) -> None:
    angle = np.radians(20)
    ds.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]


def _coronal(ds: Dataset, k: int) -> None:
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [-20, 2.5 * k, 0]


def _smaller_half(ds: Dataset, k: int) -> None:
    if k >= 12:
        ds.PixelSpacing = [0.6, 0.6]


def _shorter(ds: Dataset) -> None:
    ds.PixelData, ds.Rows = Builder.stored(ds)[:60].tobytes(), 60


_PAIR = r"P012: two stacks that could be the scan: {}, and {}\. {}\."
_TWO_OF_24 = _PAIR.format(_STACK.format(n=24, mm="0.700"), _STACK.format(n=24, mm="0.700"), "{}")
_LEAVE = "Leave only the one you mean in the folder"
_ANOTHER = "ignored: another stack of 1 images of 64x64 pixels of 0.700x0.700 mm (P012/IM0024.dcm and others)"

GEOMETRY = [
    Hazard("names shuffled, InstanceNumber reversed", _shuffled),
    Hazard("InstanceNumber missing", all_slices(put(InstanceNumber=None)), "absent"),
    Hazard("InstanceNumber missing", all_slices(lambda ds, k: setattr(ds, "InstanceNumber", None)), "empty"),
    Hazard("InstanceNumber scrambled or all equal", all_slices(_scrambled), "scrambled", findings=_OTHER_ORDER),
    Hazard(
        "InstanceNumber scrambled or all equal", all_slices(put(InstanceNumber=1)), "all equal", findings=_OTHER_ORDER
    ),
    Hazard("IPP missing", all_slices(put(ImagePositionPatient=None)), refusal=rf"P012/IM0000\.dcm: {_NO_POSITION}"),
    Hazard("NaN in one IPP", one_slice(_not_a_number), refusal=rf"P012/IM0005\.dcm: {_NO_POSITION}"),
    Hazard("IOP and IPP jitter by 1e-6 and 4 um", all_slices(_jitter)),
    Hazard(
        "two identical copies of 2 files",
        _copies,
        findings=("2 file(s) with position and pixels of another one dropped",),
    ),
    Hazard(
        "two reconstructions or two times in one series",
        _twice(ConvolutionKernel=("B70s", "B31f")),
        "kernels",
        refusal=_TWO_OF_24.format(r"Choose with ingest\.kernel=B70s or ingest\.kernel=B31f"),
    ),
    Hazard(
        "two reconstructions or two times in one series",
        _twice(AcquisitionNumber=(0, 1)),
        "times",
        refusal=_TWO_OF_24.format(_LEAVE),
    ),
    Hazard(
        "two reconstructions or two times in one series",
        _twice(),
        "nothing tells them apart",
        refusal=r"P012: P012/IM0000\.dcm and P012/IM0024\.dcm have the same position but other pixels: two "
        r"reconstructions or two times in one series\. Leave only one of them in the folder\.",
    ),
    Hazard(
        "two series in the folder",
        _twice("9.9", SeriesNumber=(2, 3)),
        "numbered",
        refusal=_TWO_OF_24.format(r"Choose with ingest\.series_number=2 or ingest\.series_number=3"),
    ),
    Hazard("two series in the folder", _twice("9.9"), "not numbered", refusal=_TWO_OF_24.format(_LEAVE)),
    *(
        Hazard(f"localizer of {whose} series", _with_localizer(series, kind), how, findings=(finding,))
        for whose, series in (("the same", "1.2.3"), ("its own", "9.9"))
        for kind, how, finding in (
            ("LOCALIZER", "named so", "ignored: 1 localizer(s)"),
            ("AXIAL", "seen by its orientation", _ANOTHER),
        )
    ),
    Hazard(
        "2 slices missing",
        _without(3, 4),
        refusal=r"P012: 2 slices missing between z=-12\.5 and z=-5\.0 mm \(gap 7\.5, usual 2\.5\)\. "
        r"Labels would shift\. Copy the scan again with all its slices" + _KEEP.format(n=22),
    ),
    Hazard(
        "slice distance 2.5, then 1.0 mm",
        all_slices(_closer),
        refusal=r"P012: the slice distance changes: 1 mm between z=-38\.5 and z=-37\.5 mm, usual 2\.5 mm \(8 such "
        r"places\)\. Slices are missing, or two scans lie in one series\. Export the scan again as one regular stack"
        + _KEEP.format(n=24),
    ),
    Hazard(
        "gantry tilt of 20 degrees",
        all_slices(_tilted),
        findings=("gantry tilt: the slices lean by 20.0 degrees; kept as they are",),
    ),
    Hazard(
        "coronal stack",
        all_slices(_coronal),
        refusal=r"P012: the slices are not axial \(z of their normal is 0\.00, at least 0\.9 is needed\): a coronal or "
        r"sagittal reformat\. Give the axial series\.",
    ),
    Hazard(
        "PixelSpacing changes half-way",
        all_slices(_smaller_half),
        refusal=_PAIR.format(_STACK.format(n=12, mm="0.700"), _STACK.format(n=12, mm="0.600"), _LEAVE),
    ),
    *(
        Hazard(
            "one slice of another shape",
            one_slice(_shorter, index),
            where,
            refusal=r"P012: 1 images of 60x64 pixels of 0\.700x0\.700 mm "
            rf"\(P012/IM00{index:02d}\.dcm and others\) continue the stack of {_STACK.format(n=23, mm='0.700')}, but "
            r"differ in series, size, orientation or pixel spacing: a split scan\. Without them labels would shift\. "
            r"Export the scan as one series\.",
        )
        for where, index in (("first", 0), ("middle", 11), ("last", 23))
    ),
    Hazard("ImageType missing", all_slices(put(ImageType=None))),
    Hazard(
        "single slice",
        lambda dicom, folder: dicom.write(folder, dicom.make_slices(1)),
        refusal=r"P012: one slice position only\. A scan needs two at least, or it has no slice distance\. Copy the "
        r"whole series\.",
    ),
]
