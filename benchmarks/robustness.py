"""How far do small changes of a scan move a study's answer, and does a lesion that is put in show where it is?

python -m benchmarks.robustness --study demo [--runs runs] [--scans 4] [--input FOLDER] [--healthy SCAN]\
    [--json robustness.json]

For ``--scans`` validation scans of each class of a phantom study, and all scans below ``--input``, each changed in
every way of ``benchmarks.perturbations``, with the lungs erased, and with all else erased: how many slices keep their
class (all networks), how many scans change theirs, the largest change of a scan's probability, the mean change of the
group percentages, and the change of the lungs' volume. Then lesions of the phantom's recipe are put into healthy scans,
denser and larger step by step: the probability of infection of the slices they touch, and of the others.
Run it in the folder where the study was trained: the scans are read from where they were.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import xgboost
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.insertions import insertion_figures, insertions
from benchmarks.perturbations import PERTURBATIONS, THICK
from benchmarks.single_lesions import prepared
from cnr_iemn.ct.find import find_scans
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.ct.reader import read_scan
from cnr_iemn.ct.volume import Volume
from cnr_iemn.engine.alterations import LUNGS, OUTSIDE, Alteration, alterations
from cnr_iemn.engine.ensembles import Ensemble, read_ensemble
from cnr_iemn.engine.hardware import choose_hardware
from cnr_iemn.engine.prediction import EnsembleNetworks, OneScan
from cnr_iemn.engine.progress import show_progress
from cnr_iemn.patients.booster import load_booster, mean_probabilities
from cnr_iemn.patients.group_features import features_of_sets
from cnr_iemn.patients.slice_sets import by_fold
from cnr_iemn.records import VALIDATION
from cnr_iemn.registry import PHANTOM_NOTICE
from cnr_iemn.settings.checks import ensemble_name

Row = dict[str, float | int]
Rows = dict[str, Row]


@dataclass(frozen=True)
class Answer:
    """What a study says of one scan. ``slices``: class indices [networks, n_slices]; ``percentages``: [features]."""

    slices: NDArray[np.int64]
    percentages: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    litres: float


@dataclass
class Change:
    """How answers of changed scans differ, a value a scan. ``litres``: relative; the other names say it."""

    slices_kept: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    percentages: list[float] = field(default_factory=list)
    litres: list[float] = field(default_factory=list)
    another_class: list[bool] = field(default_factory=list)

    def add(self, before: Answer, after: Answer, *, pairs: bool) -> None:
        """Add a scan. ``pairs``: a slice of the changed scan is two of the scan as it is."""
        was, now = before.slices, np.repeat(after.slices, 2, axis=1) if pairs else after.slices
        self.slices_kept.append(float(np.mean(was[:, : now.shape[1]] == now)))
        self.probability.append(float(np.abs(after.probabilities - before.probabilities).max()))
        self.percentages.append(float(np.nanmean(np.abs(after.percentages - before.percentages))))
        self.litres.append(after.litres / before.litres - 1)
        self.another_class.append(bool(before.probabilities.argmax() != after.probabilities.argmax()))

    def figures(self) -> Row:
        """Return the row of the table: shares, a count, points of 100, and a share."""
        return {
            "slices kept": float(np.mean(self.slices_kept)),
            "other class": sum(self.another_class),
            "scans": len(self.another_class),
            "probability": max(self.probability),
            "percentages": float(np.mean(self.percentages)),
            "litres": max(self.litres, key=abs),
        }


class Study:
    """A trained study that answers for scans in memory."""

    def __init__(self, runs: Path, study: str, name: str) -> None:
        self.ensemble: Ensemble = read_ensemble(runs, study, name)
        self.networks = EnsembleNetworks(runs / study, self.ensemble, choose_hardware(0), batch_size=64)
        self.booster: xgboost.Booster = load_booster(runs / study / "ensembles" / name / "booster.ubj")

    def probabilities(self, scan: PreparedScan, alter: Alteration | None = None) -> NDArray[np.float32]:
        """Return the class probabilities of the slices, float32 [networks, n_slices, classes]."""
        source, found = OneScan(scan), []
        for member in self.ensemble.members:
            batches = self.networks.batches(member, source, "scan", len(scan.grey))
            found.append(self.networks.predict(member, map(alter, batches) if alter else batches))
        return np.stack(found)

    def infected(self, volume: Volume) -> NDArray[np.floating]:
        """Return the mean over the networks of the probability that a slice is not of the first class, [slices]."""
        healthy: NDArray[np.float32] = self.probabilities(prepared(volume, self.ensemble.pixels))[:, :, 0].mean(axis=0)
        return 1 - healthy

    def answer(self, scan: PreparedScan, alter: Alteration | None = None) -> Answer:
        """Return the answer for a scan. ``alter``: of the networks' input."""
        slices = self.probabilities(scan, alter)
        sets = {"scan": by_fold(slices, [member.fold for member in self.ensemble.members])}
        features = features_of_sets(sets, self.ensemble.models, self.ensemble.classes)
        percentages = np.concatenate([table.to_numpy().ravel() for table in features])
        return Answer(
            slices.argmax(axis=2), percentages, mean_probabilities(self.booster, features)[0], scan.lung_litres
        )


