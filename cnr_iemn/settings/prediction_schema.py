"""The settings of ``predict.py`` and ``export.py``, as ``schema`` has those of the others."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from cnr_iemn.permissions import Permissions


@dataclass
class PredictSettings:
    """``predict.py``: new scans and a trained study. ``output``: a folder, by default beside the study's runs.

    ``bundle``: a folder of export.py, in place of ``study`` and ``ensemble``. ``pages``: whether each scan gets its own
    page there. ``dicom``: whether each gets DICOM files in its patient's study, which ``identify`` must allow, since
    they carry its identifiers; ``segmentation``: the lung mask among them. ``anonymise_ids``: whether scans are called
    scan-0001 and so on, and no name of a folder or file is told.
    ``engine``: what runs the networks, one of ``registry.ENGINES``.
    """

    input: str = MISSING
    study: str = "default"
    ensemble: Any = "all"
    runs: str = "runs"
    bundle: str | None = None
    output: str | None = None
    pages: bool = True
    dicom: bool = False
    identify: bool = False
    segmentation: bool = False
    anonymise_ids: bool = False
    ingest: Permissions = field(default_factory=Permissions)
    gpus: int | None = None
    engine: str = "auto"
    batch_size: int = 16


@dataclass
class ExportSettings:
    """``export.py``: a trained study as one folder that needs nothing else. ``output``: by default among the study's.

    ``onnx``: whether the networks come as ONNX too. ``license``: of the weights, by Hugging Face's name for it.
    """

    study: str = "default"
    ensemble: Any = "all"
    runs: str = "runs"
    output: str | None = None
    onnx: bool = True
    license: str = "other"
    overwrite: bool = False
