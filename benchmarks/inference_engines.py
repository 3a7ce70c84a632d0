"""Inference engines on a CPU that ``benchmarks.inference`` compares, and a study of the paper's sizes."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.constants import BACKBONES, SPGC_CLASSES
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import ScanError
from cnr_iemn.inference.backends import (
    Engine,
    compile_backbone,
    convert_backbone,
    import_openvino,
    run_heads,
    select_slices,
    start_engine,
    with_exact_fallback,
)
from cnr_iemn.inference.input_checks import prepare_new_scan
from cnr_iemn.inference.networks import EnsembleNetworks, InMemoryScan
from cnr_iemn.inference.onnx_export import OUTPUTS, export_onnx
from cnr_iemn.stage1.data.datamodule import SliceDataset, SliceTable, plain_loader
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs
from cnr_iemn.stage1.training.hardware import Hardware, choose_hardware
from cnr_iemn.stage2.booster import save_booster, train_booster
from cnr_iemn.stage2.ensemble import Ensemble, Member, write_ensemble
from cnr_iemn.stage2.group_features import group_features
from cnr_iemn.utils.atomic_io import sha256_of_file
from cnr_iemn.utils.checksums import file_digests
from cnr_iemn.utils.sandbox import run_limited
from tests.builders import make_predictions, make_scans

CPU = Hardware(torch.device("cpu"), "32")
CALIBRATION_SLICES = 96
"""Slices of the measured scans themselves, which favours int8."""
RECHECK_SHARE = 0.05
"""Share of slices that are recomputed when only the time counts: the share of close calls of the demo's networks."""
STUDY, ENSEMBLE = "paper-size", "all"


@dataclass(frozen=True)
class EngineInputs:
    """What an engine is made of.

    Attributes:
        network: The network that it runs.
        image_size: Side of the network's input in pixels.
        calibration: Slices to calibrate a quantization on, uint8 [n, 3, image_size, image_size].
        recheck_counts: List to which the engine appends the number of slices each time that it recomputes some.
        recheck_share: Share of slices to recompute, 0 to 1; None recomputes the close calls.
    """

    network: SliceNetwork
    image_size: int
    calibration: Tensor
    recheck_counts: list[int]
    recheck_share: float | None


EngineFactory = Callable[[EngineInputs], Engine]


def torch_nchw(inputs: EngineInputs) -> Engine:
    """Return torch with its defaults: float32, NCHW."""
    inputs.network.to(memory_format=torch.contiguous_format)
    return torch_engine(inputs, precision="32")


def torch_engine(inputs: EngineInputs, *, precision: str) -> Engine:
    """Return the engine of ``engine=torch``."""
    return start_engine("torch", inputs.network, image_size=inputs.image_size, device=CPU.device, precision=precision)


def torch_compile(inputs: EngineInputs) -> Engine:
    """Return torch in bf16 with torch.compile on the trunk."""
    inputs.network.trunk.compile()
    return torch_engine(inputs, precision="bf16")


