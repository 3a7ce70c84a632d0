"""What is refused by default and read when it is allowed by name, and that the volume then says so."""

import numpy as np
import pytest

from cnr_iemn.ct.io.acquisition import code_of, kernel_label
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.read_options import ReadOptions


def _read_with(folder, refusal, finding, **option):
    """Check that the refusal names the option, and return the volume that is read with it."""
    (key,) = option
    with pytest.raises(ScanError, match=refusal) as caught:
        read_scan(folder)
    assert f"ingest.{key}=" in str(caught.value)
    volume = read_scan(folder, ReadOptions(**option))
    assert any(finding in text for text in volume.findings), volume.findings
    return volume


def test_gaps(dicom, scan_folder):
    remaining = [k for k in range(dicom.n) if k not in (7, 8)]
    slices = [dicom.make_slices()[k] for k in remaining]
    volume = _read_with(scan_folder(slices), "2 slices missing", "kept as it is (ingest.allow_gaps)", allow_gaps=True)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu()[remaining])
    np.testing.assert_allclose(volume.z_mm, -2.5 * np.array(remaining))
    assert volume.spacing_mm[0] == 2.5


def test_changing_distance(dicom, scan_folder):
    slices = dicom.make_slices()
    z = np.r_[np.arange(16) * -2.5, -37.5 - np.arange(1, 9)]
    for ds, position in zip(slices, z, strict=True):
        ds.ImagePositionPatient = [-20, -20, position]
    volume = _read_with(scan_folder(slices), "the slice distance changes", "distance changes", allow_gaps=True)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())


@pytest.mark.parametrize("damage", [b"", b"\0" * 200])
def test_unreadable(damage, dicom, scan_folder):
    folder = scan_folder(dicom.make_slices())
    (folder / "IM0023.dcm").write_bytes(damage)
    volume = _read_with(
        folder, "not a DICOM file", "1 damaged file(s) among the slices left out", allow_unreadable=True
    )
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu()[:23])


def test_a_slice_of_another_class(dicom, scan_folder):
    slices = dicom.make_slices()
    slices[23].SOPClassUID = slices[23].file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9"
    refusal, finding = r"IM0023\.dcm: of class .*, but of the slices' own series", "1 damaged file(s) among the slices"
    volume = _read_with(scan_folder(slices), refusal, finding, allow_unreadable=True)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu()[:23])


def test_missing_position(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        del ds.ImagePositionPatient
        del ds.ImageOrientationPatient
    refusal, finding = "ImageOrientationPatient is missing", "24 slice(s) without ImagePositionPatient ordered by"
    volume = _read_with(scan_folder(slices), refusal, finding, allow_missing_position=True)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())


def test_missing_position_without_slice_location_stays_refused(dicom, scan_folder):
    slices = dicom.make_slices()
    del slices[4].ImagePositionPatient
    del slices[4].SliceLocation
    with pytest.raises(ScanError, match="ImagePositionPatient is missing") as caught:
        read_scan(scan_folder(slices), ReadOptions(allow_missing_position=True))
    assert "allow_missing_position" not in str(caught.value)  # it would not help


@pytest.mark.parametrize("slope", [None, 0])
def test_missing_rescale(slope, dicom, scan_folder):
    slices = dicom.make_slices(signed=True)
    for ds in slices:
        del ds.RescaleIntercept
        if slope is None:
            del ds.RescaleSlope
        else:
            ds.RescaleSlope = slope
    finding = "24 slice(s) without rescaling taken as HU"
    volume = _read_with(scan_folder(slices), "RescaleSlope", finding, allow_missing_rescale=True)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())


def test_range_mismatch(dicom, scan_folder):
    slices = dicom.make_slices()
    slices[3].SmallestImagePixelValue, slices[3].LargestImagePixelValue = 5, 700
    finding = "decoded ranges not compared"
    volume = _read_with(scan_folder(slices), "differs from the file's own", finding, allow_range_mismatch=True)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu())


def test_not_in_hu(dicom, scan_folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.RescaleIntercept = 0
    volume = _read_with(scan_folder(slices), "inverted or not in HU", "not checked for being HU", assume_hu=True)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu() + 1024)


def _two_kernels(dicom):
    """Two reconstructions in one series: each position twice, the second 100 HU higher."""
    sharp, soft = dicom.make_slices(), dicom.make_slices()
    for ds in sharp:
        ds.ConvolutionKernel = "B70s"
    for k, ds in enumerate(soft):
        ds.ConvolutionKernel, ds.SOPInstanceUID = "B31f", f"7.{k}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.RescaleIntercept = -924
    return sharp + soft


