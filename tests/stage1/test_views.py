"""Test-time augmentation: a prediction is the mean over a slice and its mirror image, whatever computes it."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cnr_iemn.inference.backends import start_engine
from cnr_iemn.inference.explanation import view_map
from cnr_iemn.inference.onnx_export import export_onnx, largest_difference
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.predict import SliceOutputs, predict_slices

CPU = torch.device("cpu")
SIDE = 64


def make_network(backbone: str, library: str = "torchvision") -> SliceNetwork:
    torch.manual_seed(1)
    network = SliceNetwork(backbone, library=library, attention=True, tta="flip").eval()
    with torch.no_grad():
        network.attention.score.weight.normal_()  # type: ignore[union-attr]  # they start at 0, all slices alike
        for layer in network.trunk.modules():  # or a batch norm without training passes the slices as good as unchanged
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def network() -> SliceNetwork:
    return make_network("resnext50")


@pytest.fixture(scope="module")
def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (5, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    images[..., : SIDE // 2] //= 4  # a side that is darker
    position = torch.rand(5, 2, generator=generator)
    return [{"image": images[k : k + 3], "position": position[k : k + 3]} for k in (0, 3)]


def parts(network: SliceNetwork, batches: list[dict[str, Tensor]]) -> list[SliceOutputs]:
    """The outputs without augmentation, of the slices and of their mirror images, by the same weights."""
    library = "timm" if network.backbone == "test_resnet" else "torchvision"
    plain = SliceNetwork(network.backbone, library=library, attention=True)
    plain.load_state_dict(network.state_dict())
    mirrored = [{**batch, "image": torch.from_numpy(np.flip(batch["image"].numpy(), 3).copy())} for batch in batches]
    return [predict_slices(plain, source, device=CPU, precision="32") for source in (batches, mirrored)]


def require_mean(outputs: SliceOutputs, of: list[SliceOutputs], tolerance: float) -> None:
    for entry in fields(SliceOutputs):
        first, second = (getattr(part, entry.name).astype(np.float64) for part in of)
        allowed = 4e-3 if entry.name == "features" else tolerance  # float16
        np.testing.assert_allclose(getattr(outputs, entry.name), (first + second) / 2, atol=allowed, err_msg=entry.name)
        assert np.abs(first - second).max() > 10 * tolerance, f"the mirror image changes nothing in {entry.name}"


@pytest.mark.parametrize(("engine", "tolerance"), [("torch", 1e-6), ("openvino", 1e-4)])
def test_a_prediction_is_the_mean_over_the_views(
    engine: str, tolerance: float, network: SliceNetwork, batches: list[dict[str, Tensor]]
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="an extra: pip install '.[engines]'")
    predict = start_engine(engine, network, image_size=SIDE, device=CPU, precision="32")
    require_mean(predict(batches), parts(network, batches), tolerance)


def test_training_sees_the_slice_as_it_is(network: SliceNetwork, batches: list[dict[str, Tensor]]) -> None:
    with torch.inference_mode():
        logits = torch.cat([network(batch["image"], batch["position"])[0] for batch in batches])
    plain, _ = parts(network, batches)
    np.testing.assert_allclose(logits.softmax(dim=1), plain.classes, atol=1e-6)


@pytest.mark.slow
def test_the_onnx_file_averages_by_itself(batches: list[dict[str, Tensor]], tmp_path: Path) -> None:
    """Of a small network, which is exported in a fraction of the time."""
    pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
    pytest.importorskip("onnxscript", reason="an extra: pip install '.[portable]'")
    onnxruntime = pytest.importorskip("onnxruntime")
    network = make_network("test_resnet", "timm")
    path = tmp_path / "network.onnx"
    export_onnx(network, path, image_size=SIDE)
    assert largest_difference(network, path, batches) < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {"image": (batches[0]["image"].float() / 255).numpy(), "position": batches[0]["position"].numpy()}
    (classes,) = session.run(["class_probabilities"], inputs)
    first, second = parts(network, batches)
    np.testing.assert_allclose(classes, (first.classes + second.classes)[:3] / 2, atol=1e-4)


def test_a_map_is_the_mean_over_the_views_turned_back(network: SliceNetwork, batches: list[dict[str, Tensor]]) -> None:
    batch = batches[0]
    both = view_map(network, batch["image"], batch["position"], target=1)
    mirrored = view_map(network, batch["image"].flip(-1), batch["position"], target=1)
    np.testing.assert_allclose(both, mirrored[..., ::-1], atol=1e-5)
    assert np.abs(both - mirrored).max() > 0.05
