"""How a network was trained, as run.json holds it, in the types of the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from cnr_iemn.config.schema.settings import AugmentationSettings, BalancingSettings, TrainerSettings
from cnr_iemn.errors import RunError
from cnr_iemn.stage1.training.run_folder import RunFolder

CHANNEL_WORDS = {
    "grey": "grey image",
    "mask": "lung mask",
    "product": "lungs alone",
    "previous": "the slice above",
    "next": "the slice below",
    "mediastinum": "mediastinal window",
}
"""What reports call the channels of a network's input."""
Settings = TypeVar("Settings", TrainerSettings, AugmentationSettings, BalancingSettings)


@dataclass(frozen=True)
class TrainingFacts:
    """One network.

    ``weights``: imagenet, none or the name of a file. ``channels``: of its input. ``flips``: whether a slice and its
    mirror image are averaged. ``split_share``: of the patients of each class for validation; None where a file gives
    the split. ``split_seed``: of the draw. ``pseudo_labels``: networks have labelled slices of unlabelled training
    scans. ``lobes``: a third head learns which lobes are diseased. ``labels_permuted``: the training labels are, a
    negative control.
    """

    model: str
    library: str
    image_size: int
    weights: str
    channels: tuple[str, ...]
    flips: bool
    position: str
    task: str
    seed: int
    cohort: str
    reader: str
    split_share: float | None
    split_seed: int
    pseudo_labels: bool
    lobes: bool
    labels_permuted: bool
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
                channels=tuple(model["channels"]),
                flips=model["tta"] == "flip",
                position=model["position"],
                task=configuration["task"],
                seed=configuration["seed"],
                cohort=record["cohort"]["name"],
                reader=data["reader"],
                split_share=None if data["split"]["file"] else data["split"]["validation"],
                split_seed=data["split"]["seed"],
                pseudo_labels=data["pseudo_labels"] is not None,
                lobes=data["lobes"],
                labels_permuted=data["shuffle_training_labels"],
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
