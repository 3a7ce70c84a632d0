"""Models of timm without their classifiers, and the normalisation of their input."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnr_iemn.constants import TIMM_SOURCES
from cnr_iemn.errors import ConfigurationError, WeightsError
from cnr_iemn.stage1.models.tensor_files import UnusableFileError, require_fit, require_tensors
from cnr_iemn.utils.packages import require_package

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
NO_STATISTICS: Statistics = ((0.0,) * 3, (1.0,) * 3)
"""Mean and deviation that change nothing, for networks without published weights."""
_TEST_SIDE = 64


@dataclass(frozen=True)
class TimmModel:
    """A model without its classifier.

    Attributes:
        trunk: Maps float images [b, 3, h, w] to deep features [b, features].
        features: Number of deep features.
        fixed_size: The only side that it takes as it was built, pixels; None where any side is possible.
        statistics: Mean and deviation of the images that its published weights were trained on, by channel, of 0..1.
        classifier: Names of the classifier's modules in files of the whole model.
    """

    trunk: nn.Module
    features: int
    fixed_size: int | None
    statistics: Statistics
    classifier: tuple[str, ...]


class NormalisedTrunk(nn.Module):
    """A model whose images of 0..1 are first brought to mean 0 and deviation 1, as its weights are used to.

    Mean and deviation are kept with the weights, so that a checkpoint needs nothing else.

    Args:
        model: Of the images [b, 3, h, w].
        mean: By channel.
        deviation: By channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the deep features, float [b, features]. ``images``: float 0..1, [b, 3, h, w]."""
        features: Tensor = self.model((images - self.mean) / self.deviation)
        return features


def create_timm_model(
    name: str,
    *,
    weights: str,
    image_size: int | None = None,
    drop_path: float = 0.0,
    state: Mapping[str, Tensor] | None = None,
) -> TimmModel:
    """Build timm's model ``name`` without its classifier.

    Args:
        name: Of ``timm.list_models()``, with a tag of its weights or without.
        weights: imagenet (what timm has for the name), none, or a model of this architecture as
            ``hf-hub:<owner>/<name>`` or ``local-dir:<folder>`` with its config.json.
        image_size: Side of the images, pixels, for which a model of one size is built in place of its own; its position
            embeddings are interpolated.
        drop_path: Rate of stochastic depth (Huang et al. 2016); 0 for none.
        state: Weights of the model at its own size, in place of ``weights``.

    Raises:
        ConfigurationError: timm is not installed, has no such name, or the model has no such rate or size.
        WeightsError: Weights cannot be loaded, or are another model's.
    """
    require_package("timm", f"model.library=timm (model.name={name})", "or use a backbone of the paper")
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Near it: {', '.join(near)}. " if near else ""
        raise ConfigurationError(
            f"model.name={name} is not a model of timm {timm.__version__}. {hint}timm.list_models() lists them."
        )
    native, trunk, source_model = _build(name, weights, image_size, drop_path, state)
    if native is not None and image_size not in (None, native):
        _check_size(trunk, name, image_size or native)
    if source_model is not trunk:
        _take_over(trunk, source_model, name=name, source=weights, side=image_size or native or _TEST_SIDE)
    config = source_model.pretrained_cfg
    classifier = config.get("classifier") or ()
    return TimmModel(
        trunk,
        getattr(trunk, "head_hidden_size", trunk.num_features),
        fixed_size=None if native is None else image_size or native,
        statistics=(tuple(config["mean"]), tuple(config["std"])),
        classifier=(classifier,) if isinstance(classifier, str) else tuple(classifier),
    )


def _build(
    name: str, weights: str, image_size: int | None, drop_path: float, state: Mapping[str, Tensor] | None
) -> tuple[int | None, Any, Any]:
    """Return a model's own size, the model, and the one that has the weights: the same, or another at its source."""
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    try:
        native = _fixed_size(name)
        if native is not None and image_size not in (None, native):
            options["img_size"] = image_size
        if weights.startswith(TIMM_SOURCES):
            source_model = timm.create_model(weights, pretrained=True, **options)
            return native, timm.create_model(name, pretrained=False, **options), source_model
        if state is not None:
            options["pretrained_cfg_overlay"] = {"state_dict": dict(state)}
        trunk = timm.create_model(name, pretrained=weights == "imagenet" or state is not None, **options)
        return native, trunk, trunk
    except TypeError as error:
        raise _unknown_option(name, error, drop_path, image_size) from error
    except (OSError, RuntimeError, ValueError, AssertionError, KeyError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        reason = f"config.json lacks {reason}" if isinstance(error, KeyError) else reason
        elsewhere = weights.startswith(TIMM_SOURCES)
        raise WeightsError(
            f"timm cannot make {f'the model {weights}' if elsewhere else f'{name} with its published weights'}: "
            f"{reason}. Either train from random weights with model.weights=none, or give "
            "model.weights=/path/to/file of a model of this name."
        ) from error


def _fixed_size(name: str) -> int | None:
    """Return the only side of images, in pixels, that a model takes unless it is built for another."""
    from timm import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None and config.fixed_input_size else None


def _unknown_option(name: str, error: TypeError, drop_path: float, image_size: int | None) -> Exception:
    """Return what is raised where a model does not know an argument that it was built with."""
    if "img_size" in str(error):
        return ConfigurationError(
            f"model.image_size={image_size} does not apply to {name}, which takes images of one size. Give "
            f"model.image_size={_fixed_size(name)}."
        )
    if "drop_path" in str(error):
        return ConfigurationError(
            f"model.drop_path={drop_path} does not apply to {name}, which has no blocks to skip. Give "
            "model.drop_path=0."
        )
    return error


def _check_size(trunk: nn.Module, name: str, side: int) -> None:
    """Raise ConfigurationError where a model that was built for a side does not take images of it."""
    try:
        _features(trunk, side)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"model.image_size={side} does not fit {name}: {str(error).rstrip('.')}. Its own size is "
            f"{_fixed_size(name)}; give that, or a multiple of the size of its patches."
        ) from error


def _take_over(trunk: nn.Module, source_model: Any, *, name: str, source: str, side: int) -> None:
    """Give a model the weights of another one that must be the same, since predict.py will build it by its name."""
    architecture = source_model.pretrained_cfg.get("architecture") or name
    if architecture != name.partition(".")[0]:
        raise ConfigurationError(
            f"model.weights={source} are of the architecture {architecture}, and model.name={name} is another one. "
            f"Give model.name={architecture}."
        )
    state = source_model.state_dict()
    try:
        require_fit(require_tensors(state), trunk.state_dict())
        trunk.load_state_dict(state)
        same_features = torch.allclose(_features(trunk, side), _features(source_model, side), rtol=1e-3, atol=1e-4)
    except UnusableFileError as error:
        raise WeightsError(f"model.weights={source} do not fit {name}: {error}. Give a model made for it.") from error
    if not same_features:
        raise WeightsError(
            f"model.weights={source} are of a {name} with other options (model_args in its config.json), which would "
            "be lost. Give a model with timm's default options."
        )


def _features(trunk: nn.Module, side: int) -> Tensor:
    """Return the features of an image of noise, float32 [1, features]; leaves the model in its mode."""
    training = trunk.training
    with torch.inference_mode():
        features: Tensor = trunk.eval()(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
    trunk.train(training)
    return features
