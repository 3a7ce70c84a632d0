"""Stage 1: train one backbone on slices and predict every slice of every scan in the cohort.

python train.py model=densenet161 trainer.gpus=1
python train.py -m model=resnext50,densenet161,inception_v3,wide_resnet50 data=covid_ct_md data.root=/data/COVID-CT-MD
python train.py -m sweep=optuna model=resnext50
"""

from pathlib import Path

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.schema import TrainSettings


@entry_point("train", TrainSettings)
def main(settings: TrainSettings) -> float:
    """Train, predict and save one run. Returns the validation slice accuracy, NaN without validation slices."""
    from cnr_iemn.cohort.twins import require_distinct
    from cnr_iemn.engine import assemble
    from cnr_iemn.engine.distributed import first_process, require_slices_for_each
    from cnr_iemn.engine.hardware import choose_hardware
    from cnr_iemn.engine.run_record import lasting_configuration
    from cnr_iemn.engine.runs import RunFolder, save_split
    from cnr_iemn.engine.stage1 import Parts, build_network, take_part, train_and_predict
    from cnr_iemn.slices.balancing import copies_per_class

    if settings.sweep is not None and settings.sweep.trial is None:
        raise ConfigurationError("sweep=optuna runs many jobs: add -m, as in python train.py -m sweep=optuna.")
    trainer = settings.trainer
    hardware = choose_hardware(
        trainer.gpus, trainer.precision, nodes=trainer.nodes, cpu_processes=trainer.cpu_processes
    )
    require_slices_for_each(trainer, hardware)
    if not first_process():  # one of several that srun or torchrun has started
        take_part(settings)
        return float("nan")
    cohort = assemble.open_cohort(settings.data, settings.ingest)
    roles = assemble.roles_of(settings, cohort)
    if settings.sweep is not None:
        from cnr_iemn.engine.trial import run_trial  # optuna is an extra

        return run_trial(settings, cohort=cohort, roles=roles, hardware=hardware)
    assemble.require_every_class(cohort, roles)
    # before any scan is read: the copies must name this cohort's classes
    copies_per_class([1] * len(cohort.classes), classes=cohort.classes, copies=settings.balancing.copies)

    run = RunFolder.of(Path(settings.runs), settings.study, settings.model.name, settings.run_tag)
    score = run.finished_score(lasting_configuration(settings), overwrite=settings.overwrite, resume=settings.resume)
    if score is not None:
        print(f"{run.path} is finished with this configuration: nothing to do. overwrite=true trains it again.")
        return score

    print(f"{run.path}: {cohort.name}, {len(cohort.scans)} scans; {hardware}", flush=True)
    network = build_network(settings, cohort.classes)
    store, failures = assemble.prepared_store(cohort, settings.ingest, settings.lungs)
    assemble.require_all_scans(failures)
    require_distinct(store, roles.split)
    save_split(run.path.parents[1], cohort, roles.split)
    with run.alone():
        return train_and_predict(settings, run, Parts(network, cohort, store, roles, hardware))


if __name__ == "__main__":
    raise SystemExit(main())
