"""A checkpoint or booster that would run code is refused, and none of its code runs."""

import pickle
from pathlib import Path

import pytest
import torch

from cnr_iemn.errors import RunError
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.checkpoints import load_weights
from cnr_iemn.stage2.booster import load_booster


class Payload:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _write, (str(self.path),)


def _write(path: str) -> dict[str, object]:
    Path(path).write_text("run")
    return {}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "written"
    pickle.loads(pickle.dumps(Payload(path)))  # it would work
    path.unlink()
    return path


@pytest.mark.parametrize("place", ["all of it", "beside the weights", "among the weights", "a plain pickle"])
def test_a_checkpoint_that_would_run_code(place: str, victim: Path, tmp_path: Path) -> None:
    payload, path = Payload(victim), tmp_path / "best.ckpt"
    held: object = {
        "beside the weights": {"state_dict": {}, "callbacks": payload},
        "among the weights": {"state_dict": {"network.class_head.weight": payload}},
    }.get(place, payload)
    if place == "a plain pickle":
        path.write_bytes(pickle.dumps(held, protocol=2))  # the one that torch writes
    else:
        torch.save(held, path)
    network = SliceNetwork("resnext50", weights="none")
    with pytest.raises(RunError, match=r"best\.ckpt is not a checkpoint of a run, or holds more than tensors"):
        load_weights(network, path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4"])
def test_a_file_that_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(RunError, match="is not a checkpoint of a run"):
        load_weights(SliceNetwork("resnext50", weights="none"), tmp_path / "best.ckpt")


def test_a_booster_that_would_run_code(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "booster.ubj").write_bytes(pickle.dumps(Payload(victim)))
    with pytest.raises(RunError, match="is not a readable booster"):
        load_booster(tmp_path / "booster.ubj")
    assert not victim.exists()
