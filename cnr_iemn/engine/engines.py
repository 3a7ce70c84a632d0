"""What runs a network on slices: torch, or OpenVINO, which is several times as fast on a CPU (docs/performance.md).

The backbone alone is given to OpenVINO. The heads, which add the slice's position, stay in torch and in float32.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.registry import BACKBONES
from cnr_iemn.slices.inference import predict_slices
from cnr_iemn.slices.network import SliceNetwork

Engine = Callable[[Iterable[dict[str, Tensor]]], NDArray[np.float32]]
"""Batches of ``predict_slices`` to the class probabilities of their slices, float32 [n, classes], in their order."""


def choose_engine(wanted: str, hardware: Hardware) -> str:
    """Return torch or openvino. ``wanted``: one of ``registry.ENGINES``; auto: OpenVINO on a CPU where it can be used.

    Raises ConfigurationError where OpenVINO is asked for and is not installed or does not start, or for a GPU.
    """
    if wanted == "torch":
        return "torch"
    on_cpu, installed = hardware.device.type == "cpu", find_spec("openvino") is not None
    if wanted == "auto" and not (on_cpu and installed):
        return "torch"
    if not on_cpu:
        raise ConfigurationError(
            f"engine={wanted} computes on the CPU, and a GPU was chosen. Add gpus=0, or give engine=auto for the GPU."
        )
    if not installed:
        raise ConfigurationError(
            f"engine={wanted} needs the package openvino, which is not installed. Install it with "
            "pip install 'cnr-iemn[engines]', or give engine=torch."
        )
    try:
        _core()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # left over, or built for another machine
        broken = f"the package openvino is there and does not start ({type(error).__name__}: {error})"
        if wanted == "auto":
            print(f"{broken}: torch runs the networks.", file=sys.stderr)
            return "torch"
        raise ConfigurationError(f"engine={wanted}: {broken}. Install it anew, or give engine=torch.") from error
    return "openvino"


def start_engine(name: str, network: SliceNetwork, *, image_size: int, device: torch.device, precision: str) -> Engine:
    """Return the engine ``name``, torch or openvino, for a network and images of one size.

    ``precision``: 32 or bf16; OpenVINO computes in float32 on a CPU that has no bf16, and has close calls of bf16
    decided in float32 (``sure``). The network is left in evaluation mode on ``device``, and is still what Grad-CAM
    looks into.
    """
    if name == "torch":
        return partial(_by_torch, network, device, precision)
    fast = partial(by_trunk, network, openvino_trunk(network, image_size=image_size, precision=precision))
    if precision == "32" or "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return fast
    return sure(fast, partial(_by_torch, network, device, "32"))


def _by_torch(
    network: SliceNetwork, device: torch.device, precision: str, batches: Iterable[dict[str, Tensor]]
) -> NDArray[np.float32]:
    return predict_slices(network, batches, device=device, precision=precision).classes


def by_trunk(
    network: SliceNetwork,
    trunk: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    batches: Iterable[dict[str, Tensor]],
) -> NDArray[np.float32]:
    """Answer with another program for the trunk: uint8 [b, 3, s, s] to deep features, float32 [b, features]."""
    found = []
    with torch.inference_mode():
        for batch in batches:
            deep = torch.from_numpy(trunk(batch["image"].numpy()))
            logits, _ = network.heads(deep, batch["position"])
            found.append(torch.softmax(logits, dim=1))
    return torch.cat(found).numpy()


_AT_ONCE = 8
"""Slices: as fast as 16, and four networks keep 0.4 GiB less."""
CLOSE = 0.1
"""Two classes whose probabilities have a ratio of less than e to this are too close for a rounding engine to call."""


def sure(fast: Engine, exact: Engine) -> Engine:
    """Return an engine that answers with ``fast``, and again with ``exact`` where that may be of another class.

    Those are the slices whose two likeliest classes are close. How close is twice the largest change of their ratio
    that ``exact`` has brought among them, CLOSE at least: more are asked again until no other is as close as that.
    """

    def answer(batches: Iterable[dict[str, Tensor]]) -> NDArray[np.float32]:
        kept = list(batches)
        found = fast(kept)
        likeliest = found.argsort(axis=1)[:, :-3:-1]
        ratios, limit = _log_ratios(found, likeliest), CLOSE
        asked = np.zeros(len(found), bool)
        while (close := ~(ratios >= limit) & ~asked).any():  # also where there is no number to compare
            found[close] = exact(some_of(kept, close))
            change = np.abs(_log_ratios(found[close], likeliest[close]) - ratios[close])
            limit = max(limit, 2 * float(change.max()))
            asked |= close
        return found

    return answer


def _log_ratios(probabilities: NDArray[np.float32], classes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the logarithm of the ratio of two classes' probabilities, [n]. ``classes``: which two, [n, 2]."""
    with np.errstate(divide="ignore"):  # the second may be 0
        first, second = np.log(np.take_along_axis(probabilities, classes, axis=1)).T
    return np.asarray(first - second)


