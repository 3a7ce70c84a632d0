"""This software as a DICOM device, and the private codes of its measurements."""

import hashlib
import uuid
from dataclasses import dataclass
from typing import TypedDict

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import AlgorithmIdentification, CodedConcept

from cnr_iemn import __version__

NAME = "CNR-IEMN"
SCHEME = "99CNRIEMN"
"""Designator of the private coding scheme: a model's output is no finding, and no public scheme has a code for it."""
USE = "Research use only, not a medical device"
_MAX_BYTES = 64  # of a code's meaning


class Equipment(TypedDict):
    """Arguments of highdicom for the General Equipment module."""

    manufacturer: str
    manufacturer_model_name: str
    software_versions: str
    device_serial_number: str


@dataclass(frozen=True)
class Software:
    """This software with one trained ensemble. ``method_sha256``: as in ensemble.json, 64 hexadecimal digits."""

    study: str
    ensemble: str
    method_sha256: str

    @property
    def device_uid(self) -> str:
        """UID of this version and fit of stage 2, derived from a name-based UUID (PS3.5 B.2)."""
        name = f"{NAME} {__version__} {self.method_sha256}"
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, name).int}"

    @property
    def equipment(self) -> Equipment:
        """General Equipment attributes of every object."""
        return {
            "manufacturer": NAME,
            "manufacturer_model_name": f"{NAME} ({USE.lower()})",
            "software_versions": __version__,
            "device_serial_number": self.method_sha256,
        }

    @property
    def algorithm(self) -> AlgorithmIdentification:
        """Algorithm identification of a structured report (TID 4019)."""
        parameters = [
            f"study={self.study}",
            f"ensemble={self.ensemble}",
            f"method_sha256={self.method_sha256}",
        ]
        return AlgorithmIdentification(NAME, __version__, parameters=parameters)


def coding_scheme() -> CodingSchemeIdentificationItem:
    """Return the identification of the private coding scheme, which objects that use it must include."""
    return CodingSchemeIdentificationItem(SCHEME, name="Outputs of the CNR-IEMN research software", version=__version__)


def private_code(value: str, meaning: str) -> CodedConcept:
    """Return a concept of the private scheme. ``value``: at most 16 characters; a longer ``meaning`` is cut."""
    return CodedConcept(value, SCHEME, _long_string(meaning))


def class_code(name: str, *, calibrated: bool) -> CodedConcept:
    """Return the concept of a model's output for one class; it is never the code of a disease.

    A class name has the same code in every study. A name that does not fit into the meaning is cut and followed by the
    digits of the code, so that the meanings of two classes always differ.
    """
    prefix, output = ("CAL", "Calibrated output, class ") if calibrated else ("SIM", "Model output, class ")
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    if _long_string(output + name) != output + name:
        max_bytes = _MAX_BYTES - len(output) - len(digest) - 1
        name = f"{_long_string(name, max_bytes)} {digest}"
    return private_code(f"{prefix}-{digest}", output + name)


def _long_string(text: str, max_bytes: int = _MAX_BYTES) -> str:
    """Return a valid long string (LO): without backslashes, which separate values, and control characters.

    DICOM allows 64 characters; many readers count bytes of UTF-8, so that this does, too.
    """
    printable = "".join(" " if letter == "\\" or not letter.isprintable() else letter for letter in text)
    return printable.encode()[:max_bytes].decode(errors="ignore").strip()
