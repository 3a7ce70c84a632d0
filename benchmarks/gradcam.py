"""Does Grad-CAM look at the lesion? Phantoms with a single one, and the networks of a trained phantom study.

python -m benchmarks.gradcam --study demo [--runs runs] [--scans 60] [--json gradcam.json]

Each scan has the largest lesion of its recipe alone. On its infected slices: the share of Grad-CAM's energy, within the
lungs, that lies in the lesion's box, divided by the box's share of the lungs' area. A map that knows nothing has 1, an
empty map 0. Median over the slices, with the 95% interval of a bootstrap over scans; beside it the same networks on the
same scans without the lesion (the same box) and the difference slice by slice, and networks with random weights. With
the energy of the whole image a map that knows nothing has less than 1: the lungs' share of the image. Rows: the last
map, and earlier ones of two and four times as many places a side.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.utils.data import default_collate

from benchmarks.single_lesions import Mask, Subject, box_of, subject
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.deliver.gradcam import FINEST, Maps, grad_cam, mean_map
from cnr_iemn.engine.ensembles import Ensemble, Member, read_ensemble
from cnr_iemn.engine.hardware import choose_hardware
from cnr_iemn.engine.prediction import EnsembleNetworks, OneScan
from cnr_iemn.patients.evidence.tables import model_title
from cnr_iemn.registry import PHANTOM_NOTICE
from cnr_iemn.settings.checks import ensemble_name
from cnr_iemn.slices.datamodule import SliceDataset, SliceTable
from cnr_iemn.slices.network import SliceNetwork

RESAMPLES = 2000
FIRST_SEED = 20_000
"""Of the scans; those of a cohort are 64-bit draws."""
MEAN = "mean of the networks"
TRAINED, TWIN, RANDOM = "trained", "the lesion taken out", "random weights"


def energy_ratio(raised: NDArray[np.floating], lesion: Mask, lungs: Mask, *, whole: bool = False) -> float:
    """Return the share of a map's energy in the lesion's box, divided by the box's share of the lungs' area.

    All [h, w]. Energy is counted within the lungs, or (``whole``) in all of the image. 0 for a map that is all zero.
    """
    box = box_of(lesion)
    energy = raised.astype(np.float64) * (1 if whole else lungs)
    total = float(energy.sum())
    return float(energy[box].sum()) / total / (lungs[box].sum() / lungs.sum()) if total else 0.0


def median_interval(ratios: NDArray[np.float64], scans: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the median over slices and its 95% interval, scans drawn with replacement. Both [slices]."""
    by_scan = [ratios[scans == scan] for scan in np.unique(scans)]
    draws = np.random.default_rng(0).integers(0, len(by_scan), (RESAMPLES, len(by_scan)))
    medians = [np.median(np.concatenate([by_scan[k] for k in draw])) for draw in draws]
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def maps_of(network: SliceNetwork, scan: PreparedScan, each: Subject, side: int, target: int) -> Iterator[Maps]:
    """Give the maps of a subject's slices at the input's size, by how much finer than the last one."""
    table = SliceTable.of({"scan": len(scan.grey)}, {"scan": None})
    dataset = SliceDataset(OneScan(scan), table, image_size=side)
    batch = default_collate([dataset[int(k)] for k in each.slices])
    for finer in range(FINEST + 1):
        yield grad_cam(network, batch["image"], batch["position"], target=target, finer=finer)


def untrained(ensemble: Ensemble, member: Member) -> SliceNetwork:
    """Return the member's network with random weights."""
    torch.manual_seed(0)
    return SliceNetwork(member.model, n_classes=len(ensemble.classes), position=member.position)


@dataclass
class Ratios:
    """What was measured of one network on one kind of scans, by how much finer the map: within the lungs and whole."""

    inside: list[list[float]]
    whole: list[list[float]]
    scans: list[int]

    @classmethod
    def none(cls) -> "Ratios":
        """Return none yet."""
        return cls([[] for _ in range(FINEST + 1)], [[] for _ in range(FINEST + 1)], [])

    def add(self, maps: Sequence[Maps], each: Subject, scan: int) -> None:
        """Add the slices of a subject. ``maps``: as ``maps_of`` gives them, each at the size of the store."""
        for finer, some in enumerate(maps):
            for raised, index in zip(some, each.slices, strict=True):
                lesion, lungs = each.lesion[index] & each.lungs[index], each.lungs[index]
                self.inside[finer].append(energy_ratio(raised, lesion, lungs))
                self.whole[finer].append(energy_ratio(raised, lesion, lungs, whole=True))
        self.scans += [scan] * len(each.slices)

    def of(self, finer: int, *, whole: bool = False) -> tuple[float, float, float]:
        """Return the median and its interval."""
        values = (self.whole if whole else self.inside)[finer]
        return median_interval(np.array(values), np.array(self.scans))

    def more_than(self, other: "Ratios", finer: int) -> tuple[float, float, float]:
        """Return the median of the differences from another kind, slice by slice, and its interval."""
        differences = np.subtract(self.inside[finer], other.inside[finer])
        return median_interval(differences, np.array(self.scans))

    def empty(self, finer: int) -> float:
        """Return the share of maps that are zero everywhere."""
        return float(np.mean(np.array(self.whole[finer]) == 0))


