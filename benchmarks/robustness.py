"""Robustness of a study: the effect of small changes of a scan, and the response to inserted lesions.

python -m benchmarks.robustness --study demo [--runs runs] [--scans 4] [--input FOLDER] [--healthy SCAN]\
    [--json robustness.json]

Takes ``--scans`` validation scans of each class of a phantom study and all scans below ``--input``. Applies each
perturbation of ``cnr_iemn.ct.perturbations``, erases the lungs, and erases everything else. Reports the share of slices
that keep their class (over all networks), the number of scans that change theirs, the largest change of a scan's
probability, the mean change of the group percentages, and the change of the lung volume. Then inserts phantom lesions
of increasing density and size into healthy scans and reports the probability of infection of the slices that they
touch, and of the other slices. Run it in the folder in which the study was trained: its paths are relative.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common import add_study_options, make_parser, run_record, write_json
from benchmarks.insertions import measure_insertions, summarise
from benchmarks.single_lesions import prepare
from cnr_iemn.config.ensemble_names import ensemble_name
from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.perturbations import PERTURBATIONS, THICK
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.ct.volume import Volume
from cnr_iemn.errors import ScanError
from cnr_iemn.evaluation.ablation import LUNGS, OUTSIDE, Alteration, alterations
from cnr_iemn.inference.input_checks import check_prepared
from cnr_iemn.inference.networks import EnsembleNetworks, InMemoryScan
from cnr_iemn.schemas import VALIDATION
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage1.training.loggers.progress import show_progress
from cnr_iemn.stage2.ensemble import Ensemble, aggregate_again, load_ensemble_method, read_ensemble
from cnr_iemn.stage2.group_features import features_of_sets
from cnr_iemn.stage2.out_of_fold import by_fold
from cnr_iemn.stage2.scan_predictions import predict_sets

Row = dict[str, float | int]
Rows = dict[str, Row]


@dataclass(frozen=True)
class ScanPrediction:
    """Prediction of a study for one scan.

    Attributes:
        slices: Class indices, [networks, n_slices].
        percentages: Group features, [features], in percent; nan for empty groups.
        probabilities: Class probabilities of the scan, [classes].
        litres: Lung volume.
    """

    slices: NDArray[np.int64]
    percentages: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    litres: float


@dataclass
class Change:
    """Differences between the predictions for original and changed scans, one value for each scan.

    Attributes:
        slices_kept: Share of slices that keep their class, over all networks.
        probability: Largest change of a class probability.
        percentages: Mean change of the group percentages, in points.
        litres: Relative change of the lung volume.
        class_changes: Whether the class of the scan changes.
        refused: Whether predict.py would not answer the changed scan. It counts above all the same.
    """

    slices_kept: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    percentages: list[float] = field(default_factory=list)
    litres: list[float] = field(default_factory=list)
    class_changes: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)

    def add(self, before: ScanPrediction, after: ScanPrediction, *, pairs: bool = False, refused: bool = False) -> None:
        """Add a scan. ``pairs``: a slice of the changed scan stands for two slices of the original."""
        self.refused.append(refused)
        slices = np.repeat(after.slices, 2, axis=1) if pairs else after.slices
        self.slices_kept.append(float(np.mean(before.slices[:, : slices.shape[1]] == slices)))
        self.probability.append(float(np.abs(after.probabilities - before.probabilities).max()))
        self.percentages.append(float(np.nanmean(np.abs(after.percentages - before.percentages))))
        self.litres.append(after.litres / before.litres - 1)
        self.class_changes.append(bool(before.probabilities.argmax() != after.probabilities.argmax()))

    def figures(self) -> Row:
        """Return a row of the table."""
        return {
            "slices kept": float(np.mean(self.slices_kept)),
            "other class": sum(self.class_changes),
            "refused": sum(self.refused),
            "scans": len(self.class_changes),
            "probability": max(self.probability),
            "percentages": float(np.mean(self.percentages)),
            "litres": max(self.litres, key=abs),
        }


class Study:
    """A trained study that predicts scans in memory."""

    def __init__(self, runs: Path, study: str, name: str) -> None:
        self.ensemble: Ensemble = read_ensemble(runs, study, name)
        self.networks = EnsembleNetworks(runs / study, self.ensemble, choose_hardware(0), batch_size=64)
        again = aggregate_again(study, name, runs)
        self.method = load_ensemble_method(runs / study / "ensembles" / name, self.ensemble, again=again)

    def probabilities(self, scan: PreparedScan, alter: Alteration | None = None) -> NDArray[np.float32]:
        """Return the class probabilities of the slices, float32 [networks, n_slices, classes]."""
        source, outputs = InMemoryScan(scan.grey, scan.lungs), []
        for member in self.ensemble.members:
            batches = self.networks.batches(member, source, "scan", len(scan.grey))
            outputs.append(self.networks.predict(member, map(alter, batches) if alter else batches))
        return np.stack(outputs)

    def infection_probabilities(self, volume: Volume) -> NDArray[np.floating]:
        """Return one minus the probability of the first class, averaged over the networks, [slices]."""
        healthy: NDArray[np.float32] = self.probabilities(prepare(volume, self.ensemble.pixels))[:, :, 0].mean(axis=0)
        return 1 - healthy

    def predict(self, scan: PreparedScan, alter: Alteration | None = None) -> ScanPrediction:
        """Return the prediction for a scan. ``alter``: applied to the networks' input."""
        slices = self.probabilities(scan, alter)
        sets = {"scan": by_fold(slices, [member.fold for member in self.ensemble.members])}
        features = features_of_sets(sets, self.ensemble.models, self.ensemble.classes)
        percentages = np.concatenate([table.to_numpy().ravel() for table in features])
        probabilities = predict_sets(self.method, sets)[0]
        return ScanPrediction(slices.argmax(axis=2), percentages, probabilities, scan.lung_litres)


