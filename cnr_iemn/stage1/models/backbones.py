"""Backbones without their ImageNet classifier: the paper's four, as torchvision builds them, or any of timm."""

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

from cnr_iemn.constants import BACKBONES, TIMM_SOURCES
from cnr_iemn.errors import ConfigurationError, WeightsError
from cnr_iemn.stage1.models.tensor_files import UnusableFileError, read_tensors, require_fit, require_tensors
from cnr_iemn.stage1.models.timm_models import NO_STATISTICS, NormalisedTrunk, TimmModel, create_timm_model
from cnr_iemn.utils.atomic_io import sha256_of_file

_BUILDERS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    # torchvision's function, the classifier, and the layers of three feature maps for Grad-CAM: the last one, whose
    # mean is the deep features, and the two before it with twice and four times as many places a side
    "resnext50": (models.resnext50_32x4d, "fc", ("layer4", "layer3", "layer2")),
    "densenet161": (
        models.densenet161,
        "classifier",
        ("features", "features.denseblock3", "features.denseblock2"),
    ),
    "inception_v3": (models.inception_v3, "fc", ("Mixed_7c", "Mixed_6e", "Mixed_5d")),
    "wide_resnet50": (models.wide_resnet50_2, "fc", ("layer4", "layer3", "layer2")),
}

# DenseNet's published file has keys such as denselayer1.norm.1.weight, from before module names could hold no dots
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
# torch.hub's convention: name-<first digits of the SHA-256>.pth
_NAMED_BY_HASH = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt)$")
_NOT_TRUNK = ("fc.", "classifier.", "AuxLogits.")


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    Attributes:
        trunk: Maps float images [b, 3, h, w] to deep features [b, features].
        features: Number of deep features.
        min_size: Smallest side of the images, pixels.
        fixed_size: The only side that it takes, pixels; None where any side is possible.
    """

    trunk: nn.Module
    features: int
    min_size: int
    fixed_size: int | None = None


def build_backbone(
    name: str,
    *,
    weights: str | Path,
    library: str = "torchvision",
    drop_path: float = 0.0,
    image_size: int | None = None,
) -> Backbone:
    """Build a backbone (section 2.1.2).

    Inception neither rescales its input (its published weights would have it do so, wrong for values of 0..1) nor keeps
    its auxiliary head. A backbone of timm takes images as its weights were trained, with their mean and deviation.

    Args:
        name: One of the paper's four, or any of timm's names.
        weights: ``imagenet`` (downloaded once into torch.hub's or Hugging Face's cache), ``none`` (random, from torch's
            generator) or the path of a file of tensors under the library's published names, with or without classifier;
            of timm's networks also a source of ``create_timm_model``.
        library: torchvision or timm.
        drop_path: Of timm's networks: chance that training skips the last block; it falls to 0 at the first.
        image_size: Side of the images, pixels, for which a network of timm that takes one size is built.

    Returns:
        The network without its classifier.

    Raises:
        ConfigurationError: The name is unknown, or timm is not installed.
        WeightsError: The weights cannot be loaded or do not fit.
    """
    if library == "timm":
        if str(weights) in ("imagenet", "none") or str(weights).startswith(TIMM_SOURCES):
            model = create_timm_model(name, weights=str(weights), image_size=image_size, drop_path=drop_path)
        else:
            model = _timm_from_file(name, Path(weights), image_size=image_size, drop_path=drop_path)
        normalised = NormalisedTrunk(model.trunk, *(model.statistics if weights != "none" else NO_STATISTICS))
        return Backbone(normalised, model.features, min_size=32, fixed_size=model.fixed_size)
    if name not in BACKBONES:
        raise ConfigurationError(f"Backbone {name} is not known: choose one of {', '.join(BACKBONES)}.")
    trunk = _torchvision_trunk(name, random=weights == "none")
    if weights == "imagenet":
        _load(trunk, _download(name), source=f"The ImageNet weights of {name}")
    elif weights != "none":
        where = f"Torchvision's weights of {name} are at {BACKBONES[name].weights_url}"
        _load(trunk, _read(Path(weights), where), source=f"The weights {weights}")
    return Backbone(trunk, BACKBONES[name].features, min_size=BACKBONES[name].minimum_size)


def _timm_from_file(name: str, path: Path, *, image_size: int | None, drop_path: float) -> TimmModel:
    """Return a model of timm with the weights of a file, which are of its own size."""
    model = create_timm_model(name, weights="none", drop_path=drop_path)
    prefixes = tuple(f"{module}." for module in model.classifier)
    state = _read(path, "timm.create_model(..., pretrained=True) downloads them")
    _load(model.trunk, state, source=f"The weights {path}", classifier=prefixes)
    if model.fixed_size is None or image_size in (None, model.fixed_size):
        return model
    whole = model.trunk.state_dict()
    return create_timm_model(name, weights="none", image_size=image_size, drop_path=drop_path, state=whole)


def feature_maps(name: str) -> tuple[str, ...]:
    """Return the layers of a backbone's feature maps, the last one first; none for a backbone of timm."""
    return _BUILDERS[name][2] if name in _BUILDERS else ()


def _torchvision_trunk(name: str, *, random: bool) -> nn.Module:
    builder, classifier, _ = _BUILDERS[name]
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
    file_hash = _NAMED_BY_HASH.search(path.name)
    if file_hash and not sha256_of_file(path).startswith(file_hash[1]):
        raise WeightsError(
            f"model.weights={path} is not what its name says: its SHA-256 does not begin with {file_hash[1]}. {where}; "
            "give the file another name where it holds other weights."
        )
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path, refusal=WeightsError)
    except (OSError, UnusableFileError) as error:
        reason = str(error) if isinstance(error, UnusableFileError) else type(error).__name__
        raise WeightsError(
            f"model.weights={path} cannot be read as a file of tensors ({reason}): it is damaged or holds more than "
            "tensors. Save it with torch.save(model.state_dict(), path)."
        ) from error


def _load(trunk: nn.Module, state: object, *, source: str, classifier: tuple[str, ...] = _NOT_TRUNK) -> None:
    """Load ``state`` into ``trunk``; every tensor of the trunk must be there, and none besides but a classifier's.

    ``classifier``: what its keys begin with.
    """
    try:
        tensors = require_tensors(state)
    except UnusableFileError as error:
        raise WeightsError(
            f"{source} are not a table of tensors that can be weights: {error}. Save them with "
            "torch.save(model.state_dict(), path)."
        ) from error
    renamed = {
        _OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in tensors.items() if not key.startswith(classifier)
    }
    try:
        # older files lack the counters, which only averaging without momentum would read
        require_fit(renamed, trunk.state_dict(), dispensable=("num_batches_tracked",))
    except UnusableFileError as error:
        raise WeightsError(f"{source} do not fit this backbone: {error}. Give a file made for it.") from error
    trunk.load_state_dict(renamed, strict=False)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file as timm publishes them. Raises OSError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
