"""Backbones of timm with the paper's heads, on its small test_* models."""

import sys
from pathlib import Path

import pytest
import torch

from cnr_iemn.errors import ConfigurationError, WeightsError
from cnr_iemn.stage1.models.network import SliceNetwork

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext2", "mobilenetv3_small_100", "efficientvit_b0"])
def test_the_heads_take_what_the_trunk_gives(name: str) -> None:
    network = SliceNetwork(name, library="timm").eval()
    with torch.inference_mode():
        classes, regions = network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 2))
    assert (classes.shape, regions.shape) == ((2, 3), (2, 5))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_a_whole_model_loads_without_its_classifier(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    whole = timm.create_model("test_resnet", num_classes=10).eval()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(whole.state_dict(), path)
    network = SliceNetwork("test_resnet", library="timm", weights=path).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        mean, deviation = (torch.tensor(whole.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        expected = whole.forward_head(whole.forward_features((images - mean) / deviation), pre_logits=True)
        torch.testing.assert_close(network.trunk(images), expected)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match="cannot be read as a file of tensors"):
        SliceNetwork("test_resnet", library="timm", weights=path)


def test_an_unsupported_image_size_is_reported() -> None:
    network = SliceNetwork("test_vit", library="timm")
    size = timm.create_model("test_vit").pretrained_cfg["input_size"][-1]
    network.check_size(size)
    with pytest.raises(ConfigurationError, match=rf"give model\.image_size={size}\."):
        network.check_size(size + 32)
    with pytest.raises(ConfigurationError, match=r"give model\.image_size=32 or more\."):
        SliceNetwork("test_resnet", library="timm").check_size(31)


def test_a_misspelt_name_is_reported_with_similar_names() -> None:
    with pytest.raises(ConfigurationError, match="Near it: convnext_tiny"):
        SliceNetwork("convnext_tinny", library="timm")


def test_an_unknown_pretrained_tag_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"Invalid pretrained tag \(nobody\).*model\.weights=none"):
        SliceNetwork("test_resnet.nobody", library="timm", weights="imagenet")


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[timm\]'"):
        SliceNetwork("test_resnet", library="timm")


def test_images_are_normalised_for_published_weights_and_a_checkpoint_knows_how(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model("test_resnet", num_classes=10)
    path = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), path)
    trained = SliceNetwork("test_resnet", library="timm", weights=path).eval()
    assert trained.trunk.mean.flatten().tolist() == pytest.approx(whole.pretrained_cfg["mean"])
    random = SliceNetwork("test_resnet", library="timm").eval()
    assert (random.trunk.mean.unique().tolist(), random.trunk.deviation.unique().tolist()) == ([0.0], [1.0])
    random.load_state_dict(trained.state_dict())  # as predict.py does
    images, position = torch.rand(2, 3, 64, 64), torch.zeros(2, 2)
    with torch.inference_mode():
        torch.testing.assert_close(random(images, position), trained(images, position))


def test_drop_path_is_set_or_refused() -> None:
    network = SliceNetwork("test_vit", library="timm", drop_path=0.3)
    rates = [module.drop_prob for module in network.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    with pytest.raises(ConfigurationError, match=r"model\.drop_path=0\.3 does not apply to vgg11"):
        SliceNetwork("vgg11", library="timm", drop_path=0.3)
