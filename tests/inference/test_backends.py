import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special

from cnr_iemn.ct.preprocess import PreparedScan, prepare_scan
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.inference import backends
from cnr_iemn.inference.backends import choose_engine, start_engine
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage2.ensemble import Ensemble, Member, read_ensemble
from tests.pipeline import MODELS, ROOT, entry_point

pytestmark = pytest.mark.slow

CPU, GPU = Hardware(torch.device("cpu"), "32"), Hardware(torch.device("cuda"), "bf16")
NAME = "+".join(MODELS)


def one_scan(study: Path) -> Path:
    return next(study.glob("cache/phantom-*/COVID-19 subjects/P005"))


def slice_probabilities(scan: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array([[list(item.values()) for item in entry["probabilities"].values()] for entry in scan["slices"]])


@pytest.fixture(scope="module")
def prepared(tiny_study: Path) -> PreparedScan:
    return prepare_scan(one_scan(tiny_study), size=64)


def answers(
    study: Path, prepared: PreparedScan, *, engine: str, precision: str
) -> Mapping[Member, NDArray[np.float32]]:
    ensemble = read_ensemble(study / "runs", "tiny", NAME)
    members = tuple(replace(member, precision=precision) for member in ensemble.members)
    changed_ensemble: Ensemble = replace(ensemble, members=members)
    networks = EnsembleNetworks(study / "runs" / "tiny", changed_ensemble, CPU, batch_size=8, engine=engine)
    assert networks.engine == engine
    return dict(zip(members, networks.predict_scan(prepared), strict=True))


# bf16 keeps 8 binary digits: whoever rounds elsewhere is off by a few thousandths of a probability. 0.012 was the most
# seen; it depends on the weights, which differ between processors
@pytest.mark.parametrize(("precision", "tolerance", "same"), [("32", 1e-4, 1.0), ("bf16", 3e-2, 1.0)])
def test_openvino_equals_torch_in_float32(
    tiny_study: Path, prepared: PreparedScan, precision: str, tolerance: float, same: float
) -> None:
    expected = answers(tiny_study, prepared, engine="torch", precision="32")
    result = answers(tiny_study, prepared, engine="openvino", precision=precision)
    assert [member.model for member in result] == [member.model for member in expected] == list(MODELS)
    for ours, torchs in zip(result.values(), expected.values(), strict=True):
        assert ours.shape == torchs.shape == (len(prepared.grey), 3)
        assert ours.dtype == np.float32
        assert np.ptp(torchs, axis=0).max() > tolerance  # slices differ, so that another order would be seen
        np.testing.assert_allclose(ours, torchs, atol=tolerance, rtol=0)
        assert np.mean(ours.argmax(axis=1) == torchs.argmax(axis=1)) >= same


def test_slices_keep_their_order_and_position_in_batches_of_any_size() -> None:
    torch.manual_seed(0)
    network = SliceNetwork("resnext50").eval()
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    position = torch.rand(7, 2)
    with torch.inference_mode():
        expected = network(images, position)[0].softmax(dim=1).numpy()
    engine = start_engine("openvino", network, image_size=32, device=torch.device("cpu"), precision="32")
    for cuts in ((7,), (3, 3, 1), (1,) * 7):
        batches = zip(images.split(list(cuts)), position.split(list(cuts)), strict=True)
        result = engine({"image": image, "position": place} for image, place in batches).classes
        np.testing.assert_allclose(result, expected, atol=1e-5)


def rounding(
    off: NDArray[np.float64], calls: list[int]
) -> tuple[backends.Engine, backends.Engine, list[dict[str, Any]]]:
    """An exact engine, which reads its answer from the slice, one that is off by so much, and 400 slices in batches."""
    logits = np.random.default_rng(0).normal(0, 1, (400, 3))

    def answers_of(values: NDArray[np.float64], batches: Iterable[dict[str, Any]]) -> SliceOutputs:
        rows = torch.cat([batch["image"][:, 0] for batch in batches]).numpy()
        calls.append(len(rows))
        classes = special.softmax(values[rows], axis=1).astype(np.float32)
        return SliceOutputs(classes, classes[:, :1].copy(), classes.astype(np.float16))

    images, position = torch.arange(400)[:, None], torch.zeros(400, 2)
    cuts = list(zip(images.split(64), position.split(64), strict=True))  # type: ignore[no-untyped-call]
    batches = [{"image": image, "position": place} for image, place in cuts]
    return partial(answers_of, logits), partial(answers_of, logits + off), batches


@pytest.mark.parametrize(("deviation", "most"), [(0.005, 40), (0.02, 80), (0.1, 300)])
def test_close_calls_are_decided_exactly_however_the_fast_engine_rounds(deviation: float, most: int) -> None:
    off = np.random.default_rng(1).normal(0, deviation, (400, 3))
    calls: list[int] = []
    exact, fast, batches = rounding(off, calls)
    right, wrong = exact(batches).classes, fast(batches).classes
    assert (right.argmax(axis=1) != wrong.argmax(axis=1)).any()
    del calls[:]
    outputs = backends.with_exact_fallback(fast, exact)(iter(batches))
    result = outputs.classes
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result.argmax(axis=1), right.argmax(axis=1))
    again = (result == right).all(axis=1)
    np.testing.assert_array_equal(result[~again], wrong[~again])  # what is sure stays
    assert outputs.features is not None  # those of a slice are of the engine that decided it
    np.testing.assert_array_equal(outputs.features, result.astype(np.float16))
    np.testing.assert_array_equal(outputs.regions, result[:, :1])
    assert calls[0] == 400
    assert sum(calls[1:]) == again.sum() < most  # each at most once
    first, second = np.sort(np.log(wrong), axis=1)[:, :-3:-1].T
    assert again[first - second < backends.CLOSE_CALL].all()


