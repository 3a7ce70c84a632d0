"""Ways in which a file on a disk goes wrong, for the tests of everything that reads one."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

NESTED = b'{"schema_version": 2, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def _other_types(data: bytes) -> bytes:
    """Put a list of a number in place of every value but the version."""
    try:
        values = json.loads(data)
    except ValueError:
        return b"[[0]]"
    return json.dumps({key: value if key == "schema_version" else [0.5] for key, value in values.items()}).encode()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "garbage": lambda data: b"\x13garbage\x00" * 9,
    "zeros": lambda data: bytes(len(data)),
    "a list": lambda data: b"[]",
    "null": lambda data: b"null",
    "no values": lambda data: b"{}",
    "the version alone": lambda data: b'{"schema_version": 2}',
    "another version": lambda data: b'{"schema_version": 99}',
    "other types": _other_types,
    "nested": lambda data: NESTED,
    "not UTF-8": lambda data: b"\xe9" + data,
}


def damage(path: Path, kind: str) -> None:
    """Damage a file. ``kind``: of DAMAGES, or a folder, missing."""
    data = path.read_bytes()
    path.unlink()  # it may be a link to one that others read
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(DAMAGES[kind](data))


KINDS = (*DAMAGES, "a folder", "missing")


def flipped(data: bytes, count: int, *, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """Give copies of data with one flipped bit each, and which: at ``count`` seeded places."""
    places = np.random.default_rng(seed).choice(8 * len(data), min(count, 8 * len(data)), replace=False)
    for place in places.tolist():
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        yield place, bytes(changed)


def linked_copy(source: Path, target: Path) -> Path:
    """Copy a folder whose files are links to the same bytes; ``damage`` leaves the first ones alone."""
    shutil.copytree(source, target, copy_function=lambda a, b: Path(b).hardlink_to(a))
    return target
