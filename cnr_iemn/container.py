"""What a container runs: predict.py on a folder, into a folder, with settings in JSON (docs/guide/container.md).

It follows the contracts of mercure (``MERCURE_IN_DIR``, ``MERCURE_OUT_DIR``, task.json) and of XNAT's container service
(two mounted folders, environment variables).
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from typing_extensions import TypedDict

from cnr_iemn.cli import run_command
from cnr_iemn.config.schema.fields import setting_keys
from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.errors import CnrIemnError, ConfigurationError
from cnr_iemn.utils.console import print_error
from cnr_iemn.utils.json_io import parse_json, read_json
from cnr_iemn.utils.scratch import scratch_folder
from cnr_iemn.utils.shell_words import override

INPUT, OUTPUT, BUNDLE = Path("/input"), Path("/output"), "/bundle"
"""Where the image expects what is mounted."""
SETTINGS = "CNR_IEMN_SETTINGS"
"""Environment variable with settings as JSON."""
TASK = "task.json"
"""Of mercure, beside the images; ``process.settings`` has those of the module and the rule."""
PLACES = ("input", "output", "report", "bundle", "study", "ensemble", "runs")
"""Keys of predict.py that the container sets itself."""
_AGAIN = 'Give settings such as {"dicom": true, "identify": true, "ingest": {"allow_gaps": true}}.'


class _Process(TypedDict, total=False):
    settings: dict[str, JsonValue]


class _Task(TypedDict, total=False):
    process: _Process


class _Settings(TypedDict):
    settings: dict[str, JsonValue]


@dataclass(frozen=True)
class Job:
    """What the container was given.

    Attributes:
        source: The folder with the images.
        output: The folder for the answer.
        bundle: A folder or ``hf:`` name.
        words: Further words for predict.py.
        mercure: DICOM files alone leave, flat and named as mercure names them.
    """

    source: Path
    output: Path
    bundle: str
    words: tuple[str, ...]
    mercure: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the container's job. ``arguments``: the two folders, or none. Returns predict.py's exit code."""
    try:
        job = read_job(list(sys.argv[1:] if arguments is None else arguments), os.environ)
        return _run_for_mercure(job) if job.mercure else _predict(job, job.source, job.output, "run.json")
    except CnrIemnError as error:
        print_error(f"Error: {error}")
        return 2


def read_job(arguments: Sequence[str], environment: Mapping[str, str]) -> Job:
    """Return what the container was given.

    Args:
        arguments: The folders in and out; without them mercure's variables name them, or they are /input and /output.
        environment: Variables; ``CNR_IEMN_BUNDLE`` names the bundle, ``CNR_IEMN_SETTINGS`` has settings.

    Raises:
        ConfigurationError: A folder is missing, or a setting is none of predict.py's.
    """
    mercure = "MERCURE_OUT_DIR" in environment
    if arguments and len(arguments) != 2:
        raise ConfigurationError(f"{len(arguments)} arguments were given. Give the folders in and out, or nothing.")
    default = (environment.get("MERCURE_IN_DIR", INPUT), environment.get("MERCURE_OUT_DIR", OUTPUT))
    source, output = map(Path, arguments or default)
    for folder, name in ((source, "images"), (output, "answer")):
        if not folder.is_dir():
            raise ConfigurationError(f"{folder}, the folder of the {name}, is not there. Mount it.")
    values = parse_settings(environment.get(SETTINGS, "{}"), SETTINGS)
    if (source / TASK).is_file():
        task = read_json(
            source / TASK, _Task, again=_AGAIN, refusal=ConfigurationError, extra="ignore", versioned=False
        )
        values |= task.get("process", {}).get("settings", {})
    if mercure and not (values.get("dicom") and values.get("identify")):
        raise ConfigurationError(
            "mercure sends DICOM files, which must carry the patient's identifiers, and the module's settings do not "
            'allow it. Set {"dicom": true, "identify": true}.'
        )
    words = tuple(setting_words(values))
    return Job(source, output, environment.get("CNR_IEMN_BUNDLE") or BUNDLE, words, mercure)


def parse_settings(text: str, source: str) -> dict[str, JsonValue]:
    """Return the settings in a JSON text. Raises ConfigurationError; ``source``: what it calls the text."""
    wrapped = f'{{"settings": {text or "{}"}}}'.encode()
    return parse_json(wrapped, _Settings, source=source, again=_AGAIN, refusal=ConfigurationError, versioned=False)[
        "settings"
    ]


def setting_words(values: Mapping[str, JsonValue], prefix: str = "") -> Iterator[str]:
    """Yield predict.py's words for settings, those of a group as an object in an object.

    Raises:
        ConfigurationError: A key is none of predict.py's, one that the container sets, or has a value of another kind.
    """
    keys = {key for key, group in setting_keys(PredictSettings) if not group and key not in PLACES}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and not prefix:
            yield from setting_words(value, f"{key}.")
        elif key not in keys:
            raise ConfigurationError(
                f"The settings have {key!r}, which is not a key that a container takes: {', '.join(sorted(keys))}."
            )
        elif isinstance(value, str):
            yield override(key, value)
        elif value is None or isinstance(value, bool | int):
            yield f"{key}={'null' if value is None else str(value).lower()}"
        else:
            raise ConfigurationError(f"The settings have {key}={value!r}. Give a text, a whole number, true or false.")


def _predict(job: Job, source: Path, output: Path, report: str) -> int:
    paths = {"input": source, "output": output, "report": job.output / report}
    words = [override(key, str(path)) for key, path in paths.items()]
    return run_command("predict", [*words, override("bundle", job.bundle), *job.words])


def _run_for_mercure(job: Job) -> int:
    """Predict each series of the folder; what leaves are DICOM files and result.json, which mercure keeps."""
    with scratch_folder() as scratch:
        source, answer = scratch / "series", scratch / "answer"
        link_series(job.source, source)
        code = _predict(job, source, answer, "result.json")
        copy_objects(answer / "dicom", job.output)
    return code


def link_series(source: Path, folder: Path) -> None:
    """Make a folder of links for each series of a flat folder: mercure names files SERIES#IMAGE.dcm.

    Neither the folders (series-1 and so on) nor the links are named by the UIDs that the files' names hold.

    Args:
        source: mercure's folder.
        folder: Where the folders are made; it is not there yet.

    Raises:
        ConfigurationError: There is no DICOM file.
    """
    series: dict[str, list[Path]] = {}
    for path in sorted(source.glob("*.dcm")):
        series.setdefault(path.name.partition("#")[0] if "#" in path.name else "", []).append(path)
    if not series:
        raise ConfigurationError(f"{source} holds no .dcm file. Send this module CT series.")
    for number, files in enumerate(series.values(), start=1):
        place = folder / f"series-{number}"
        place.mkdir(parents=True)
        for k, path in enumerate(files):
            (place / f"{k:05d}.dcm").symlink_to(path.absolute())


def copy_objects(source: Path, output: Path) -> None:
    """Copy DICOM objects into one flat folder, named as mercure names files: SERIES#IMAGE.dcm."""
    import pydicom

    for path in sorted(source.glob("*/*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
        temporary = output / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.part"
        shutil.copyfile(path, temporary)
        temporary.rename(temporary.with_suffix(".dcm"))


if __name__ == "__main__":
    raise SystemExit(main())
