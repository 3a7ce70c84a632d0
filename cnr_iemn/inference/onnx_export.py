"""Exports a network of stage 1 to ONNX, for runtimes other than torch, and compares the two."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import predict_slices, slice_outputs
from cnr_iemn.utils.atomic_io import write_bytes_atomic
from cnr_iemn.utils.packages import require_package

INPUTS = ("image", "position")
OUTPUTS = ("class_probabilities", "region_probabilities")
SCORES = "scores"
"""The third output of a network with attention."""


class _Probabilities(nn.Module):
    def __init__(self, network: SliceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        classes, regions, _, *scores = slice_outputs(self.network, self.network.deep_features, image, position)
        return classes, regions, *scores


def export_onnx(network: SliceNetwork, path: Path, *, image_size: int) -> None:
    """Write a network as one ONNX file with its weights inside, in float32, for batches of at least one slice.

    Inputs: ``image``, float32 0 to 1 [batch, 3, image_size, image_size], and ``position``, float32 [batch, 2] of
    ``position_inputs``. Outputs after the softmax: ``class_probabilities``, float32 [batch, n_classes], and
    ``region_probabilities``, float32 [batch, n_regions]; of a network with attention ``scores``, float32 [batch], too.
    With test-time augmentation they are means over the views, which the file computes itself.

    The network is left in evaluation mode on the CPU.

    Raises:
        ConfigurationError: The extra ``portable`` is not installed, or this backbone cannot be exported.
    """
    require_package("onnxscript", "onnx=true", "or give onnx=false", extra="portable")
    model = _Probabilities(network.cpu().float()).eval()
    # two slices: the exporter would take a batch of one for a constant
    example = torch.rand(2, 3, image_size, image_size), torch.rand(2, 2)
    for package in ("onnxscript", "onnx_ir"):
        logging.getLogger(package).setLevel(logging.WARNING)  # or each logs dozens of lines on its simplifications
    try:
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS if network.attention is None else (*OUTPUTS, SCORES),
            dynamic_shapes={"image": {0: "batch"}, "position": {0: torch.export.Dim.DYNAMIC}},
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ConfigurationError(
            f"{network.backbone} cannot be written as ONNX: {reason} Leave it out with onnx=false."
        ) from error
    assert program is not None  # as it always is with dynamo=True
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with this machine's paths
    write_bytes_atomic(path, program.model_proto.SerializeToString())


def largest_difference(network: SliceNetwork, path: Path, batches: Iterable[dict[str, Tensor]]) -> float:
    """Return the largest difference between ONNX Runtime's and torch's outputs, in float32 on the CPU.

    Raises:
        ConfigurationError: The extra ``portable`` is not installed.
    """
    require_package("onnxruntime", "onnx=true", "or give onnx=false", extra="portable")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    differences = []
    for batch in batches:
        expected = predict_slices(network, [batch], device=torch.device("cpu"), precision="32")
        image, position = (batch["image"].float() / 255).numpy(), batch["position"].numpy()
        outputs = session.run(None, {"image": image, "position": position})
        pairs = zip(outputs, filter(_is_array, (expected.classes, expected.regions, expected.scores)), strict=True)
        differences += [np.abs(ours - torchs).max() for ours, torchs in pairs]
    return float(max(differences))


def _is_array(values: NDArray[np.float32] | None) -> bool:
    return values is not None