def some_of(batches: list[dict[str, Tensor]], wanted: NDArray[np.bool_]) -> Iterator[dict[str, Tensor]]:
    """Give the slices of batches that are wanted, in batches as large as these. ``wanted``: bool [n], one at least."""
    lengths = [len(batch["image"]) for batch in batches]
    parts = [torch.from_numpy(part) for part in np.split(wanted, np.cumsum(lengths)[:-1])]
    image, position = (
        torch.cat([batch[key][part] for batch, part in zip(batches, parts, strict=True)])
        for key in ("image", "position")
    )
    for start in range(0, len(image), lengths[0]):
        some = slice(start, start + lengths[0])
        yield {"image": image[some], "position": position[some]}


def openvino_trunk(
    network: SliceNetwork, *, image_size: int, precision: str
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the network's trunk, compiled for this CPU. ``precision``: 32 or bf16."""
    hint = "bf16" if precision == "bf16" else "f32"
    return compiled_trunk(openvino_model(network, image_size=image_size), hint=hint)


def compiled_trunk(model: Any, *, hint: str) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return what runs an ``openvino.Model`` of a trunk on as many threads as torch has. ``hint``: f32, bf16 or f16."""
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = _core().compile_model(model, "CPU", settings)

    def deep(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = range(0, len(images), _AT_ONCE)
        # copies: the next call writes into the same memory
        return np.concatenate([np.array(compiled(images[start : start + _AT_ONCE])[0]) for start in parts])

    return deep


@cache
def _core() -> Any:
    """Return the process's only ``openvino.Core``.

    On a CPU with AMX each gives the thread a larger stack for signals and, when it ends, the one that it found: of two,
    the first to end leaves the thread the freed stack of the other, and the next signal writes there.
    """
    return import_openvino().Core()


def openvino_model(network: SliceNetwork, *, image_size: int) -> Any:
    """Return the network's trunk as an ``openvino.Model``: uint8 [b, 3, s, s] to deep features, float32."""
    openvino = import_openvino()
    network.eval()
    # convolutions do not know the size of what they are traced with, and a small image is traced soonest
    side = BACKBONES[network.backbone].minimum_size if network.backbone in BACKBONES else image_size
    example = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    with torch.inference_mode(), warnings.catch_warnings():
        # torch.jit.trace is to give way to torch.export, with which OpenVINO takes three times as long to start
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(_Scaled(network.trunk), example, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, input=([-1, 3, image_size, image_size], openvino.Type.u8))


def import_openvino() -> Any:
    """Return the package openvino without its telemetry, which reports each use over the network unless told not to.

    Telemetry is a package of its own, and openvino does without where that is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as Python marks what is not there
    # absl's log handler, which openvino loads only to take it off, closes the standard error of its first import
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "absl"}
    sys.modules["absl"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["absl"]
        sys.modules.update(hidden)
    return openvino


class _Scaled(nn.Module):
    """The trunk with the scaling of its input, as ``SliceNetwork.forward`` has it."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Any:
        return self.trunk(images.float() / 255)
