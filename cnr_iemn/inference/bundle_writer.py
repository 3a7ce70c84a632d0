"""Writes a bundle: weights, ONNX files, stage-2 method, configuration, model card, and the checksums of them all."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.errors import RunError
from cnr_iemn.inference.bundle import (
    BUNDLE_TENSORS,
    CHECKSUMS,
    CONFIG,
    ONNX,
    PROVENANCE,
    README,
    check_files,
    save_networks,
    write_checksums,
)
from cnr_iemn.inference.networks import EnsembleNetworks, InMemoryScan
from cnr_iemn.inference.onnx_export import export_onnx, largest_difference
from cnr_iemn.stage2.booster import BOOSTER_FILE
from cnr_iemn.stage2.ensemble import Ensemble, LoadedEnsemble, write_ensemble
from cnr_iemn.stage2.feature_space import PROJECTIONS
from cnr_iemn.stage2.provenance import StudyProvenance
from cnr_iemn.utils.atomic_io import finished_folder, json_text, recover_folder, write_text_atomic
from cnr_iemn.utils.checksums import require_listed
from cnr_iemn.utils.json_io import read_json

TOLERANCE = 1e-4
"""Largest difference of a probability between ONNX Runtime and torch in float32."""
N_TEST_SLICES = 24


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Check that a bundle can be written to a folder, which may replace an older bundle and nothing else.

    Raises:
        RunError: The folder holds something else, or a bundle that may not be replaced.
    """
    recover_folder(folder)
    if not folder.exists():
        return
    if not (folder / CHECKSUMS).is_file():
        raise RunError(f"{folder} exists and is not a bundle, so it is not replaced. Give another output=.")
    if not overwrite:
        raise RunError(f"{folder} holds a bundle. Give another output=, or replace it with overwrite=true.")
    hidden = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    if hidden:
        raise RunError(
            f"{folder} holds {hidden[0]}, which is not part of the bundle and would be lost. Give another output=, and "
            "copy the new bundle's files into this folder."
        )


def write_bundle(
    folder: Path, loaded: LoadedEnsemble, networks: EnsembleNetworks, *, onnx: bool, license_name: str
) -> dict[str, float]:
    """Write the bundle of an ensemble, whole or not at all.

    Args:
        folder: Where to write.
        loaded: The ensemble.
        networks: Its networks.
        onnx: Write ONNX files, too.
        license_name: Of the weights, as Hugging Face names it.

    Returns:
        The largest difference of a probability between ONNX Runtime and torch, by network; empty without ``onnx``.

    Raises:
        RunError: A difference exceeds ``TOLERANCE``, or a file of the study is missing.
        ConfigurationError: A network cannot be written as ONNX.
    """
    ensemble = loaded.ensemble
    require = partial(require_listed, loaded.files, listed=ensemble.files, again=loaded.again)
    by_name = {member.name: network for member, network in networks.networks.items()}
    with finished_folder(folder) as new:
        write_ensemble(new, portable_ensemble(ensemble))
        write_text_atomic(new / CONFIG, json_text(_config(loaded)))
        provenance = read_json(require("provenance.json"), StudyProvenance, again=loaded.again, extra="allow")
        write_text_atomic(new / PROVENANCE, json_text(portable_provenance(provenance)))
        card = require("model_card.md").read_text(encoding="utf-8")
        head = front_matter(ensemble, license_name)
        write_text_atomic(new / README, f"{head}\n{card}{_license_section(license_name)}")
        for name in _method_files(ensemble):
            shutil.copyfile(require(name), new / name)
        save_networks(new / BUNDLE_TENSORS, by_name)
        differences = _write_onnx(new / ONNX, networks) if onnx else {}
        write_checksums(new)
        check_files(new)
    return differences


def _method_files(ensemble: Ensemble) -> list[str]:
    """Return the names of the files from which the stage-2 method is read."""
    return [ensemble.method_file, *([PROJECTIONS] if ensemble.reads_features else [])]


