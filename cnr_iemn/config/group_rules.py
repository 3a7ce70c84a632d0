"""Rules within one group of settings, beyond types, ranges and choices, which stand on the fields of the schema."""

from cnr_iemn.config.schema.debug import DebugSettings
from cnr_iemn.config.schema.fields import check_folder_name
from cnr_iemn.config.schema.settings import (
    BalancingSettings,
    DataSettings,
    IngestSettings,
    LoggerSettings,
    ModelSettings,
    TrainerSettings,
)
from cnr_iemn.constants import BACKBONES, INPUT_CHANNELS, MEDIASTINAL_WINDOW, PAPER_CHANNELS, TIMM_SOURCES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.packages import require_package


def check_data(data: DataSettings) -> None:
    """Check what the reader needs. Raises ConfigurationError."""
    if data.reader == "covid_ct_md" and data.root is None:
        raise ConfigurationError(
            f"data={data.name} needs the folder of the scans and none was given. "
            "Add data.root=/path/to/COVID-CT-MD (the folder that holds Index.csv)."
        )
    if data.reader == "manifest" and data.csv is None:
        raise ConfigurationError(
            "data=manifest needs the list of scans and none was given. Add data.csv=/path/to/scans.csv (columns "
            "scan_id, path, class)."
        )
    if data.reader == "phantom" and data.phantom is None:
        raise ConfigurationError("data.reader=phantom needs the section data.phantom. Start from data=phantom.")
    if data.fold is not None and not 0 <= data.fold < data.folds:
        raise ConfigurationError(
            f"data.fold={data.fold} is not one of the {data.folds} folds. Give 0 to {data.folds - 1}, or null for none."
        )


def check_ingest(ingest: IngestSettings) -> None:
    """Check the window. Raises ConfigurationError."""
    if len(ingest.window) != 2 or ingest.window[0] >= ingest.window[1]:
        raise ConfigurationError(
            f"ingest.window={ingest.window} is not a window. Give two values in HU, the lower first: [-1000, 400]."
        )


def check_channels(model: ModelSettings, ingest: IngestSettings) -> None:
    """Check that the slices hold what the channels show of them. Raises ConfigurationError."""
    (low, high), (least, most) = MEDIASTINAL_WINDOW, ingest.window
    if "mediastinum" in model.channels and not least <= low < high <= most:
        raise ConfigurationError(
            f"The channel mediastinum shows {low:g} to {high:g} HU, and ingest.window={ingest.window} cuts some of "
            "them off. Give a window that holds them, such as [-1000, 400], or other model.channels."
        )


def check_model(model: ModelSettings) -> None:
    """Check the backbone's name, package, input channels and side. Raises ConfigurationError."""
    if len(model.channels) != len(PAPER_CHANNELS) or not set(model.channels) <= set(INPUT_CHANNELS):
        raise ConfigurationError(
            f"model.channels=[{','.join(model.channels)}] are not three of {', '.join(INPUT_CHANNELS)}. The paper's: "
            f"'model.channels=[{','.join(PAPER_CHANNELS)}]'."
        )
    if model.library == "timm":
        if model.name.startswith(TIMM_SOURCES):
            raise ConfigurationError(
                f"model.name={model.name} would name the run's folder, and predict.py could not build the network "
                f"without it. Give the architecture as model.name and model.weights={model.name}."
            )
        check_folder_name("model.name", model.name)
        require_package("timm", f"model.library=timm (model.name={model.name})", "or use a backbone of the paper")
        return
    if model.weights.startswith(TIMM_SOURCES):
        raise ConfigurationError(
            f"model.weights={model.weights} is for networks of timm, and {model.name} is torchvision's. Give "
            "model=timm, or a file."
        )
    if model.drop_path > 0:
        raise ConfigurationError(
            f"model.drop_path={model.drop_path} is for networks of timm, and {model.name} is torchvision's. Give "
            "model.drop_path=0, or model=timm."
        )
    if model.name not in BACKBONES:
        raise ConfigurationError(f"model.name={model.name} is not known. Choose one of: {', '.join(BACKBONES)}.")
    backbone = BACKBONES[model.name]
    if model.image_size < backbone.minimum_size:
        raise ConfigurationError(
            f"model.image_size={model.image_size} is too small: {backbone.paper_name} needs at least "
            f"{backbone.minimum_size} pixels."
        )


