"""Composed configurations: checks before the first job starts, and settings as dataclasses."""

import os.path
import re
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cnr_iemn.config.command_line import text_words
from cnr_iemn.config.multirun import Multirun, expand_sweeps, job_list, multirun_words, varying_words
from cnr_iemn.config.schema.fields import TextKey, text_keys
from cnr_iemn.config.schema.settings import PrepareSettings, TrainSettings, TuneSettings
from cnr_iemn.config.search_space import search_space
from cnr_iemn.config.unsafe_keys import check_hydra_settings
from cnr_iemn.config.validation import check_places, check_settings, name_study
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.exclusions import read_exclusions
from cnr_iemn.utils.shell_words import override, shell
from cnr_iemn.utils.writable import require_writable

S = TypeVar("S")
OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)  # of conf/hydra_settings.yaml


@dataclass(frozen=True)
class Plan:
    """What Hydra is to run: its words, and the multirun they make, None for a single run."""

    words: list[str]
    multirun: Multirun | None


def plan_jobs(name: str, schema: type[Any], flags: Namespace, folder: Path) -> Plan:
    """Compose and check every job before the first starts: a misspelt value costs no hours.

    Args:
        name: The primary configuration.
        schema: Dataclass of the settings.
        flags: The command line; text among its overrides is quoted for Hydra.
        folder: The project's folder of YAML files.

    Raises:
        ConfigurationError: A job cannot work, would run foreign code, or text of a YAML file would be changed.
        HydraException: A configuration cannot be composed.
    """
    if flags.config_path is not None:
        folder = Path(flags.config_path)
        if not folder.is_absolute():
            raise ConfigurationError(
                f"--config-path={folder} replaces the program's own conf/ and must be an absolute path. To add your "
                f"files to it, give --config-dir={folder}."
            )
    parsed = OverridesParser.create().parse_overrides(flags.overrides)
    search_path = [*_search_path(parsed), *_config_dir(flags)]
    fixed = [word.input_line or "" for word in parsed if not word.is_sweep_override() and not _is_search_path(word)]
    composer = _Composer(flags.config_name or name, schema, folder, search_path)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(folder)):
        config = composer.compose(fixed)
        composer.check_files(fixed)
        if not flags.multirun and config.hydra.mode != RunMode.MULTIRUN:
            return Plan(list(flags.overrides), None)
        return composer.plan_multirun(config, flags.overrides)


