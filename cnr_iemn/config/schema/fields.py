"""Fields of the settings: which hold text, which values they take, and their names in dotted form."""

from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from cnr_iemn.errors import ConfigurationError

PATH = {"path": True}
"""Metadata of a field that holds a file's or folder's path, or several."""
TEXTS = {"texts": True}
"""Metadata of a field that holds a text or a list of texts, for which OmegaConf has no type."""
_LIMITS = ((Ge, "ge", "of at least {}"), (Gt, "gt", "above {}"), (Le, "le", "of at most {}"), (Lt, "lt", "below {}"))


@dataclass(frozen=True)
class OneOf:
    """Annotation of a field with a few values."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class FolderName:
    """Annotation of a field that becomes a folder's name."""


@dataclass(frozen=True)
class TextKey:
    """What a key of text holds: a ``single`` text, ``many`` in a list, or either; ``optional``: it may be null.

    ``path``: the text is a path.
    """

    single: bool = False
    many: bool = False
    optional: bool = False
    path: bool = False


def setting_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every key of a dataclass and of those inside it, and whether it is a group of others."""
    for key, _, groups in _entries(schema, prefix):
        yield key, groups


def default_of(schema: type, name: str) -> object:
    """Return the default of a field of a dataclass that has one."""
    (entry,) = (entry for entry in fields(schema) if entry.name == name)
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def text_keys(schema: type) -> dict[str, TextKey]:
    """Return the keys of a dataclass, and of those inside it, whose type is text or a list of text."""
    return {key: kind for key, kind, _ in _entries(schema, "") if kind is not None}


def check_fields(settings: object, prefix: str = "") -> None:
    """Check all values against the annotations of their fields: ``Ge``, ``Gt``, ``Le``, ``Lt``, OneOf and FolderName.

    Args:
        settings: An instance of a dataclass.
        prefix: Of its keys, with a dot at its end.

    Raises:
        ConfigurationError: A value lies outside its range, or is none of its choices.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if is_dataclass(value):
            check_fields(value, f"{prefix}{name}.")
        elif value is not None:
            _check_value(f"{prefix}{name}", value, _annotations(hint))


def check_folder_name(key: str, value: str) -> None:
    """Check that a value can name a folder. Raises ConfigurationError."""
    if not value or value.startswith(".") or any(c in value for c in "/\\ :"):
        raise ConfigurationError(
            f"{key}={value!r} becomes a folder's name and cannot be used as one. "
            "Use letters, digits, '-', '_', '=' and '+'."
        )


def setting_paths(key: str, value: object) -> tuple[str, ...]:
    """Return the paths of a setting that is null, one path or a list of them. Raises ConfigurationError."""
    paths = tuple(path for path in _as_sequence(value) if isinstance(path, str) and path)
    if len(paths) < len(_as_sequence(value)):
        raise ConfigurationError(f"{key}={value!r} names no file. Give a path, or a list: '{key}=[a,b]'.")
    return paths


def setting_choices(key: str, value: object, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the choices of a setting that is null, one of them or a list. Raises ConfigurationError."""
    entries = tuple(entry for entry in _as_sequence(value) if isinstance(entry, str) and entry in choices)
    if len(entries) < len(_as_sequence(value)):
        raise ConfigurationError(
            f"{key}={value} is not known. Choose one of {', '.join(choices)}, or several: '{key}=[{choices[0]},"
            f"{choices[1]}]'."
        )
    return tuple(dict.fromkeys(entries))


def setting_numbers(key: str, value: object) -> tuple[float, ...]:
    """Return the shares of a setting that is null, one number or a list of them, all above 0 and below 1.

    Raises ConfigurationError.
    """
    numbers = tuple(float(entry) for entry in _as_sequence(value) if isinstance(entry, int | float) and 0 < entry < 1)
    if len(numbers) < len(_as_sequence(value)):
        raise ConfigurationError(
            f"{key}={value} is not a share of the scans. Give a number above 0 and below 1, or several: "
            f"'{key}=[0.05,0.2]'."
        )
    return numbers


def _as_sequence(value: object) -> Sequence[object]:
    """Return what a setting holds that may be null, one value or a list of them."""
    return () if value is None else value if isinstance(value, list | tuple) else (value,)


def _check_value(key: str, value: Any, annotations: list[Any]) -> None:
    for annotation in annotations:
        if isinstance(annotation, OneOf) and value not in annotation.values:
            raise ConfigurationError(f"{key}={value} is not known. Choose one of: {', '.join(annotation.values)}.")
        if isinstance(annotation, FolderName):
            check_folder_name(key, value)
    limits = [annotation for annotation in annotations if isinstance(annotation, Ge | Gt | Le | Lt)]
    if any(not _within(value, limit) for limit in limits):
        words = [
            text.format(getattr(limit, name))
            for limit in limits
            for kind, name, text in _LIMITS
            if isinstance(limit, kind)
        ]
        raise ConfigurationError(f"{key}={value} is out of range. Give a number {' and '.join(words)}.")


def _within(value: Any, limit: Ge | Gt | Le | Lt) -> bool:
    if isinstance(limit, Ge):
        return bool(value >= limit.ge)
    if isinstance(limit, Gt):
        return bool(value > limit.gt)
    return bool(value <= limit.le) if isinstance(limit, Le) else bool(value < limit.lt)


def _annotations(hint: Any) -> list[Any]:
    """Return the annotations of a type, also of the members of a union such as ``Annotated[...] | None``."""
    annotations = list(getattr(hint, "__metadata__", ()))
    members = [] if get_origin(hint) in (list, dict) else get_args(hint)
    return annotations + [annotation for member in members for annotation in _annotations(member)]


def _entries(schema: type, prefix: str) -> Iterator[tuple[str, TextKey | None, bool]]:
    hints = get_type_hints(schema)
    for entry in fields(schema):
        groups = _dataclasses_in(hints[entry.name])
        yield f"{prefix}{entry.name}", _kind(hints[entry.name], entry), bool(groups)
        for group in groups:
            yield from _entries(group, f"{prefix}{entry.name}.")


def _kind(hint: Any, entry: Field[Any]) -> TextKey | None:
    path = bool(entry.metadata.get("path"))
    if entry.metadata.get("texts"):
        return TextKey(single=True, many=True, optional=True, path=path)
    members = get_args(hint) if get_origin(hint) is not list else (hint,)
    optional, kinds = type(None) in members, {member for member in members or (hint,) if member is not type(None)}
    if kinds == {str}:
        return TextKey(single=True, optional=optional, path=path)
    return TextKey(many=True, optional=optional, path=path) if kinds == {list[str]} else None


def _dataclasses_in(hint: Any) -> list[type]:
    return [c for c in (hint, *getattr(hint, "__args__", ())) if isinstance(c, type) and is_dataclass(c)]
