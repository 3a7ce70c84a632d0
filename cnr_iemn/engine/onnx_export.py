"""A network of stage 1 as an ONNX file, for runtimes other than torch."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.files import write_bytes_atomic
from cnr_iemn.slices.network import SliceNetwork

INPUTS = ("image", "position")
OUTPUTS = ("class_probabilities", "region_probabilities")


class _Probabilities(nn.Module):
    def __init__(self, network: SliceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        class_logits, region_logits = self.network(image, position)
        return torch.softmax(class_logits, dim=1), torch.softmax(region_logits, dim=1)


def export_onnx(network: SliceNetwork, path: Path, *, image_size: int) -> None:
    """Write ``network`` as one ONNX file with its weights inside, in float32. It is left in evaluation mode on the CPU.

    Inputs: ``image`` float32 0..1 [batch, 3, image_size, image_size], ``position`` float32 [batch, 2] of
    ``position_inputs``. Outputs: ``class_probabilities`` float32 [batch, n_classes] and ``region_probabilities``
    float32 [batch, n_regions], both after the softmax. Any batch of at least one slice.

    Raises ConfigurationError where the extra ``portable`` is not installed or this backbone cannot be exported.
    """
    check_portable("onnx=true", "onnxscript")
    model = _Probabilities(network.cpu().float()).eval()
    # two slices: the exporter would take a batch of one for a constant
    example = torch.rand(2, 3, image_size, image_size), torch.rand(2, 2)
    try:
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS,
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
        node.metadata_props.clear()  # traces of the code that made each node, with this machine's paths
    write_bytes_atomic(path, program.model_proto.SerializeToString())


def check_portable(setting: str, *packages: str) -> None:
    """Raise ConfigurationError where one of ``packages``, which ``setting`` needs, is not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigurationError(
            f"{setting} needs the package {missing[0]}, which is not installed. Install it with "
            "pip install 'cnr-iemn[portable]'."
        )
