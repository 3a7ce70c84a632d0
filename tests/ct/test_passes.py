"""Series that are not one plain stack: passes, phases, parts and computed images are refused or told, never mixed."""

import numpy as np
import pytest

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.read_options import ReadOptions

pytestmark = pytest.mark.slow

SHIFT = 1.25  # half a step


def two_passes(dicom, n=24, shift=SHIFT, **values):
    """Breath in and out, the second so much lower, denser, and with values of its own; numbers 1..n twice."""
    both = dicom.make_slices(n), dicom.make_slices(n)
    for index, slices in enumerate(both):
        for k, ds in enumerate(slices):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"7.{index}.{k}"
            ds.ImagePositionPatient = [-20, -20, -2.5 * k - shift * index]
            ds.SliceLocation = ds.ImagePositionPatient[2]
            if index:
                ds.PixelData = np.where(dicom.stored(ds) > 24, dicom.stored(ds) + 90, 24).astype("<u2").tobytes()
            for keyword, pair in values.items():
                if pair[index] is not None:
                    setattr(ds, keyword, pair[index])
    return both


def drop(slices, *keywords):
    for ds in slices:
        for keyword in keywords:
            delattr(ds, keyword)
    return slices


MARKS = {
    "AcquisitionNumber": (1, 2),
    "AcquisitionTime": ("100000", "101000"),
    "ConvolutionKernel": ("B70f", "B31f"),
    "SliceThickness": (5, 1),
    "KVP": (80, 140),
    "ContrastBolusAgent": (None, "a name"),
    "TriggerTime": (100, 600),
    "NominalPercentageOfCardiacPhase": (30, 70),
    "TemporalPositionIdentifier": (1, 2),
    "TableHeight": (120, 150),
    "FrameOfReferenceUID": ("1.2.1", "1.2.2"),
    "PatientID": ("a name", "b"),
    "ImageType": (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "MPR"]),
}


@pytest.mark.parametrize("shift", [SHIFT, 0.9])
@pytest.mark.parametrize("mark", MARKS)
def test_two_passes_that_a_mark_tells_apart(mark, shift, dicom, scan_folder):
    first, other = two_passes(dicom, shift=shift, **{mark: MARKS[mark]})
    drop([*first, *other], "InstanceNumber")
    with pytest.raises(
        ScanError, match=r"P012: two stacks that could be the scan: 24 images .*, and 24 images"
    ) as caught:
        read_scan(scan_folder([*first, *other]))
    assert f"They lie within each other and differ in {mark}." in str(caught.value)
    assert "a name" not in str(caught.value)


@pytest.mark.parametrize("order", ["twice", "goes on", "up again", "every other"])
def test_two_passes_that_the_slices_numbers_tell_apart(order, dicom, scan_folder):
    first, other = two_passes(dicom)
    for k in range(24):
        first[k].InstanceNumber = k + 1 if order != "every other" else 2 * k + 1
        other[k].InstanceNumber = {"twice": k + 1, "goes on": 25 + k, "up again": 48 - k, "every other": 2 * k + 2}[
            order
        ]
    refused = "each slice resembles the one 2 further on" if order == "every other" else "differ in InstanceNumber"
    with pytest.raises(ScanError, match=refused):
        read_scan(scan_folder([*first, *other]))


def test_two_passes_that_nothing_tells_apart_are_seen_by_their_pixels(dicom, scan_folder):
    first, other = two_passes(dicom)
    drop([*first, *other], "InstanceNumber")
    with pytest.raises(ScanError, match="P012: each slice resembles the one 2 further on more than the next: 2 pass"):
        read_scan(scan_folder([*first, *other]))


def test_a_short_second_pass_is_left_out(dicom, scan_folder):
    first, other = two_passes(dicom, AcquisitionNumber=(1, 2))
    result = read_scan(scan_folder([*first, *other[5:13]]))
    np.testing.assert_array_equal(result.hu, dicom.expected_hu())
    assert [finding.split(" of ")[0] for finding in result.findings] == ["ignored: another stack"]


def test_slabs_one_after_another_are_one_scan(dicom, scan_folder):
    """A table that moves step by step: an acquisition and a time for every four slices."""
    slices = dicom.make_slices()
    for k, ds in enumerate(slices):
        ds.AcquisitionNumber, ds.AcquisitionTime = 1 + k // 4, f"1000{k // 4:02d}"
    result = read_scan(scan_folder(slices))
    np.testing.assert_array_equal(result.hu, dicom.expected_hu())
    assert result.findings == ()


@pytest.mark.parametrize("feet_first", [False, True])
@pytest.mark.parametrize("seconds", [0.1, 0.34])
def test_times_that_go_on_are_one_scan(seconds, feet_first, dicom, scan_folder):
    slices = dicom.make_slices()
    for k, ds in enumerate(slices):
        ds.AcquisitionTime = f"{100000 + int(seconds * (24 - k if feet_first else k)):06d}"  # whole seconds
    assert read_scan(scan_folder(slices)).findings == ()