def test_openvino_in_bf16_recomputes_close_calls_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = SliceNetwork("resnext50").eval()
    batch = {"image": torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), "position": torch.rand(40, 2)}
    with torch.inference_mode():
        network.class_head.weight *= 30
        logits = network(batch["image"], batch["position"])[0]
        network.class_head.bias -= logits.mean(dim=0)
        exact = network(batch["image"], batch["position"])[0].softmax(dim=1).numpy()

    def off(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            deep = network.trunk(torch.from_numpy(images) / 255).numpy()
        return deep * np.float32(1 + 1e-3 * np.random.default_rng(0).normal(size=deep.shape))

    class Core:
        def __init__(self, able: list[str]) -> None:
            self.get_property = lambda *_: able

    monkeypatch.setattr(backends, "openvino_backbone", lambda *_, **__: off)
    result = {}
    for able in ("FP32", "BF16"):
        monkeypatch.setattr(backends, "_core", lambda able=able: Core([able]))
        engine = start_engine("openvino", network, image_size=32, device=torch.device("cpu"), precision="bf16")
        result[able] = engine([batch]).classes
    first, second = np.sort(np.log(result["FP32"]), axis=1)[:, :-3:-1].T
    close = first - second < backends.CLOSE_CALL
    assert 0 < close.sum() < 40
    assert (result["FP32"] != exact).any(axis=1).all()
    np.testing.assert_allclose(result["BF16"][close], exact[close], atol=1e-6)
    assert (result["BF16"] == result["FP32"]).all(axis=1).any()


def test_without_close_calls_no_slice_is_recomputed() -> None:
    calls: list[int] = []
    exact, fast, batches = rounding(np.array([[5.0, 0, -5]]), calls)
    decided = [{key: value[:1] for key, value in batches[0].items()}]
    backends.with_exact_fallback(fast, exact)(decided)
    assert calls == [1]


def test_auto_takes_openvino_on_a_cpu_and_torch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("auto", CPU) == choose_engine("openvino", CPU) == "openvino"
    assert choose_engine("auto", GPU) == choose_engine("torch", GPU) == choose_engine("torch", CPU) == "torch"
    with pytest.raises(ConfigurationError, match=r"computes on the CPU.*gpus=0"):
        choose_engine("openvino", GPU)
    monkeypatch.setitem(sys.modules, "openvino", None)  # as where it is not installed
    assert choose_engine("auto", CPU) == "torch"
    with pytest.raises(ConfigurationError, match=r"not installed.*\.\[engines\]"):
        choose_engine("openvino", CPU)


def test_remains_of_openvino_do_not_stop_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise AttributeError("module 'openvino' has no attribute 'Core'")

    monkeypatch.setattr(backends, "_core", broken)
    assert choose_engine("auto", CPU) == "torch"
    assert "does not start (AttributeError: module 'openvino'" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match=r"does not start.*Install it anew, or give engine=torch"):
        choose_engine("openvino", CPU)


SIGNALS = """
import gc, os, signal, torch
from cnr_iemn.inference.backends import start_engine
from cnr_iemn.stage1.models.network import SliceNetwork
cpu, size = torch.device("cpu"), 32
batch = {"image": torch.zeros((1, 3, size, size), dtype=torch.uint8), "position": torch.zeros(1, 2)}
running = [
    start_engine("openvino", SliceNetwork("resnext50"), image_size=size, device=cpu, precision="32") for _ in range(2)
]
for k in (0, 1):
    running[k]([batch])
for _ in running[:]:
    running.pop(0)
    gc.collect()
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
for _ in range(5000):
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(caught))
"""


def test_signals_do_no_harm_after_two_networks_have_run() -> None:
    # on a CPU with AMX: see _core; a process of its own, since what fails here crashes it
    done = subprocess.run([sys.executable, "-c", SIGNALS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "5000\n"), done.stderr


def test_openvino_sends_no_telemetry() -> None:
    backends.import_openvino()
    assert not [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]


def test_predict_names_the_engine_and_refuses_an_unknown_one(
    tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"input={one_scan(tiny_study)}", f"runs={tiny_study / 'runs'}", "study=tiny", "gpus=0", "pages=false"]
    words.append(f"ensemble=[{','.join(MODELS)}]")
    written = {}
    for engine in ("torch", "openvino"):
        assert entry_point("predict")([*words, f"engine={engine}", f"output={tmp_path / engine}"]) == 0
        written[engine] = json.loads((tmp_path / engine / "predictions.json").read_text(encoding="utf-8"))
        assert written[engine]["engine"] == engine
    ours, torchs = (slice_probabilities(item["scans"][0]) for item in written.values())
    assert np.ptp(torchs, axis=0).max() > 4e-2
    np.testing.assert_allclose(ours, torchs, atol=2e-2)  # both in bf16; their class is a tossed coin
    capsys.readouterr()
    assert entry_point("predict")([*words, "engine=tensorflow", f"output={tmp_path / 'none'}"]) == 2
    assert "engine=tensorflow" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