@dataclass(frozen=True)
class _Composer:
    """Composes jobs of one primary configuration within Hydra's ``initialize_config_dir``."""

    name: str
    schema: type[Any]
    folder: Path
    search_path: list[str]

    def compose(self, words: Sequence[str]) -> DictConfig:
        """Return a checked configuration with its section ``hydra``."""
        folders = [override("hydra.searchpath", self.search_path)] if self.search_path else []
        with _composition_errors(words, [str(self.folder), *self.search_path]):
            config = hydra.compose(self.name, [*words, *folders], return_hydra_config=True)
        check_hydra_settings(config)
        if config.hydra.output_subdir is not None and config.get("anonymise_ids"):
            raise ConfigurationError(
                "anonymise_ids=true and hydra.output_subdir exclude each other: Hydra would write the input's name "
                "there. Leave hydra.output_subdir out."
            )
        return config

    def plan_multirun(self, config: DictConfig, words: Sequence[str]) -> Plan:
        """Check every job and return the words that make exactly these jobs."""
        loader = GlobalHydra.instance().config_loader()
        params = text_words(
            [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()], self.schema
        )
        words = [word for word in words if not word.startswith("hydra.searchpath=")]
        expanded = expand_sweeps([*params, *words], self.schema, loader, self.search_path, self.name)
        place = Path(str(config.hydra.sweep.dir)).absolute()
        pinned = override("hydra.sweep.dir", str(place))  # the time in its name is read once
        for job in job_list(expanded):
            self._check_job(self.compose(job))
        expanded["hydra.sweep.dir"] = [pinned]
        if params:
            expanded["hydra.sweeper.params"] = ["hydra.sweeper.params=null"]  # they are words now
        plan = Plan(multirun_words(expanded), Multirun(place, varying_words(expanded)))
        if self.search_path:
            plan.words.append(override("hydra.searchpath", self.search_path))
        require_writable("runs", place)
        return plan

    def _check_job(self, config: DictConfig) -> None:
        """Check one job of a multirun. ``config``: as composed, whose ``hydra`` may be referred to."""
        if config.get("anonymise_ids"):
            raise ConfigurationError(
                "anonymise_ids=true and -m exclude each other: a multirun prints and keeps its arguments, and "
                "the input's name is one of them. Give one input at a time, without -m."
            )
        previous = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            plain = config.copy()
            with open_dict(plain):
                del plain["hydra"]
            settings = checked_settings(plain, self.schema)
            check_places(settings)
        finally:
            HydraConfig.instance().cfg = previous

    def check_files(self, words: Sequence[str]) -> None:
        """Refuse text of a YAML file that YAML reads as a number or boolean, and that would arrive as other text."""
        loader, keys = GlobalHydra.instance().config_loader(), text_keys(self.schema)
        folders = [override("hydra.searchpath", self.search_path)] if self.search_path else []
        for default in loader.compute_defaults_list(self.name, [*words, *folders], RunMode.RUN).defaults:
            if default.config_path is None or (default.package or "").startswith("hydra"):
                continue
            candidates = (
                Path(place.removeprefix("file://")) / f"{default.config_path}.yaml" for place in self._folders()
            )
            path = next((path for path in candidates if path.is_file()), None)
            if path is None:  # the schema, or a file of a Python package
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ConfigurationError(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
            raw, read = yaml.load(text, yaml.BaseLoader), OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            for key, typed, value in changed_texts(raw, read, default.package or "", keys):
                raise ConfigurationError(
                    f"{path}: {key} has {typed}, which YAML reads as {value!r} and not as text. Write it in quotes: "
                    f'"{typed}".'
                )

    def _folders(self) -> list[str]:
        return [str(self.folder), *self.search_path]


@contextmanager
def _composition_errors(words: Sequence[str], folders: Sequence[str]) -> Iterator[None]:
    """Raise ConfigurationError for what Hydra lets pass as errors of YAML, decoding, groups and keys below null."""
    try:
        yield
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"This is not YAML: {error}. Correct the file (spaces, no tabs; each key once)."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"A YAML file in {', '.join(folders)} is not UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from error
    except OmegaConfBaseException:  # some are ValueErrors, too; the entry point explains them
        raise
    except ValueError as error:  # Hydra's, of a group that is given null or a number
        raise ConfigurationError(
            f"{shell(*words)} cannot be composed: {error}. A group such as model or experiment takes the name of one "
            "of its files (--help lists them). For none, leave it out."
        ) from error
    except AssertionError as error:  # OmegaConf's
        raise ConfigurationError(
            f"{shell(*words)} sets a key of a section that is empty here, as data.phantom is without data=phantom. "
            "Choose what the section belongs to, or leave the key out."
        ) from error


def _is_search_path(word: Override) -> bool:
    return word.get_key_element() == "hydra.searchpath"


def _search_path(parsed: Sequence[Override]) -> list[str]:
    value = next((word.value() for word in parsed if _is_search_path(word)), None)
    return [str(folder) for folder in value] if isinstance(value, list) else []


def _config_dir(flags: Namespace) -> list[str]:
    if not flags.config_dir:
        return []
    folder = Path(flags.config_dir).absolute()
    if not folder.is_dir():
        home = " No shell expands ~ behind =: write $HOME." if flags.config_dir[0] == "~" else ""
        raise ConfigurationError(f"--config-dir={flags.config_dir} is not a folder. Correct the path.{home}")
    return [str(folder)]


def changed_texts(raw: Any, read: Any, key: str, keys: dict[str, TextKey]) -> Iterator[tuple[str, str, Any]]:
    """Yield key, text as it stands in the file, and value, where the value as text would differ."""
    if isinstance(raw, dict) and isinstance(read, dict):
        for (name, entry), value in zip(raw.items(), read.values(), strict=False):
            yield from changed_texts(entry, value, f"{key}.{name}" if key else str(name), keys)
    elif isinstance(raw, list) and isinstance(read, list) and key in keys:
        for entry, value in zip(raw, read, strict=True):
            yield from changed_texts(entry, value, key, keys)
    elif key in keys and isinstance(raw, str) and not isinstance(read, str | None) and str(read) != raw:
        yield key, raw, read


def to_yaml(settings: Any) -> str:
    """Return an instance of a settings dataclass as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def checked_settings(config: DictConfig, schema: type[S]) -> S:
    """Return the settings as an instance of ``schema``. Merging refuses keys that were added with ``+``.

    ``~`` at the beginning of a path is the home folder; the ids of ``data.exclude_file`` join ``data.exclude``.
    """
    paths = {key for key, kind in text_keys(schema).items() if kind.path}
    plain = _literal(OmegaConf.to_container(config, resolve=True), "", paths)
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
    name_study(settings)
    if isinstance(settings, TrainSettings | PrepareSettings) and settings.data.exclude_file is not None:
        ids = read_exclusions(Path(settings.data.exclude_file))
        settings.data.exclude = list(dict.fromkeys([*settings.data.exclude, *ids]))
        settings.data.exclude_file = None  # the run keeps the ids: the file may change
    check_settings(settings)
    if isinstance(settings, TuneSettings):
        for key, values in search_space(settings.search.space).items():
            for value in values.limits:  # a value that cannot work costs no hours
                with_values(settings, {key: value})
    return settings  # type: ignore[return-value]  # to_object returns an instance of the merged structure's class


def with_values(settings: S, values: Mapping[str, Any]) -> S:
    """Return checked settings in which some keys, in dotted form, have other values.

    Raises:
        ConfigurationError: A value cannot work, or does not with the others.
    """
    plain = _literal(asdict(settings), "", ())  # type: ignore[call-overload]  # an instance of a dataclass
    config = OmegaConf.merge(OmegaConf.structured(type(settings)), plain)
    for key, value in values.items():
        OmegaConf.update(config, key, _literal(value, "", ()))
    changed = OmegaConf.to_object(config)
    check_settings(changed)
    return changed  # type: ignore[return-value]  # as above


def _literal(value: Any, key: str, paths: Collection[str]) -> Any:
    """Return values whose texts are not resolved once more, and whose paths are absolute or relative to no home."""
    if isinstance(value, dict):
        return {name: _literal(entry, f"{key}.{name}" if key else str(name), paths) for name, entry in value.items()}
    if isinstance(value, list):
        return [_literal(entry, key, paths) for entry in value]
    if not isinstance(value, str):
        return value
    text = home_path(key, value) if key in paths else value
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def home_path(key: str, path: str) -> str:
    """Return a path with ``~`` or ``~user`` expanded, which no shell does behind ``key=``.

    Raises:
        ConfigurationError: There is no such home folder.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        raise ConfigurationError(
            f"{key}={path}: there is no home folder of that name. Write the path out, or ./{path} if it is so called."
        )
    return whole
