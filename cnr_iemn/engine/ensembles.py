"""ensemble.json: which runs, in which order, answer for a patient. Prediction reads only this."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cnr_iemn.cohort.store import PixelSettings, SliceStore
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.errors import RunError
from cnr_iemn.files import sha256_of_file, write_text_atomic
from cnr_iemn.patients.frozen import FrozenCalibration
from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.patients.summaries import ScanSummary, summarise_scan
from cnr_iemn.permissions import Permissions
from cnr_iemn.records import SCHEMA_VERSION, NetworkId
from cnr_iemn.registry import PHANTOM_NOTICE


@dataclass(frozen=True)
class Member:
    """One network of an ensemble. ``checkpoint``: path within the study's folder, or the bundle's.

    ``checkpoint_sha256``: of the run's checkpoint, in a bundle too. ``fold``: which trained it not.
    """

    model: str
    library: str
    tag: str
    checkpoint: str
    checkpoint_sha256: str
    image_size: int
    position: str
    precision: str
    fold: int | None = None

    @property
    def name(self) -> str:
        """What tells it from the ensemble's others: the model, with its fold where there are some."""
        return self.model if self.fold is None else f"{self.model}-fold{self.fold}"


@dataclass(frozen=True)
class Ensemble:
    """What a trained study needs to answer for a new scan.

    ``features``: how the booster's features were made, paper or out_of_fold; out of fold each fold has its members, and
    the booster's answers to each fold's features are averaged. ``calibration``: None where none could be learnt.
    ``learnt_from``: SHA-256 of the training scans' grey slices in the store, by scan_id. ``training_counts``: how many
    of them are of each class, empty where an earlier version has not counted. ``store``: fingerprint of the slice store
    that the networks learnt from, settings and code; empty where an earlier version has not told.
    """

    study: str
    members: tuple[Member, ...]
    classes: tuple[str, ...]
    pixels: PixelSettings
    phantom: bool
    cohort: str
    features: str = "paper"
    calibration: FrozenCalibration | None = None
    learnt_from: Mapping[str, str] = field(default_factory=dict)
    training_counts: Mapping[str, int] = field(default_factory=dict)
    store: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def models(self) -> tuple[str, ...]:
        """The members' models, in the order of the booster's features."""
        return tuple(dict.fromkeys(member.model for member in self.members))

    @property
    def networks(self) -> tuple[NetworkId, ...]:
        """What the predictions of new scans name the members by, in their order."""
        return tuple(NetworkId(each.model, each.fold, each.checkpoint_sha256) for each in self.members)


def describe_ensemble(
    study: str,
    runs: Mapping[str, RunFolder],
    predictions: Mapping[str, Predictions],
    folds: Mapping[int, tuple[Mapping[str, RunFolder], Mapping[str, Predictions]]] | None = None,
) -> Ensemble:
    """Return the ensemble of these finished runs, in their order.

    ``folds``: runs and predictions of the networks that answer out of fold; without them those of ``runs`` answer.
    Raises RunError for a run of an earlier version.
    """
    sets = {None: (runs, predictions)} if folds is None else folds
    members = [_member(run, made[name], fold) for fold, (those, made) in sets.items() for name, run in those.items()]
    name, run = next(iter(runs.items()))
    record, metadata = run.record() or {}, predictions[name].metadata
    with written_by_this_version(run):
        pixels, cohort = _pixel_settings(record), record["cohort"]["name"]
    features = "paper" if folds is None else "out_of_fold"
    facts = metadata.classes, pixels, metadata.phantom, cohort, features
    return Ensemble(study, tuple(members), *facts, store=metadata.store)


def _member(run: RunFolder, predictions: Predictions, fold: int | None) -> Member:
    metadata = predictions.metadata
    checkpoint = run.checkpoints / f"{metadata.checkpoint}.ckpt"
    with written_by_this_version(run):
        model = (run.record() or {})["configuration"]["model"]
        return Member(
            model=run.model,
            library=model["library"],
            tag=run.tag,
            checkpoint=str(checkpoint.relative_to(run.path.parents[1])),
            checkpoint_sha256=metadata.checkpoint_sha256,
            image_size=model["image_size"],
            position=model["position"],
            precision=metadata.precision,
            fold=fold,
        )


def store_of(run: RunFolder) -> SliceStore:
    """Return the slice store that a run was trained on.

    Raises RunError where it has been moved or deleted since, or the run is of an earlier version.
    """
    record = run.record() or {}
    with written_by_this_version(run):
        root, pixels = Path(record["store"]), _pixel_settings(record)
    store = SliceStore(root, pixels)
    if not root.is_dir():
        raise RunError(
            f"The slice store {root} of {run.path} is not there: the baselines are measured on it. Run from the folder "
            "in which the runs were trained, or make it again with prepare.py and the same data= and ingest= settings."
        )
    return store


