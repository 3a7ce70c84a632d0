"""CNR-IEMN: from the DICOM files of a chest CT to Normal, COVID-19 or CAP for the patient.

Implements Bougourzi, Contino, Distante and Taleb-Ahmed, "CNR-IEMN: a deep learning based approach to recognise
Covid-19 from CT-scan", ICASSP 2021, doi 10.1109/ICASSP39728.2021.9414185. Start with ``train.py`` (stage 1,
section 2.1 of the paper) and ``aggregate.py`` (stage 2, section 2.2).

The names in ``__all__`` are the public API: they are imported at first use, since torch and its kin take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnr_iemn.ct.io.reader import read_scan
    from cnr_iemn.ct.lungs.segmentation import segment_lungs
    from cnr_iemn.ct.preprocess import prepare_scan
    from cnr_iemn.inference.predictor import Predictor, load_ensemble

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "load_ensemble", "prepare_scan", "read_scan", "segment_lungs"]

_MODULES = {
    "Predictor": "cnr_iemn.inference.predictor",
    "load_ensemble": "cnr_iemn.inference.predictor",
    "prepare_scan": "cnr_iemn.ct.preprocess",
    "read_scan": "cnr_iemn.ct.io.reader",
    "segment_lungs": "cnr_iemn.ct.lungs.segmentation",
}


def __getattr__(name: str) -> Any:
    """Import a name of the public API (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
