"""Position that counts: a set in which only the location tells the class, and the network wherever it runs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cnr_iemn.inference.bundle import load_network, save_networks
from cnr_iemn.inference.onnx_export import export_onnx, largest_difference
from cnr_iemn.stage1.models.losses import focal_loss
from cnr_iemn.stage1.models.network import PositionNetwork, SliceNetwork, position_inputs

RATES = (1e-4, 1e-4, 1e-4, 1e-5)
"""Of the first four of the paper's ten epochs; the others, at lower rates, change little."""
STEPS, BATCH = 444, 64
"""Of each epoch at the paper's number of training items."""


def accuracy(position: str) -> float:
    """Train both heads' inputs by the paper's schedule on slices whose images say nothing; return the share correct.

    Class 1 lies in the middle half of the scan; as many slices are in either class.
    """
    torch.manual_seed(0)
    network = SliceNetwork("resnext50", n_classes=2, position=position)
    learning = [value for name, value in network.named_parameters() if not name.startswith("trunk.")]
    optimizer = torch.optim.Adam(learning, lr=RATES[0])
    rng, pool = np.random.default_rng(0), torch.randn(1024, 2048).abs() / 2  # as large as deep features

    def batch(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n_slices = rng.integers(112, 187, n)  # the lengths of COVID-CT-MD's scans
        inputs = torch.from_numpy(position_inputs(rng.integers(0, n_slices), n_slices))
        return pool[torch.from_numpy(rng.integers(0, len(pool), n))], inputs, ((inputs[:, 1] - 0.5).abs() < 0.25).long()

    for rate in RATES:
        for group in optimizer.param_groups:
            group["lr"] = rate
        for _ in range(STEPS):
            deep, inputs, labels = batch(BATCH)
            loss = focal_loss(network.heads(deep, inputs)[0], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    deep, inputs, labels = batch(4000)
    with torch.inference_mode():
        predicted = network.heads(deep, inputs)[0].argmax(dim=1)
    return float((predicted == labels).float().mean())


@pytest.mark.slow
def test_where_only_the_location_tells_the_class_sinusoids_learn_it_and_the_literal_fusion_does_not() -> None:
    assert accuracy("both") == pytest.approx(0.5, abs=0.03)
    assert accuracy("sinusoids") > 0.95


def test_neighbouring_slices_and_longer_scans_have_features_of_their_own() -> None:
    torch.manual_seed(0)
    network = PositionNetwork()
    with torch.inference_mode():
        places = network(torch.from_numpy(position_inputs(np.arange(186), 186)))
        lengths = network(torch.from_numpy(position_inputs(np.arange(112, 187) / 2 - 0.5, np.arange(112, 187))))
    for rows in (places, lengths):
        assert rows.shape[1] == PositionNetwork.features
        assert len(torch.unique(rows, dim=0)) == len(rows)


@pytest.mark.slow
def test_a_bundle_and_onnx_give_what_torch_gives(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
    torch.manual_seed(0)
    network = SliceNetwork("test_resnet", library="timm", position="sinusoids").eval()
    save_networks(tmp_path / "model.safetensors", {"test_resnet": network})
    torch.manual_seed(1)
    again = SliceNetwork("test_resnet", library="timm", position="sinusoids").eval()
    load_network(again, tmp_path / "model.safetensors", "test_resnet")
    batch = {
        "image": torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8),
        "position": torch.from_numpy(position_inputs(np.arange(4), 150)),
    }
    with torch.inference_mode():
        for first, second in zip(network(*batch.values()), again(*batch.values()), strict=True):
            assert torch.equal(first, second)
    export_onnx(again, tmp_path / "test_resnet.onnx", image_size=32)
    assert largest_difference(again, tmp_path / "test_resnet.onnx", [batch]) < 1e-5
