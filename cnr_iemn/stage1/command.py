"""The work of train.py: checks, then one run, or its part in one of several processes."""

import logging
import math
from functools import partial

from cnr_iemn.config.schema.settings import TrainSettings
from cnr_iemn.data.cohort import Cohort
from cnr_iemn.data.splits import require_distinct
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.data.balancing import copies_per_class
from cnr_iemn.stage1.training import study_data
from cnr_iemn.stage1.training.distributed import (
    claim_rank,
    launch_ranks,
    launched_externally,
    leave_process_group,
    require_batch_per_rank,
    run_silently,
)
from cnr_iemn.stage1.training.hardware import Hardware, choose_hardware
from cnr_iemn.stage1.training.loggers.run_loggers import require_server
from cnr_iemn.stage1.training.pseudo_labels import describe_pseudo_labels
from cnr_iemn.stage1.training.roles import Roles, assign_roles, cohort_notes, require_every_class, save_split
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.run_record import Invocation, reproducible_config
from cnr_iemn.stage1.training.tasks import check_task
from cnr_iemn.stage1.training.train_run import TrainRun
from cnr_iemn.utils.writable import require_writable

log = logging.getLogger(__name__)


def train(settings: TrainSettings) -> float:
    """Train one run in as many processes as configured.

    Args:
        settings: Of the run.

    Returns:
        The validation accuracy of slices or, in bags, of scans, 0 to 1; NaN without validation slices, and in processes
        of a rank above 0.
    """
    hardware = training_hardware(settings)
    if hardware.processes > 1 and not launched_externally(hardware):
        return launch_ranks(partial(train_rank, invocation=Invocation.current()), settings, hardware)
    return train_rank(settings)


def training_hardware(settings: TrainSettings) -> Hardware:
    """Return the configured hardware. Raises ConfigurationError where it is missing or a batch too small for it."""
    trainer = settings.trainer
    hardware = choose_hardware(
        trainer.gpus, trainer.precision, nodes=trainer.nodes, cpu_processes=trainer.cpu_processes
    )
    require_batch_per_rank(trainer, hardware)
    check_task(settings, hardware)
    return hardware


def train_rank(settings: TrainSettings, invocation: Invocation | None = None) -> float:
    """Train one run as one of its processes, or as its only one. See ``train``."""
    hardware = training_hardware(settings)
    if claim_rank(hardware) > 0:
        run_silently(partial(_assist, settings, hardware))
        return math.nan
    try:
        return _lead(settings, hardware, invocation)
    finally:
        if hardware.processes > 1:
            leave_process_group()


def _assist(settings: TrainSettings, hardware: Hardware) -> None:
    folder = RunFolder.from_settings(settings)
    record = folder.record() or {}
    trains = settings.overwrite or settings.debug.mode is not None or "debug" in record
    if not trains and record.get("status") == "finished":
        return  # rank 0 has nothing to do either
    cohort = study_data.open_cohort(settings.data, settings.ingest)
    TrainRun(settings, cohort=cohort, roles=assign_roles(settings, cohort), hardware=hardware).assist()


def _lead(settings: TrainSettings, hardware: Hardware, invocation: Invocation | None) -> float:
    cohort = study_data.open_cohort(settings.data, settings.ingest)
    roles = assign_roles(settings, cohort)
    _check(settings, cohort, roles)
    folder = RunFolder.from_settings(settings)
    configuration = reproducible_config(settings)
    if settings.debug.mode is not None:  # also with overwrite=true, which is for runs that count
        folder.require_replaceable()
    score = folder.finished_score(configuration, overwrite=settings.overwrite, resume=settings.resume)
    if score is not None:
        study_data.require_same_scans(folder, settings, cohort, roles)
        log.info("%s is finished with this configuration: nothing to do. overwrite=true trains it again.", folder.path)
        return score
    require_writable("runs", folder.path)
    if settings.debug.mode is None:
        require_server(settings.logger)
    log.info("%s: %s, %d scans; %s", folder.path, cohort.name, len(cohort.scans), hardware)
    for note in cohort_notes(cohort, roles.split, settings.data):
        log.info("%s", note)
    for line in describe_pseudo_labels(roles.pseudo, cohort):
        log.info("%s", line)
    run = TrainRun(settings, cohort=cohort, roles=roles, hardware=hardware, folder=folder, invocation=invocation)
    require_distinct(run.store, roles.split)
    study_data.slice_table(cohort, run.store, list(cohort.scans))  # labels that do not fit a scan begin no study
    with folder.lock():
        if settings.debug.mode is not None:
            run.debug()
            return math.nan
        save_split(folder.path.parents[1], cohort, roles.split)
        return run.execute()


def _check(settings: TrainSettings, cohort: Cohort, roles: Roles) -> None:
    """Raise CohortError or ConfigurationError where cohort and settings do not fit each other."""
    require_every_class(cohort, roles)
    patience = settings.trainer.early_stopping
    if patience is not None and not any(map(roles.validates, cohort.scans)):
        raise ConfigurationError(
            f"trainer.early_stopping={patience} looks at validation slices, and no scan that is held out for "
            "validation has labelled ones. Give trainer.early_stopping=null, or hold out scans with labels "
            "(data.split.file)."
        )
    # before any scan is read: the copies must name this cohort's classes
    copies_per_class([1] * len(cohort.classes), classes=cohort.classes, copies=settings.balancing.copies)
