"""One run of stage 1: built from its settings in one place, then trained, predicted and written."""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from cnr_iemn.config.composition import to_yaml
from cnr_iemn.config.schema.settings import TrainSettings
from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.cohort import Cohort
from cnr_iemn.data.predictions.slice_features import write_features
from cnr_iemn.data.predictions.slice_predictions import Predictions, write_predictions
from cnr_iemn.data.splits import split_csv, split_sha256
from cnr_iemn.errors import TrainingError
from cnr_iemn.schemas import SCHEMA_VERSION, PredictionMetadata
from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs
from cnr_iemn.stage1.training import study_data
from cnr_iemn.stage1.training.checkpoints import drop_training_state
from cnr_iemn.stage1.training.cohort_outputs import cohort_outputs
from cnr_iemn.stage1.training.distributed import loader_workers
from cnr_iemn.stage1.training.hardware import Hardware, deterministic
from cnr_iemn.stage1.training.lightning_module import SliceClassifier
from cnr_iemn.stage1.training.loggers.accuracy_messages import validation_sentence
from cnr_iemn.stage1.training.loggers.run_loggers import log_outcome, run_loggers
from cnr_iemn.stage1.training.roles import Roles
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.run_record import Invocation, new_record, reproducible_config
from cnr_iemn.stage1.training.tasks import BAGS, build_task, shuffle_seed
from cnr_iemn.stage1.training.trainer import TUNING_METRIC, FittedRun, debug_fit, fit
from cnr_iemn.statistics.metrics import evaluate_slices
from cnr_iemn.utils.atomic_io import sha256_of_file, write_text_atomic

log = logging.getLogger(__name__)


