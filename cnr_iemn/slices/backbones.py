"""The backbones without their ImageNet classifier: the paper's four, as torchvision builds them, or any of timm."""

import re
import sys
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from cnr_iemn.errors import ConfigurationError, WeightsError
from cnr_iemn.registry import BACKBONES
from cnr_iemn.slices.timm_backbones import build_timm, safetensors_of

_BUILDERS: dict[str, tuple[Any, str]] = {  # torchvision's function, the module that is its classifier
    "resnext50": (models.resnext50_32x4d, "fc"),
    "densenet161": (models.densenet161, "classifier"),
    "inception_v3": (models.inception_v3, "fc"),
    "wide_resnet50": (models.wide_resnet50_2, "fc"),
}

# DenseNet's published file has keys such as denselayer1.norm.1.weight, from before module names could hold no dots
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_NOT_TRUNK = ("fc.", "classifier.", "AuxLogits.")


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier: float images [b, 3, h, w] to deep features [b, ``features``].

    ``smallest``: least side of the images in pixels; ``only``: the one that it takes, None where any does.
    """

    trunk: nn.Module
    features: int
    smallest: int
    only: int | None = None


def build_backbone(name: str, *, weights: str | Path, library: str = "torchvision") -> Backbone:
    """Build the backbone ``name``.

    ``library``: torchvision, for the paper's four, or timm, for any of its names. ``weights``: ``imagenet`` (downloaded
    once into torch.hub's or Hugging Face's cache), ``none`` (random, from torch's generator) or the path of a file of
    tensors under the library's published names, with or without classifier. Inception neither rescales its input (its
    published weights would have it do so, wrong for values of 0..1) nor keeps its auxiliary head.

    Raises ConfigurationError for an unknown name, WeightsError where the weights cannot be had or do not fit.
    """
    if library == "timm":
        trunk, features, only, classifier = build_timm(name, pretrained=weights == "imagenet")
        if weights not in ("imagenet", "none"):
            where = "timm.create_model(..., pretrained=True) downloads them"
            prefixes = tuple(f"{module}." for module in classifier)
            _load(trunk, _read(Path(weights), where), source=f"The weights {weights}", classifier=prefixes)
        return Backbone(trunk, features, smallest=32, only=only)
    if name not in BACKBONES:
        raise ConfigurationError(f"Backbone {name} is not known: choose one of {', '.join(BACKBONES)}.")
    trunk = _torchvision_trunk(name, random=weights == "none")
    if weights == "imagenet":
        _load(trunk, _download(name), source=f"The ImageNet weights of {name}")
    elif weights != "none":
        where = f"Torchvision's weights of {name} are at {BACKBONES[name].weights_url}"
        _load(trunk, _read(Path(weights), where), source=f"The weights {weights}")
    return Backbone(trunk, BACKBONES[name].features, smallest=BACKBONES[name].minimum_size)


def _torchvision_trunk(name: str, *, random: bool) -> nn.Module:
    builder, classifier = _BUILDERS[name]
    options = {}
    if name == "inception_v3":
        # its truncated normal start values take long to draw and would be overwritten
        options = {"transform_input": False, "aux_logits": False, "init_weights": random}
    elif classifier == "fc":
        # start the residual branches at zero: random ResNets learn sooner (Goyal et al. 2017, arXiv:1706.02677, 5.1)
        options = {"zero_init_residual": True}
    trunk: nn.Module = builder(weights=None, **options)
    setattr(trunk, classifier, nn.Identity())
    return trunk


def _download(name: str) -> Any:
    url = BACKBONES[name].weights_url
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, HTTPException, UnpicklingError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise WeightsError(
            f"The ImageNet weights of {name} cannot be downloaded: {reason}. Either train from random weights with "
            f"model.weights=none, or fetch {url} by hand and give model.weights=/path/to/{url.rsplit('/', 1)[-1]}."
        ) from error


def _read(path: Path, where: str) -> Any:
    """``where``: a sentence that says where published weights are."""
    if not path.is_file():
        raise WeightsError(f"model.weights={path} is neither imagenet nor none nor a file. {where}.")
    try:
        if path.suffix == ".safetensors":
            return safetensors_of(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise WeightsError(
            f"model.weights={path} cannot be read as a file of tensors ({type(error).__name__}): it is damaged or "
            f"holds more than tensors. Save it with torch.save(model.state_dict(), path)."
        ) from error


def _load(trunk: nn.Module, state: Any, *, source: str, classifier: tuple[str, ...] = _NOT_TRUNK) -> None:
    """Load ``state`` into ``trunk``; every tensor of the trunk must be there, and none besides but a classifier's.

    ``classifier``: what its keys begin with.
    """
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{source} are not a table of tensors. Save them with torch.save(model.state_dict(), path).")
    state = {
        _OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in state.items() if not key.startswith(classifier)
    }
    own = trunk.state_dict()
    counters = "num_batches_tracked"  # older files lack them; only averaging without momentum would read them
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith(counters)],
        "not expected": [key for key in state if key not in own],
        "of another shape": [key for key in state if key in own and state[key].shape != own[key].shape],
    }
    if any(problems.values()):
        found = "; ".join(f"{_few(keys)} {what}" for what, keys in problems.items() if keys)
        raise WeightsError(f"{source} do not fit this backbone: {found}. Give a file made for it.")
    trunk.load_state_dict(state, strict=False)


def _few(keys: list[str], shown: int = 3) -> str:
    rest = len(keys) - shown
    return ", ".join(keys[:shown]) + (f" and {rest} more" if rest > 0 else "")
