"""The key picture, a slice with its Grad-CAM map and the prediction, as a DICOM secondary capture."""

import math
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import matplotlib
import numpy as np
from highdicom import sc
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from cnr_iemn.constants import CLOSED_SET, LUNG_WINDOW
from cnr_iemn.dicom_export.coding import NAME, USE, Software
from cnr_iemn.dicom_export.source_images import DicomSource
from cnr_iemn.inference.scan_result import ScanResult, result_sentence
from cnr_iemn.inference.slice_images import SIDE, slice_pictures
from cnr_iemn.stage2.ensemble import Ensemble

SERIES_NUMBER = 9002
_GAP = 20  # pixels between pictures, and to the edge
_TEXT, _HEADING = 14, 18  # pixels of the letters
_WHITE, _GREY, _BLACK = (235, 235, 235), (165, 165, 165), (20, 20, 20)
_DIRECTIONS = ("LPH", "RAF")  # PatientOrientation of the axes' positive and negative direction


def shown_slice(result: ScanResult) -> int:
    """Return the index of the key picture's slice: the first key slice, else the one with most lung."""
    if result.explanation is not None and result.explanation.keys:
        return result.explanation.keys[0].index
    return int(result.prepared.lungs.sum(axis=(1, 2)).argmax())


def key_picture(result: ScanResult, ensemble: Ensemble) -> NDArray[np.uint8]:
    """Return the key picture with its texts, uint8 [rows, columns, 3]: red, green, blue.

    It shows the slice with the outline of its lung mask and, where there is one, the slice under its Grad-CAM map. It
    contains no name, id or date of the scan, nor the name of its folder or file.
    """
    index, prepared, explanation = shown_slice(result), result.prepared, result.explanation
    heatmap = None if explanation is None or explanation.heatmaps is None else explanation.heatmaps[0]
    pictures = slice_pictures(prepared, index, heatmap, window=ensemble.pixels.window)
    header = _TextBlock(width=2 * SIDE + _GAP)
    header.add(f"{USE}.", size=_HEADING, bold=True)
    header.add(result_sentence(result.prediction, ensemble), size=_HEADING)
    header.add(CLOSED_SET.format(first=ensemble.classes[0]), colour=_GREY)
    z = float(prepared.z_mm[index])
    place = f"Slice {index + 1} of {len(prepared.grey)}, {'z not known' if math.isnan(z) else f'z {z:.1f} mm'}"
    reason = "most lung; no slice supports the predicted class"
    if explanation is not None and explanation.keys:
        without = explanation.keys[0].contribution is None
        reason = "highest probability of the predicted class" if without else "contributed most"
    captions = (f"{place}: {reason}", "Grad-CAM: model sensitivity, not lesion or cause")
    level, width = sum(LUNG_WINDOW) / 2, LUNG_WINDOW[1] - LUNG_WINDOW[0]
    footer = _TextBlock(width=2 * SIDE + _GAP)
    footer.add(
        f"Lung window, level {level:.0f}, width {width:.0f} HU. Orange: outline of the lung mask. {NAME}, study "
        f"{ensemble.study}; not verified by a person.",
        colour=_GREY,
    )
    top = _GAP + header.height + _GAP + 2 * _TEXT
    canvas = Image.new("RGB", (2 * SIDE + 3 * _GAP, top + SIDE + _GAP + footer.height + _GAP), _BLACK)
    draw = ImageDraw.Draw(canvas)
    header.draw(draw, (_GAP, _GAP))
    for column, (image, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = _GAP + column * (SIDE + _GAP)
        if image is not None:
            draw.text((left, top - 1.5 * _TEXT), caption, fill=_WHITE, font=_font(_TEXT))
            canvas.paste(Image.fromarray(np.ascontiguousarray(image[..., ::-1])), (left, top))
        else:
            draw.text((left, top), "No Grad-CAM: not available for these networks", fill=_GREY, font=_font(_TEXT))
    footer.draw(draw, (_GAP, top + SIDE + _GAP))
    return np.array(canvas)


class _TextBlock:
    """Lines of text, wrapped at words to a width in pixels; a word that is too long is cut."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._lines: list[tuple[str, ImageFont.FreeTypeFont, tuple[int, int, int], int]] = []

    @property
    def height(self) -> int:
        """Height of all lines, pixels."""
        return sum(step for *_, step in self._lines)

    def add(self, text: str, *, size: int = _TEXT, bold: bool = False, colour: tuple[int, int, int] = _WHITE) -> None:
        """Add a paragraph."""
        font, step, line = _font(size, bold=bold), round(1.4 * size), ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > self._width:
                self._lines.append((line, font, colour, step))
                longer = word
            while font.getlength(longer) > self._width:
                longer = longer[:-1]
            line = longer
        self._lines.append((line, font, colour, step))

    def draw(self, draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
        """Draw the lines below the corner (left, top)."""
        left, top = corner
        for line, font, colour, step in self._lines:
            draw.text((left, top), line, fill=colour, font=font)
            top += step


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font that matplotlib installs; it has the letters of most European languages."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def secondary_capture(
    picture: NDArray[np.uint8], index: int, source: DicomSource, software: Software, *, phantom: bool
) -> sc.SCImage:
    """Return a key picture as an image of a new series in the study of its source.

    Args:
        picture: From ``key_picture``, uint8 [rows, columns, 3].
        index: Of the slice in it.
        source: The scan's images.
        software: What made it.
        phantom: Whether the scan is synthetic.

    Raises:
        ValueError: highdicom rejects a value of the source.
    """
    original = source.images[index]
    image = sc.SCImage.from_ref_dataset(
        ref_dataset=original,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=_orientation(original.get("ImageOrientationPatient")),
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        transfer_syntax_uid="1.2.840.10008.1.2.1",  # explicit VR, little endian, uncompressed: all viewers read it
        series_description=f"{NAME} key picture, research use only",
        specific_character_set="ISO_IR 192",
        **software.equipment,
    )
    image.BodyPartExamined = "CHEST"
    image.ConversionType = "WSD"  # workstation; highdicom's default is digital interface
    # the element is about the patient and the date of the images (PS3.3 C.7.6.1), and the texts name neither
    image.BurnedInAnnotation = "NO"
    image.QualityControlImage = "YES" if phantom else "NO"
    image.DerivationDescription = "Key slice with lung mask and model sensitivity; research use only"
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in original:  # lossy compression cannot be undone
            setattr(image, keyword, original[keyword].value)
    reference = Dataset()
    reference.ReferencedSOPClassUID = original.SOPClassUID
    reference.ReferencedSOPInstanceUID = original.SOPInstanceUID
    image.SourceImageSequence = [reference]
    return image


def _orientation(cosines: Sequence[float] | None) -> tuple[str, str]:
    """Return the directions of rows and columns, one letter each; without a header, those that the reader assumes."""
    if not cosines:
        return "L", "P"
    row, column = np.asarray(cosines[:3], float), np.asarray(cosines[3:], float)
    letters = [_DIRECTIONS[int(axis[k] < 0)][k] for axis in (row, column) for k in [int(np.abs(axis).argmax())]]
    return letters[0], letters[1]
