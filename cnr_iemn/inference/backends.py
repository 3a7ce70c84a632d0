"""Inference engines that run a network on slices: torch, or the faster OpenVINO on a CPU (docs/results/performance.md).

OpenVINO runs the backbone alone. The heads, which add the slice's position, stay in torch and in float32.
"""

import logging
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

from cnr_iemn.constants import BACKBONES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs, half_precision, predict_slices, slice_outputs
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.utils.packages import require_package

log = logging.getLogger(__name__)

Engine = Callable[[Iterable[dict[str, Tensor]]], SliceOutputs]
"""Maps batches of ``predict_slices`` to the outputs of their slices, in order."""
FeatureExtractor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A backbone: images, uint8 [b, 3, s, s], to deep features, float32 [b, features]."""


def choose_engine(name: str, hardware: Hardware) -> str:
    """Return the engine to use, ``torch`` or ``openvino``.

    Args:
        name: One of ``constants.ENGINES``. ``auto`` is OpenVINO on a CPU where it is installed and starts.
        hardware: Where the networks run.

    Raises:
        ConfigurationError: OpenVINO was requested for a GPU, is not installed or does not start.
    """
    if name == "torch":
        return "torch"
    on_cpu, installed = hardware.device.type == "cpu", find_spec("openvino") is not None
    if name == "auto" and not (on_cpu and installed):
        return "torch"
    if not on_cpu:
        raise ConfigurationError(
            f"engine={name} computes on the CPU, and a GPU was chosen. Add gpus=0, or give engine=auto for the GPU."
        )
    require_package("openvino", f"engine={name}", "or give engine=torch", extra="engines")
    try:
        _core()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # a broken or foreign installation
        reason = f"the package openvino is installed but does not start ({type(error).__name__}: {error})"
        if name == "auto":
            log.warning("%s: torch runs the networks.", reason)
            return "torch"
        raise ConfigurationError(f"engine={name}: {reason}. Install it anew, or give engine=torch.") from error
    return "openvino"


def start_engine(name: str, network: SliceNetwork, *, image_size: int, device: torch.device, precision: str) -> Engine:
    """Return an engine that runs a network on images of one size.

    Args:
        name: torch or openvino.
        network: Left in evaluation mode on ``device``; Grad-CAM uses it later.
        image_size: Side of the images, pixels.
        device: For torch.
        precision: As of ``predict.autocast``. OpenVINO computes in float32 but for bf16 on a CPU that has it, where
            torch recomputes close calls in float32 (``with_exact_fallback``).
    """
    if name == "torch":
        return partial(predict_slices, network, device=device, precision=precision)
    fast = partial(run_heads, network, openvino_backbone(network, image_size=image_size, precision=precision))
    if precision != "bf16" or "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return fast
    return with_exact_fallback(fast, partial(predict_slices, network, device=device, precision="32"))


def run_heads(network: SliceNetwork, backbone: FeatureExtractor, batches: Iterable[dict[str, Tensor]]) -> SliceOutputs:
    """Return the outputs of slices from another program's deep features and torch's heads."""

    def trunk(images: Tensor) -> Tensor:
        return torch.from_numpy(backbone(images.numpy()))

    outputs = []
    with torch.inference_mode():
        for batch in batches:
            classes, regions, deep, *scores = slice_outputs(network, trunk, batch["image"], batch["position"])
            outputs.append((classes, regions, half_precision(deep), *scores))
    return SliceOutputs(*(torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)))


_BATCH = 8
"""Slices: as fast as 16, and four networks need 0.4 GiB less."""
CLOSE_CALL = 0.1
"""Log-ratio of the top two probabilities below which rounding may change the predicted class."""


def with_exact_fallback(fast: Engine, exact: Engine) -> Engine:
    """Return an engine that runs ``fast``, then ``exact`` on the slices whose predicted class rounding may change.

    Those are slices whose top two probabilities are close: their log-ratio is below ``CLOSE_CALL``, or below twice the
    largest change that ``exact`` has made to any log-ratio so far. Slices are added until none is that close.
    """

    def predict(batches: Iterable[dict[str, Tensor]]) -> SliceOutputs:
        slices = list(batches)
        outputs = fast(slices)
        probabilities = outputs.classes
        top_two = probabilities.argsort(axis=1)[:, :-3:-1]
        ratios, limit = _log_ratios(probabilities, top_two), CLOSE_CALL
        rechecked = np.zeros(len(probabilities), bool)
        while (close := ~(ratios >= limit) & ~rechecked).any():  # NaN counts as close
            _replace_rows(outputs, close, exact(select_slices(slices, close)))
            change = np.abs(_log_ratios(probabilities[close], top_two[close]) - ratios[close])
            limit = max(limit, 2 * float(change.max()))
            rechecked |= close
        return outputs

    return predict


def _replace_rows(outputs: SliceOutputs, rows: NDArray[np.bool_], by: SliceOutputs) -> None:
    """Put the outputs ``by`` of some slices in the place of theirs."""
    outputs.classes[rows], outputs.regions[rows] = by.classes, by.regions
    if outputs.features is not None and by.features is not None:
        outputs.features[rows] = by.features
    if outputs.scores is not None and by.scores is not None:
        outputs.scores[rows] = by.scores


def _log_ratios(probabilities: NDArray[np.float32], classes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the log-ratio of two classes' probabilities, [n]. ``classes``: [n, 2]."""
    with np.errstate(divide="ignore"):  # the second may be 0
        first, second = np.log(np.take_along_axis(probabilities, classes, axis=1)).T
    return np.asarray(first - second)


