"""Checks of what aggregate.py is asked for."""

from collections.abc import Sequence

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.registry import BOOSTER, METHODS
from cnr_iemn.settings.schema import AggregateSettings
from cnr_iemn.settings.values import at_least, check_logger, folder_name, one_gpu, one_of, paths_of


def check_aggregate(settings: AggregateSettings) -> None:
    """Check the settings of aggregate.py that no other entry point has. Raises ConfigurationError."""
    if settings.permutations != 0:
        at_least("permutations", settings.permutations, 2)
    if not 0 < settings.answer_share <= 1:
        raise ConfigurationError(
            f"answer_share={settings.answer_share} is no share of scans. Give one above 0 and up to 1, such as 0.9."
        )
    check_logger(settings.logger)
    if settings.logger.name == "tensorboard" or settings.logger.log_checkpoint:
        raise ConfigurationError(
            "aggregate.py has tables and drawings, for which TensorBoard has no place, and no checkpoint. Give "
            "logger=wandb, or leave logger out: report.html holds everything."
        )
    one_gpu(settings.gpus)
    _check_methods(settings)
    one_of("booster.features", settings.booster.features, ("paper", "out_of_fold"))
    if settings.refits != 0:
        at_least("refits", settings.refits, 2)
    _repeats("seeds", settings.seeds, "tag", settings.tag)
    _repeats("splits", settings.splits, "study", settings.study)
    _check_scoring(settings)


def _check_methods(settings: AggregateSettings) -> None:
    one_of("confirmatory", settings.confirmatory, (BOOSTER, *METHODS))
    if settings.confirmatory != BOOSTER and not settings.methods:
        raise ConfigurationError(
            f"confirmatory={settings.confirmatory} is one of the methods, and methods=false leaves them out. "
            "Give methods=true, or confirmatory=booster."
        )
    at_least("method_repeats", settings.method_repeats, 1)
    if not 0 < settings.threshold_sensitivity <= 1:
        raise ConfigurationError(
            f"threshold_sensitivity={settings.threshold_sensitivity} is no sensitivity to reach. "
            "Give one above 0 and up to 1, such as 0.9."
        )


def _check_scoring(settings: AggregateSettings) -> None:
    evaluate, labels = paths_of("evaluate", settings.evaluate), paths_of("labels", settings.labels)
    if bool(evaluate) != bool(labels):
        raise ConfigurationError(
            "evaluate= and labels= belong together: the predictions.parquet that predict.py has written, and the true "
            "classes of its scans (CSV, columns Study and Label). Give both."
        )
    if settings.compare is None:
        if settings.compare_on != "validation":
            raise ConfigurationError("compare_on= says on which scans to compare. Name the other study with compare=.")
        return
    if evaluate:
        raise ConfigurationError("compare= and evaluate= are two tasks. Give one, then the other.")
    study, slash, name = settings.compare.partition("/")
    for part in (study, name) if slash else (study,):
        folder_name("compare", part)
    folder_name("compare_on", settings.compare_on)


def _repeats(key: str, names: Sequence[str], own_key: str, own: str) -> None:
    for name in names:
        folder_name(key, name)
    if own in names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"{key}=[{','.join(names)}] names one twice, or {own_key}={own}, which is there anyway. Name each of the "
            "others once."
        )
