"""What do the networks go by? The validation scans once more, with parts of the networks' input taken away.

The booster stays as it is. A network has never seen an altered image, so that a fall may also come from its
strangeness. What does not fall tells more: an ensemble that is as good without the lungs does not need them.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.engine.alterations import UNALTERED, alterations
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.engine.hardware import choose_hardware
from cnr_iemn.engine.prediction import EnsembleNetworks
from cnr_iemn.engine.progress import show_progress
from cnr_iemn.errors import RunError
from cnr_iemn.patients.booster import mean_probabilities
from cnr_iemn.patients.evaluation import evaluate, most_probable
from cnr_iemn.patients.evidence.comparisons import compare_with
from cnr_iemn.patients.evidence.results import Results
from cnr_iemn.patients.group_features import features_of_sets
from cnr_iemn.patients.intervals import proportion_intervals
from cnr_iemn.patients.slice_sets import ScanArray, SliceSets, by_fold
from cnr_iemn.records import VALIDATION

LEAST_AGREEMENT = 0.95
"""Share of slices that must get their saved class when nothing is altered; another machine's rounding moves few."""

Found = dict[str, dict[str, tuple[ScanArray, ...]]]
"""By alteration the ``SliceSets`` of the scans."""


def ablate(
    study: Path, ensemble: Ensemble, store: SliceStore, results: Results, *, gpus: int | None = None, seed: int = 0
) -> None:
    """Run the ensemble's networks again and put ``ablations`` into the metrics of ``results``, and its seconds.

    ``study``: folder of the study. ``results``: of ``assemble_results`` for this ensemble; its ``slices`` are what the
    networks said when they were trained. ``gpus``: as ``choose_hardware`` takes it. ``seed``: of the permutations.
    Raises RunError where a checkpoint is not the ensemble's, or the networks no longer say what was saved.
    """
    started = time.perf_counter()
    networks = EnsembleNetworks(study, ensemble, choose_hardware(gpus), batch_size=64)
    held_out = results.patients[results.patients["split"] == VALIDATION]
    found = altered_slices(networks, store, held_out.index.tolist(), seed=seed)
    agreement = 1 - _share_changed(found[UNALTERED], results.slices)
    if agreement < LEAST_AGREEMENT:
        raise RunError(
            f"Only {agreement:.1%} of the validation slices get the class that was saved when the networks were "
            "trained, with nothing altered: the slice store, the networks or this installation are others than then. "
            "Run aggregate.py without ablations=true, or train the study again."
        )
    results.metrics["ablations"] = {"agreement": agreement, **ablation_figures(found, ensemble, results)}
    results.seconds["ablations"] = time.perf_counter() - started


def altered_slices(networks: EnsembleNetworks, store: SliceStore, scan_ids: list[str], *, seed: int) -> Found:
    """Return what the networks say of these scans for each alteration, read from the store scan after scan."""
    rng = np.random.default_rng(seed)
    counts = [store.scan(scan_id).n_slices for scan_id in scan_ids]
    exchanged = dict(zip(scan_ids, rng.permutation(counts).tolist(), strict=True))
    inputs = {member.position for member in networks.ensemble.members}
    found: Found = {}
    for scan_id in show_progress(iter(scan_ids), len(scan_ids), doing="Ablations", unit="scans"):
        stored = store.scan(scan_id)
        changes = alterations(stored.n_slices, exchanged[scan_id], rng, inputs=inputs)
        answers: dict[str, list[NDArray[np.float32]]] = {name: [] for name in changes}
        for member in networks.ensemble.members:
            batches = list(networks.batches(member, store, scan_id, stored.n_slices))  # read and resized once for all
            for name, alter in changes.items():
                answers[name].append(networks.predict(member, map(alter, batches)))
        folds = [member.fold for member in networks.ensemble.members]
        for name, each in answers.items():
            found.setdefault(name, {})[scan_id] = by_fold(np.stack(each), folds)
    return found


def ablation_figures(found: Found, ensemble: Ensemble, results: Results) -> dict[str, Any]:
    """Return accuracy and sensitivities for each alteration, and what it has changed; JSON-ready.

    ``slices_changed`` and ``scans_changed``: share of which the class is another one than unaltered, of slices over all
    networks. ``unaltered_against_it``: paired, Holm's correction over the alterations.
    """
    labels = results.patients.loc[list(found[UNALTERED]), "label"].tolist()
    answers: dict[str, list[str]] = {}
    for name, sets in found.items():
        features = features_of_sets(sets, ensemble.models, ensemble.classes)
        answers[name] = most_probable(mean_probabilities(results.booster, features), ensemble.classes)
    right = {name: np.array(each) == np.array(labels) for name, each in answers.items()}
    compared = compare_with(right[UNALTERED], {name: each for name, each in right.items() if name != UNALTERED})
    rows = {}
    for name, sets in found.items():
        evaluation = evaluate(labels, answers[name], ensemble.classes)
        rows[name] = {
            **evaluation,
            "intervals": proportion_intervals(evaluation["confusion_matrix"], ensemble.classes),
            "slices_changed": _share_changed(sets, found[UNALTERED]),
            "scans_changed": float(np.mean(np.array(answers[name]) != np.array(answers[UNALTERED]))),
            "unaltered_against_it": compared.get(name),
        }
    return {"n": len(labels), "networks": len(ensemble.members), "rows": rows}


def _share_changed(one: SliceSets, other: SliceSets) -> float:
    """Return of how many slices, over the scans of ``one``, sets and networks, the most probable class differs."""
    first, second = (
        np.concatenate([array.argmax(axis=2).ravel() for scan_id in one for array in sets[scan_id]])
        for sets in (one, other)
    )
    return float(np.mean(first != second)) if len(first) == len(second) else 1.0  # a scan has other slices now
