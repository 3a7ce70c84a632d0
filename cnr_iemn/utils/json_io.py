"""JSON files that the project reads back: each is what its reader expects, or is named with what to do."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from cnr_iemn.errors import CnrIemnError, RunError
from cnr_iemn.schemas import SCHEMA_VERSION

T = TypeVar("T")
_MAX_QUOTED = 60
"""Characters of a value that a message quotes."""


def read_json(
    path: Path,
    shape: type[T],
    *,
    again: str,
    refusal: type[CnrIemnError] = RunError,
    extra: Literal["forbid", "ignore", "allow"] = "forbid",
    versioned: bool = True,
) -> T:
    """Return what a JSON file holds.

    Args:
        path: The file.
        shape: A dataclass or TypedDict that names its keys and their types.
        again: A sentence that says how to make the file anew.
        refusal: What is raised.
        extra: What becomes of keys that ``shape`` lacks: refused, left out, or (in a TypedDict) kept.
        versioned: The file says its schema_version.

    Returns:
        The file's object, as an instance of ``shape``.

    Raises:
        CnrIemnError: ``refusal``, where the file is missing, a folder, cut or no JSON, of another schema version, or
            where a key is missing or of another type.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refusal(f"{path} is missing. {again}") from error
    except IsADirectoryError as error:
        raise refusal(f"{path} is a folder where a file should be. {again}") from error
    return parse_json(data, shape, source=str(path), again=again, refusal=refusal, extra=extra, versioned=versioned)


def parse_json(
    data: bytes,
    shape: type[T],
    *,
    source: str,
    again: str,
    refusal: type[CnrIemnError] = RunError,
    extra: Literal["forbid", "ignore", "allow"] = "forbid",
    versioned: bool = True,
) -> T:
    """Return what JSON in memory holds, as ``read_json`` does. ``source``: what a message calls it."""
    try:
        values = from_json(data)  # which refuses what is nested so deep that Python's own parser fails
    except ValueError as error:
        raise refusal(f"{source} is damaged: it is not JSON ({error}). {again}") from error
    if not isinstance(values, dict):
        raise refusal(f"{source} is damaged: it holds {_quoted(values)} in place of named values. {again}")
    version = values.get("schema_version")
    if versioned and version != SCHEMA_VERSION:
        raise refusal(
            f"{source} has schema_version {_quoted(version)}, this program reads {SCHEMA_VERSION}: another version "
            f"wrote it, or it is damaged. {again}"
        )
    if extra == "forbid":
        values.pop("notice", None)  # for people, who read the file too
    text = to_json(values, inf_nan_mode="constants")
    try:
        return TypeAdapter(shape).validate_json(text, strict=True, extra=extra)
    except ValidationError as error:
        raise refusal(
            f"{source} is damaged, or was written by another version of the project ({first_fault(error)}). {again}"
        ) from error


def first_fault(error: ValidationError) -> str:
    """Return place and kind of the first fault that pydantic has found, without the value there."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{_quoted('.'.join(map(str, first['loc'])) or 'its content')}: {first['msg']}"


def _quoted(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."