def test_two_kernels(dicom, scan_folder):
    folder = scan_folder(_two_kernels(dicom))
    refusal = r"two stacks that could be the scan: .*Choose with ingest\.kernel=B70s or ingest\.kernel=B31f"
    volume = _read_with(
        folder, refusal, "24 image(s) of another ConvolutionKernel than ingest.kernel names", kernel="B31f"
    )
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu() + 100)
    np.testing.assert_array_equal(read_scan(folder, ReadOptions(kernel="B70s")).hu, dicom.expected_hu())
    with pytest.raises(ScanError, match=r"ingest.kernel=B50; ConvolutionKernel is B31f \(24\), B70s \(24\)"):
        read_scan(folder, ReadOptions(kernel="B50"))
    np.testing.assert_array_equal(read_scan(folder, ReadOptions(kernel=code_of("B70s"))).hu, dicom.expected_hu())


def test_kernels_of_unusual_names_are_told_and_chosen_by_their_codes(dicom, scan_folder):
    slices = _two_kernels(dicom)
    for ds in slices:
        ds.ConvolutionKernel = "for Doe^Jane" if ds.ConvolutionKernel == "B31f" else ""
    folder, code = scan_folder(slices), code_of("for Doe^Jane")
    with pytest.raises(ScanError, match=rf"ConvolutionKernel is {code} \(24\), absent \(24\)\. Give one") as caught:
        read_scan(folder, ReadOptions(kernel="B50"))
    assert "Doe" not in str(caught.value)
    for choice, hu in (("for Doe^Jane", 100), (code, 100), ("absent", 0)):
        volume = read_scan(folder, ReadOptions(kernel=choice))
        np.testing.assert_array_equal(volume.hu, dicom.expected_hu() + hu)
        assert "Doe" not in str(volume.findings)


@pytest.mark.parametrize("kernel", ["B70f", "Br40d", "I31f/3", "FC08", "LUNG", "YA"])
def test_usual_kernels_are_told(kernel):
    assert kernel_label(kernel) == kernel


@pytest.mark.parametrize("kernel", ["Doe", "B70f Doe", "D19800101", "B1980", "lung", "J12345", "B70f/12"])
def test_other_texts_are_no_kernels(kernel):
    assert kernel_label(kernel) == code_of(kernel)


def test_long_series_numbers_are_not_told(dicom, scan_folder):
    first, second = dicom.make_slices(series="1.2.3"), dicom.make_slices(series="4.5.6")
    for number, slices in ((9_999, first), (19800101, second)):
        for ds in slices:
            ds.SeriesNumber = number
    folder = scan_folder(first + second)
    with pytest.raises(ScanError, match="Leave only the one you mean"):
        read_scan(folder)
    with pytest.raises(ScanError, match=r"SeriesNumber is 9999 \(24\), one of more than 4 digits \(24\)"):
        read_scan(folder, ReadOptions(series_number=1))
    assert len(read_scan(folder, ReadOptions(series_number=19800101)).hu) == dicom.n


def test_two_series(dicom, scan_folder):
    first, second = dicom.make_slices(series="1.2.3"), dicom.make_slices(series="4.5.6")
    for number, slices in ((2, first), (3, second)):
        for ds in slices:
            ds.SeriesNumber = number
            ds.RescaleIntercept = -1024 + 10 * number
    refusal, finding = "Choose with ingest.series_number=2", "24 image(s) of another SeriesNumber than ingest.series"
    volume = _read_with(scan_folder(first + second), refusal, finding, series_number=3)
    np.testing.assert_array_equal(volume.hu, dicom.expected_hu() + 30)


def test_options_change_nothing_where_nothing_is_wrong(dicom, scan_folder):
    folder = scan_folder(dicom.make_slices())
    strict = read_scan(folder)
    lax = read_scan(folder, ReadOptions(allow_gaps=True, allow_unreadable=True, allow_missing_position=True))
    np.testing.assert_array_equal(lax.hu, strict.hu)
    assert lax.findings == strict.findings
    assert lax.source_sha256 == strict.source_sha256


def test_a_damaged_intercept(dicom, scan_folder):
    slices = dicom.make_slices()
    slices[3].RescaleIntercept = "-1e24"
    with pytest.raises(ScanError, match=r"IM0003\.dcm: RescaleSlope or RescaleIntercept is missing or makes no sense"):
        read_scan(scan_folder(slices))