def onnx_runtime(inputs: EngineInputs) -> Engine:
    """Return ONNX Runtime in float32 with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(inputs.network, path, image_size=inputs.image_size)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(batches: Iterable[dict[str, Tensor]]) -> SliceOutputs:
        outputs = []
        for batch in batches:
            images, position = batch["image"].numpy().astype(np.float32) / 255, batch["position"].numpy()
            outputs.append(session.run(OUTPUTS, {"image": images, "position": position}))
        return SliceOutputs(*(np.concatenate(arrays) for arrays in zip(*outputs, strict=True)))

    return predict


def recheck_close_calls(factory: EngineFactory, inputs: EngineInputs) -> Engine:
    """Return an engine that recomputes close calls with torch in float32. For OpenVINO in bf16: engine=openvino."""
    exact = torch_engine(inputs, precision="32")

    def count_and_predict(batches: Iterable[dict[str, Tensor]]) -> SliceOutputs:
        outputs = exact(batches)
        inputs.recheck_counts.append(len(outputs.classes))
        return outputs

    fast = factory(inputs)
    return (
        with_exact_fallback(fast, count_and_predict)
        if inputs.recheck_share is None
        else partial(recheck_closest, fast, count_and_predict, inputs.recheck_share)
    )


def recheck_closest(fast: Engine, exact: Engine, share: float, batches: Iterable[dict[str, Tensor]]) -> SliceOutputs:
    """Predict, and recompute a fixed share of the slices, since random weights have another number of close calls."""
    inputs = list(batches)
    outputs = fast(inputs)
    probabilities = outputs.classes
    first, second = np.sort(probabilities, axis=1)[:, :-3:-1].T
    close = np.zeros(len(probabilities), bool)
    close[np.argsort(first - second)[: round(share * len(probabilities))]] = True
    if close.any():
        probabilities[close] = exact(select_slices(inputs, close)).classes
    return outputs


def openvino(inputs: EngineInputs, *, hint: str) -> Engine:
    """Return OpenVINO without a recheck of close calls."""
    model = convert_backbone(inputs.network, image_size=inputs.image_size)
    return partial(run_heads, inputs.network, compile_backbone(model, hint=hint))


def openvino_int8(inputs: EngineInputs) -> Engine:
    """Return OpenVINO with the default post-training quantization of nncf; the heads run in float32."""
    import_openvino()  # before nncf, whose import would start its telemetry
    import nncf

    model = convert_backbone(inputs.network, image_size=inputs.image_size)
    data = nncf.Dataset(inputs.calibration.split(1), lambda image: image.numpy())
    quantized = nncf.quantize(model, data, subset_size=len(inputs.calibration))
    return partial(run_heads, inputs.network, compile_backbone(quantized, hint="f32"))


BASELINE, FASTEST = "torch fp32 NCHW", "OpenVINO bf16, close calls in fp32"
ENGINES: dict[str, EngineFactory] = {
    BASELINE: torch_nchw,
    "torch fp32 channels_last": partial(torch_engine, precision="32"),
    "torch bf16 channels_last": partial(torch_engine, precision="bf16"),
    "torch.compile bf16": torch_compile,
    "ONNX Runtime fp32": onnx_runtime,
    "OpenVINO fp32": partial(openvino, hint="f32"),
    "OpenVINO fp16": partial(openvino, hint="f16"),
    "OpenVINO bf16": partial(openvino, hint="bf16"),
    FASTEST: partial(recheck_close_calls, partial(openvino, hint="bf16")),
    "OpenVINO int8": openvino_int8,
    "OpenVINO int8, close calls in fp32": partial(recheck_close_calls, openvino_int8),
}


class BenchmarkNetworks(EnsembleNetworks):
    """Networks of an ensemble, each run by one of the engines.

    ``scans``: prepared scans to calibrate on. ``recheck_share``: see ``EngineInputs``.
    """

    def __init__(
        self,
        study: Path,
        ensemble: Ensemble,
        engine: str,
        scans: Sequence[PreparedScan],
        *,
        recheck_share: float | None = None,
    ) -> None:
        super().__init__(study, ensemble, CPU, batch_size=PredictSettings().batch_size)
        self.recheck_counts: list[int] = []
        for member in ensemble.members:
            slices = sample_slices(scans, member.image_size, CALIBRATION_SLICES)["image"]
            inputs = EngineInputs(self.networks[member], member.image_size, slices, self.recheck_counts, recheck_share)
            self._engines[member] = ENGINES[engine](inputs)


def sample_slices(scans: Sequence[PreparedScan], image_size: int, n: int) -> dict[str, Tensor]:
    """Return about ``n`` slices, evenly spaced over the scans, as one batch of the network's input."""
    n_per_scan = -(-n // len(scans))
    batches = []
    for scan in scans:
        table = SliceTable.of({"scan": len(scan.grey)}, {"scan": None})
        data = SliceDataset(InMemoryScan(scan.grey, scan.lungs), table, image_size=image_size)
        rows = np.linspace(0, len(data) - 1, min(n_per_scan, len(data))).astype(int)
        batches += list(plain_loader(Subset(data, rows.tolist()), len(rows), workers=0))
    return {key: torch.cat([batch[key] for batch in batches]) for key in ("image", "position")}


def prepare_all(scans: list[tuple[str, Path]], pixels: PixelSettings) -> dict[str, PreparedScan]:
    """Return the prepared scans by id.

    Raises:
        ScanError: A scan is refused. The figures must cover all scans.
    """
    prepared = {}
    for index, scan in run_limited(partial(prepare_new_scan, pixels, False), scans, workers=1):
        if isinstance(scan, ScanError):
            raise scan
        prepared[scans[index][0]] = scan
    return prepared


def write_paper_study(runs: Path) -> None:
    """Write a study of the four backbones at the paper's sizes: random weights, a booster of simulated predictions."""
    torch.manual_seed(0)
    precision = choose_hardware(0).precision
    members = []
    for model, info in BACKBONES.items():
        network = SliceNetwork(model)
        calibrate_batch_norm(network.trunk, torch.rand(8, 3, info.minimum_size, info.minimum_size))
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
    ensemble = Ensemble(
        STUDY,
        tuple(members),
        SPGC_CLASSES,
        pixels,
        phantom=True,
        cohort="simulated",
        store=pixels.fingerprint(),
        files=file_digests(folder),
    )
    write_ensemble(folder, ensemble)


def calibrate_batch_norm(trunk: nn.Module, images: Tensor) -> None:
    """Fit the statistics of batch normalisation to the images; with random weights the activations would diverge."""
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        trunk.train()(images)
    trunk.eval()