def select_slices(batches: list[dict[str, Tensor]], selection: NDArray[np.bool_]) -> Iterator[dict[str, Tensor]]:
    """Yield the selected slices in batches of the same size. ``selection``: bool [n], at least one of them true."""
    lengths = [len(batch["image"]) for batch in batches]
    masks = [torch.from_numpy(mask) for mask in np.split(selection, np.cumsum(lengths)[:-1])]
    image, position = (
        torch.cat([batch[key][mask] for batch, mask in zip(batches, masks, strict=True)])
        for key in ("image", "position")
    )
    for start in range(0, len(image), lengths[0]):
        rows = slice(start, start + lengths[0])
        yield {"image": image[rows], "position": position[rows]}


def openvino_backbone(network: SliceNetwork, *, image_size: int, precision: str) -> FeatureExtractor:
    """Return the network's backbone, compiled for this CPU. ``precision``: 32 or bf16."""
    hint = "bf16" if precision == "bf16" else "f32"
    return compile_backbone(convert_backbone(network, image_size=image_size), hint=hint)


def compile_backbone(model: Any, *, hint: str) -> FeatureExtractor:
    """Compile an ``openvino.Model`` for as many threads as torch uses. ``hint``: f32, bf16 or f16."""
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = _core().compile_model(model, "CPU", settings)

    def extract(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images), _BATCH)
        # copies: the next call writes into the same memory
        return np.concatenate([np.array(compiled(images[start : start + _BATCH])[0]) for start in starts])

    return extract


@cache
def _core() -> Any:
    """Return the process's only ``openvino.Core``.

    On a CPU with AMX each Core installs a larger signal stack for the thread and restores the previous one when it is
    destroyed. With two of them, the thread can be left with a freed stack, which the next signal writes to.
    """
    return import_openvino().Core()


def convert_backbone(network: SliceNetwork, *, image_size: int) -> Any:
    """Return the network's backbone as an ``openvino.Model``: uint8 [b, 3, s, s] to deep features, float32."""
    openvino = import_openvino()
    network.eval()
    # convolutions do not depend on the size of the example, and a small image is traced fastest
    side = BACKBONES[network.backbone].minimum_size if network.backbone in BACKBONES else image_size
    example = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    with torch.inference_mode(), warnings.catch_warnings():
        # torch.export replaces torch.jit.trace in time, but OpenVINO takes three times as long to start with it
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(_ScaledBackbone(network.trunk), example, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, input=([-1, 3, image_size, image_size], openvino.Type.u8))


def import_openvino() -> Any:
    """Return the package openvino without its telemetry, which reports each use over the network by default.

    Telemetry is a separate package, and openvino works without it.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's mark of a missing module
    # openvino imports absl to remove absl's log handler, which closes the standard error of its first import
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "absl"}
    sys.modules["absl"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["absl"]
        sys.modules.update(hidden)
    return openvino


class _ScaledBackbone(nn.Module):
    """The backbone with the scaling of its input, as in ``SliceNetwork.forward``."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Any:
        return self.backbone(images.float() / 255)
