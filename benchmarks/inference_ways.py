"""The ways to run networks on a CPU that ``benchmarks.inference`` compares, and a study of the paper's sizes."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Subset

from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.engine.engines import (
    Engine,
    by_trunk,
    compiled_trunk,
    import_openvino,
    openvino_model,
    some_of,
    start_engine,
    sure,
)
from cnr_iemn.engine.ensembles import Ensemble, Member, write_ensemble
from cnr_iemn.engine.hardware import Hardware, choose_hardware
from cnr_iemn.engine.onnx_export import export_onnx
from cnr_iemn.engine.prediction import EnsembleNetworks, OneScan, prepared_scans
from cnr_iemn.errors import ScanError
from cnr_iemn.files import sha256_of_file
from cnr_iemn.patients.booster import save_booster, train_booster
from cnr_iemn.patients.group_features import group_features
from cnr_iemn.registry import BACKBONES, SPGC_CLASSES
from cnr_iemn.settings.prediction_schema import PredictSettings
from cnr_iemn.slices.datamodule import SliceDataset, SliceTable, plain_loader
from cnr_iemn.slices.network import SliceNetwork
from tests.builders import make_predictions, make_scans

CPU = Hardware(torch.device("cpu"), "32")
CALIBRATION_SLICES = 96
"""Of the scans themselves, which favours int8."""
AGAIN_SHARE = 0.05
"""Of all slices, asked twice where only the time counts: as many as the demo's networks have close calls."""
STUDY, ENSEMBLE = "paper-size", "all"


@dataclass(frozen=True)
class Given:
    """What a way may need. ``slices``: some as the network sees them, uint8 [n, 3, s, s], to calibrate on.

    ``again``: to be told how many slices are asked twice, each time that some are. ``share``: how many of all are to
    be, None: the close calls.
    """

    network: SliceNetwork
    image_size: int
    slices: Tensor
    again: list[int]
    share: float | None


Way = Callable[[Given], Engine]


def torch_nchw(given: Given) -> Engine:
    """Torch as it comes: float32, NCHW."""
    given.network.to(memory_format=torch.contiguous_format)
    return _torch(given, "32")


def _torch(given: Given, precision: str) -> Engine:
    return start_engine("torch", given.network, image_size=given.image_size, device=CPU.device, precision=precision)


def torch_compiled(given: Given) -> Engine:
    """torch.compile, bf16: the trunk, in place."""
    given.network.trunk.compile()
    return _torch(given, "bf16")


def onnx_runtime(given: Given) -> Engine:
    """ONNX Runtime, float32, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(given.network, path, image_size=given.image_size)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def answer(batches: Iterable[dict[str, Tensor]]) -> NDArray[np.float32]:
        found = []
        for batch in batches:
            images, position = batch["image"].numpy().astype(np.float32) / 255, batch["position"].numpy()
            found += session.run(["class_probabilities"], {"image": images, "position": position})
        return np.concatenate(found)

    return answer


def and_close_calls(way: Way, given: Given) -> Engine:
    """Another way, with close calls in torch's float32: with OpenVINO in bf16 it is engine=openvino."""
    exact = _torch(given, "32")

    def counted(batches: Iterable[dict[str, Tensor]]) -> NDArray[np.float32]:
        found = exact(batches)
        given.again.append(len(found))
        return found

    fast = way(given)
    return sure(fast, counted) if given.share is None else partial(ask_closest_again, fast, counted, given.share)


def ask_closest_again(
    fast: Engine, exact: Engine, share: float, batches: Iterable[dict[str, Tensor]]
) -> NDArray[np.float32]:
    """Take as long as ``sure`` with so many close calls: random weights round like no trained network's."""
    kept = list(batches)
    found = fast(kept)
    first, second = np.sort(found, axis=1)[:, :-3:-1].T
    close = np.zeros(len(found), bool)
    close[np.argsort(first - second)[: round(share * len(found))]] = True
    if close.any():
        found[close] = exact(some_of(kept, close))
    return found


def openvino(given: Given, *, hint: str) -> Engine:
    """OpenVINO alone."""
    model = openvino_model(given.network, image_size=given.image_size)
    return partial(by_trunk, given.network, compiled_trunk(model, hint=hint))


