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
from cnr_iemn.engine.ensembles import Ensemble, Member
from cnr_iemn.engine.hardware import choose_hardware
from cnr_iemn.engine.prediction import EnsembleNetworks, ScanSlices, ensemble_features
from cnr_iemn.engine.progress import show_progress
from cnr_iemn.errors import RunError
from cnr_iemn.patients.booster import mean_probabilities
from cnr_iemn.patients.comparisons import compare_with
from cnr_iemn.patients.evaluation import evaluate, most_probable
from cnr_iemn.patients.intervals import proportion_intervals
from cnr_iemn.patients.results import Results
from cnr_iemn.patients.slice_sets import ScanArray, SliceSets
from cnr_iemn.records import VALIDATION

LEAST_AGREEMENT = 0.95
"""Share of slices that must get their saved class when nothing is altered; another machine's rounding moves few."""

Found = dict[str, list[ScanSlices]]
"""What the networks say of each scan, by alteration."""


def ablate(
    study: Path, ensemble: Ensemble, store: SliceStore, results: Results, saved: SliceSets, *, seed: int = 0
) -> None:
    """Run the ensemble's networks again and put ``ablations`` into the metrics of ``results``, and its seconds.

    ``study``: folder of the study. ``results``: of ``assemble_results`` for this ensemble. ``saved``: what the networks
    said of each scan when they were trained. ``seed``: of the permutations. Raises RunError where a checkpoint is not
    the ensemble's, or the networks no longer say what was saved.
    """
    started = time.perf_counter()
    networks = EnsembleNetworks(study, ensemble, choose_hardware(None), batch_size=64)
    held_out = results.patients[results.patients["split"] == VALIDATION]
    found = altered_slices(networks, store, held_out.index.tolist(), seed=seed)
    agreement = 1 - _share_changed(
        [_arrays(scan) for scan in found[UNALTERED]], [saved[name] for name in held_out.index]
    )
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
        answers: dict[str, dict[Member, NDArray[np.float32]]] = {name: {} for name in changes}
        for member in networks.ensemble.members:
            batches = list(networks.batches(member, store, scan_id, stored.n_slices))  # read and resized once for all
            for name, alter in changes.items():
                answers[name][member] = networks.predict(member, map(alter, batches))
        for name, each in answers.items():
            sets = networks.in_sets(each)
            slices = ScanSlices(scan_id, np.array(stored.z_mm), stored.lung_litres, stored.findings, sets)
            found.setdefault(name, []).append(slices)
    return found


def ablation_figures(found: Found, ensemble: Ensemble, results: Results) -> dict[str, Any]:
    """Return accuracy and sensitivities for each alteration, and what it has changed; JSON-ready.

    ``slices_changed`` and ``scans_changed``: share of which the class is another one than unaltered, of slices over all
    networks. ``unaltered_against_it``: paired, Holm's correction over the alterations.
    """
    labels = results.patients.loc[[scan.scan_id for scan in found[UNALTERED]], "label"].tolist()
    answers = {
        name: most_probable(mean_probabilities(results.booster, ensemble_features(scans, ensemble)), ensemble.classes)
        for name, scans in found.items()
    }
    right = {name: np.array(each) == np.array(labels) for name, each in answers.items()}
    compared = compare_with(right[UNALTERED], {name: each for name, each in right.items() if name != UNALTERED})
    unaltered = [_arrays(scan) for scan in found[UNALTERED]]
    rows = {}
    for name, scans in found.items():
        evaluation = evaluate(labels, answers[name], ensemble.classes)
        rows[name] = {
            **evaluation,
            "intervals": proportion_intervals(evaluation["confusion_matrix"], ensemble.classes),
            "slices_changed": _share_changed([_arrays(scan) for scan in scans], unaltered),
            "scans_changed": float(np.mean(np.array(answers[name]) != np.array(answers[UNALTERED]))),
            "unaltered_against_it": compared.get(name),
        }
    return {"n": len(labels), "networks": len(ensemble.members), "rows": rows}


def _arrays(scan: ScanSlices) -> tuple[ScanArray, ...]:
    return tuple(np.stack(list(each.values())) for each in scan.sets)


def _share_changed(one: list[tuple[ScanArray, ...]], other: list[tuple[ScanArray, ...]]) -> float:
    """Return of how many slices, over scans, sets and networks, the most probable class differs; 0 to 1."""
    first, second = (
        np.concatenate([array.argmax(axis=2).ravel() for sets in scans for array in sets]) for scans in (one, other)
    )
    return float(np.mean(first != second)) if len(first) == len(second) else 1.0  # a scan has other slices now
