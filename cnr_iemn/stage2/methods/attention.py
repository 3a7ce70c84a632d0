"""Attention over the slices of a scan (Ilse, Tomczak, Welling, ICML 2018): learns from the patient's class alone.

A scan is a bag of slices. A slice's score is w . tanh(V h + c), where h holds all models' probabilities and the slice's
position. A softmax over the scan's slices turns scores into weights, and the weighted mean of h goes into a multinomial
logistic regression. All parameters are fitted together. Slice labels are not needed.

Over deep features h holds their components (``feature_space``), too, and the score is gated (section 2.4 there):
w . (tanh(V h + c) * sigmoid(G h + d)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit, log_softmax, softmax
from typing_extensions import TypedDict

from cnr_iemn.stage2.methods.base import (
    FittedMethod,
    Floats,
    Method,
    Numbers,
    array_of,
    read_parameters,
    write_parameters,
)
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray

HIDDEN = 4
"""Length of V h: 209 scans cannot support more."""
PENALTY = 0.01
"""Factor of the squared weights in the loss; the other term is the mean log-loss of a scan."""
SMALLEST_DEVIATION = 0.01
"""Of an input over the training slices, by which it is divided: below it, rounding of the networks would count."""
_STOP = {"maxiter": 100, "ftol": 1e-6}  # smaller steps of the loss change no probability by 0.01


@dataclass(frozen=True)
class Bags:
    """Slices of scans in a row. ``values``: float64 [slices, inputs]; ``starts``: first slice of each scan."""

    values: Floats
    starts: NDArray[np.int64]

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The scan of each slice, int64 [slices]."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.values))))

    def pool(self, weights: Floats) -> Floats:
        """Return the weighted sum of each scan's slices, float64 [scans, inputs]."""
        n = len(self.values)
        return np.asarray(csr_array((weights, np.arange(n), np.append(self.starts, n))) @ self.values)

    def softmax(self, scores: Floats) -> Floats:
        """Return weights of the slices, float64 [slices], which sum to 1 over each scan."""
        exponentials = np.exp(scores - np.maximum.reduceat(scores, self.starts)[self.owner])
        return np.asarray(exponentials / np.add.reduceat(exponentials, self.starts)[self.owner])


