"""The networks of an ensemble in one file of tensors, which can hold nothing that runs."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cnr_iemn.errors import RunError
from cnr_iemn.files import write_bytes_atomic
from cnr_iemn.slices.network import SliceNetwork

BUNDLE_TENSORS = "model.safetensors"
"""The file of all networks of a bundle, by the name that Hugging Face has for it."""


def save_networks(path: Path, networks: Mapping[str, SliceNetwork]) -> None:
    """Write the state of all networks as ``<name>/<tensor>``; a name of timm may hold dots, but no slash."""
    # copies, since the format takes neither two names for one memory nor channels_last
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    write_bytes_atomic(path, save(tensors, metadata={"format": "pt"}))  # save_file lets nobody else read


def load_network(network: SliceNetwork, path: Path, name: str) -> None:
    """Load the state of one network of ``save_networks``. Raises RunError where the file has not all of it."""
    prefix = f"{name}/"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118  # the file is no dictionary
            state = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
        network.load_state_dict(state)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0].rstrip(".:")
        raise RunError(f"{path} does not hold the network {name} ({reason}). Export the study again.") from error