def measure_changes(study: Study, paths: Mapping[str, Path]) -> dict[str, Change]:
    """Return the changes of the predictions for these scans, by perturbation."""
    changes: dict[str, Change] = {}
    for path in show_progress(iter(paths.values()), len(paths), verb="Perturbations", unit="scans"):
        volume = read_scan(path)
        original = prepare(volume, study.ensemble.pixels)
        before = study.predict(original)
        for name, perturbation in PERTURBATIONS.items():
            changed = prepare(volume, study.ensemble.pixels, perturbation)
            change = changes.setdefault(name, Change())
            change.add(before, study.predict(changed), pairs=name == THICK, refused=is_refused(changed))
        n = len(volume.hu)
        for name, alter in alterations(n, n, np.random.default_rng(0), inputs=set()).items():
            if name in (LUNGS, OUTSIDE):
                changes.setdefault(name, Change()).add(before, study.predict(original, alter))
    return changes


def is_refused(scan: PreparedScan) -> bool:
    """Return whether predict.py would not answer a prepared scan."""
    try:
        check_prepared(scan, "scan")
    except ScanError:
        return True
    return False


def validation_scans(study: Path, ensemble: Ensemble, count: int) -> dict[str, Path]:
    """Return the first ``count`` validation scans of each class: paths by scan id."""
    member = ensemble.members[0]
    record = run_record(study, member.model, member.tag)
    split = pd.read_csv(study / "split.csv")
    scan_ids = split[split["split"] == VALIDATION].groupby("label").head(count)["scan_id"]
    paths = dict(find_scans(Path(record["cohort"]["root"])))
    return {scan_id: paths[scan_id] for scan_id in scan_ids}


def main() -> None:
    """Print the tables and, with --json, write them."""
    parser = make_parser(__doc__)
    add_study_options(parser)
    parser.add_argument("--scans", type=int, default=4, help="validation scans of each class")
    parser.add_argument("--input", type=Path, help="a folder of other scans")
    parser.add_argument("--healthy", type=Path, help="another healthy scan into which lesions are inserted")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    name = ensemble_name(options.ensemble[0] if len(options.ensemble) == 1 else options.ensemble)
    study = Study(options.runs, options.study, name)
    sets = {"validation": validation_scans(options.runs / options.study, study.ensemble, options.scans)}
    if options.input:
        sets[options.input.resolve().name] = dict(find_scans(options.input))
    healthy = {"phantoms": [path for name, path in sets["validation"].items() if name.startswith("normal")]}
    if options.healthy:
        healthy[options.healthy.name] = [options.healthy]
    results: dict[str, Rows] = {"perturbations": {}, "insertions": {}}
    for kind, scans in sets.items():
        rows = {name: change.figures() for name, change in measure_changes(study, scans).items()}
        _print_table(f"{PHANTOM_NOTICE}; {len(scans)} scans: {kind}", rows)
        results["perturbations"] |= {f"{kind}: {name}": row for name, row in rows.items()}
    for kind, paths in healthy.items():
        insertions = measure_insertions(map(read_scan, paths), study.infection_probabilities)
        rows = {f"{kind}, {growth}": summarise(lesions) for growth, lesions in insertions.items()}
        _print_table(f"{PHANTOM_NOTICE}; probability of infection with inserted lesions", rows)
        results["insertions"] |= rows
    write_json(options.json, {"ratios": results})


def _print_table(title: str, rows: Rows) -> None:
    table = Table("", *next(iter(rows.values())), title=title)
    for name, row in rows.items():
        table.add_row(name, *(str(value) if isinstance(value, int) else f"{value:.3f}" for value in row.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
