"""The settings in run.json that stage 2 needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import RunError
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.utils.shell_words import command, model_words, override, study_words


@dataclass(frozen=True)
class RunSettings:
    """The settings in run.json that stage 2 reads. ``folds``: of the study. ``n_scans``: with those without a class."""

    library: str
    image_size: int
    position: str
    channels: tuple[str, ...]
    tta: str
    weights: str
    pixels: PixelSettings
    cohort: str
    store: Path
    n_scans: int | None
    folds: int
    split_seed: int | None
    phantom_disease: str | None
    excluded_scans: list[str]
    labels_permuted: bool
    hardware: str
    versions: dict[str, str]
    command: str | None
    end_time: str | None

    @classmethod
    def read(cls, run: RunFolder) -> "RunSettings":
        """Return the settings of a run. Raises RunError where run.json lacks one of them."""
        record = run.record() or {}
        with _required_keys(run):
            configuration = record["configuration"]
            model, data, ingest = configuration["model"], configuration["data"], configuration["ingest"]
            low, high = ingest["window"]
            options = ReadOptions(**{option.name: ingest[option.name] for option in fields(ReadOptions)})
            return cls(
                library=model["library"],
                image_size=model["image_size"],
                position=model["position"],
                channels=tuple(model["channels"]),
                tta=model["tta"],
                weights=model["weights"],
                pixels=PixelSettings(
                    size=ingest["size"],
                    lungs=configuration["lungs"],
                    window=(low, high),
                    crop=ingest["crop"],
                    read_options=options,
                ),
                cohort=record["cohort"]["name"],
                store=Path(record["store"]),
                n_scans=record["cohort"].get("n_scans"),
                folds=data["folds"],
                split_seed=None if data["split"]["file"] else data["split"]["seed"],
                phantom_disease=data["phantom"]["disease"] if data.get("phantom") else None,
                excluded_scans=list(data["exclude"]),
                labels_permuted=data["shuffle_training_labels"],
                hardware=record["hardware"],
                versions=record["versions"],
                command=record.get("command"),
                end_time=record.get("ended"),
            )


@contextmanager
def _required_keys(run: RunFolder) -> Iterator[None]:
    """Turn a key that run.json lacks into a RunError."""
    try:
        yield
    except KeyError as error:
        words = [*study_words(run.study, run.path.parents[2]), *model_words(run.model), override("tag", run.tag)]
        again = command("train", *words, "overwrite=true")
        raise RunError(
            f"{run.path / 'run.json'} lacks {error}: an earlier version trained this run, and its settings are not "
            f"known. Train it again ({again}, with the settings in {run.path / 'config.yaml'})."
        ) from error
