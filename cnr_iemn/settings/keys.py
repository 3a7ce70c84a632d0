"""The keys of a schema in dotted form."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def setting_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Give every key of a dataclass and of those inside it, and whether it is a group of others."""
    hints = get_type_hints(schema)
    for entry in fields(schema):
        groups = _dataclasses_in(hints[entry.name])
        yield f"{prefix}{entry.name}", bool(groups)
        for group in groups:
            yield from setting_keys(group, f"{prefix}{entry.name}.")


def _dataclasses_in(hint: Any) -> list[type]:
    return [c for c in (hint, *getattr(hint, "__args__", ())) if isinstance(c, type) and is_dataclass(c)]
