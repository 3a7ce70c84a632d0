import re
import shutil
from collections import OrderedDict
from urllib.error import HTTPError, URLError

import pytest
import torch
import torchvision.models
from torch import nn

from cnr_iemn.constants import BACKBONES
from cnr_iemn.errors import ConfigurationError, WeightsError
from cnr_iemn.stage1.models.backbones import build_backbone

pytestmark = pytest.mark.slow

TORCHVISION = {
    "resnext50": ("resnext50_32x4d", "fc"),
    "densenet161": ("densenet161", "classifier"),
    "inception_v3": ("inception_v3", "fc"),
    "wide_resnet50": ("wide_resnet50_2", "fc"),
}


def as_published(state):
    """Torchvision's state dict as its old files hold it: dotted DenseNet names and no batch counters."""
    renamed = (
        (re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key), value) for key, value in state.items()
    )
    return OrderedDict((key, value) for key, value in renamed if not key.endswith("num_batches_tracked"))


@pytest.fixture(scope="module", params=BACKBONES)
def published(request, tmp_path_factory):
    """A whole model of torchvision with random weights, and its file in the published format."""
    options = {"init_weights": False, "transform_input": False} if request.param == "inception_v3" else {}
    torch.manual_seed(0)
    model = torchvision.models.get_model(TORCHVISION[request.param][0], weights=None, **options).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train().momentum = None  # one pass sets the statistics, so that outputs depend on the images
    size = BACKBONES[request.param].minimum_size
    with torch.no_grad():
        model(torch.rand(4, 3, size, size))
    path = tmp_path_factory.mktemp("weights") / "random.pth"  # the published name says a hash, which these have not
    torch.save(as_published(model.state_dict()), path, _use_new_zipfile_serialization=False)
    yield request.param, model.eval(), path
    path.unlink()


@pytest.fixture(scope="module")
def small():
    """The smallest of the four, built once for what is the same for all."""
    torch.manual_seed(1)
    return build_backbone("resnext50", weights="none").trunk


def test_a_published_file_loads_tensor_by_tensor_and_gives_torchvisions_outputs(published):
    name, model, path = published
    built = build_backbone(name, weights=path)
    trunk, features = built.trunk, built.features
    expected = model.state_dict()
    state = trunk.state_dict()
    assert features == BACKBONES[name].features
    assert {key for key in expected if not key.startswith(("fc.", "classifier.", "AuxLogits."))} == set(state)
    for key, tensor in state.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(tensor, expected[key]), key
    size = BACKBONES[name].minimum_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        deep = trunk.eval()(images)
        assert deep.shape == (2, features)
        torch.testing.assert_close(getattr(model, TORCHVISION[name][1])(deep), model(images))
    assert (deep[0] - deep[1]).abs().max() > 0.05


def test_imagenet_weights_come_from_the_published_address_with_its_hash(published, monkeypatch, tmp_path):
    name, model, path = published
    options = []

    def download(url, destination, hash_prefix, progress):
        options.append((url, hash_prefix))
        shutil.copy(path, destination)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    trunk = build_backbone(name, weights="imagenet").trunk
    url = BACKBONES[name].weights_url
    assert options == [(url, url.rsplit("-", 1)[-1].removesuffix(".pth"))]
    key = next(iter(trunk.state_dict()))
    assert torch.equal(trunk.state_dict()[key], model.state_dict()[key])
    shutil.rmtree(tmp_path / "hub")


@pytest.mark.parametrize("name", BACKBONES)
def test_the_registry_has_torchvisions_published_address(name):
    enum = torchvision.models.get_model_weights(TORCHVISION[name][0])
    assert BACKBONES[name].weights_url == enum.IMAGENET1K_V1.url


@pytest.mark.parametrize(
    "failure",
    [
        URLError("Name or service not known"),
        HTTPError("https://x", 403, "Forbidden", None, None),
        RuntimeError('invalid hash value (expected "7cdf4587", got "00000000")'),
        TimeoutError("timed out"),
    ],
)
def test_a_failing_download_names_both_remedies(failure, monkeypatch, tmp_path):
    def download(*_):
        raise failure

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **kwargs: download())
    with pytest.raises(WeightsError) as caught:
        build_backbone("resnext50", weights="imagenet")
    message = str(caught.value)
    assert str(failure) in message
    assert "model.weights=none" in message
    assert "model.weights=/path/to/resnext50_32x4d-7cdf4587.pth" in message
    assert BACKBONES["resnext50"].weights_url in message


def test_a_download_of_more_than_tensors_is_not_unpickled(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, *_, **__: torch.save(nn.ReLU(), path))
    with pytest.raises(WeightsError, match=r"(?s)Weights only load failed.*model\.weights=none"):
        build_backbone("resnext50", weights="imagenet")


def test_a_trunk_s_weights_load_again(small, tmp_path):
    path = tmp_path / "trunk.pth"
    torch.save(small.state_dict(), path)
    again = build_backbone("resnext50", weights=str(path)).trunk
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_file_that_does_not_fit_names_a_few_keys(small, tmp_path):
    path = tmp_path / "weights.pth"
    state = small.state_dict()
    first, second, *_ = state
    for changed, words in [
        ({key: value for key, value in state.items() if key not in (first, second)}, f"{first}, {second} missing"),
        (state | {"layer9.weight": torch.zeros(2)}, "layer9.weight not expected"),
        (state | {first: torch.zeros(2)}, f"{first} of another shape"),
        ({f"module.{key}": value for key, value in state.items()}, r"and \d+ more missing; module.*not expected"),
    ]:
        torch.save(changed, path)
        with pytest.raises(WeightsError, match=words):
            build_backbone("resnext50", weights=path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"<html>404 Not Found</html>", "cannot be read"),
        (b"PK\x03\x04 cut off", "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused(content, words, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        build_backbone("resnext50", weights=path)


def test_a_file_of_anything_but_tensors_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(2, 2), path)  # a pickled module could run code of its own
    with pytest.raises(WeightsError, match="more than tensors"):
        build_backbone("resnext50", weights=path)
    torch.save({"epoch": 3, "state_dict": {}}, path)
    with pytest.raises(WeightsError, match="not a table of tensors"):
        build_backbone("resnext50", weights=path)


def test_a_path_without_a_file_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="neither imagenet nor none nor a file"):
        build_backbone("resnext50", weights=tmp_path / "absent.pth")


def test_an_unknown_backbone_is_an_error_that_lists_the_four():
    with pytest.raises(ConfigurationError, match="resnext50, densenet161, inception_v3, wide_resnet50"):
        build_backbone("no_such_net", weights="none")