SECTIONS = {
    "ConvolutionKernel": ("B70f", "B31f"),
    "SliceThickness": (5, 1),
    "KVP": (100, 120),
    "TableHeight": (120, 150),
    "ContrastBolusAgent": (None, "a name"),
    "FrameOfReferenceUID": ("1.2.1", "1.2.2"),
    "PatientID": ("a name", "b"),
    "TemporalPositionIdentifier": (1, 2),
    "ImagePositionPatient": (-20, -50),
}


@pytest.mark.parametrize("mark", SECTIONS)
def test_two_parts_are_told(mark, dicom, scan_folder):
    slices = dicom.make_slices()
    for k, ds in enumerate(slices):
        value = SECTIONS[mark][k >= 14]
        if mark == "ImagePositionPatient":
            ds.ImagePositionPatient = [value, -20, -2.5 * k]
        elif value is not None:
            setattr(ds, mark, value)
    result = read_scan(scan_folder(slices))
    (finding,) = (item for item in result.findings if item.startswith(mark))
    assert finding.endswith("differs among the slices (2 values): parts of several scans?")


def test_thicknesses_that_rounding_tells_apart_are_one(dicom, scan_folder):
    slices = dicom.make_slices()
    for k, ds in enumerate(slices):
        ds.SliceThickness = 2.5 + 0.01 * (k % 3)
    result = read_scan(scan_folder(slices))
    np.testing.assert_array_equal(result.hu, dicom.expected_hu())
    assert result.findings == ()


@pytest.mark.parametrize("term", ["MIP", "MinIP", "PROJECTION IMAGE", "SUBTRACTION", "EFF_ATOMIC_NUM", "VOLUME_RENDER"])
def test_projections_are_no_scan(term, dicom, scan_folder):
    slices, rest = dicom.make_slices(), dicom.make_slices(series="9.9")
    for ds in rest:
        ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL", term]
    result = read_scan(scan_folder([*slices, *rest]))
    assert result.findings == (f"ignored: 24 image(s) that are no slices (ImageType {term.upper()})",)
    with pytest.raises(ScanError, match=f"P012: no plain slices: ImageType says {term.upper()}"):
        read_scan(dicom.write(scan_folder([]).parent / "alone" / "P012", rest))


@pytest.mark.parametrize(
    ("image_type", "terms"),
    [
        (["DERIVED", "SECONDARY", "MPR"], "DERIVED, MPR, SECONDARY"),
        (["DERIVED", "PRIMARY", "AXIAL", "AVERAGE"], "AVERAGE, DERIVED"),
        (["ORIGINAL", "PRIMARY", "AXIAL", "VMI"], "VMI"),
    ],
)
def test_computed_slices_are_told(image_type, terms, dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.ImageType = image_type
    assert read_scan(scan_folder(slices)).findings == (f"24 slice(s) computed from other images (ImageType {terms})",)


def test_a_unit_that_is_not_hu_is_told(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.RescaleType = "MGML"
    assert read_scan(scan_folder(slices)).findings == ("RescaleType is MGML, not HU; the values are taken as HU",)


def test_padding_that_tissue_has_is_told(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.PixelPaddingValue = 1024 + 15
    (finding,) = read_scan(scan_folder(slices)).findings
    assert finding == "PixelPaddingValue stands for 15 HU, which tissue has: pixels of that value are taken as air"


@pytest.mark.parametrize("signed", [False, True])
def test_values_beyond_the_bits_that_the_header_states(signed, dicom, scan_folder):
    """A metal part of 3500 HU in 12 bits would be read as soft tissue or air."""
    slices = dicom.make_slices(signed=signed)
    for ds in slices:
        ds.BitsStored, ds.HighBit = 12, 11
    pixels = dicom.stored(slices[9]).astype(np.int32)
    pixels[20:26, 20:26] = 3500 + (0 if signed else 1024)
    slices[9].PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()
    folder = scan_folder(slices)
    with pytest.raises(ScanError, match=r"P012/IM0009\.dcm: values of .* do not fit BitsStored 12"):
        read_scan(folder)
    read = read_scan(folder, ReadOptions(allow_range_mismatch=True))
    want = dicom.expected_hu()
    want[9, 20:26, 20:26] = 3500
    np.testing.assert_array_equal(read.hu, want)


def test_an_overlay_in_the_unused_bits_is_taken_off(dicom, scan_folder):
    slices = dicom.make_slices()
    for k, ds in enumerate(slices):
        pixels = dicom.stored(ds) + np.random.default_rng(k).integers(-3, 4, (64, 64)).astype(np.uint16)
        ds.PixelData = pixels.tobytes()
    plain = read_scan(scan_folder(slices)).hu
    for ds in slices:
        pixels = dicom.stored(ds).copy()
        pixels[30, 20:40] |= 0x1000
        pixels[20:40, 30] |= 0x8000
        ds.PixelData = pixels.tobytes()
    np.testing.assert_array_equal(read_scan(scan_folder(slices)).hu, plain)