def portable_ensemble(ensemble: Ensemble) -> Ensemble:
    """Return the ensemble for a bundle: all weights in one file, training scans identified by checksums alone."""
    members = tuple(replace(member, checkpoint=BUNDLE_TENSORS) for member in ensemble.members)
    files = {name: ensemble.files[name] for name in _method_files(ensemble)}  # all files are in checksums.json
    learnt_from = {digest: digest for digest in ensemble.learnt_from.values()}
    return replace(ensemble, members=members, learnt_from=learnt_from, files=files)


def portable_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return provenance.json without commands, paths and ids, which describe the machine and the cohort's scans."""
    runs = [{**_without_command(run), "weights": _public_weights(run["weights"])} for run in provenance["runs"]]
    return {**_without_command(provenance), "left_out": len(provenance["left_out"]), "runs": runs}


def _public_weights(weights: str) -> str:
    """Return the name of start weights that anybody can look up; of others, that they are a file."""
    return weights if weights in ("imagenet", "none") or weights.startswith("hf-hub:") else "a file"


def _without_command(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "command"}


def front_matter(ensemble: Ensemble, license_name: str) -> str:
    """Return the YAML that Hugging Face reads at the top of a model card."""
    lines = [f"license: {json.dumps(license_name)}"]
    if license_name == "other":
        lines.append("license_name: terms-of-the-cohort")
    lines += ["library_name: cnr-iemn", "pipeline_tag: image-classification", "tags:"]
    tags = ["medical", "computed-tomography", "covid-19", "onnx", "safetensors", "research-use-only"]
    tags[3:3] = ["xgboost"] if ensemble.method_file == BOOSTER_FILE else []
    lines += [f"- {tag}" for tag in (*tags, *(["phantom"] if ensemble.phantom else []))]
    return "\n".join(["---", *lines, "---", ""])


def _license_section(license_name: str) -> str:
    unstated = "not stated. Those who trained them decide, under the terms of the cohort"
    terms = unstated if license_name == "other" else license_name
    return (
        f"\n## License\n\nThe weights: {terms}. CNR-IEMN, the program that reads this folder, is under Apache-2.0; "
        "this folder contains none of it.\n"
    )


def _config(loaded: LoadedEnsemble) -> dict[str, Any]:
    ensemble = loaded.ensemble
    return {
        **({"notice": PHANTOM_NOTICE} if ensemble.phantom else {}),
        "model_type": "cnr-iemn",
        "architectures": ["SliceNetwork"],
        "ensemble": loaded.name,
        "id2label": {str(index): name for index, name in enumerate(ensemble.classes)},
        "label2id": {name: index for index, name in enumerate(ensemble.classes)},
    }


def _write_onnx(folder: Path, networks: EnsembleNetworks) -> dict[str, float]:
    slices, differences = onnx_test_slices(networks.ensemble.pixels.size), {}
    for member, network in networks.networks.items():
        path = folder / f"{member.name}.onnx"
        export_onnx(network, path, image_size=member.image_size)
        batches = networks.batches(member, slices, "test", N_TEST_SLICES)
        differences[member.name] = difference = largest_difference(network, path, batches)
        if not difference <= TOLERANCE:
            raise RunError(
                f"The ONNX file of {member.name} differs from torch by {difference:.1e} in a probability, where "
                f"{TOLERANCE:.0e} is allowed: the bundle is not written. Leave ONNX out with onnx=false, or try other "
                "versions of torch, onnxscript and onnxruntime."
            )
    return differences


def onnx_test_slices(size: int) -> InMemoryScan:
    """Return slices of coarse to fine noise, to compare ONNX Runtime with torch."""
    rng = np.random.default_rng(6)
    grey = np.empty((N_TEST_SLICES, size, size), np.uint8)
    lungs = np.empty((N_TEST_SLICES, size, size), bool)
    for k, side in enumerate(np.geomspace(4, size, N_TEST_SLICES).astype(int)):
        grey[k] = cv2.resize(rng.integers(0, 256, (side, side), np.uint8), (size, size))
        lungs[k] = cv2.resize(rng.integers(0, 256, (side, side), np.uint8), (size, size)) >= 128
    return InMemoryScan(grey, lungs)