@dataclass(frozen=True)
class Shape:
    """Cuts the vector of all parameters into V, c, w, W and b (``split``) and, with ``gated``, G and d (``gate``)."""

    inputs: int
    classes: int
    hidden: int = HIDDEN
    gated: bool = False

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self._ungated + self.gated * self.hidden * (self.inputs + 1)

    @property
    def _ungated(self) -> int:
        return self.hidden * (self.inputs + 2) + self.classes * (self.inputs + 1)

    def split(self, vector: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """Return V [inputs, hidden], c [hidden], w [hidden], W [inputs, classes], b [classes]: views."""
        d, h, k = self.inputs, self.hidden, self.classes
        v, c, w, u, b = np.split(vector[: self._ungated], np.cumsum([d * h, h, h, d * k]))
        return v.reshape(d, h), c, w, u.reshape(d, k), b

    def gate(self, vector: Floats) -> tuple[Floats, Floats]:
        """Return G [inputs, hidden] and d [hidden]: views, without rows where the score has no gate."""
        g, d = np.split(vector[self._ungated :], [self.gated * self.inputs * self.hidden])
        return g.reshape(-1, self.hidden), d

    def activations(self, values: Floats, vector: Floats) -> tuple[Floats, Floats]:
        """Return tanh and gate of the slices, each float64 [slices, hidden]; without a gate ones."""
        v, c, *_ = self.split(vector)
        g, d = self.gate(vector)
        tanh = np.tanh(values @ v + c)
        return tanh, expit(values @ g + d) if self.gated else np.ones_like(tanh)


def make_bags(scans: Sequence[ScanArray], *, position: bool = True) -> Bags:
    """Return the slices' inputs: the channels, model after model, and the position in the scan, 0 to 1."""
    positions = [(np.arange(scan.shape[1]) + 0.5) / scan.shape[1] for scan in scans]
    rows = [scan.transpose(1, 0, 2).reshape(scan.shape[1], -1) for scan in scans]
    values = np.concatenate(rows).astype(np.float64)
    if position:
        values = np.column_stack([values, np.concatenate(positions)])
    return Bags(values, np.cumsum([0, *(len(row) for row in rows[:-1])]))


def attention_weights(bags: Bags, vector: Floats, shape: Shape) -> Floats:
    """Return the weight of each slice within its scan, float64 [slices]."""
    tanh, gate = shape.activations(bags.values, vector)
    return bags.softmax((tanh * gate) @ shape.split(vector)[2])


def loss_and_gradient(
    vector: Floats, bags: Bags, labels: NDArray[np.int64], shape: Shape, penalty: float = PENALTY
) -> tuple[float, Floats]:
    """Return the penalised mean log-loss and its gradient. The offsets b, c and d carry no penalty."""
    v, _, w, u, b = shape.split(vector)
    g, _ = shape.gate(vector)
    tanh, gate = shape.activations(bags.values, vector)
    hidden = tanh * gate
    weights = bags.softmax(hidden @ w)
    pooled = bags.pool(weights)
    log_p = log_softmax(pooled @ u + b, axis=1)
    rows, n = np.arange(len(labels)), len(labels)
    loss = -log_p[rows, labels].mean() + penalty * sum(float((array**2).sum()) for array in (v, w, u, g))

    grad_scores = np.exp(log_p) / n  # of the loss by each scan's scores
    grad_scores[rows, labels] -= 1 / n
    grad_pooled = grad_scores @ u.T
    # a slice's score moves the pooled vector by its weight times how far the slice is from it
    grad_weights = np.einsum("ij,ij->i", bags.values, grad_pooled[bags.owner])
    grad_attention = weights * (grad_weights - np.add.reduceat(weights * grad_weights, bags.starts)[bags.owner])
    grad_hidden = grad_attention[:, None] * w
    grad_tanh = grad_hidden * gate * (1 - tanh**2)
    gradient = [
        bags.values.T @ grad_tanh + 2 * penalty * v,
        grad_tanh.sum(axis=0),
        hidden.T @ grad_attention + 2 * penalty * w,
        pooled.T @ grad_scores + 2 * penalty * u,
        grad_scores.sum(axis=0),
    ]
    if shape.gated:
        grad_gate = grad_hidden * hidden * (1 - gate)
        gradient += [bags.values.T @ grad_gate + 2 * penalty * g, grad_gate.sum(axis=0)]
    return float(loss), np.concatenate([array.ravel() for array in gradient])


class _Parameters(TypedDict):
    vector: Numbers
    mean: Numbers
    deviation: Numbers


@dataclass(frozen=True)
class FittedAttention(FittedMethod):
    """``vector``: as ``Shape`` cuts it. ``mean``, ``deviation``: standardise the inputs, float64 [inputs].

    ``position``: the slices' positions are among the inputs. ``gated``: so is the score.
    """

    axes: Axes
    vector: Floats
    mean: Floats
    deviation: Floats
    position: bool = True
    gated: bool = False

    @property
    def shape(self) -> Shape:
        """How the vector is cut."""
        return Shape(len(self.mean), len(self.axes.classes), gated=self.gated)

    def weights(self, scan: ScanArray) -> Floats:
        """Return the weight of each slice of a scan, float64 [n_slices], sum 1."""
        return attention_weights(self._bags([scan]), self.vector, self.shape)

    def predict_proba(self, scans: Sequence[ScanArray]) -> Floats:
        """Return class probabilities, float64 [scans, classes]."""
        *_, u, b = self.shape.split(self.vector)
        # scan by scan: a matrix product rounds by the number of its rows
        bags = [self._bags([scan]) for scan in scans]
        pooled = [bag.pool(attention_weights(bag, self.vector, self.shape)) for bag in bags]
        return np.concatenate([softmax(features @ u + b, axis=1) for features in pooled])

    def save(self, path: Path) -> None:
        """Write the parameters as JSON."""
        parameters: _Parameters = {
            "vector": self.vector.tolist(),
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
        }
        write_parameters(path, self.axes, parameters)

    def _bags(self, scans: Sequence[ScanArray]) -> Bags:
        bags = make_bags(scans, position=self.position)
        return Bags((bags.values - self.mean) / self.deviation, bags.starts)


@dataclass(frozen=True)
class Attention(Method):
    """Attention fitted by L-BFGS. ``position``: use the slices' positions. ``penalty``: see ``PENALTY``.

    ``gated``: the score is, by a sigmoid.
    """

    position: bool = True
    penalty: float = PENALTY
    gated: bool = False

    def fit(
        self, scans: Sequence[ScanArray], labels: NDArray[np.int64], axes: Axes, *, seed: int = 0
    ) -> FittedAttention:
        """Fit on the training scans.

        All slices start with equal weights (w = 0). The loss has several minima, and the initial V, drawn with
        ``seed``, decides which one is reached.
        """
        raw = make_bags(scans, position=self.position)
        mean, deviation = raw.values.mean(axis=0), np.maximum(raw.values.std(axis=0), SMALLEST_DEVIATION)
        bags = Bags((raw.values - mean) / deviation, raw.starts)
        shape = Shape(bags.values.shape[1], len(axes.classes), gated=self.gated)
        start = np.zeros(shape.size)
        v, *_ = shape.split(start)
        v[:] = np.random.default_rng(seed).standard_normal(v.shape) / np.sqrt(shape.inputs)
        result = minimize(
            loss_and_gradient,
            start,
            args=(bags, labels, shape, self.penalty),
            jac=True,
            method="L-BFGS-B",
            options=_STOP,
        )
        vector = np.asarray(result.x, dtype=np.float64)
        return FittedAttention(axes, vector, mean, deviation, self.position, self.gated)

    def load(self, path: Path, axes: Axes, *, again: str) -> FittedAttention:
        """Read the parameters."""
        parameters = read_parameters(path, axes, _Parameters, again=again)
        n_inputs = len(axes.models) * axes.channels + self.position
        shape = Shape(n_inputs, len(axes.classes), gated=self.gated)
        return FittedAttention(
            axes=axes,
            vector=array_of(parameters["vector"], (shape.size,), path=path),
            mean=array_of(parameters["mean"], (n_inputs,), path=path),
            deviation=array_of(parameters["deviation"], (n_inputs,), path=path),
            position=self.position,
            gated=self.gated,
        )


class DeepAttention(Attention):
    """Attention that reads the components of the slices' deep features beside the probabilities."""

    deep: ClassVar[bool] = True