def training_facts(store: SliceStore, labels: Mapping[str, str], classes: Sequence[str]) -> dict[str, Any]:
    """Return ``learnt_from`` and ``training_counts`` of an ensemble. ``labels``: of its training scans, by scan_id."""
    return {
        "learnt_from": {scan_id: store.scan(scan_id).grey_sha256 for scan_id in labels},
        "training_counts": {name: list(labels.values()).count(name) for name in classes},
    }


def stored_summaries(store: SliceStore, scan_ids: Iterable[str]) -> dict[str, ScanSummary]:
    """Return the measurements of scans that the baselines use."""
    window = store.settings.window
    return {
        scan_id: summarise_scan(
            store.grey(scan_id), store.lungs(scan_id)[:], litres=store.scan(scan_id).lung_litres, window=window
        )
        for scan_id in scan_ids
    }


@contextmanager
def written_by_this_version(run: RunFolder) -> Iterator[None]:
    """Turn a setting that run.json lacks into a RunError."""
    try:
        yield
    except KeyError as error:
        raise RunError(
            f"{run.path / 'run.json'} does not say {error}: an earlier version trained this run, and what "
            f"it did there is not known. Train it again (python train.py study={run.study} model={run.model} "
            f"tag={run.tag} overwrite=true, with the settings in {run.path / 'config.yaml'})."
        ) from error


def _pixel_settings(record: Mapping[str, Any]) -> PixelSettings:
    ingest = record["configuration"]["ingest"]
    low, high = ingest["window"]
    lungs = record["configuration"]["lungs"]
    allowed = Permissions(**{each.name: ingest[each.name] for each in fields(Permissions)})
    return PixelSettings(size=ingest["size"], lungs=lungs, window=(low, high), crop=ingest["crop"], allowed=allowed)


def write_ensemble(folder: Path, ensemble: Ensemble) -> None:
    """Write ensemble.json into the ensemble's folder."""
    notice = {"notice": PHANTOM_NOTICE} if ensemble.phantom else {}
    write_text_atomic(folder / "ensemble.json", json.dumps({**notice, **asdict(ensemble)}, indent=1))


def read_ensemble(runs: Path, study: str, name: str) -> Ensemble:
    """Return an ensemble that aggregate.py has written. Raises RunError that lists what there is instead."""
    path = runs / study / "ensembles" / name / "ensemble.json"
    if not path.is_file():
        there = sorted(str(p.parent.relative_to(runs)) for p in runs.glob("*/ensembles/*/ensemble.json"))
        raise RunError(
            f"There is no trained ensemble at {path.parent}. Ensembles in {runs}: {', '.join(there) or 'none'}. "
            f"Train the study and run python aggregate.py study={study} ensemble={name}, or name one that is there."
        )
    return parse_ensemble(path, again=f"Run python aggregate.py study={study} ensemble={name} again.")


def parse_ensemble(path: Path, *, again: str) -> Ensemble:
    """Return the ensemble that a file describes. ``again``: the sentence that says how to make it anew.

    Raises RunError where another version of the project wrote it.
    """
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values.pop("notice", None)
    version = values.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunError(f"{path} has schema_version {version}, this version reads {SCHEMA_VERSION}. {again}")
    try:
        members = tuple(Member(**member) for member in values.pop("members"))
        pixels = values.pop("pixels")
        allowed = Permissions(**pixels["allowed"])
        settings = PixelSettings(**{**pixels, "window": tuple(pixels["window"]), "allowed": allowed})
        frozen = values.pop("calibration", None)
        calibration = None if frozen is None else FrozenCalibration(**frozen)
        classes = tuple(values.pop("classes"))
        return Ensemble(members=members, pixels=settings, classes=classes, calibration=calibration, **values)
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} was written by another version of the project ({error}). {again}") from error


def checkpoint_of(study: Path, member: Member) -> Path:
    """Return a member's checkpoint. Raises RunError where it is missing or not the one the booster was trained for."""
    path = study / member.checkpoint
    if not path.is_file():
        raise RunError(f"The checkpoint {path} of {member.model} is missing. Copy it back, or train the run again.")
    if sha256_of_file(path) != member.checkpoint_sha256:
        raise RunError(
            f"The checkpoint {path} is not the one this ensemble was made with (its SHA-256 differs): the run was "
            "trained again, or the file is damaged. Run aggregate.py again."
        )
    return path
