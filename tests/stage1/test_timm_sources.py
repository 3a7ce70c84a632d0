"""Models of timm at another size of the images, and from a folder that is laid out as the Hugging Face Hub has them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cnr_iemn.config.group_rules import check_model
from cnr_iemn.config.schema.settings import ModelSettings
from cnr_iemn.errors import ConfigurationError, WeightsError
from cnr_iemn.inference.bundle_writer import portable_provenance
from cnr_iemn.stage1.models.network import SliceNetwork

timm = pytest.importorskip("timm")
NATIVE, OTHER = 160, 96  # of test_vit, whose patches are of 16


def published(folder: Path, name: str = "test_vit", **changes: Any) -> tuple[Any, str]:
    """Write a whole model as timm pushes it to the hub; return it and its source."""
    torch.manual_seed(3)
    whole = timm.create_model(name, num_classes=10).eval()
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architecture": name, "num_classes": 10, "num_features": whole.num_features}
    statistics = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "num_classes": 10}
    cfg = {**{key: value for key, value in whole.pretrained_cfg.items() if value is not None}, **statistics}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": cfg, **changes}))
    torch.save(whole.state_dict(), folder / "pytorch_model.bin")
    return whole, f"local-dir:{folder}"


def features_of(whole: Any, images: Tensor) -> Tensor:
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    features: Tensor = whole.forward_head(whole.forward_features((images - mean) / deviation), pre_logits=True)
    return features


def test_a_published_model_is_loaded_with_its_statistics_and_built_again_without_it(tmp_path: Path) -> None:
    whole, source = published(tmp_path / "model")
    network = SliceNetwork("test_vit", library="timm", weights=source, image_size=NATIVE).eval()
    images = torch.rand(2, 3, NATIVE, NATIVE)
    with torch.inference_mode():
        torch.testing.assert_close(network.trunk(images), features_of(whole, images))
    again = SliceNetwork("test_vit", library="timm", image_size=NATIVE).eval()  # as predict.py builds it, offline
    again.load_state_dict(network.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(again.trunk(images), features_of(whole, images))


def test_position_embeddings_are_interpolated_for_another_size(tmp_path: Path) -> None:
    whole, source = published(tmp_path / "model")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    expected = timm.layers.resample_abs_pos_embed(whole.pos_embed, (OTHER // 16, OTHER // 16), num_prefix_tokens=1)
    for weights in (source, tmp_path / "weights.pth"):
        network = SliceNetwork("test_vit", library="timm", weights=weights, image_size=OTHER).eval()
        torch.testing.assert_close(network.trunk.model.pos_embed, expected)
        assert torch.equal(network.trunk.model.blocks[0].attn.qkv.weight, whole.blocks[0].attn.qkv.weight)
        network.check_size(OTHER)
        with torch.inference_mode():
            classes, _ = network(torch.zeros(1, 3, OTHER, OTHER, dtype=torch.uint8), torch.zeros(1, 2))
        assert torch.isfinite(classes).all()
        with pytest.raises(ConfigurationError, match=rf"give model\.image_size={OTHER}\."):
            network.check_size(NATIVE)


def test_a_size_that_no_patches_fill_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"image_size=100 does not fit test_vit: .*divisible.*size is 160"):
        SliceNetwork("test_vit", library="timm", image_size=100)


def test_any_size_goes_with_convolutions() -> None:
    assert SliceNetwork("test_resnet", library="timm", image_size=72).fixed_size is None


def test_another_architecture_is_named(tmp_path: Path) -> None:
    _, source = published(tmp_path / "model", "test_vit2")
    with pytest.raises(ConfigurationError, match=r"of the architecture test_vit2.*Give model\.name=test_vit2"):
        SliceNetwork("test_vit", library="timm", weights=source)


def test_options_that_the_name_does_not_say_are_refused(tmp_path: Path) -> None:
    """The tensors fit, and the network would be another one."""
    _, source = published(tmp_path / "model", model_args={"global_pool": "avg", "fc_norm": False})
    with pytest.raises(WeightsError, match="with other options"):
        SliceNetwork("test_vit", library="timm", weights=source)


@pytest.mark.parametrize("damage", ["missing", "config", "weights"])
def test_a_damaged_source_is_refused_with_what_to_do(damage: str, tmp_path: Path) -> None:
    _, source = published(tmp_path / "model")
    if damage == "missing":
        source += "/nowhere"
    elif damage == "config":
        (tmp_path / "model" / "config.json").write_text("{}")
    else:
        (tmp_path / "model" / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"timm cannot make the model local-dir:.*model\.weights=none"):
        SliceNetwork("test_vit", library="timm", weights=source)


def test_a_source_in_the_wrong_place_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigurationError, match=r"Give the architecture as model\.name and model\.weights=hf-hub:a/b"):
        check_model(ModelSettings(name="hf-hub:a/b", library="timm", image_size=224))
    with pytest.raises(ConfigurationError, match=r"is for networks of timm, and resnext50 is torchvision's"):
        check_model(ModelSettings(name="resnext50", image_size=224, weights="hf-hub:a/b"))


def test_a_bundle_names_public_weights_and_no_file() -> None:
    names = ["imagenet", "none", "hf-hub:timm/test_vit", "local-dir:/home/me/model", "/home/me/weights.pth"]
    provenance = {"left_out": [], "runs": [{"weights": name} for name in names]}
    runs = portable_provenance(provenance)["runs"]
    assert [run["weights"] for run in runs] == [*names[:3], "a file", "a file"]
