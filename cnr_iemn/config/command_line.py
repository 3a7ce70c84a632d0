"""The command line: Hydra's flags, and words whose keys hold text, which arrive as they were typed.

Hydra reads 12_3 as the number 123, 1e-3 as 0.001 and TRUE as a boolean, and accepts no umlaut outside quotes.
"""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from cnr_iemn.config.schema.fields import TextKey, text_keys
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.shell_words import hydra_text

_WORD = re.compile(r"(\+{0,2}([A-Za-z0-9_.]+)=)(.*)", re.DOTALL)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_CALL = re.compile(r"(choice|shuffle|sort|str|range|interval|glob|tag|int|float|bool)\((.*)\)")
_OF_TEXTS = ("choice", "shuffle", "sort", "str")
"""Functions of Hydra's override grammar that take the values themselves."""


_ACTIONS = ("run", "multirun", "cfg", "info", "shell_completion")
"""Flags of which a command has at most one."""


def parse_flags(name: str, arguments: Sequence[str]) -> Namespace:
    """Return Hydra's flags, and the other words as ``overrides``.

    Args:
        name: The command, for the messages of argparse.
        arguments: The words of the command line.

    Raises:
        ConfigurationError: Two flags exclude each other, or a flag reads a pickle.
        SystemExit: A flag does not exist (code 2).
    """
    parser = ArgumentParser(prog=name, add_help=False, usage=f"{name} [flags] [key=value ...]; --help explains both")
    parser.add_argument("overrides", nargs="*")
    for flag, short in (("help", "h"), ("run", "r"), ("multirun", "m"), ("shell-completion", "sc")):
        parser.add_argument(f"--{flag}", f"-{short}", action="store_true")
    for flag in ("hydra-help", "version", "resolve"):
        parser.add_argument(f"--{flag}", action="store_true")
    for flag, short in (("package", "p"), ("config-path", "cp"), ("config-name", "cn"), ("config-dir", "cd")):
        parser.add_argument(f"--{flag}", f"-{short}")
    parser.add_argument("--experimental-rerun")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--info", "-i", nargs="?", const="all")
    flags = parser.parse_intermixed_args(list(arguments))
    actions = [f"--{action.replace('_', '-')}" for action in _ACTIONS if getattr(flags, action)]
    if len(actions) > 1:
        raise ConfigurationError(
            f"{' and '.join(actions)} exclude each other. Give one of them; --cfg shows a single run, without -m."
        )
    if flags.experimental_rerun is not None:
        raise ConfigurationError(
            "--experimental-rerun reads a pickle, which can run any code, and is not supported. Repeat the command of "
            "the run: it is in run.json of the run's folder and in provenance.json."
        )
    return flags


def flag_words(flags: Namespace) -> list[str]:
    """Return the flags as words, in their long form, so that Hydra reads what ``parse_flags`` has read."""
    words = []
    for name, value in vars(flags).items():
        if name != "overrides" and value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return words


def text_words(words: Sequence[str], schema: type) -> list[str]:
    """Return the words, those for text quoted for Hydra where it would read them as anything else.

    Args:
        words: ``key=value``, as they were typed; sweeps and functions of Hydra's grammar among them.
        schema: the dataclass of the settings, whose types tell which keys hold text.

    Returns:
        As many words. Quoted values, references (``${...}``), the word null for what may be null, and words of
        other keys stay as they are; a single value becomes a list where the key holds one.
    """
    keys = text_keys(schema)
    return [_text_word(word, keys) for word in words]


def _text_word(word: str, keys: Mapping[str, TextKey]) -> str:
    match = _WORD.fullmatch(word)
    if match is None or match[2] not in keys:
        return word
    key = keys[match[2]]
    return match[1] + ",".join(_value(text, key) for text in split_texts(match[3]))


def _value(text: str, key: TextKey) -> str:
    """Return one value of a key: one text or one list of texts, or a function of Hydra's that gives some."""
    text = text.strip()
    call = _CALL.fullmatch(text)
    if call is not None:
        if call[1] not in _OF_TEXTS:
            return text
        return f"{call[1]}({','.join(_argument(entry, key) for entry in split_texts(call[2]))})"
    if text.startswith("[") and text.endswith("]") and key.many:
        return f"[{','.join(_text(entry) for entry in split_texts(text[1:-1]))}]"
    if text[:1] in ("[", "{") or (text == "null" and key.optional):
        return text
    if key.single:
        return _text(text)
    return f"[{_text(text)}]" if text and "${" not in text else text


def _argument(text: str, key: TextKey) -> str:
    return text if re.match(r"\s*(list|reverse|seed)\s*=", text) else _value(text, key)


def _text(text: str) -> str:
    text = text.strip()
    if not text or _QUOTED.fullmatch(text) or "${" in text:
        return text
    try:
        if isinstance(OverridesParser.create().parse_override(f"key={text}").value(), str):
            return text
    except HydraException:
        pass  # Hydra has no such letters outside quotes
    return hydra_text(text)


def split_texts(text: str) -> Iterator[str]:
    """Give what stands between commas, but for those in brackets and quotes; a quote opens where a value begins."""
    start, depth, at, opens = 0, 0, 0, True
    while at < len(text):
        letter = text[at]
        quoted = _QUOTED.match(text, at) if opens and letter in "'\"" else None
        at = quoted.end() if quoted else at + 1
        if not quoted and letter == "," and depth == 0:
            yield text[start : at - 1]
            start = at
        depth += (letter in "[({") - (letter in "])}") if not quoted else 0
        opens = letter in ",[({=" or (opens and letter.isspace())
    yield text[start:]
