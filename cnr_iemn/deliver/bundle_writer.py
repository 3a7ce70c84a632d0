"""Write a bundle: weights, ONNX, booster, settings, model card, and the checksums of them all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.scan import make_scan
from cnr_iemn.cohort.store import PixelSettings
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.deliver.bundle import (
    BOOSTER,
    CHECKSUMS,
    CONFIG,
    ONNX,
    PROVENANCE,
    README,
    check_files,
    write_checksums,
)
from cnr_iemn.engine.ensembles import Ensemble, write_ensemble
from cnr_iemn.engine.onnx_export import export_onnx, largest_difference
from cnr_iemn.engine.opened import Opened
from cnr_iemn.engine.prediction import EnsembleNetworks
from cnr_iemn.engine.weights import BUNDLE_TENSORS, save_networks
from cnr_iemn.errors import RunError
from cnr_iemn.files import finished_folder, json_text, write_text_atomic
from cnr_iemn.registry import PHANTOM_NOTICE, SPGC_CLASSES

TOLERANCE = 1e-4
"""Largest difference of a probability between ONNX Runtime and torch in float32."""
_CHECKED_SEED, _NOISE_SLICES = 6, 4


def check_place(folder: Path, *, overwrite: bool) -> None:
    """Raise RunError where a bundle cannot be written to ``folder``: nothing but an older bundle is ever replaced."""
    if not folder.exists():
        return
    if not (folder / CHECKSUMS).is_file():
        raise RunError(f"{folder} is there and is no bundle: it is not replaced. Give another output=.")
    if not overwrite:
        raise RunError(f"{folder} holds a bundle. Give another output=, or replace it with overwrite=true.")
    hidden = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    if hidden:
        raise RunError(
            f"{folder} holds {hidden[0]}, which is not the bundle's and would be lost. Give another output=, and copy "
            "the new bundle's files into this folder."
        )


def write_bundle(
    folder: Path, opened: Opened, networks: EnsembleNetworks, *, onnx: bool, license_name: str
) -> dict[str, float]:
    """Write the bundle of an ensemble, whole or not at all.

    Returns by network, where ``onnx``, the largest difference of a probability between ONNX Runtime and torch, over the
    slices of a phantom and of noise. Raises RunError where one exceeds ``TOLERANCE``, or a file of the study is
    missing; ConfigurationError where a network cannot be written as ONNX.
    """
    ensemble, made = opened.ensemble, opened.booster.parent
    by_name = {member.name: network for member, network in networks.networks.items()}
    with finished_folder(folder) as new:
        write_ensemble(new, portable_ensemble(ensemble))
        write_text_atomic(new / CONFIG, json_text(_config(opened)))
        origin = json.loads(_of_the_study(made / "provenance.json"))
        write_text_atomic(new / PROVENANCE, json_text(portable_provenance(origin)))
        card = _of_the_study(made / "model_card.md")
        write_text_atomic(new / README, f"{front_matter(ensemble, license_name)}\n{card}{_licence(license_name)}")
        shutil.copyfile(opened.booster, new / BOOSTER)
        save_networks(new / BUNDLE_TENSORS, by_name)
        differences = _write_onnx(new / ONNX, networks) if onnx else {}
        write_checksums(new)
        check_files(new)
    return differences


def portable_ensemble(ensemble: Ensemble) -> Ensemble:
    """Return the ensemble as a bundle has it: all weights in one file, training scans known by checksums alone."""
    members = tuple(replace(member, checkpoint=BUNDLE_TENSORS) for member in ensemble.members)
    return replace(ensemble, members=members, learnt_from={digest: digest for digest in ensemble.learnt_from.values()})


def portable_provenance(origin: dict[str, Any]) -> dict[str, Any]:
    """Return provenance.json without what tells of the machine and the cohort's scans: commands, paths and ids."""
    runs = [
        {**_without_command(run), "weights": run["weights"] if run["weights"] in ("imagenet", "none") else "a file"}
        for run in origin["runs"]
    ]
    return {**_without_command(origin), "left_out": len(origin["left_out"]), "runs": runs}


def _without_command(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "command"}


def front_matter(ensemble: Ensemble, license_name: str) -> str:
    """Return the YAML that Hugging Face reads at the top of a model card."""
    lines = [f"license: {json.dumps(license_name)}"]
    if license_name == "other":
        lines.append("license_name: terms-of-the-cohort")
    lines += ["library_name: cnr-iemn", "pipeline_tag: image-classification", "tags:"]
    tags = ["medical", "computed-tomography", "covid-19", "xgboost", "onnx", "safetensors", "research-use-only"]
    lines += [f"- {tag}" for tag in (*tags, *(["phantom"] if ensemble.phantom else []))]
    return "\n".join(["---", *lines, "---", ""])


def _licence(license_name: str) -> str:
    terms = (
        "not stated: it is for who has trained them to say, by the terms of the cohort"
        if license_name == "other"
        else license_name
    )
    return (
        f"\n## Licence\n\nThe weights: {terms}. The program that reads this folder, CNR-IEMN, is under Apache-2.0; "
        "none of it is in here.\n"
    )


def _config(opened: Opened) -> dict[str, Any]:
    ensemble = opened.ensemble
    return {
        **({"notice": PHANTOM_NOTICE} if ensemble.phantom else {}),
        "model_type": "cnr-iemn",
        "architectures": ["SliceNetwork"],
        "ensemble": opened.name,
        "id2label": {str(index): name for index, name in enumerate(ensemble.classes)},
        "label2id": {name: index for index, name in enumerate(ensemble.classes)},
    }


def _of_the_study(path: Path) -> str:
    if not path.is_file():
        raise RunError(f"{path} is missing, and a bundle tells where it comes from. Run aggregate.py again.")
    return path.read_text(encoding="utf-8")


def _write_onnx(folder: Path, networks: EnsembleNetworks) -> dict[str, float]:
    source, differences = CheckedSlices(networks.ensemble.pixels), {}
    for member, network in networks.networks.items():
        path = folder / f"{member.name}.onnx"
        export_onnx(network, path, image_size=member.image_size)
        batches = networks.batches(member, source, "checked", len(source))
        differences[member.name] = found = largest_difference(network, path, batches)
        if not found <= TOLERANCE:
            raise RunError(
                f"The ONNX file of {member.name} differs from torch by {found:.1e} in a probability, where "
                f"{TOLERANCE:.0e} is allowed: the bundle is not written. Leave ONNX out with onnx=false, or try other "
                "versions of torch, onnxscript and onnxruntime."
            )
    return differences


class CheckedSlices:
    """The slices on which ONNX is compared with torch: of a phantom, then of noise, at the store's size."""

    def __init__(self, pixels: PixelSettings) -> None:
        scan = make_scan(_CHECKED_SEED, SPGC_CLASSES[1], rows=pixels.size, n_slices=(20, 20))
        low, high = pixels.window
        grey = window_to_uint8(scan.hu, low=low, high=high)
        rng, shape = np.random.default_rng(_CHECKED_SEED), (_NOISE_SLICES, pixels.size, pixels.size)
        self._grey = np.concatenate([grey, rng.integers(0, 256, shape, np.uint8)])
        self._lungs = np.concatenate([scan.lungs, rng.integers(0, 2, shape, np.uint8)]).astype(np.uint8)

    def __len__(self) -> int:
        return len(self._grey)

    def grey(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the grey slices, uint8 [slices, size, size]."""
        return self._grey

    def lungs(self, scan_id: str) -> NDArray[np.uint8]:
        """Return the lung masks, 0 or 1, uint8 [slices, size, size]."""
        return self._lungs
