"""Attention over slices: a loop by hand, its gradient by finite differences, and what only attention can tell."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from cnr_iemn.stage2.methods.attention import (
    Attention,
    Bags,
    FittedAttention,
    Shape,
    attention_weights,
    loss_and_gradient,
    make_bags,
)
from cnr_iemn.stage2.out_of_fold import Axes, ScanArray

TWO = Axes(("one", "two"), ("first", "second"))

RNG = np.random.default_rng(3)
SHAPE = Shape(inputs=4, classes=3, hidden=2)
GATED = Shape(inputs=4, classes=3, hidden=2, gated=True)
BAGS = Bags(RNG.standard_normal((12, 4)), np.array([0, 5, 6]))
LABELS = np.array([2, 0, 1])
VECTOR = RNG.standard_normal(SHAPE.size)
GATED_VECTOR = np.concatenate([VECTOR, RNG.standard_normal(10)])


def by_hand(vector: np.ndarray, penalty: float) -> tuple[float, list[np.ndarray]]:
    """The loss and each scan's weights, slice by slice. Ten further parameters are those of a gate."""
    v, c, w = vector[:8].reshape(4, 2), vector[8:10], vector[10:12]
    u, b = vector[12:24].reshape(4, 3), vector[24:27]
    g, d = vector[27:35].reshape(-1, 2), vector[35:]
    loss, weights = 0.0, []
    for rows, label in zip(np.split(BAGS.values, [5, 6]), LABELS, strict=True):
        gates = [1 / (1 + np.exp(-(row @ g + d))) if len(d) else 1 for row in rows]
        scores = np.array([w @ (np.tanh(row @ v + c) * gate) for row, gate in zip(rows, gates, strict=True)])
        weights.append(np.exp(scores) / np.exp(scores).sum())
        pooled = sum(a * row for a, row in zip(weights[-1], rows, strict=True))
        logits = pooled @ u + b
        loss -= (logits[label] - np.log(np.exp(logits).sum())) / len(LABELS)
    return loss + penalty * ((v**2).sum() + (w**2).sum() + (u**2).sum() + (g**2).sum()), weights


@pytest.mark.parametrize(("vector", "shape"), [(VECTOR, SHAPE), (GATED_VECTOR, GATED)])
def test_the_loss_and_the_weights_are_those_of_a_loop(vector: np.ndarray, shape: Shape) -> None:
    assert len(vector) == shape.size
    expected, weights = by_hand(vector, 0.3)
    assert loss_and_gradient(vector, BAGS, LABELS, shape, 0.3)[0] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(attention_weights(BAGS, vector, shape), np.concatenate(weights), rtol=1e-12)


@pytest.mark.parametrize(("vector", "shape"), [(VECTOR, SHAPE), (GATED_VECTOR, GATED)])
def test_the_gradient_is_that_of_finite_differences(vector: np.ndarray, shape: Shape) -> None:
    _, gradient = loss_and_gradient(vector, BAGS, LABELS, shape, 0.3)
    expected = approx_fprime(vector, lambda x: loss_and_gradient(x, BAGS, LABELS, shape, 0.3)[0], 1e-7)
    np.testing.assert_allclose(gradient, expected, atol=2e-6)


def scan(label: int, rng: np.random.Generator, n: int = 30) -> ScanArray:
    """Every slice looks like class 1 or 2, by chance; one sure slice tells which."""
    p = np.full((n, 3), 0.2)
    p[np.arange(n), rng.integers(1, 3, n)] = 0.6
    p[rng.integers(n)] = 0.02
    p[p[:, 0] == 0.02, label] = 0.96
    return np.stack([p, p]).astype(np.float32)


def scans(seed: int, each: int = 25) -> tuple[list[ScanArray], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 2], each) - 1
    return [scan(label + 1, rng) for label in labels], labels


@pytest.fixture(scope="module")
def model() -> FittedAttention:
    return Attention(penalty=0.001).fit(*scans(0), TWO)


def test_it_finds_the_slice_that_tells(model: FittedAttention) -> None:
    others, labels = scans(1)
    told = model.predict_proba(others)
    np.testing.assert_allclose(told.sum(axis=1), 1)
    assert (told.argmax(axis=1) == labels).mean() > 0.9
    for each in others:
        weights = model.weights(each)
        assert weights.sum() == pytest.approx(1)
        assert weights.argmax() == each[0].max(axis=1).argmax()


def test_the_same_scans_give_the_same_model(model: FittedAttention) -> None:
    np.testing.assert_array_equal(Attention(penalty=0.001).fit(*scans(0), TWO).vector, model.vector)


def test_the_order_of_slices_counts_with_their_place_alone() -> None:
    learnt, labels = scans(0)
    others, _ = scans(1)
    turned = [each[:, ::-1] for each in others]
    without = Attention(position=False).fit(learnt, labels, TWO)
    np.testing.assert_allclose(without.predict_proba(turned), without.predict_proba(others), rtol=1e-9)
    along = [each.copy() for each in learnt]
    for each, label in zip(along, labels, strict=True):  # what is infected lies above in one class, below in the other
        each[:] = [0.9, 0.05, 0.05]
        each[:, 5 : 10 if label else 25] = [0.05, 0.9, 0.05]
    placed = Attention().fit(along, labels, TWO)
    assert not np.allclose(
        placed.predict_proba([each[:, ::-1] for each in along]), placed.predict_proba(along), atol=0.01
    )


def test_inputs_are_the_models_probabilities_and_the_place() -> None:
    one = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    bags = make_bags([one, one])
    np.testing.assert_array_equal(bags.values[0], [0, 1, 2, 6, 7, 8, 0.25])
    np.testing.assert_array_equal(bags.values[3], [3, 4, 5, 9, 10, 11, 0.75])
    assert bags.starts.tolist() == [0, 2]
    assert bags.owner.tolist() == [0, 0, 1, 1]


def test_permuted_labels_teach_nothing() -> None:
    learnt, labels = scans(0)
    others, truth = scans(1)
    told = [
        Attention().fit(learnt, np.random.default_rng(seed).permutation(labels), TWO).predict_proba(others)[:, 1]
        for seed in range(8)
    ]
    right = [np.mean((each > 0.5) == truth) for each in told]
    assert np.mean(right) == pytest.approx(0.5, abs=0.1)


def test_rounding_of_networks_that_always_say_the_same_changes_no_prediction() -> None:
    rng = np.random.default_rng(0)
    constant = [rng.normal(0.5, 1e-4, (2, 20, 2)).astype(np.float32) for _ in range(20)]
    fitted = Attention().fit(constant, np.arange(20) % 2, TWO)
    rounded = [each + rng.normal(0, 2e-3, each.shape).astype(np.float32) for each in constant]  # as bfloat16 does
    np.testing.assert_allclose(fitted.predict_proba(rounded), fitted.predict_proba(constant), atol=0.05)
