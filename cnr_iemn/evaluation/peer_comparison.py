"""Paired comparison of an ensemble with published systems, whose per-scan predictions stand in one table."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import TypedDict

from cnr_iemn.data.label_files import fold_id
from cnr_iemn.data.spgc import PeerTable, has_ids_of_2021, ids_of_2021, read_peer_table
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.study_comparison import (
    EnsemblePredictions,
    StudyComparison,
    compare_studies,
    ensemble_folder,
    read_ensemble_predictions,
)
from cnr_iemn.evaluation.study_metrics import Notice, write_json
from cnr_iemn.schemas import SCHEMA_VERSION, VALIDATION
from cnr_iemn.statistics.confidence_intervals import Proportions, proportion_intervals
from cnr_iemn.statistics.paired_tests import Comparison, compare_with


class Peer(TypedDict):
    """A published system on the common scans; ``comparison``: the ensemble against it, with Holm's correction."""

    intervals: Proportions
    comparison: Comparison


@final
class PeerComparison(TypedDict):
    """comparison-<table>.json: ``n`` scans that the ensemble and the table have in common, ``on`` a set of scans.

    ``refused``: those of an external set that the ensemble does not answer, by ``RefusalCode``. ``left_out``: scans of
    the ensemble that are not in the table, or whose row is not certain. ``intervals``: of the ensemble. ``peers``: by
    column of the table. A scan without a prediction counts as wrong, for the ensemble and for the systems.
    """

    notice: NotRequired[str]
    schema_version: int
    first: str
    table: str
    on: str
    n: int
    classes: list[str]
    refused: dict[str, int]
    left_out: list[str]
    intervals: Proportions
    peers: dict[str, Peer]


def compare_any(
    runs: Path, study: str, ensemble: str, other: str, *, on: str
) -> tuple[StudyComparison | PeerComparison, Path, float]:
    """Compare an ensemble with another one, or with the systems of a table.

    Args:
        runs: Folder of all runs.
        study: Name.
        ensemble: Name.
        other: A study, study/ensemble, or the path of a table (.csv).
        on: validation, or a set of ``external/``.

    Returns:
        The comparison, its file, and the difference of the accuracies; that to the first system of a table.
    """
    if other.endswith(".csv"):
        peers, path = compare_with_peers(runs, study, ensemble, Path(other).expanduser(), on=on)
        return peers, path, float(next(iter(peers["peers"].values()))["comparison"]["difference"])
    comparison, path = compare_studies(runs, study, ensemble, other, on=on)
    return comparison, path, float(comparison["accuracy"]["comparison"]["difference"])


def compare_with_peers(runs: Path, study: str, ensemble: str, table: Path, *, on: str) -> tuple[PeerComparison, Path]:
    """Compare an ensemble with each system of a table, write comparison-<table>.json in its folder, and return both.

    Args:
        runs: Folder of all runs.
        study: Name.
        ensemble: Name.
        table: CSV with the columns patient and real, and one column of predicted classes for each system.
        on: validation, or a set of ``external/``.

    Raises:
        CohortError: The table is damaged, or has no column of classes.
        RunError: Files are missing or damaged, or the two have no scan in common or another class for one.
    """
    folder, make = ensemble_folder(runs, study, ensemble, on=on)
    ours = read_ensemble_predictions(folder, name=f"{study}/{ensemble}", make=make)
    peers = read_peer_table(table, tuple(ours.identity["classes"]))
    comparison = compare_tables(ours, peers, _candidates(runs / study, ours, on=on), on=on)
    path = folder / f"comparison-{table.stem}.json"
    write_json(path, comparison)
    return comparison, path


def compare_tables(
    ours: EnsemblePredictions, peers: PeerTable, candidates: Mapping[str, list[str]], *, on: str
) -> PeerComparison:
    """Compare predictions with a table. ``candidates``: the ids in the table that each scan may have."""
    patients = pd.concat([ours.patients, ours.refused]) if len(ours.refused) else ours.patients
    rows = _matches(peers, candidates)
    if not rows:
        raise RunError(f"{peers.path} and {ours.name} have no scan in common ({on}). Give a table of the same scans.")
    common = patients.loc[list(rows)]
    published = peers.table.loc[list(rows.values())]
    differ = [scan for scan, a, b in zip(common.index, common["label"], published["real"], strict=True) if a != b]
    if differ:
        raise RunError(f"{peers.path} has another class than {ours.name} for {', '.join(differ[:5])}. Compare the ids.")
    classes = ours.identity["classes"]
    truth = common["label"].to_numpy(dtype=str)
    predictions = {name: published[name].to_numpy(dtype=str) for name in peers.systems}
    predicted = common["predicted"].to_numpy(dtype=str)
    tests = compare_with(predicted == truth, {name: values == truth for name, values in predictions.items()})
    head: Notice = {"notice": ours.identity["notice"]} if "notice" in ours.identity else {}
    return {
        **head,
        "schema_version": SCHEMA_VERSION,
        "first": ours.name,
        "table": peers.path.name,
        "on": on,
        "n": len(truth),
        "classes": classes,
        "refused": dict(Counter(ours.refused["code"][ours.refused.index.isin(list(rows))]).most_common()),
        "left_out": [str(scan) for scan in patients.index if scan not in rows],
        "intervals": _intervals(truth, predicted, classes),
        "peers": {
            name: {"intervals": _intervals(truth, values, classes), "comparison": tests[name]}
            for name, values in predictions.items()
        },
    }


def _matches(peers: PeerTable, candidates: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the table's row for each scan that certainly has one: its only one, or several with the same content."""
    keys = {fold_id(str(name)): str(name) for name in peers.table.index}
    rows: dict[str, str] = {}
    for scan_id, ids in candidates.items():
        names = [keys[fold_id(name)] for name in ids if fold_id(name) in keys]
        if len(names) == len(ids) and len(peers.table.loc[names].drop_duplicates()) == 1:
            rows[scan_id] = names[0]
    return rows


def _candidates(study: Path, ours: EnsemblePredictions, *, on: str) -> dict[str, list[str]]:
    """Return the ids that each scan may have in a table: validation scans those of 2021, others their own."""
    if on != VALIDATION:
        return {str(scan_id): [str(scan_id)] for scan_id in (*ours.patients.index, *ours.refused.index)}
    split = pd.read_csv(study / "split.csv", dtype=str, keep_default_na=False).set_index("scan_id")
    original = has_ids_of_2021(split["label"])
    return {
        str(scan_id): ids_of_2021(
            str(scan_id),
            str(split.loc[scan_id, "label"]),
            labelled=split.loc[scan_id, "slice_labelled"] == "true",
            original=original,
        )
        for scan_id in ours.patients.index
    }


def _intervals(truth: NDArray[np.str_], predicted: NDArray[np.str_], classes: list[str]) -> Proportions:
    """Return accuracy and sensitivities with Wilson's intervals; a prediction that is no class is wrong."""
    matrix = [[int(((truth == row) & (predicted == column)).sum()) for column in [*classes, ""]] for row in classes]
    return proportion_intervals(matrix, classes)
