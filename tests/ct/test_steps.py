"""Positions that an archive rounded: read where rounding explains them, refused where slices are missing."""

import numpy as np
import pytest

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.read_options import ReadOptions

pytestmark = pytest.mark.slow

GAPS = ReadOptions(allow_gaps=True)


def rounded(dicom, step, digits, *, start=0.0, without=(), n=48, numbers=True, feet_first=False):
    """Slices of a scan whose positions have so many digits; some of them lost."""
    slices = dicom.make_slices(n)
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient = [-20.0, -20.0, round(start - step * k, digits)]
        ds.SliceLocation = ds.ImagePositionPatient[2]
        if feet_first:
            ds.InstanceNumber = n - k
        if not numbers:
            del ds.InstanceNumber
    return [ds for k, ds in enumerate(slices) if k not in without]


@pytest.mark.parametrize("start", [0.0, -103.37])
@pytest.mark.parametrize(
    ("step", "digits"),
    [
        (0.625, 1),
        (1.25, 1),
        (0.75, 1),
        (0.33, 1),
        (1.5, 0),
        (1.25, 0),
        (1.75, 0),
        (2.5, 0),
        (3.27, 0),
        (2.5, 1),
        (7.5, 0),
    ],
)
def test_rounded_positions_give_the_true_step(step, digits, start, dicom, scan_folder):
    for feet_first in (False, True):
        result = read_scan(scan_folder(rounded(dicom, step, digits, start=start, feet_first=feet_first)))
        np.testing.assert_array_equal(result.hu, dicom.expected_hu(48))
        assert result.spacing_mm[0] == pytest.approx(step, rel=0.01)


def test_a_finding_tells_that_positions_are_rounded(dicom, scan_folder):
    result = read_scan(scan_folder(rounded(dicom, 1.5, 0)))
    assert result.findings == ("positions rounded to 1 mm; by all of them together the slices are 1.5 mm apart",)
    assert read_scan(scan_folder(rounded(dicom, 2.5, 1))).findings == ()


@pytest.mark.parametrize("without", [(20,), (7, 8), (3, 19, 33), tuple(range(4, 44, 5))])
@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize(
    ("step", "digits"), [(1.0, 0), (1.0, 1), (0.625, 1), (1.25, 0), (1.5, 0), (2.5, 0), (2.0, 0), (5.0, 0), (2.5, 1)]
)
def test_missing_slices_are_refused_and_allowed_with_the_true_step(step, digits, numbers, without, dicom, scan_folder):
    folder = scan_folder(rounded(dicom, step, digits, without=without, numbers=numbers))
    with pytest.raises(ScanError, match=r"P012: (\d+ slices? missing|the slice distance changes)") as caught:
        read_scan(folder)
    assert "or set ingest.allow_gaps=true to keep" in str(caught.value)
    if numbers or len(without) < 4:  # else every fifth is lost, and nothing says so
        step_read = read_scan(folder, GAPS).spacing_mm[0]
        assert step_read == pytest.approx(step, rel=0.03 if numbers else 0.1)


def test_one_slice_lost_from_whole_millimetres_is_no_rounding(dicom, scan_folder):
    """Also where an archive has numbered what is left anew."""
    slices = rounded(dicom, 1.0, 0, without=(20,))
    for k, ds in enumerate(slices):
        ds.InstanceNumber = k + 1
    with pytest.raises(ScanError, match="1 slice missing"):
        read_scan(scan_folder(slices))


def test_a_slice_off_its_place_by_two_digits_is_refused(dicom, scan_folder):
    slices = rounded(dicom, 2.5, 1)
    slices[20].ImagePositionPatient = [-20, -20, -50.2]
    with pytest.raises(ScanError, match="the slice distance changes"):
        read_scan(scan_folder(slices))


@pytest.mark.parametrize(("pixel", "step"), [(0.001, 2.5), (0.04, 2.5), (51.0, 2.5), (0.7, 0.02), (0.7, 60.0)])
def test_lengths_of_no_ct_are_refused(pixel, step, dicom, scan_folder):
    slices = dicom.make_slices(step=step)
    for ds in slices:
        ds.PixelSpacing = [pixel, pixel]
    with pytest.raises(ScanError, match=r"^P012.*; CT scans have 0\.05 to 50\. The header is damaged"):
        read_scan(scan_folder(slices))