def check_balancing(balancing: BalancingSettings) -> None:
    """Check the numbers of copies. Raises ConfigurationError."""
    copies = balancing.copies
    if copies == "auto":
        return
    numbers = list(copies.values()) if isinstance(copies, dict) else copies
    if not isinstance(numbers, list) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ConfigurationError(
            f"balancing.copies={copies!r} is neither auto nor a number of copies by class, such as "
            "'balancing.copies={COVID-19: 3, CAP: 10}', or in class order: 'balancing.copies=[0,3,10]'."
        )


def check_trainer(trainer: TrainerSettings, data: DataSettings) -> None:
    """Check the schedule, and that early stopping has validation slices. Raises ConfigurationError."""
    if trainer.warmup_epochs >= trainer.max_epochs:
        raise ConfigurationError(
            f"trainer.warmup_epochs={trainer.warmup_epochs} leaves nothing of trainer.max_epochs={trainer.max_epochs}. "
            f"Give 0 to below {trainer.max_epochs}."
        )
    if trainer.layer_decay is not None and trainer.optimizer == "adam":
        raise ConfigurationError(
            f"trainer.layer_decay={trainer.layer_decay} is for trainer.optimizer=adamw. Add it, or give "
            "trainer.layer_decay=null."
        )
    if trainer.schedule == "one_cycle" and trainer.warmup_epochs > 0:
        raise ConfigurationError(
            f"trainer.warmup_epochs={trainer.warmup_epochs} does not apply to trainer.schedule=one_cycle, which rises "
            "over its first fifth. Give trainer.warmup_epochs=0, or trainer.schedule=cosine."
        )
    if trainer.early_stopping is not None and data.split.validation == 0:
        raise ConfigurationError(
            f"trainer.early_stopping={trainer.early_stopping} looks at validation slices, and "
            "data.split.validation=0 leaves none. Give trainer.early_stopping=null, or a share for validation."
        )


def check_logger(logger: LoggerSettings) -> None:
    """Check the logger's package and what it can keep. Raises ConfigurationError."""
    if logger.name == "tensorboard":
        require_package("tensorboard", "logger=tensorboard", "or use logger=csv")
    if logger.name == "mlflow":
        require_package("mlflow", "logger=mlflow", "or use logger=csv")
    if logger.log_checkpoint and logger.name != "wandb":
        raise ConfigurationError(
            f"logger.log_checkpoint=true keeps the checkpoint as a W&B artifact, which logger={logger.name} cannot do. "
            "Add logger=wandb, or leave it out: the run's folder holds its checkpoints anyway."
        )


def check_debug(debug: DebugSettings) -> None:
    """Check that at most one mode is on. Raises ConfigurationError."""
    if len(debug.modes) > 1:
        raise ConfigurationError(
            f"debug.* turns on {' and '.join(debug.modes)}, and a run has one debug mode. Give debug=fast, "
            "debug=overfit or debug=profile."
        )


def check_part(number: int | None, count: int | None) -> None:
    """Check ``part``, a number, and ``parts``, their count. Raises ConfigurationError."""
    if (number is None) != (count is None):
        raise ConfigurationError(
            f"part={'null' if number is None else number} and parts={'null' if count is None else count} belong "
            "together: part=0 parts=100 is the first of 100 parts. Give both, or neither."
        )
    if number is not None and count is not None and number >= count:
        raise ConfigurationError(f"part={number} is not one of the {count} parts. Give 0 to {count - 1}.")
