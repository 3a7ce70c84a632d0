"""How DICOM output names what made it: this software as a device, and codes of its own for what it measures."""

import hashlib
import uuid
from dataclasses import dataclass
from typing import TypedDict

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import AlgorithmIdentification, CodedConcept

from cnr_iemn import __version__

NAME = "CNR-IEMN"
SCHEME = "99CNRIEMN"
"""Designator of the private coding scheme: what a model puts out has no code elsewhere, and is no finding."""
USE = "Research use only, not a medical device"
_LONGEST = 64  # bytes of a code's meaning


class Equipment(TypedDict):
    """Arguments of highdicom for the General Equipment module."""

    manufacturer: str
    manufacturer_model_name: str
    software_versions: str
    device_serial_number: str


@dataclass(frozen=True)
class Software:
    """This software with one trained ensemble. ``booster_sha256``: 64 hexadecimal digits, as ensemble.json has it."""

    study: str
    ensemble: str
    booster_sha256: str

    @property
    def device_uid(self) -> str:
        """The same for the same version and booster: a UID derived from a name-based UUID (PS3.5 B.2)."""
        name = f"{NAME} {__version__} {self.booster_sha256}"
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, name).int}"

    @property
    def equipment(self) -> Equipment:
        """What every object says of what made it."""
        return {
            "manufacturer": NAME,
            "manufacturer_model_name": f"{NAME} ({USE.lower()})",
            "software_versions": __version__,
            "device_serial_number": self.booster_sha256,
        }

    @property
    def algorithm(self) -> AlgorithmIdentification:
        """What a structured report says of the algorithm (TID 4019)."""
        parameters = [
            f"study={self.study}",
            f"ensemble={self.ensemble}",
            f"booster_sha256={self.booster_sha256}",
        ]
        return AlgorithmIdentification(NAME, __version__, parameters=parameters)


def coding_scheme() -> CodingSchemeIdentificationItem:
    """Return the description of the private coding scheme, which every object that uses it carries."""
    return CodingSchemeIdentificationItem(SCHEME, name="Outputs of the CNR-IEMN research software", version=__version__)


def own_code(value: str, meaning: str) -> CodedConcept:
    """Return a concept of the private scheme. ``value``: at most 16 characters; a longer ``meaning`` is cut."""
    return CodedConcept(value, SCHEME, _plain(meaning))


def class_code(name: str, *, calibrated: bool) -> CodedConcept:
    """Return the concept of a model's output for one class: of the model, never of a disease.

    The code is the same for the same class name in every study, however long the name. Of a name that the meaning does
    not hold whole, the code's digits follow what it holds, so that two classes never read alike.
    """
    kind, said = ("CAL", "Calibrated output, class ") if calibrated else ("SIM", "Model output, class ")
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    if _plain(said + name) != said + name:
        room = _LONGEST - len(said) - len(digest) - 1
        name = f"{_plain(name, room)} {digest}"
    return own_code(f"{kind}-{digest}", said + name)


def _plain(text: str, room: int = _LONGEST) -> str:
    """Return a text as a long string (LO) may be: no backslash, which would part it, and no control character.

    ``room``: bytes of UTF-8, 64 where DICOM allows as many characters, since many readers count bytes.
    """
    kept = "".join(" " if letter == "\\" or not letter.isprintable() else letter for letter in text)
    return kept.encode()[:room].decode(errors="ignore").strip()