def changes(study: Study, volumes: Mapping[str, Path]) -> dict[str, Change]:
    """Return by perturbation how the answers for these scans change."""
    found: dict[str, Change] = {}
    for path in show_progress(iter(volumes.values()), len(volumes), doing="Perturbations", unit="scans"):
        volume = read_scan(path)
        as_it_is = prepared(volume, study.ensemble.pixels)
        before = study.answer(as_it_is)
        for name, perturb in PERTURBATIONS.items():
            after = study.answer(prepared(perturb(volume), study.ensemble.pixels))
            found.setdefault(name, Change()).add(before, after, pairs=name == THICK)
        n = len(volume.hu)
        for name, alter in alterations(n, n, np.random.default_rng(0), inputs=set()).items():
            if name in (LUNGS, OUTSIDE):
                found.setdefault(name, Change()).add(before, study.answer(as_it_is, alter), pairs=False)
    return found


def validation_scans(study: Path, ensemble: Ensemble, count: int) -> dict[str, Path]:
    """Return the first validation scans of each class, and where they lie."""
    member = ensemble.members[0]
    record = json.loads((study / member.model / member.tag / "run.json").read_text(encoding="utf-8"))
    split = pd.read_csv(study / "split.csv")
    chosen = split[split["split"] == VALIDATION].groupby("label").head(count)["scan_id"]
    paths = dict(find_scans(Path(record["cohort"]["root"])))
    return {scan_id: paths[scan_id] for scan_id in chosen}


def main() -> None:
    """Print the tables and, with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="demo", help="a phantom study that aggregate.py has been through")
    parser.add_argument("--ensemble", nargs="+", default=["all"])
    parser.add_argument("--scans", type=int, default=4, help="validation scans of each class")
    parser.add_argument("--input", type=Path, help="a folder of other scans")
    parser.add_argument("--healthy", type=Path, help="a healthy scan beside the phantoms to put lesions into")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    cv2.setNumThreads(1)
    name = ensemble_name(words.ensemble[0] if len(words.ensemble) == 1 else words.ensemble)
    study = Study(words.runs, words.study, name)
    sets = {"validation": validation_scans(words.runs / words.study, study.ensemble, words.scans)}
    if words.input:
        sets[words.input.resolve().name] = dict(find_scans(words.input))
    healthy = {"phantoms": [path for name, path in sets["validation"].items() if name.startswith("normal")]}
    if words.healthy:
        healthy[words.healthy.name] = [words.healthy]
    ratios: dict[str, Rows] = {"perturbations": {}, "insertions": {}}
    for kind, scans in sets.items():
        rows = {each: change.figures() for each, change in changes(study, scans).items()}
        _print(f"{PHANTOM_NOTICE}; {len(scans)} scans: {kind}", rows)
        ratios["perturbations"] |= {f"{kind}: {name}": row for name, row in rows.items()}
    for kind, paths in healthy.items():
        found = insertions(map(read_scan, paths), study.infected)
        rows = {f"{kind}, {way}": insertion_figures(each) for way, each in found.items()}
        _print(f"{PHANTOM_NOTICE}; probability of infection where lesions are put in", rows)
        ratios["insertions"] |= rows
    if words.json:
        words.json.write_text(json.dumps({"ratios": ratios}, indent=1), encoding="utf-8")


def _print(title: str, rows: Rows) -> None:
    table = Table("", *next(iter(rows.values())), title=title)
    for name, row in rows.items():
        table.add_row(name, *(str(value) if isinstance(value, int) else f"{value:.3f}" for value in row.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
