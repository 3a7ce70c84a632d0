"""One run on Weights & Biases: what its users look for there. Only this module and wandb_ensemble know wandb."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.engine.worst_slices import WorstSlice
from cnr_iemn.errors import CnrIemnError
from cnr_iemn.settings.multirun import multirun_name
from cnr_iemn.settings.schema import LoggerSettings

_BY_EPOCH = ("train/*", "val/*", "machine/*", "learning_rate", "seconds")
_STEP = "trainer/global_step"
_DATA_DIR = "WANDB_DATA_DIR"


class WandbRun(WandbLogger):
    """Lightning's logger on a run that is open, with what is more than scalars."""

    @rank_zero_only
    def log_confusion(self, confusion: list[list[int]], classes: Sequence[str], *, epoch: int, step: int) -> None:
        """Log W&B's chart of the validation slices of an epoch. ``confusion``: counts [true, predicted]."""
        import wandb

        cells: list[Iterable[Any]] = [
            (true, predicted, n)
            for true, row in zip(classes, confusion, strict=True)
            for predicted, n in zip(classes, row, strict=True)
        ]
        columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
        chart = wandb.plot_table(  # wandb.plot.confusion_matrix counts the slices itself; these are counted
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=columns, data=cells),
            fields={str(name): name for name in columns},
            string_fields={"title": "Validation slices"},
        )
        self.experiment.log({"val/confusion_matrix": chart, "epoch": epoch, _STEP: step})

    @rank_zero_only
    def log_worst_slices(self, slices: Sequence[WorstSlice]) -> None:
        """Log a table of slices, each with its picture: grey, the lung mask over it."""
        import wandb

        texts = [entry.name for entry in fields(WorstSlice) if entry.name not in ("grey", "lungs")]
        table = wandb.Table(columns=["picture", *texts])
        for entry in slices:
            mask = {"mask_data": entry.lungs, "class_labels": {1: "lungs"}}
            picture = wandb.Image(entry.grey, mode="L", masks={"lungs": mask})
            table.add_data(picture, *(getattr(entry, name) for name in texts))
        self.experiment.log({"worst_slices": table})

    @rank_zero_only
    def log_result(self, values: Mapping[str, Any]) -> None:
        """Set what stands for the whole run in W&B's tables of runs."""
        self.experiment.summary.update(dict(values))

    @rank_zero_only
    def log_checkpoint(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Log a checkpoint as an artifact, named after the run."""
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.experiment.id}", type="model", metadata=dict(metadata))
        artifact.add_file(str(path), policy="immutable")  # as it is, not as a second copy
        self.experiment.log_artifact(artifact, aliases=[path.stem])


@contextmanager
def wandb_run(settings: LoggerSettings, run: RunFolder, configuration: Mapping[str, Any]) -> Iterator[WandbRun]:
    """Open one W&B run: online where a key is set, else offline, to be uploaded later with ``wandb sync``.

    A run that goes on goes on in the same W&B run: its id is kept in run.json. Offline each start has a folder of its
    own under that id, which ``wandb sync`` joins in their order. The exit code is that of the process.
    """
    record = run.record() or {}
    if "wandb_id" not in record:
        run.note(wandb_id=uuid4().hex[:12])
    sweep = multirun_name()
    about: dict[str, Any] = {
        "id": (run.record() or {})["wandb_id"],
        "resume": "allow",
        "name": f"{run.model}/{run.tag}",
        "group": run.study,
        "job_type": "train" if sweep is None else "sweep",
        "tags": [*settings.tags, run.model, *([] if sweep is None else [sweep])],
        "notes": record.get("notice"),
        "config": {**configuration, **{key: record[key] for key in ("hardware", "versions") if key in record}},
    }
    with opened(settings, run.path, about) as experiment:
        for name in ("epoch", _STEP):
            experiment.define_metric(name)
        for name in _BY_EPOCH:
            experiment.define_metric(name, step_metric="epoch")
        experiment.define_metric("step/*", step_metric=_STEP)
        yield WandbRun(experiment=experiment)


@contextmanager
def opened(settings: LoggerSettings, folder: Path, about: Mapping[str, Any]) -> Iterator[Any]:
    """Open a W&B run of these words (``wandb.init``'s), whose files lie in the folder; end it as the block ends."""
    import wandb

    offline = settings.offline if settings.offline is not None else not wandb.login(prompt=False)
    with _pictures_beside(folder, offline=offline):
        # begun here, not by Lightning, which sets WANDB_MODE for the whole process, and so for later jobs of a multirun
        experiment = wandb.init(
            project=settings.project,
            dir=folder,
            mode="offline" if offline else "online",
            settings=wandb.Settings(silent=True),
            **about,
        )
        try:
            yield experiment
        except BaseException as error:
            experiment.finish(exit_code=_exit_code(error))
            raise
        experiment.finish(exit_code=0)


@contextmanager
def _pictures_beside(folder: Path, *, offline: bool) -> Iterator[None]:
    """Have what waits for its upload lie in the run's folder, not in the home directory, unless the user says where."""
    if not offline or _DATA_DIR in os.environ:
        yield
        return
    os.environ[_DATA_DIR] = str((folder / "wandb").absolute())
    try:
        yield
    finally:
        del os.environ[_DATA_DIR]


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, CnrIemnError) else 1
