"""lungs=lungmask: the optional package with a network whose weights are made by code."""

import importlib.util
import sys

import numpy as np
import pytest

from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.errors import ConfigurationError

pytestmark = pytest.mark.slow

SPACING = (5.0, 3.0, 3.0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lungmask", None)
    with pytest.raises(ConfigurationError, match=r"lungs=lungmask needs the package lungmask\. Install it with: pip"):
        segment_lungs(np.zeros((2, 16, 16), np.int16), SPACING, method="lungmask")


@pytest.mark.parametrize(("label", "share"), [(0, 0), (1, 1)])
def test_a_state_dict_made_by_code(label, share, monkeypatch):
    """A network whose last layer prefers one class everywhere: nothing, or all that lungmask takes for the body."""
    pytest.importorskip("lungmask")
    import torch
    from lungmask.resunet import UNet

    state = UNet(n_classes=3, padding=True, depth=5, up_mode="upsample", batch_norm=True, residual=False).state_dict()
    *_, weight, bias = state
    state[weight].zero_()
    state[bias].copy_(torch.nn.functional.one_hot(torch.tensor(label), 3) * 5.0)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: state)
    hu = np.full((2, 64, 64), -1000, np.int16)
    hu[:, 12:52, 12:52] = 40
    mask = segment_lungs(hu, SPACING, method="lungmask").mask
    assert mask.shape == hu.shape
    assert mask.dtype == np.bool_
    assert mask.any() == bool(share)


@pytest.mark.skipif(importlib.util.find_spec("lungmask") is None, reason="needs lungmask")
def test_weights_that_cannot_be_fetched_are_reported(monkeypatch):
    import torch

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(ConfigurationError, match="Connect this machine once, or choose lungs=pleura"):
        segment_lungs(np.zeros((2, 16, 16), np.int16), SPACING, method="lungmask")
