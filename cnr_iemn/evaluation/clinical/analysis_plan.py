"""The analysis plan of a study: what is fixed before its validation scans are scored, with a hash and a date."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from typing_extensions import TypedDict

from cnr_iemn.constants import method_name
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.evaluation.operating_point import threshold_class
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import json_text, write_text_atomic
from cnr_iemn.utils.json_io import read_json

PLAN_FILE = "plan.json"
SETTINGS = (
    "primary_method",
    "threshold_class",
    "threshold_sensitivity",
    "prevalence",
    "answer_share",
    "methods",
    "method_repeats",
    "permutations",
    "refits",
    "ablations",
    "robustness",
    "seeds",
    "splits",
)
"""Keys of aggregate.py that a plan can fix."""
_SETS: Mapping[str, Callable[[str], str | float]] = {"prevalence": float, "seeds": str, "splits": str}
"""Settings whose values have no order and count once."""
_FLAGS = ("methods", "ablations", "robustness")
_SWITCHES = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
TEXTS = ("hypothesis", "comparisons", "subgroups")
"""What a plan says in words, one text or a list of them; nobody can compare these with what was done."""


class PlanEntry(TypedDict):
    """A plan as it was registered. ``registered``: UTC. ``after_scoring``: an ensemble of the study had been scored.

    ``plan``: values as JSON text, by key.
    """

    sha256: str
    registered: str
    after_scoring: bool
    plan: dict[str, str]


class PlanRecord(TypedDict):
    """plan.json. ``entries``: the first plan and its amendments. ``settings``: of the last aggregation, as JSON.

    ``resolved``, ``planned``: what these settings and the last plan's values mean to this study, as JSON. ``before``:
    likewise of the last plan before the scoring, where the last of all came after it.
    """

    schema_version: int
    entries: list[PlanEntry]
    settings: dict[str, str]
    resolved: NotRequired[dict[str, str]]
    planned: NotRequired[dict[str, str]]
    before: NotRequired[dict[str, str]]


def read_plan(path: Path) -> dict[str, str]:
    """Return a plan's values as JSON text, by key.

    Raises:
        ConfigurationError: The file cannot be read, is no YAML of keys and values, is empty, or has an unknown key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"plan={path} cannot be read as YAML: {error}") from error
    allowed_keys = (*SETTINGS, *TEXTS)
    if not isinstance(content, dict) or not content:
        raise ConfigurationError(f"plan={path} fixes nothing. Write lines of key: value, of {', '.join(allowed_keys)}.")
    unknown = [str(key) for key in content if key not in allowed_keys]
    if unknown:
        raise ConfigurationError(
            f"plan={path} has keys that no plan can fix: {', '.join(unknown)}. Choose from {', '.join(allowed_keys)}."
        )
    try:
        return {key: _text(key, value) for key, value in content.items()}
    except TypeError as error:  # YAML has dates
        raise ConfigurationError(f"plan={path} has a value that is not text, a number or a list: {error}") from error


def _text(key: str, value: object) -> str:
    """Return a value as JSON text, the same for what a plan and a command line write in two ways."""
    if key in ("threshold_sensitivity", "answer_share") and isinstance(value, int):
        value = float(value)
    if key == "prevalence" and isinstance(value, int | float):
        value = [value]
    return json.dumps(value, ensure_ascii=False)


def _meanings(values: Mapping[str, str], classes: Sequence[str]) -> dict[str, str]:
    """Return what the settings among these values mean to a study; what is said in words stays out."""
    return {key: _meaning(key, text, classes) for key, text in values.items() if key in SETTINGS}


def _meaning(key: str, text: str, classes: Sequence[str]) -> str:
    """Return what a value means to a study, as JSON text: the same for all spellings that the run takes for one.

    A value that means nothing to the study stays as it is, and so differs from whatever the run did.

    Args:
        key: Of ``SETTINGS``.
        text: The value as JSON.
        classes: Of the study.
    """
    value = json.loads(text)
    try:
        if key == "threshold_class":
            value = threshold_class(value, classes)
        elif key == "primary_method":
            value = method_name(value)
        elif key in _SETS:
            entries = value if isinstance(value, list) else [] if value is None else [value]
            value = sorted({_SETS[key](entry) for entry in entries})
        elif key in _FLAGS:
            value = _SWITCHES[str(value).casefold()]
        else:
            value = float(value)  # YAML takes 9e-1 for a text, the run does not
    except (ConfigurationError, KeyError, TypeError, ValueError):
        return text
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def plan_sha256(plan: Mapping[str, str]) -> str:
    """Return the hash of a plan's content; comments, order and layout of its file do not matter."""
    return hashlib.sha256(json.dumps(dict(sorted(plan.items()))).encode()).hexdigest()


def register_plan(folder: Path, path: str | None, settings: object, classes: Sequence[str]) -> PlanRecord | None:
    """Write plan.json before the validation scans are scored, and return it; None without a plan, now or before.

    Another plan than the last one is an amendment: both stay.

    Args:
        folder: Of the ensemble; a metrics.json there, or of another ensemble, says that the scans have been scored.
        path: plan=; None where the command names none.
        settings: Of this aggregation.
        classes: Of the study.

    Raises:
        ConfigurationError: The plan cannot be read, or threshold_class of this aggregation is no class of the study.
        RunError: An earlier plan.json is damaged.
    """
    record = read_record(folder)
    if record is None and path is None:
        return None
    entries = [] if record is None else record["entries"]
    plan = None if path is None else read_plan(Path(path))
    if plan is not None and (not entries or entries[-1]["sha256"] != plan_sha256(plan)):
        entry: PlanEntry = {
            "sha256": plan_sha256(plan),
            "registered": datetime.now(UTC).isoformat(timespec="seconds"),
            "after_scoring": any(folder.parent.glob("*/metrics.json")),
            "plan": plan,
        }
        entries = [*entries, entry]
    done = {key: _text(key, getattr(settings, key)) for key in SETTINGS}
    threshold_class(json.loads(done["threshold_class"]), classes)  # refused before anything is written
    written: PlanRecord = {
        "schema_version": SCHEMA_VERSION,
        "entries": entries,
        "settings": done,
        "resolved": _meanings(done, classes),
        "planned": _meanings(entries[-1]["plan"], classes),
    }
    early = [entry for entry in entries if not entry["after_scoring"]]
    if early and early[-1] is not entries[-1]:
        written["before"] = _meanings(early[-1]["plan"], classes)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / PLAN_FILE, json_text(written))
    return written


def read_record(folder: Path) -> PlanRecord | None:
    """Return plan.json of an ensemble, None without one. Raises RunError where it is damaged."""
    path = folder / PLAN_FILE
    if not path.is_file():
        return None
    return read_json(path, PlanRecord, again=f"Copy {path} back from a backup, or remove it.")


def deviations(record: PlanRecord) -> list[str]:
    """Return the planned settings with which the last aggregation did not run, by what the values mean to the study."""
    planned, done = record.get("planned"), record.get("resolved")
    if planned is None or done is None:  # of an earlier version
        planned, done = record["entries"][-1]["plan"], record["settings"]
    return [key for key in SETTINGS if key in planned and planned[key] != done[key]]


def late_changes(record: PlanRecord) -> dict[str, str | None]:
    """Return the settings that a plan changed after the scoring: what the last plan before it had, None for nothing."""
    before, planned = record.get("before"), record.get("planned", {})
    if before is None:
        return {}
    return {key: before.get(key) for key in SETTINGS if before.get(key) != planned.get(key)}
