"""How a network was trained, as run.json holds it, in the types of the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from cnr_iemn.config.schema.settings import AugmentationSettings, BalancingSettings, TrainerSettings
from cnr_iemn.errors import RunError
from cnr_iemn.stage1.training.run_folder import RunFolder

Settings = TypeVar("Settings", TrainerSettings, AugmentationSettings, BalancingSettings)


@dataclass(frozen=True)
class TrainingFacts:
    """One network.

    ``weights``: imagenet, none or the name of a file. ``split_share``: of the patients of each class for validation;
    None where a file gives the split. ``split_seed``: of the draw. ``folds``: of the training scans, where some run
    held one out; else None.
    """

    model: str
    library: str
    image_size: int
    weights: str
    position: str
    task: str
    seed: int
    cohort: str
    reader: str
    split_share: float | None
    split_seed: int
    trainer: TrainerSettings
    augmentation: AugmentationSettings
    balancing: BalancingSettings
    hardware: str
    versions: Mapping[str, str]

    @classmethod
    def read(cls, run: RunFolder) -> "TrainingFacts":
        """Return the facts of a finished run. Raises RunError where run.json lacks one of them."""
        record = run.record() or {}
        try:
            configuration = record["configuration"]
            model, data = configuration["model"], configuration["data"]
            return cls(
                model=run.model,
                library=model["library"],
                image_size=model["image_size"],
                weights=str(model["weights"]).replace("\\", "/").rsplit("/", 1)[-1],  # a path can name a person
                position=model["position"],
                task=configuration["task"],
                seed=configuration["seed"],
                cohort=record["cohort"]["name"],
                reader=data["reader"],
                split_share=None if data["split"]["file"] else data["split"]["validation"],
                split_seed=data["split"]["seed"],
                trainer=_settings(TrainerSettings, configuration["trainer"]),
                augmentation=_settings(AugmentationSettings, configuration["augmentation"]),
                balancing=_settings(BalancingSettings, configuration["balancing"]),
                hardware=record["hardware"],
                versions=record["versions"],
            )
        except KeyError as error:
            raise RunError(
                f"{run.path / 'run.json'} lacks {error}: an earlier version trained this run. Train it again, with the "
                f"settings in {run.path / 'config.yaml'}."
            ) from error


def _settings(schema: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Return settings of a group as far as a run keeps them; what only says how it ran is at its default."""
    names = {entry.name for entry in fields(schema)}
    return schema(**{name: value for name, value in values.items() if name in names})
