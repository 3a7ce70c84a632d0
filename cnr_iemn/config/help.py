"""``COMMAND --help``: the command's own groups and keys, each with the comment that conf/ has for it, and examples."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from cnr_iemn.utils.shell_words import command

_KEY = re.compile(r"(\s*)([A-Za-z_][\w-]*):(\s.*)?")
_COMMENT = re.compile(r"(?:^|\s)#\s?(.*)")
_FLAGS = """\
  -m              runs a job for each combination of values that commas separate: seed=0,1,2
  --cfg job       prints the configuration that the command would run with
  --config-dir D  adds a folder of your own YAML files to conf/
  --help          shows this text, with the groups and values of the other arguments: data=manifest --help"""
_NARROW, _WIDE = 80, 120  # columns, at least and at most


def command_help(name: str, words: Sequence[str], folder: Path, docstring: str) -> str:
    """Return the help of a command.

    Args:
        name: Of its primary configuration, such as train.
        words: Overrides, which choose the groups whose keys are shown.
        folder: The project's YAML files.
        docstring: Of the command's script: what it does, then one example a line.

    Raises:
        HydraException: The words cannot be composed.
    """
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(folder)):
        config = hydra.compose(name, list(words), return_hydra_config=True)
    choices = {
        group: choice
        for group, choice in reversed(config.hydra.runtime.choices.items())
        if (folder / group).is_dir() and (choice is None or (folder / group / f"{choice}.yaml").is_file())
    }
    keys = DictConfig({key: value for key, value in config.items_ex(resolve=False) if key != "hydra"})
    summary, *lines = [line for line in docstring.splitlines() if line]
    examples = [line.replace(f"python {name}.py", command(name), 1) for line in lines]
    width = min(max(shutil.get_terminal_size().columns, _NARROW), _WIDE)
    sections = [
        summary,
        "Examples:\n" + "\n".join(f"  {line}" for line in examples),
        *([_groups(choices, folder)] if choices else []),
        "Keys (key=value), with the values that they have now:\n"
        + "\n".join(_key_lines(keys, key_comments(name, choices, folder), width)),
        f"Flags:\n{_FLAGS}",
    ]
    return "\n\n".join(sections)


def key_comments(name: str, choices: Mapping[str, str | None], folder: Path) -> dict[str, str]:
    """Return the comment of each key, in dotted form.

    Args:
        name: Of the primary configuration.
        choices: The option of each group; the comments of the others count where it has none.
        folder: The YAML files.
    """
    comments: dict[str, str] = {}
    for group in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        files = sorted((folder / group).glob("*.yaml"), key=lambda path: path.stem == choices.get(group))
        for path in files:
            text = path.read_text(encoding="utf-8")
            if "@package" not in text:  # such a file sets keys of other groups
                comments |= {f"{group}.{key}": comment for key, comment in file_comments(text)}
    return comments | dict(file_comments((folder / f"{name}.yaml").read_text(encoding="utf-8")))


def file_comments(text: str) -> Iterator[tuple[str, str]]:
    """Yield key, in dotted form, and comment for each key of a YAML file that has one.

    The comment stands behind the key and may go on in the lines below it, in the same column; or it stands above the
    key. Comments above the first key are of the file.
    """
    comments: dict[str, str] = {}
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    column = -1  # of the comment behind the last key
    for line in text.splitlines():
        comment = _COMMENT.search(line)
        key = _KEY.fullmatch(line[: comment.start()] if comment else line)
        name = ".".join(parent for _, parent in parents)
        if key is not None:
            parents = [*(parent for parent in parents if parent[0] < len(key[1])), (len(key[1]), key[2])]
            name = ".".join(parent for _, parent in parents)
            comments[name] = comment[1] if comment else " ".join(above)
            above, column = [], line.index("#") if comment else -1
        elif comment is None:
            above = []
        elif line.index("#") == column:
            comments[name] += f" {comment[1]}"
        elif comments:
            above.append(comment[1])
    yield from ((key, comment) for key, comment in comments.items() if comment)


def _groups(choices: Mapping[str, str | None], folder: Path) -> str:
    lines = []
    for group, choice in choices.items():
        options = sorted(path.stem for path in (folder / group).glob("*.yaml"))
        alternatives = [option for option in options if option != choice]
        now = choice or "none"
        more = f"; or {', '.join(alternatives)}" if alternatives else ""
        lines.append(f"  {group:<{max(map(len, choices))}}  {now}{more}")
    return "Groups (group=option): the present option, and the others\n" + "\n".join(lines)


def _key_lines(config: DictConfig, comments: Mapping[str, str], width: int) -> Iterator[str]:
    for key, value in _flat(config, comments):
        yield f"  {key}={value}"
        if key in comments:
            yield textwrap.fill(comments[key], width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _flat(config: DictConfig, comments: Mapping[str, str], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and value; a mapping is one value unless its own keys have comments."""
    for name, value in config.items_ex(resolve=False):
        key = prefix + str(name)
        has_comments = any(other.startswith(f"{key}.") for other in comments)
        if isinstance(value, DictConfig) and has_comments and OmegaConf.to_container(value, resolve=False) is not None:
            yield from _flat(value, comments, f"{key}.")
        else:
            yield key, _inline(OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value)


def _inline(value: object) -> str:
    """Return a value as Hydra takes it on the command line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_inline, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) or "''"
