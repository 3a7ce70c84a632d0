"""What a stage-2 method is: it learns from scans, predicts scans, and is kept in one file without code."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from cnr_iemn.errors import RunError
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray
from cnr_iemn.utils.atomic_io import write_bytes_atomic
from cnr_iemn.utils.json_io import parse_json, read_json

Floats = NDArray[np.float64]
P = TypeVar("P")
METHOD_FILE = "method.json"

Numbers = list[Annotated[float, Field(allow_inf_nan=False)]]
"""A vector in a file."""
Matrix = list[Numbers]
"""Rows of numbers in a file."""


class GroupContributions(NamedTuple):
    """Contributions of the models' groups of slices to the margins (log-odds before the softmax) of scans.

    ``by_group``: float64 [scans, classes, models, 20 groups]. ``base``: float64 [classes], the margin before any slice.
    """

    by_group: Floats
    base: Floats


class FittedMethod(ABC):
    """A fitted method. ``axes``: of the scans that it was fitted on and that it takes.

    ``attribution``: what its contributions are, the beginning of a sentence; empty where it has none.
    """

    axes: Axes
    attribution: ClassVar[str] = ""

    @abstractmethod
    def predict_proba(self, scans: Sequence[ScanArray]) -> Floats:
        """Return class probabilities, float64 [scans, classes]. ``scans``: at least one."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the file that ``Method.load`` reads, whole or not at all. Its bytes depend on the fit alone."""

    def contributions(self, scans: Sequence[ScanArray]) -> GroupContributions | None:
        """Return what each model's groups of slices contribute; None where the method cannot tell."""
        return None


class Method(ABC):
    """A way from the slices' probabilities to the class of a scan.

    ``file``: name of the file of a fitted one. ``deep``: it learns from the components of the slices' features, too.
    ``scored``: it weighs slices by the scores that networks with attention give the slices.
    """

    file: ClassVar[str] = METHOD_FILE
    deep: ClassVar[bool] = False
    scored: ClassVar[bool] = False

    def input_axes(self, axes: Axes) -> Axes:
        """Return which of the channels of a study's scans it takes."""
        if self.deep:
            return axes
        return replace(axes.plain, attention=self.scored and axes.attention)

    def applies_to(self, axes: Axes) -> bool:
        """Tell whether the scans have what the method is about."""
        return (axes.components > 0 or not self.deep) and (axes.attention or not self.scored)

    @abstractmethod
    def fit(self, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, *, seed: int = 0) -> FittedMethod:
        """Learn from training scans; the same arguments give the same result.

        Args:
            scans: float32 [models, n_slices, channels] each, slices head first.
            labels: Class index of each scan, int64 [scans]; every class occurs.
            axes: Of the scans.
            seed: Of whatever the method draws.
        """

    @abstractmethod
    def load(self, path: Path, axes: Axes, *, again: str) -> FittedMethod:
        """Read a fitted method.

        Args:
            path: A file of ``FittedMethod.save``.
            axes: Of the scans that it is to predict.
            again: The remedy where the file is unusable, a sentence.

        Raises:
            RunError: The file is damaged, or for other models or classes.
        """


class _File(TypedDict):
    models: list[str]
    classes: list[str]
    parameters: dict[str, object]


def write_parameters(path: Path, axes: Axes, parameters: Mapping[str, object]) -> None:
    """Write the JSON file of a fitted method, whole or not at all; every float is read back to the bit."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "models": axes.models,
        "classes": axes.classes,
        "parameters": parameters,
    }
    write_bytes_atomic(path, to_json(document, indent=1))


def read_parameters(path: Path, axes: Axes, shape: type[P], *, again: str) -> P:
    """Return the parameters in a file of ``write_parameters``, as an instance of ``shape``.

    Raises:
        RunError: The file is damaged, or of a method for other models or classes.
    """
    file = read_json(path, _File, again=again, extra="ignore")
    for name, expected in (("models", axes.models), ("classes", axes.classes)):
        if tuple(file[name]) != expected:  # type: ignore[literal-required]
            raise RunError(
                f"{path} is for the {name} {', '.join(file[name])}, "  # type: ignore[literal-required]
                f"its ensemble has {', '.join(expected)}. {again}"
            )
    return parse_json(to_json(file["parameters"]), shape, source=str(path), again=again, versioned=False)


def array_of(values: Sequence[float] | Sequence[Sequence[float]], shape: tuple[int, ...], *, path: Path) -> Floats:
    """Return an array of a file's numbers, float64. Raises RunError where they are not of this shape."""
    try:
        array = np.array(values, dtype=np.float64)
    except ValueError as error:  # rows of unlike length
        raise RunError(f"{path} is damaged: a row of its numbers is cut. Run aggregate.py again.") from error
    if array.shape != shape:
        raise RunError(
            f"{path} has an array of shape {array.shape} where the method has {shape}: it is damaged, or of another "
            "version. Run aggregate.py again."
        )
    return array
