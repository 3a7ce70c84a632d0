"""Rules of predict.py watch=true: what a watched inbox needs, and what does not go with it."""

from pathlib import Path

from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.packages import require_package


def check_service(settings: PredictSettings) -> None:
    """Raise ConfigurationError where an inbox cannot be watched with these settings."""
    if not settings.watch:
        if settings.keep or settings.receiver is not None:
            key = "keep" if settings.keep else "receiver"
            raise ConfigurationError(f"{key}= is for a watched inbox. Add watch=true, or leave it out.")
        return
    _check_folders(settings)
    defaults = {"join": False, "part": None, "report": None, "redo": "changed"}
    used = [key for key, default in defaults.items() if getattr(settings, key) != default]
    if used:
        raise ConfigurationError(
            f"{used[0]}= needs a command that ends, and watch=true does not. Leave one of them out; heartbeat.json and "
            "events.jsonl in the output tell what is done."
        )
    if settings.anonymise_ids:
        raise ConfigurationError(
            "watch=true names each answer after its series, which anonymise_ids=true must not show. Leave one of them "
            "out, and have the series named without a patient's data."
        )
    if settings.receiver is not None:
        if not settings.dicom:
            raise ConfigurationError("receiver= sends DICOM files. Add dicom=true identify=true, or leave it out.")
        require_package("pynetdicom", "receiver=", "or leave receiver out", extra="pacs")


def _check_folders(settings: PredictSettings) -> None:
    source = Path(settings.input)
    if not source.is_dir():
        raise ConfigurationError(f"watch=true needs a folder, and input={settings.input} is none. Make it first.")
    if settings.output is None:
        raise ConfigurationError("watch=true puts each answer into a folder of the output. Give output=.")
    inbox, outbox = source.resolve(), Path(settings.output).resolve()
    if inbox == outbox or inbox in outbox.parents or outbox in inbox.parents:
        raise ConfigurationError(
            f"input={settings.input} and output={settings.output} hold one another, so that answers would be taken for "
            "series. Give two separate folders."
        )
