"""The settings of ``predict.py`` and ``export.py``, as ``schema`` has those of the others."""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from omegaconf import MISSING

from cnr_iemn.config.schema.fields import PATH, TEXTS, OneOf
from cnr_iemn.constants import ENGINES
from cnr_iemn.read_options import ReadOptions


@dataclass
class PredictIngest(ReadOptions):
    """What a scan is refused for, and ``workers``: processes that read, null for as many as suit the networks."""

    workers: Annotated[int, Ge(1)] | None = None


@dataclass
class PredictSettings:
    """``predict.py``: new scans and a trained study. ``output``: a folder, by default beside the study's runs.

    ``bundle``: a folder of export.py, or hf:OWNER/NAME@REVISION on the Hugging Face Hub, in place of ``study`` and
    ``ensemble``. ``pages``: whether each scan gets its own page there. ``features``: whether each gets a file of
    its slices' deep features. ``dicom``: whether each gets DICOM files in its patient's study, which ``identify``
    must allow, since they carry its identifiers; ``segmentation``: the lung mask among them. ``anonymise_ids``:
    whether scans are called scan-0001 and so on, and messages name no folder or file of the input. ``redo``: which of
    the scans that the output folder has an answer for are predicted again: changed ones, refused ones too, or all.
    ``part``, ``parts``: this command's share of the scans, from 0 up, and how many share them; ``join``: predict
    nothing, and join the answers of all parts. ``engine``: what runs the networks, one of ``constants.ENGINES``.
    ``report``: a JSON file on the command itself. ``watch``: answer what comes into the input, a folder, until a signal
    ends the command; ``settle_seconds``: how long a series must stay as it is before it is taken; ``keep``: leave
    answered series where they are; ``receiver``: TITLE@HOST:PORT, to which the DICOM files are sent.
    """

    input: str = field(default=MISSING, metadata=PATH)
    study: str = ""
    ensemble: Any = field(default="all", metadata=TEXTS)
    runs: str = field(default="runs", metadata=PATH)
    bundle: str | None = field(default=None, metadata=PATH)
    output: str | None = field(default=None, metadata=PATH)
    pages: bool = True
    features: bool = False
    dicom: bool = False
    identify: bool = False
    segmentation: bool = False
    anonymise_ids: bool = False
    redo: Annotated[str, OneOf(("changed", "refused", "all"))] = "changed"
    part: Annotated[int, Ge(0)] | None = None
    parts: Annotated[int, Ge(1)] | None = None
    join: bool = False
    ingest: PredictIngest = field(default_factory=PredictIngest)
    gpus: Annotated[int, Ge(0), Le(1)] | None = None
    engine: Annotated[str, OneOf(ENGINES)] = "auto"
    batch_size: Annotated[int, Ge(1)] = 16
    report: str | None = field(default=None, metadata=PATH)
    watch: bool = False
    settle_seconds: Annotated[float, Gt(0)] = 30.0
    keep: bool = False
    receiver: str | None = None

    @property
    def part_name(self) -> str | None:
        """The share of the scans in words; None for all of them."""
        return None if self.part is None else f"part {self.part} of {self.parts}"

    @property
    def request(self) -> dict[str, object]:
        """What an answer depends on: the settings of what is read and written, not those of the machine."""
        keys = ("pages", "features", "dicom", "segmentation", "anonymise_ids")
        return {"ingest": asdict(ReadOptions.of(self.ingest)), **{key: getattr(self, key) for key in keys}}


@dataclass
class ExportSettings:
    """``export.py``: a trained study as one folder that needs nothing else. ``output``: by default among the study's.

    ``onnx``: whether the networks come as ONNX too. ``license``: of the weights, by Hugging Face's name for it.
    ``push``: a repository of the Hugging Face Hub, hf:OWNER/NAME, which gets the folder too.
    """

    study: str = ""
    ensemble: Any = field(default="all", metadata=TEXTS)
    runs: str = field(default="runs", metadata=PATH)
    output: str | None = field(default=None, metadata=PATH)
    onnx: bool = True
    license: str = "other"
    overwrite: bool = False
    push: str | None = None
