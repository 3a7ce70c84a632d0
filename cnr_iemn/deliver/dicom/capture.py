"""The page's key picture as a DICOM secondary capture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import matplotlib
import numpy as np
from highdicom import sc
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.deliver.dicom.software import NAME, USE, Software
from cnr_iemn.deliver.dicom.source import DicomSource
from cnr_iemn.deliver.key_slices import SIDE, WINDOW, slice_pictures
from cnr_iemn.deliver.scan_page import KeyEvidence
from cnr_iemn.deliver.scan_text import sentence
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.report.pages import CLOSED_SET

SERIES_NUMBER = 9002
_GAP = 20  # pixels between pictures, and to the edge
_TEXT, _HEADING = 14, 18  # pixels of the letters
_INK, _QUIET, _GROUND = (235, 235, 235), (165, 165, 165), (20, 20, 20)
_TO_PATIENT = ("LPH", "RAF")  # PatientOrientation of the axes' positive and negative direction


def shown_slice(prepared: PreparedScan, seen: KeyEvidence) -> int:
    """Return the slice of the key picture: that which contributed most, else the one with most lung."""
    return seen.keys[0].index if seen.keys else int(prepared.lungs.sum(axis=(1, 2)).argmax())


def key_picture(
    answer: Mapping[str, Any], ensemble: Ensemble, prepared: PreparedScan, seen: KeyEvidence
) -> NDArray[np.uint8]:
    """Return the key picture with its texts, uint8 [rows, columns, 3]: red, green, blue.

    The slice with the outline of its lung mask, beside it under its Grad-CAM map where there is one. No name, id or
    date of the scan is in it, nor the name of its folder or file.
    """
    index = shown_slice(prepared, seen)
    raised = None if seen.maps is None else seen.maps[0]
    pictures = slice_pictures(prepared, index, raised, kept=ensemble.pixels.window)
    lines = _Lines(width=2 * SIDE + _GAP)
    lines.add(f"{USE}.", size=_HEADING, bold=True)
    lines.add(sentence(answer, ensemble), size=_HEADING)
    lines.add(CLOSED_SET.format(first=ensemble.classes[0]), ink=_QUIET)
    z = float(prepared.z_mm[index])
    place = f"Slice {index + 1} of {answer['n_slices']}, {'z not known' if math.isnan(z) else f'z {z:.1f} mm'}"
    why = "contributed most" if seen.keys else "most lung; no slice speaks for the answer"
    captions = (f"{place}: {why}", "Grad-CAM: model sensitivity, not lesion or cause")
    level, width = sum(WINDOW) / 2, WINDOW[1] - WINDOW[0]
    below = _Lines(width=2 * SIDE + _GAP)
    below.add(
        f"Lung window, level {level:.0f}, width {width:.0f} HU. Orange: outline of the lung mask. {NAME}, study "
        f"{ensemble.study}; not verified by a person.",
        ink=_QUIET,
    )
    top = _GAP + lines.height + _GAP + 2 * _TEXT
    canvas = Image.new("RGB", (2 * SIDE + 3 * _GAP, top + SIDE + _GAP + below.height + _GAP), _GROUND)
    draw = ImageDraw.Draw(canvas)
    lines.draw(draw, (_GAP, _GAP))
    for column, (image, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = _GAP + column * (SIDE + _GAP)
        if image is not None:
            draw.text((left, top - 1.5 * _TEXT), caption, fill=_INK, font=_font(_TEXT))
            canvas.paste(Image.fromarray(np.ascontiguousarray(image[..., ::-1])), (left, top))
        else:
            draw.text((left, top), "No Grad-CAM: not known for these networks", fill=_QUIET, font=_font(_TEXT))
    below.draw(draw, (_GAP, top + SIDE + _GAP))
    return np.array(canvas)


class _Lines:
    """Text broken at words to a width in pixels; a word that is too long is cut."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._lines: list[tuple[str, ImageFont.FreeTypeFont, tuple[int, int, int], int]] = []

    @property
    def height(self) -> int:
        """Of all lines, pixels."""
        return sum(step for *_, step in self._lines)

    def add(self, text: str, *, size: int = _TEXT, bold: bool = False, ink: tuple[int, int, int] = _INK) -> None:
        """Add a text in lines of its own."""
        font, step, line = _font(size, bold=bold), round(1.4 * size), ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > self._width:
                self._lines.append((line, font, ink, step))
                longer = word
            while font.getlength(longer) > self._width:
                longer = longer[:-1]
            line = longer
        self._lines.append((line, font, ink, step))

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[int, int]) -> None:
        """Draw the lines from the place (left, top) on."""
        left, top = place
        for line, font, ink, step in self._lines:
            draw.text((left, top), line, fill=ink, font=font)
            top += step


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's font, which has the letters of most European languages."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def secondary_capture(
    picture: NDArray[np.uint8], index: int, source: DicomSource, software: Software, *, phantom: bool
) -> sc.SCImage:
    """Return the picture as an image of a new series in the study of its source. Raises ValueError (highdicom).

    ``picture``: of ``key_picture``; ``index``: of the slice that it shows; ``phantom``: whether that is synthetic.
    """
    shown = source.images[index]
    image = sc.SCImage.from_ref_dataset(
        ref_dataset=shown,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=_orientation(shown.get("ImageOrientationPatient")),
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        transfer_syntax_uid="1.2.840.10008.1.2.1",  # explicit VR, little endian, not compressed: all viewers have it
        series_description=f"{NAME} key picture, research use only",
        specific_character_set="ISO_IR 192",
        **software.equipment,
    )
    image.BodyPartExamined = "CHEST"
    image.ConversionType = "WSD"  # made by a workstation, where highdicom says a digital interface
    # the texts name no patient and no date of the images, which is what the element asks (PS3.3 C.7.6.1)
    image.BurnedInAnnotation = "NO"
    image.QualityControlImage = "YES" if phantom else "NO"
    image.DerivationDescription = "Key slice with lung mask and model sensitivity; research use only"
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in shown:  # once lost stays lost
            setattr(image, keyword, shown[keyword].value)
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = shown.SOPClassUID, shown.SOPInstanceUID
    image.SourceImageSequence = [reference]
    return image


def _orientation(cosines: Sequence[float] | None) -> tuple[str, str]:
    """Return whither rows and columns run, as one letter each; as the reader takes them where the header is silent."""
    if not cosines:
        return "L", "P"
    row, column = np.asarray(cosines[:3], float), np.asarray(cosines[3:], float)
    letters = [_TO_PATIENT[int(axis[k] < 0)][k] for axis in (row, column) for k in [int(np.abs(axis).argmax())]]
    return letters[0], letters[1]