class TrainRun:
    """One run of stage 1 in one process or rank.

    Args:
        settings: Of the run.
        cohort: Its scans.
        roles: Which of them train and validate.
        hardware: Where it computes.
        folder: Where it is written; by default the study's folder of model and tag.
        invocation: How it was started; by default as this process was.

    Raises:
        CnrIemnError: Weights cannot be loaded, scans are refused, or settings do not fit the cohort.
    """

    def __init__(
        self,
        settings: TrainSettings,
        *,
        cohort: Cohort,
        roles: Roles,
        hardware: Hardware,
        folder: RunFolder | None = None,
        invocation: Invocation | None = None,
    ) -> None:
        self.settings = settings
        self.cohort = cohort
        self.roles = roles
        self.hardware = hardware
        self.folder = folder or RunFolder.from_settings(settings)
        self.invocation = invocation or Invocation.current()
        self.network = self._build_network()  # before the scans are read: its weights may be missing
        self.store, failures = study_data.open_store(cohort, settings.ingest, settings.lungs)
        study_data.require_all_scans(failures, self.store, settings.data.exclude)
        self.phantom = any(self.store.scan(scan.scan_id).phantom for scan in cohort.scans)
        self.scans = study_data.run_scans(cohort, self.store, roles)

    def execute(self) -> float:
        """Train, predict every slice of the cohort, and write the run's folder. Return the score, NaN without one."""
        settings, run = self.settings, self.folder
        with self._recorded(), self._loggers() as loggers, self._end_recorded():
            fitted, data = self._fit(loggers)
            predictions, outputs = self._predict_cohort(fitted)
            log_outcome(loggers, settings.logger, fitted, predictions, data.validation, gamma=settings.trainer.gamma)
        write_predictions(run.predictions, predictions)
        if outputs.features is not None:
            write_features(run.features, outputs.features)
        self._finish(fitted, predictions)
        return fitted.score

    def measure(self, callback: Callback) -> float:
        """Train without predicting, as a trial of a tuning study does. Return the objective after the last epoch.

        Args:
            callback: Called at the end of every epoch; ends the training by raising.
        """
        with self._recorded(), self._loggers() as loggers, self._end_recorded():
            fitted, _ = self._fit(loggers, callback)
        self.folder.finish(status="finished", score=fitted.metrics[TUNING_METRIC])
        return fitted.metrics[TUNING_METRIC]

    def debug(self) -> None:
        """Train as the debug mode says, without loggers, checkpoints and predictions."""
        with self._recorded():
            self._debug_fit()
        self.folder.finish(status="finished", score=None)
        log.info("wrote %s: a debug run, which aggregate.py does not take", self.folder.path)

    def assist(self) -> None:
        """Do the work of a rank above 0: rank 0 has checked everything and writes everything."""
        if self.settings.debug.mode is not None:
            self._debug_fit()
            return
        fitted, _ = self._fit([])
        self._predict_cohort(fitted)

    def _build_network(self) -> SliceNetwork:
        """Return the network with its start weights; random ones come from ``seed``."""
        pl.seed_everything(self.settings.seed, workers=True, verbose=False)
        model = self.settings.model
        network = SliceNetwork(
            model.name,
            n_classes=len(self.cohort.classes),
            position=model.position,
            weights=model.weights,
            library=model.library,
            attention=self.settings.task == BAGS,
            drop_path=model.drop_path,
            image_size=model.image_size,
            tta=model.tta,
        )
        network.check_size(model.image_size)
        if self.settings.data.lobes:
            network.add_lobe_head()
        return network

    @contextmanager
    def _loggers(self) -> Iterator[list[Logger]]:
        configuration = reproducible_config(self.settings)
        sweep = self.invocation.multirun
        with run_loggers(self.settings.logger, self.folder, configuration, sweep=sweep) as loggers:
            yield loggers

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Record in run.json that the run starts or is resumed, and how it ends."""
        record = new_record(
            self.settings,
            self.cohort,
            self.scans,
            store=self.store.root,
            phantom=self.phantom,
            hardware=str(self.hardware),
            command=self.invocation.command,
        )
        if self.settings.overwrite or "debug" in (self.folder.record() or {"debug": ""}):
            self.folder.start(record, to_yaml(self.settings))
        else:
            self.store.require_intact([scan.scan_id for scan in self.cohort.scans])
            self.folder.resume(record, to_yaml(self.settings))
        with self._end_recorded():
            yield

    @contextmanager
    def _end_recorded(self) -> Iterator[None]:
        """Record what ends the run early, once; also inside a logger, whose last upload may outlast a grace period."""
        run = self.folder
        try:
            yield
        except BaseException as error:
            try:
                if (run.record() or {}).get("status") == "running":
                    run.finish(status="failed" if isinstance(error, Exception) else "interrupted")
                    if isinstance(error, KeyboardInterrupt | TrainingError) and self.settings.debug.mode is None:
                        log.info("%s is kept: the same command goes on after its last finished epoch.", run.path)
            except OSError as write_error:  # a full disk, for example: the first error is the one to report
                error.add_note(str(write_error))
            raise

    def _fit(self, loggers: list[Logger], callback: Callback | None = None) -> tuple[FittedRun, SliceDataModule]:
        classifier, data = self._task()
        fitted = fit(
            classifier,
            data,
            self.folder,
            hardware=self.hardware,
            settings=self.settings.trainer,
            loggers=loggers,
            extra_callback=callback,
        )
        return fitted, data

    def _debug_fit(self) -> None:
        settings = self.settings
        classifier, data = self._task()
        data.same_order = settings.debug.overfit_batches > 0
        debug_fit(
            classifier,
            data,
            self.folder,
            hardware=self.hardware,
            settings=settings.trainer,
            debug=settings.debug,
        )

    def _task(self) -> tuple[SliceClassifier, SliceDataModule]:
        return build_task(
            self.settings,
            self.network,
            cohort=self.cohort,
            store=self.store,
            roles=self.roles,
            workers=self._workers,
            for_gpu=self.hardware.on_gpu,
        )

    @property
    def _workers(self) -> int:
        workers = self.settings.trainer.workers
        return loader_workers(self.hardware) if workers is None else workers

    def _predict_cohort(self, fitted: FittedRun) -> tuple[Predictions, SliceOutputs]:
        """Return the predictions of every slice, and the network's outputs; each rank computes a shard of them."""
        settings, cohort, roles = self.settings, self.cohort, self.roles
        table = study_data.slice_table(cohort, self.store, list(cohort.scans))
        channels = study_data.input_channels(settings)
        dataset = SliceDataset(self.store, table, image_size=settings.model.image_size, channels=channels)
        with deterministic(settings.trainer.deterministic):
            outputs = cohort_outputs(
                self.network,
                dataset,
                hardware=self.hardware,
                batch_size=settings.trainer.batch_size,
                workers=self._workers,
                features=settings.features,
            )
        rows = study_data.prediction_table(
            cohort,
            table,
            roles,
            outputs,
            labels=study_data.scan_labels(cohort, roles.split, shuffle_seed=shuffle_seed(settings)),
            selected=fitted.selected,
        )
        metadata = PredictionMetadata(
            model=settings.model.name,
            classes=cohort.classes,
            tag=settings.run_tag,
            seed=settings.seed,
            precision=self.hardware.precision,
            checkpoint=fitted.checkpoint,
            checkpoint_sha256=fitted.checkpoint_sha256,
            store=self.store.fingerprint,
            split_sha256=split_sha256(split_csv(cohort, roles.split)),
            scans_sha256=self.scans.sha256,
            training_scan_ids=tuple(scan.scan_id for scan in cohort.scans if roles.trains(scan)),
            phantom=self.phantom,
            slice_labels=settings.data.slice_labels,
        )
        return Predictions(rows, metadata), outputs

    def _finish(self, fitted: FittedRun, predictions: Predictions) -> None:
        run, metadata = self.folder, predictions.metadata
        scores = evaluate_slices(predictions.table, predictions.probabilities, metadata.classes)
        validation = scores if predictions.table["split"].eq("validation").any() else None
        notice = {"notice": PHANTOM_NOTICE} if metadata.phantom else {}
        metrics = {
            **notice,
            "schema_version": SCHEMA_VERSION,
            "checkpoint": fitted.checkpoint,
            "selected_on": "validation" if fitted.selected else None,
            "slice_labels": metadata.slice_labels,
            "validation_slices": validation,
            "last_epoch": fitted.metrics,
        }
        write_text_atomic(run.path / "metrics.json", json.dumps(metrics, indent=1))
        run.finish(
            status="finished",
            score=fitted.score if math.isfinite(fitted.score) else None,
            checkpoint=fitted.checkpoint,
            predictions_sha256=sha256_of_file(run.predictions),
            **({"features_sha256": sha256_of_file(run.features)} if self.settings.features else {}),
        )
        if not self.settings.trainer.keep_last:
            drop_training_state(run.checkpoints, fitted.checkpoint)
        if notice:
            log.info(PHANTOM_NOTICE)
        log.info("%s", validation_sentence(validation, metadata.classes, selected=fitted.selected))
        log.info("wrote %s", run.path)
