"""Arrays of slice labels: whatever a file holds, it is read as 0 and 1 or named, and no pickle runs."""

import io
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.data.readers.covid_ct_md import read_infected
from cnr_iemn.errors import CohortError

GOOD = np.array([[0, 1, 1], [0, 0, 0]])


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return Path.write_text, (self.path, "run")


def saved(array: np.ndarray, **keys: bool) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array, **keys)
        return file.getvalue()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64, ">i8", np.float32])
def test_every_kind_of_number_is_read(dtype: object, tmp_path: Path) -> None:
    for order in "CF":
        (tmp_path / "l.npy").write_bytes(saved(np.array(GOOD, dtype=dtype, order=order)))
        found = read_infected(tmp_path / "l.npy")
        np.testing.assert_array_equal(found, GOOD == 1)
        assert found.dtype == bool


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan, np.inf])
def test_a_value_that_is_neither_0_nor_1_is_named_with_its_place(value: float, tmp_path: Path) -> None:
    array = GOOD.astype(float)
    array[1, 2] = value
    (tmp_path / "l.npy").write_bytes(saved(array))
    with pytest.raises(CohortError, match=r"l\.npy holds 1 values .* row 1, column 2"):
        read_infected(tmp_path / "l.npy")


def header(shape: str) -> bytes:
    text = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


def test_files_that_are_no_such_array(tmp_path: Path) -> None:
    archive = io.BytesIO()
    np.savez(archive, labels=GOOD)
    trap = saved(np.array([Trap(tmp_path / "trap")], dtype=object), allow_pickle=True)
    files = {
        "objects": trap,
        "pickle": trap[trap.index(b"\n") + 1 :],
        "npz": archive.getvalue(),
        "npz cut": archive.getvalue()[:50],
        "text": b"0 1 0 1 1\n" * 40,
        "empty": b"",
        "cut": saved(GOOD)[:-4],
        "header cut": saved(GOOD)[:40],
        "billions": header("(1000000000000, 200)"),
        "beyond an integer": header("(10000000000000000000000, 200)"),
        "negative": header("(-2, 3)"),
        "brackets": saved(GOOD)[:10] + b"(" * 118,
        "one row": saved(GOOD[0]),
        "lobes": saved(np.zeros((2, 3, 5))),
        "words": saved(np.array([["a", "b"]])),
        "complex": saved(GOOD.astype(complex)),
    }
    for name, data in files.items():
        path = tmp_path / f"{name}.npy"
        path.write_bytes(data)
        with pytest.raises(CohortError) as caught:
            read_infected(path)
        assert str(path) in str(caught.value), name
    assert not (tmp_path / "trap").exists()
    with pytest.raises(CohortError):
        read_infected(tmp_path)


def test_a_damaged_header_ends_in_a_sentence(tmp_path: Path) -> None:
    draw, whole, path = random.Random(0), saved(GOOD), tmp_path / "l.npy"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 2, 5))):
            data[draw.randrange(128)] = draw.randrange(256)
        path.write_bytes(data)
        with suppress(CohortError):  # anything else would end the test
            assert read_infected(path).ndim == 2
