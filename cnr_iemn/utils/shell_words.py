"""Commands and overrides as text that works when it is pasted into a shell: quoted for Hydra, then for the shell."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cnr_iemn.constants import BACKBONES

_PLAIN = re.compile(r"(?!(?:true|false|null|inf|nan)$)[a-z_/][a-z0-9_./+%@-]*", re.IGNORECASE)
"""Text that Hydra's parser reads as it stands, and as text."""
_PROGRAM = "CNR_IEMN_PROGRAM"
"""Environment variable with the program that runs the commands, where no script of a checkout does."""


def hydra_text(text: str) -> str:
    """Return a value that Hydra's parser and OmegaConf read as this very text, never as a number, null or a reference.

    Args:
        text: Any text without NUL characters, such as a scan's id or a path.

    Returns:
        The text itself where that is safe, else quoted (rules: Hydra's override grammar, ``QUOTED_VALUE``).
    """
    if _PLAIN.fullmatch(text):
        return text
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf would look up ${name}
    return '"' + re.sub(r'(\\*)("|$)', _escape, literal, flags=re.DOTALL) + '"'


def _escape(match: re.Match[str]) -> str:
    backslashes, quote = match.groups()
    return backslashes * 2 + ("\\" + quote if quote else "")


def override(key: str, value: str | Iterable[str]) -> str:
    """Return ``key=value`` for Hydra; quote it with ``shell`` before a person pastes it.

    Args:
        key: Dotted key of a setting whose type is text, or a list of text.
        value: The text, or the texts of a list.

    Returns:
        One word, quoted for Hydra alone.
    """
    if isinstance(value, str):
        return f"{key}={hydra_text(value)}"
    return f"{key}=[{','.join(map(hydra_text, value))}]"


def shell(*words: str) -> str:
    """Return words as one line for a POSIX shell, each quoted where it must be."""
    return shlex.join(words)


def command(script: str, *words: str) -> str:
    """Return the line that runs an entry point, as the present one was run: from a checkout or by ``cnr-iemn``.

    Args:
        script: ``train``, ``prepare``, ``predict``, ``aggregate`` or ``export``.
        words: Its overrides, as ``override`` makes them.

    Returns:
        A line for a POSIX shell.
    """
    program = os.environ.get(_PROGRAM)
    return shell(*(["python", f"{script}.py"] if program is None else [*program.split(), script]), *words)


@contextmanager
def program_name(name: str) -> Iterator[None]:
    """Have ``command`` name a program, such as ``cnr-iemn``, while the block runs; also in processes started in it."""
    before = os.environ.get(_PROGRAM)
    os.environ[_PROGRAM] = name
    try:
        yield
    finally:
        os.environ.pop(_PROGRAM)
        if before is not None:
            os.environ[_PROGRAM] = before


def study_words(study: str, runs: Path | None = None) -> list[str]:
    """Return the overrides that name a study; ``runs``: its folder of studies, where another than the default."""
    return [override("study", study), *([] if runs is None or str(runs) == "runs" else [override("runs", str(runs))])]


def model_words(model: str) -> list[str]:
    """Return the overrides that choose a network by the name that its run has."""
    return [f"model={model}"] if model in BACKBONES else ["model=timm", override("model.name", model)]


def predict_command(study: str, ensemble: str, runs: Path) -> str:
    """Return the command that applies an ensemble to scans, with SCANS in place of their path."""
    words = [] if ensemble == "all" else [override("ensemble", ensemble)]
    return command("predict", "input=SCANS", *study_words(study, runs), *words)


def aggregate_command(study: str, ensemble: str, runs: Path | None = None) -> str:
    """Return the command that makes an ensemble.

    Args:
        study: Its study.
        ensemble: The name of its folder: all, a model's name, or names joined by +; @ and several tags may follow.
        runs: The folder of studies, None for the default.

    Returns:
        A line for a POSIX shell.
    """
    names, _, tags = ensemble.partition("@")
    models = names.split("+")
    word = override("ensemble", models if len(models) > 1 else names)
    name, *place = study_words(study, runs)
    return command("aggregate", name, word, *([override("tag", tags.split("+"))] if tags else []), *place)