def measure(networks: EnsembleNetworks, subjects: Sequence[Subject]) -> dict[str, dict[str, Ratios]]:
    """Return the ratios by network, and by kind: TRAINED, TWIN, RANDOM."""
    ensemble = networks.ensemble
    found: dict[str, dict[str, Ratios]] = {}
    random = {member: untrained(ensemble, member) for member in ensemble.members}
    for number, each in enumerate(subjects):
        target, side = ensemble.classes.index(each.label), each.lungs.shape[-1]
        for kind, scan in ((TRAINED, each.prepared), (TWIN, each.twin), (RANDOM, each.prepared)):
            of_members: list[list[Maps]] = []
            for member in ensemble.members:
                network = (random if kind == RANDOM else networks.networks)[member]
                maps = maps_of(network, scan, each, member.image_size, target)
                of_members.append([mean_map([some], side=side) for some in maps])
                found.setdefault(member.model, {}).setdefault(kind, Ratios.none()).add(of_members[-1], each, number)
            joined = [mean_map(some, side=side) for some in zip(*of_members, strict=True)]
            found.setdefault(MEAN, {}).setdefault(kind, Ratios.none()).add(joined, each, number)
    return found


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="demo", help="a phantom study that aggregate.py has been through")
    parser.add_argument("--ensemble", nargs="+", default=["all"])
    parser.add_argument("--scans", type=int, default=60, help="of each diseased class")
    parser.add_argument("--any-lesion", action="store_true", help="one at random and not the largest")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    cv2.setNumThreads(1)
    name = ensemble_name(words.ensemble[0] if len(words.ensemble) == 1 else words.ensemble)
    ensemble = read_ensemble(words.runs, words.study, name)
    networks = EnsembleNetworks(words.runs / words.study, ensemble, choose_hardware(0), batch_size=64)
    rows, n_slices = phantom_size(words.runs / words.study, ensemble)
    subjects = [
        subject(FIRST_SEED + k, label, ensemble.pixels, rows=rows, n_slices=n_slices, largest=not words.any_lesion)
        for k in range(words.scans)
        for label in ensemble.classes[1:]
    ]
    found = measure(networks, [each for each in subjects if len(each.slices)])
    ratios = {name: [figures(kinds, finer) for finer in range(FINEST + 1)] for name, kinds in found.items()}
    scans = found[MEAN][TRAINED].scans
    title = f"{PHANTOM_NOTICE}; {len(scans)} infected slices of {len(set(scans))} scans with one lesion"
    table = Table("", "map", *ratios[MEAN][0], title=title)
    for name, rows_of in ratios.items():
        for finer, row in enumerate(rows_of):
            first = "" if finer else name if name == MEAN else model_title(name)
            table.add_row(first, ("last", "x 2", "x 4")[finer], *(_cell(value) for value in row.values()))
    Console(width=150).print(table)
    if words.json:
        told = {"slices": len(scans), "scans": len(set(scans)), "ratios": ratios}
        words.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


def figures(kinds: dict[str, Ratios], finer: int) -> dict[str, tuple[float, float, float] | float]:
    """Return what is told of one network: medians with their intervals, and the share of empty maps."""
    trained = kinds[TRAINED]
    return {
        TRAINED: trained.of(finer),
        "empty": trained.empty(finer),
        TWIN: kinds[TWIN].of(finer),
        "difference": trained.more_than(kinds[TWIN], finer),
        RANDOM: kinds[RANDOM].of(finer),
        "trained, whole image": trained.of(finer, whole=True),
    }


def phantom_size(study: Path, ensemble: Ensemble) -> tuple[int, tuple[int, int]]:
    """Return rows and range of slices of the phantoms that a study was trained on."""
    member = ensemble.members[0]
    record = json.loads((study / member.model / member.tag / "run.json").read_text(encoding="utf-8"))
    phantom = record["configuration"]["data"]["phantom"]
    least, most = phantom["n_slices"]
    return int(phantom["rows"]), (int(least), int(most))


def _cell(value: tuple[float, float, float] | float) -> str:
    if isinstance(value, float):
        return f"{100 * value:.0f}%"
    return "{:.2f} ({:.2f} to {:.2f})".format(*value)


if __name__ == "__main__":
    main()
