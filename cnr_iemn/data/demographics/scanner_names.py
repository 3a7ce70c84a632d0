"""Names of scanners and kernels that may be told, since they stand in this file; any other text becomes a code."""

import re

from cnr_iemn.ct.io.acquisition import code_of
from cnr_iemn.data.demographics.groups import KernelClass

_MANUFACTURERS = {
    "siemens": "Siemens",
    "ge": "GE",
    "general electric": "GE",
    "philips": "Philips",
    "toshiba": "Canon",  # whose scanners Canon has made since 2018
    "canon": "Canon",
    "hitachi": "Hitachi",
    "fujifilm": "Fujifilm",
    "neusoft": "Neusoft",
    "uih": "United Imaging",
    "united imaging": "United Imaging",
    "shimadzu": "Shimadzu",
    "minfound": "MinFound",
    "samsung": "Samsung",
}
_FAMILIES = {
    "Siemens": ("SOMATOM", "NAEOTOM", "Sensation", "Emotion", "Perspective", "Biograph", "Symbia"),
    "GE": ("LightSpeed", "BrightSpeed", "Optima", "Revolution", "Discovery", "HiSpeed"),
    "Philips": ("Brilliance", "Ingenuity", "iCT", "IQon", "Incisive", "Gemini", "Vereos", "MX", "Spectral"),
    "Canon": ("Aquilion", "Astelion", "Alexion", "Activion", "Asteion"),
    "Hitachi": ("Scenaria", "Supria", "Eclos", "Pronto"),
    "Fujifilm": ("FCT", "Scenaria", "Supria"),
    "Neusoft": ("NeuViz",),
    "United Imaging": ("uCT", "uMI"),
}
_SIEMENS_LINES = (
    *("Definition", "Drive", "Edge", "Emotion", "Force", "go", "Perspective", "Scope", "Sensation", "Spirit"),
    *("Volume Zoom", "X.cite", "X.ceed", "Confidence", "Pro.Pulse"),
)
_SIEMENS_KERNEL = re.compile(r"[BDHIJQSTU][a-z]?(\d\d)[a-z]?(?:/\d)?")
_CANON_KERNEL = re.compile(r"FC(\d)\d")
_CANON_SHARP = frozenset("358")  # bone, lung, and both of high resolution
_KERNELS: dict[str, KernelClass] = {
    **dict.fromkeys(("SOFT", "STANDARD", "STND", "A", "B", "C"), "smooth"),
    **dict.fromkeys(("DETAIL", "CHST"), "medium"),
    **dict.fromkeys(("BONE", "BONEPLUS", "EDGE", "LUNG", "D", "E", "F", "L", "YA", "YB", "YC", "YD"), "sharp"),
}
"""Of GE and Philips."""
_MEDIUM, _SHARP = 41, 60  # first two digits of Siemens' kernels


def manufacturer_name(text: str) -> str | None:
    """Return the name of a known manufacturer, the code of another one, None for an empty text."""
    if not text.strip():
        return None
    words = _words(text)
    return next((name for key, name in _MANUFACTURERS.items() if f" {key} " in words), f"unlisted {code_of(text)}")


def model_family(manufacturer: str, model: str) -> str | None:
    """Return the family of a scanner's model, the code of an unknown model, None for an empty text.

    Args:
        manufacturer: Of ``manufacturer_name``.
        model: ManufacturerModelName (0008,1090).
    """
    if not model.strip():
        return None
    words = _words(model)
    family = next((name for name in _FAMILIES.get(manufacturer, ()) if f" {name.lower()}" in words), None)
    if family is None:
        return f"unlisted {code_of(model)}"
    line = next((name for name in _SIEMENS_LINES if f" {_words(name).strip()}" in words), None)
    return f"{family} {line}" if family == "SOMATOM" and line is not None else family


def kernel_class(kernel: str) -> KernelClass | None:
    """Return the sharpness of a convolution kernel, None for an empty text.

    Siemens: smooth below the number 41, sharp at 60 and above. Kernels of Canon (FC3x, FC5x, FC8x
    sharp), GE and Philips are classed by name; ``unlisted``: no name that is known. The limits are a convention.
    """
    plain = kernel.strip()
    if not plain:
        return None
    if match := _SIEMENS_KERNEL.fullmatch(plain.split("\\")[0]):
        number = int(match[1])
        return "smooth" if number < _MEDIUM else "medium" if number < _SHARP else "sharp"
    if match := _CANON_KERNEL.fullmatch(plain.upper()):
        return "sharp" if match[1] in _CANON_SHARP else "smooth"
    return _KERNELS.get(plain.upper(), "unlisted")


def _words(text: str) -> str:
    """Return the words of a text in lower case, one blank around each."""
    return f" {' '.join(re.findall(r'[a-z0-9.]+', text.lower()))} "
