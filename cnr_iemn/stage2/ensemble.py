"""ensemble.json and the file of its stage-2 method. Prediction reads no other files but the networks'."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cnr_iemn.constants import BOOSTER_METHOD, INPUT_CHANNELS, N_GROUPS, PAPER_CHANNELS, PHANTOM_NOTICE
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import SCHEMA_VERSION, NetworkId, TrainingScans
from cnr_iemn.stage2.calibration import Calibrator
from cnr_iemn.stage2.feature_space import PROJECTIONS, FeatureSpace, network_name
from cnr_iemn.stage2.methods.base import FittedMethod
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import Axes
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.checksums import joint_sha256, require_listed
from cnr_iemn.utils.json_io import parse_json, read_json
from cnr_iemn.utils.shell_words import aggregate_command

InputChannel = Annotated[str, Field(pattern=f"^({'|'.join(INPUT_CHANNELS)})$")]
MOST_SIDE = 4096
"""Largest side of a network's input that a file may demand, in pixels; CT slices have 512, rarely 1024."""


@dataclass(frozen=True)
class Member:
    """One network of an ensemble. ``checkpoint``: path within the study's folder, or the bundle's.

    ``checkpoint_sha256``: of the run's checkpoint, in a bundle too. ``fold``: the fold held out from its training.
    ``attention``: it scores its slices. ``channels``: of its input. ``tta``: its test-time augmentation. ``replicate``:
    its tag among the networks of several seeds, whose outputs are averaged. ``read_json`` checks the types.
    """

    model: str
    library: Annotated[str, Field(pattern="^(torchvision|timm)$")]
    tag: str
    checkpoint: str
    checkpoint_sha256: str
    image_size: Annotated[int, Field(ge=1, le=MOST_SIDE)]
    position: Annotated[str, Field(pattern="^(both|location|none|sinusoids)$")]
    precision: Annotated[str, Field(pattern="^(32|bf16|fp16|tf32)$")]
    fold: int | None = None
    attention: bool = False
    channels: Annotated[tuple[InputChannel, ...], Field(min_length=3, max_length=3)] = PAPER_CHANNELS
    tta: Annotated[str, Field(pattern="^(none|flip)$")] = "none"
    replicate: str | None = None

    @property
    def name(self) -> str:
        """The model, with the fold and the tag where there are several of them: unique in the ensemble."""
        name = network_name(self.model, self.fold)
        return name if self.replicate is None else f"{name}-{self.replicate}"


@dataclass(frozen=True)
class Ensemble:
    """All that predicting a new scan needs.

    ``method``: the primary stage-2 method, a key of ``METHODS``. ``features``: the feature mode, paper or out_of_fold;
    out of fold each fold has its members, and the probabilities of stage 2 are averaged over the folds.
    ``calibration``: None where the fit was not possible. ``learnt_from``: SHA-256 of the training scans' grey slices in
    the store, by scan_id. ``training_counts``: number of training scans of each class. ``store``: fingerprint of the
    slice store that the networks were trained on. ``values``, ``fewest_slices``: see ``TrainingScans``.
    ``phantom_disease``: of a phantom cohort, published or clear. ``files``: SHA-256 of the files beside ensemble.json,
    by name (``listed_files``). In files of earlier versions training_counts, store and values may be empty.
    """

    study: str
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    pixels: PixelSettings
    phantom: bool
    cohort: str
    method: str = BOOSTER_METHOD
    phantom_disease: str | None = None
    features: Literal["paper", "out_of_fold"] = "paper"
    calibration: Calibrator | None = None
    learnt_from: Mapping[str, str] = field(default_factory=dict)
    training_counts: Mapping[str, Annotated[int, Field(ge=0)]] = field(default_factory=dict)
    store: str = ""
    values: tuple[str, ...] = ()
    fewest_slices: Annotated[int, Field(ge=0)] = N_GROUPS
    files: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def training_scans(self) -> TrainingScans:
        """The training scans."""
        return TrainingScans(self.values, self.fewest_slices)

    @property
    def models(self) -> tuple[str, ...]:
        """The members' models, in the order of stage 2."""
        return tuple(dict.fromkeys(member.model for member in self.members))

    @property
    def axes(self) -> Axes:
        """Of the scans that its networks predict, without components."""
        return Axes(self.models, self.classes, attention=any(member.attention for member in self.members))

    @property
    def method_file(self) -> str:
        """Name of the file of the fitted method."""
        return METHODS[self.method].file

    @property
    def reads_features(self) -> bool:
        """Whether the method learns from the slices' features, beside their probabilities."""
        return METHODS[self.method].deep

    @property
    def method_sha256(self) -> str:
        """SHA-256 of the file of the fitted method: which fit of stage 2 this is."""
        return self.files[self.method_file]

    @property
    def replicates(self) -> tuple[tuple[Member, ...], ...]:
        """The members in groups of one model and fold, in their order; stage 2 reads the mean of each group."""
        groups: dict[tuple[str, int | None], list[Member]] = {}
        for member in self.members:
            groups.setdefault((member.model, member.fold), []).append(member)
        return tuple(map(tuple, groups.values()))

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The fold of each group of ``replicates``."""
        return tuple(group[0].fold for group in self.replicates)

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        """The ids of the ``replicates`` in the predictions of new scans, in their order."""
        groups = {group[0]: [member.checkpoint_sha256 for member in group] for group in self.replicates}
        return tuple(NetworkId(first.model, first.fold, joint_sha256(group)) for first, group in groups.items())


def write_ensemble(folder: Path, ensemble: Ensemble) -> None:
    """Write ensemble.json into the ensemble's folder."""
    notice = {"notice": PHANTOM_NOTICE} if ensemble.phantom else {}
    write_text_atomic(folder / "ensemble.json", signed_text({**notice, **asdict(ensemble)}))


