"""Checks of what predict.py is asked for."""

from importlib.util import find_spec

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.registry import ENGINES
from cnr_iemn.settings.prediction_schema import PredictSettings
from cnr_iemn.settings.values import one_gpu, one_of


def check_predict(settings: PredictSettings) -> None:
    """Check the settings of predict.py that no other entry point has. Raises ConfigurationError."""
    one_of("engine", settings.engine, ENGINES)
    one_gpu(settings.gpus)
    _check_dicom(settings)
    if settings.bundle is not None:
        _check_bundle(settings)


def _check_dicom(settings: PredictSettings) -> None:
    if settings.dicom and not settings.identify:
        raise ConfigurationError(
            "dicom=true writes files into the patient's study, and they must carry the patient's name, id and dates, "
            "as far as the scan has them; nothing else that predict.py writes does. Add identify=true if they may be "
            "written to the output folder, or leave dicom=true out."
        )
    for key in ("identify", "segmentation"):
        if getattr(settings, key) and not settings.dicom:
            raise ConfigurationError(f"{key}=true is of DICOM output alone. Add dicom=true, or leave {key} out.")
    if settings.dicom and find_spec("highdicom") is None:
        raise ConfigurationError(
            "dicom=true needs highdicom, which is an extra: pip install 'cnr-iemn[dicom]', or leave dicom=true out."
        )


def _check_bundle(settings: PredictSettings) -> None:
    for key, given, default in (("study", settings.study, "default"), ("ensemble", settings.ensemble, "all")):
        if given != default:
            raise ConfigurationError(
                f"bundle={settings.bundle} and {key}={given} are two answers to one question: a bundle is one "
                "ensemble of one study. Leave one of them out."
            )