def openvino_int8(given: Given) -> Engine:
    """OpenVINO with nncf's static quantization after training, all its defaults; the rest in float32."""
    import_openvino()  # first: nncf would load its telemetry
    import nncf

    model = openvino_model(given.network, image_size=given.image_size)
    data = nncf.Dataset(given.slices.split(1), lambda image: image.numpy())
    quantized = nncf.quantize(model, data, subset_size=len(given.slices))
    return partial(by_trunk, given.network, compiled_trunk(quantized, hint="f32"))


BASELINE, OURS = "torch fp32 NCHW", "OpenVINO bf16, close calls again"
WAYS: dict[str, Way] = {
    BASELINE: torch_nchw,
    "torch fp32 channels_last": partial(_torch, precision="32"),
    "torch bf16 channels_last": partial(_torch, precision="bf16"),
    "torch.compile bf16": torch_compiled,
    "ONNX Runtime fp32": onnx_runtime,
    "OpenVINO fp32": partial(openvino, hint="f32"),
    "OpenVINO fp16": partial(openvino, hint="f16"),
    "OpenVINO bf16": partial(openvino, hint="bf16"),
    OURS: partial(and_close_calls, partial(openvino, hint="bf16")),
    "OpenVINO int8": openvino_int8,
    "OpenVINO int8, close calls again": partial(and_close_calls, openvino_int8),
}


class Tried(EnsembleNetworks):
    """An ensemble's networks, each run in one of the ways.

    ``scans``: prepared ones, to calibrate on. ``share``: see ``Given``.
    """

    def __init__(
        self,
        study: Path,
        ensemble: Ensemble,
        way: str,
        scans: Sequence[PreparedScan],
        *,
        share: float | None = None,
    ) -> None:
        super().__init__(study, ensemble, CPU, batch_size=PredictSettings().batch_size)
        self.again: list[int] = []
        for member in ensemble.members:
            slices = some_slices(scans, member.image_size, CALIBRATION_SLICES)["image"]
            given = Given(self.networks[member], member.image_size, slices, self.again, share)
            self._engines[member] = WAYS[way](given)


def some_slices(scans: Sequence[PreparedScan], image_size: int, n: int) -> dict[str, Tensor]:
    """Return so many slices of the scans together, as a network sees them: a batch."""
    each = -(-n // len(scans))
    found = []
    for scan in scans:
        table = SliceTable.of({"scan": len(scan.grey)}, {"scan": None})
        data = SliceDataset(OneScan(scan), table, image_size=image_size)
        rows = np.linspace(0, len(data) - 1, min(each, len(data))).astype(int)
        found += list(plain_loader(Subset(data, rows.tolist()), len(rows), workers=0))
    return {key: torch.cat([batch[key] for batch in found]) for key in ("image", "position")}


def read_all(found: list[tuple[str, Path]], pixels: PixelSettings) -> dict[str, PreparedScan]:
    """Return the scans, prepared. Raises ScanError where one is refused: the figures are to be of all."""
    failures: dict[str, str] = {}
    with prepared_scans(found, pixels, failures) as read:
        prepared = dict(read)
    if failures:
        raise ScanError("\n".join(failures.values()))
    return prepared


def write_paper_study(runs: Path) -> None:
    """Write a study of the four backbones at the paper's sizes: random weights, and a booster of simulated answers."""
    torch.manual_seed(0)
    precision = choose_hardware(0).precision
    members = []
    for model, info in BACKBONES.items():
        network = SliceNetwork(model)
        settle(network.trunk, torch.rand(8, 3, info.minimum_size, info.minimum_size))
        path = runs / STUDY / f"{model}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}}, path)
        digest = sha256_of_file(path)
        members.append(Member(model, "torchvision", "seed0", path.name, digest, info.image_size, "both", precision))
    scans = make_scans(8, 0)
    features = group_features({model: make_predictions(model, scans, seed=7, skill=0.7) for model in BACKBONES})
    booster = train_booster(features, [scans[scan_id].label for scan_id in features.index], SPGC_CLASSES)
    folder = runs / STUDY / "ensembles" / ENSEMBLE
    save_booster(folder / "booster.ubj", booster)
    pixels = PixelSettings()
    made = Ensemble(STUDY, tuple(members), SPGC_CLASSES, pixels, True, "simulated", store=pixels.fingerprint())
    write_ensemble(folder, made)


def settle(trunk: nn.Module, images: Tensor) -> None:
    """Have every normalisation scale what reaches it, as training would: random weights alone grow without bounds."""
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        trunk.train()(images)
    trunk.eval()