def signed_text(values: Mapping[str, object]) -> str:
    """Return JSON of the values and, as ``sha256``, their checksum."""
    values = {key: value for key, value in values.items() if key != "sha256"}
    return json.dumps({**values, "sha256": _digest(values)}, indent=1)


def _digest(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_ensemble(runs: Path, study: str, name: str) -> Ensemble:
    """Return an ensemble that aggregate.py has written. Raises RunError that lists the existing ones."""
    path = runs / study / "ensembles" / name / "ensemble.json"
    if not path.is_file():
        folders = sorted(str(p.parent.relative_to(runs)) for p in runs.glob("*/ensembles/*/ensemble.json"))
        raise RunError(
            f"There is no trained ensemble at {path.parent}. Ensembles in {runs}: {', '.join(folders) or 'none'}. "
            f"Train the study and run {aggregate_command(study, name, runs)}, or name one that is there."
        )
    return parse_ensemble(path, again=aggregate_again(study, name, runs))


def aggregate_again(study: str, name: str, runs: Path) -> str:
    """Return the remedy of a damaged ensemble, a sentence."""
    return f"Run {aggregate_command(study, name, runs)} again."


def parse_ensemble(path: Path, *, again: str) -> Ensemble:
    """Return the ensemble in a file. ``again``: the remedy where it is damaged, a sentence.

    Raises RunError where it is damaged, or another version of the project wrote it.
    """
    values = read_json(path, dict[str, Any], again=again, extra="allow")
    digest = values.pop("sha256", None)
    if digest is None:
        raise RunError(f"{path} has no checksum: another version of the project wrote it. {again}")
    if digest != _digest(values):
        raise RunError(f"{path} is damaged: it does not hold what was written (its checksum differs). {again}")
    ensemble = parse_json(json.dumps(values).encode(), Ensemble, source=str(path), again=again)
    absent = _absent_keys(asdict(ensemble), values)
    if absent:  # the defaults of today may not be its values
        raise RunError(f"{path} lacks {', '.join(absent)}: another version of the project wrote it. {again}")
    names = [member.name for member in ensemble.members]
    sets: dict[tuple[int | None, str | None], list[str]] = {}
    for member in ensemble.members:
        sets.setdefault((member.fold, member.replicate), []).append(member.model)
    whole = len(sets) == len({fold for fold, _ in sets}) * len({replicate for _, replicate in sets})
    if not whole or len(set(names)) < len(names) or any(tuple(models) != ensemble.models for models in sets.values()):
        raise RunError(
            f"{path} is damaged: its members are {', '.join(names)}, which must hold each model, with each of its "
            f"seeds, once for each fold and in one order. {again}"
        )
    if ensemble.method not in METHODS:
        raise RunError(f"{path} has the stage-2 method {ensemble.method}, which this version does not have. {again}")
    if len(set(ensemble.classes)) < len(ensemble.classes):
        raise RunError(f"{path} is damaged: its classes are {', '.join(ensemble.classes)}. {again}")
    return ensemble


def _absent_keys(expected: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    absent = [key for key in expected if key not in values]
    for key, value in expected.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            absent += [f"{key}.{name}" for name in _absent_keys(value, values[key])]
    return absent


@dataclass(frozen=True)
class LoadedEnsemble:
    """An ensemble and its files.

    ``name``: of the ensemble in its study. ``folder``: the root of its members' paths. ``files``: the folder of the
    files that it lists. ``predictions``: the default output folder of predict.py. ``again``: the remedy where a file is
    damaged, a sentence.
    """

    name: str
    ensemble: Ensemble
    folder: Path
    files: Path
    predictions: Path
    again: str

    def load_method(self) -> FittedMethod:
        """Return the fitted stage-2 method. Raises RunError as ``load_ensemble_method`` does."""
        return load_ensemble_method(self.files, self.ensemble, again=self.again)

    def load_space(self) -> FeatureSpace | None:
        """Return the space of the features that the method reads. Raises RunError as ``load_feature_space`` does."""
        return load_feature_space(self.files, self.ensemble, again=self.again)


def load_study_ensemble(runs: Path, study: str, name: str) -> LoadedEnsemble:
    """Return an ensemble of a study. Raises RunError as ``read_ensemble`` and ``check_pixels`` do."""
    folder = runs / study
    ensemble = read_ensemble(runs, study, name)
    check_pixels(ensemble)
    return LoadedEnsemble(
        name=name,
        ensemble=ensemble,
        folder=folder,
        files=folder / "ensembles" / name,
        predictions=folder / "predictions",
        again=aggregate_again(study, name, runs),
    )


def load_ensemble_method(folder: Path, ensemble: Ensemble, *, again: str) -> FittedMethod:
    """Return the fitted stage-2 method of an ensemble. The checksum of its file is compared before it is parsed.

    Args:
        folder: The folder of the file.
        ensemble: Its ensemble.
        again: The remedy where it is damaged, a sentence.

    Returns:
        The method, fitted for the ensemble's models and classes.

    Raises:
        RunError: The file is missing, damaged, or of another ensemble.
    """
    path = require_listed(folder, ensemble.method_file, ensemble.files, again=again)
    space, method = load_feature_space(folder, ensemble, again=again), METHODS[ensemble.method]
    axes = replace(ensemble.axes, components=0 if space is None else space.components)
    return method.load(path, method.input_axes(axes), again=again)


def load_feature_space(folder: Path, ensemble: Ensemble, *, again: str) -> FeatureSpace | None:
    """Return the space of the features that an ensemble's method reads; None where it reads none.

    The arguments are those of ``load_ensemble_method``. Raises RunError where the file is missing, damaged, or lacks a
    network.
    """
    if not ensemble.reads_features:
        return None
    path = require_listed(folder, PROJECTIONS, ensemble.files, again=again)
    space = FeatureSpace.load(path, again=again)
    missing = [member.name for member in ensemble.members if member.name not in space.projections]
    if missing:
        raise RunError(f"{path} has no projection for {missing[0]}. {again}")
    return space


def check_pixels(ensemble: Ensemble) -> None:
    """Raise RunError where the networks were trained on pixels that this version of the program does not prepare."""
    if ensemble.store != ensemble.pixels.fingerprint():
        raise RunError(
            f"Study {ensemble.study} was trained on slices that another version of the program prepared, for example "
            f"with another lung mask ({ensemble.store}; this version: {ensemble.pixels.fingerprint()}). Its reported "
            "accuracy does not apply to the slices that this version prepares. Train and aggregate the study again, or "
            "predict with the version that trained it. For a bundle, get one that this version wrote."
        )
