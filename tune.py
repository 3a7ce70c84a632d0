"""Search of settings with Optuna: each trial trains on inner folds of the training scans.

python tune.py model=resnext50 search.trials=20
python tune.py -m model=resnext50 hydra/launcher=joblib hydra.launcher.n_jobs=4 'search.process=range(4)'
"""

from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.settings import TuneSettings
from cnr_iemn.errors import ConfigurationError


@entry_point("tune", TuneSettings)
def main(settings: TuneSettings) -> float:
    """Run the missing trials and print all with the command of the best. Returns its value, NaN without any."""
    from cnr_iemn.config.multirun import command_words
    from cnr_iemn.stage1.command import training_hardware
    from cnr_iemn.stage1.training import study_data
    from cnr_iemn.stage1.training.loggers.run_loggers import require_server
    from cnr_iemn.stage1.training.roles import assign_roles
    from cnr_iemn.utils.packages import require_package

    require_package("optuna", "tune.py", extra="tune")
    from cnr_iemn.tuning.search import Search

    hardware = training_hardware(settings)
    if hardware.processes > 1:
        raise ConfigurationError(
            f"A trial trains in one process, and {hardware.processes} were given. Give trainer.gpus=1, and start "
            "tune.py several times for several trials at once."
        )
    require_server(settings.logger)
    cohort = study_data.open_cohort(settings.data, settings.ingest)
    roles = assign_roles(settings, cohort)
    return Search(settings, cohort, roles, hardware).run(command_words())


if __name__ == "__main__":
    raise SystemExit(main())
