"""Localization of lesions by Grad-CAM, on phantoms with a single lesion and the networks of a trained phantom study.

python -m benchmarks.gradcam --study demo [--runs runs] [--scans 60] [--json gradcam.json]

Each scan contains only the largest of its lesions. On its infected slices the energy ratio is measured: the share of
Grad-CAM's energy within the lungs that lies in the lesion's box, divided by the box's share of the lungs' area. An
uninformative map has a ratio of 1, an empty map 0. The table shows the median over the slices with the 95% interval of
a bootstrap over scans, for the trained networks, for the same networks and boxes on the scan without the lesion, for
the difference slice by slice, and for networks with random weights. The last column counts the energy of the whole
image, where an uninformative map has a ratio below 1: the lungs' share of the image. Rows: the last feature map, and
earlier ones with two and four times as many places per side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.utils.data import default_collate

from benchmarks.common import add_study_options, make_parser, run_record, write_json
from benchmarks.single_lesions import Mask, Subject, bounding_box, render_subject
from cnr_iemn.config.ensemble_names import ensemble_name
from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.inference.explanation import FINEST_LEVEL, Heatmaps, grad_cam, mean_map
from cnr_iemn.inference.networks import EnsembleNetworks, InMemoryScan
from cnr_iemn.report.tables.results import model_title
from cnr_iemn.stage1.data.datamodule import SliceDataset, SliceTable
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage2.ensemble import Ensemble, Member, read_ensemble

RESAMPLES = 2000
FIRST_SEED = 20_000
"""Seed of the first scan; scans of a cohort have random 64-bit seeds."""
MEAN = "mean of the networks"
TRAINED, TWIN, RANDOM = "trained", "lesion removed", "random weights"


def energy_ratio(heatmap: NDArray[np.floating], lesion: Mask, lungs: Mask, *, whole: bool = False) -> float:
    """Return the share of a map's energy in the lesion's box, divided by the box's share of the lungs' area.

    Args:
        heatmap: Grad-CAM's map, float [h, w].
        lesion: Lesion mask, bool [h, w].
        lungs: Lung mask, bool [h, w].
        whole: Count the energy of the whole image instead of that within the lungs.

    Returns:
        The ratio, 0 or more; 0 for a map of zeros.
    """
    box = bounding_box(lesion)
    energy = heatmap.astype(np.float64) * (1 if whole else lungs)
    total = float(energy.sum())
    return float(energy[box].sum()) / total / (lungs[box].sum() / lungs.sum()) if total else 0.0


def median_interval(ratios: NDArray[np.float64], scans: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the median of the slices' ratios and its 95% interval by a bootstrap over scans. ``scans``: by slice."""
    by_scan = [ratios[scans == scan] for scan in np.unique(scans)]
    draws = np.random.default_rng(0).integers(0, len(by_scan), (RESAMPLES, len(by_scan)))
    medians = [np.median(np.concatenate([by_scan[k] for k in draw])) for draw in draws]
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def compute_maps(
    network: SliceNetwork, scan: PreparedScan, slices: NDArray[np.intp], side: int, target: int
) -> Iterator[Heatmaps]:
    """Yield the maps of some slices at the network's input size, one array for each level, the last map first."""
    table = SliceTable.of({"scan": len(scan.grey)}, {"scan": None})
    dataset = SliceDataset(InMemoryScan(scan.grey, scan.lungs), table, image_size=side)
    batch = default_collate([dataset[int(k)] for k in slices])
    for level in range(FINEST_LEVEL + 1):
        yield grad_cam(network, batch["image"], batch["position"], target=target, level=level)


def random_network(ensemble: Ensemble, member: Member) -> SliceNetwork:
    """Return the member's network with random weights."""
    torch.manual_seed(0)
    return SliceNetwork(member.model, n_classes=len(ensemble.classes), position=member.position)


def _empty_levels() -> list[list[float]]:
    return [[] for _ in range(FINEST_LEVEL + 1)]


@dataclass
class Ratios:
    """Energy ratios of one network on one kind of scans.

    Attributes:
        lungs: Ratios of the energy within the lungs, by level and slice.
        image: Ratios of the energy of the whole image, by level and slice.
        scans: The scan number of each slice.
    """

    lungs: list[list[float]] = field(default_factory=_empty_levels)
    image: list[list[float]] = field(default_factory=_empty_levels)
    scans: list[int] = field(default_factory=list)

    def add(self, maps: Sequence[Heatmaps], subject: Subject, scan: int) -> None:
        """Add the slices of a subject. ``maps``: by level, at the size of the store."""
        for level, heatmaps in enumerate(maps):
            for heatmap, index in zip(heatmaps, subject.slices, strict=True):
                lungs = subject.lungs[index]
                lesion = subject.lesion[index] & lungs
                self.lungs[level].append(energy_ratio(heatmap, lesion, lungs))
                self.image[level].append(energy_ratio(heatmap, lesion, lungs, whole=True))
        self.scans += [scan] * len(subject.slices)

    def median(self, level: int, *, whole: bool = False) -> tuple[float, float, float]:
        """Return the median and its interval."""
        values = (self.image if whole else self.lungs)[level]
        return median_interval(np.array(values), np.array(self.scans))

    def median_difference(self, other: "Ratios", level: int) -> tuple[float, float, float]:
        """Return the median of the differences from another kind of scans, slice by slice, and its interval."""
        differences = np.subtract(self.lungs[level], other.lungs[level])
        return median_interval(differences, np.array(self.scans))

    def empty_share(self, level: int) -> float:
        """Return the share of maps that are zero everywhere."""
        return float(np.mean(np.array(self.image[level]) == 0))


def measure(networks: EnsembleNetworks, subjects: Sequence[Subject]) -> dict[str, dict[str, Ratios]]:
    """Return the ratios by network and by kind: TRAINED, TWIN, RANDOM."""
    ensemble = networks.ensemble
    ratios: dict[str, dict[str, Ratios]] = {}
    random = {member: random_network(ensemble, member) for member in ensemble.members}
    for number, subject in enumerate(subjects):
        target, side = ensemble.classes.index(subject.label), subject.lungs.shape[-1]
        for kind, scan in ((TRAINED, subject.prepared), (TWIN, subject.twin), (RANDOM, subject.prepared)):
            maps_by_member: list[list[Heatmaps]] = []
            for member in ensemble.members:
                network = (random if kind == RANDOM else networks.networks)[member]
                maps = compute_maps(network, scan, subject.slices, member.image_size, target)
                maps_by_member.append([mean_map([heatmaps], side=side) for heatmaps in maps])
                ratios.setdefault(member.model, {}).setdefault(kind, Ratios()).add(maps_by_member[-1], subject, number)
            means = [mean_map(heatmaps, side=side) for heatmaps in zip(*maps_by_member, strict=True)]
            ratios.setdefault(MEAN, {}).setdefault(kind, Ratios()).add(means, subject, number)
    return ratios


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = make_parser(__doc__)
    add_study_options(parser)
    parser.add_argument("--scans", type=int, default=60, help="scans of each diseased class")
    parser.add_argument("--random-lesion", action="store_true", help="keep a random lesion instead of the largest")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    name = ensemble_name(options.ensemble[0] if len(options.ensemble) == 1 else options.ensemble)
    ensemble = read_ensemble(options.runs, options.study, name)
    study = options.runs / options.study
    networks = EnsembleNetworks(study, ensemble, choose_hardware(0), batch_size=64)
    rows, n_slices = phantom_size(study, ensemble)
    largest = not options.random_lesion
    subjects = [
        render_subject(FIRST_SEED + k, label, ensemble.pixels, rows=rows, n_slices=n_slices, largest=largest)
        for k in range(options.scans)
        for label in ensemble.classes[1:]
    ]
    ratios = measure(networks, [subject for subject in subjects if len(subject.slices)])
    results = {name: [summarise(kinds, level) for level in range(FINEST_LEVEL + 1)] for name, kinds in ratios.items()}
    scans = ratios[MEAN][TRAINED].scans
    title = f"{PHANTOM_NOTICE}; {len(scans)} infected slices of {len(set(scans))} scans with one lesion"
    table = Table("", "map", *results[MEAN][0], title=title)
    for name, levels in results.items():
        for level, row in enumerate(levels):
            heading = "" if level else name if name == MEAN else model_title(name)
            table.add_row(heading, ("last", "x 2", "x 4")[level], *(_cell(value) for value in row.values()))
    Console(width=150).print(table)
    write_json(options.json, {"slices": len(scans), "scans": len(set(scans)), "ratios": results})


def summarise(kinds: dict[str, Ratios], level: int) -> dict[str, tuple[float, float, float] | float]:
    """Return a row of the table for one network: medians with their intervals, and the share of empty maps."""
    trained = kinds[TRAINED]
    return {
        TRAINED: trained.median(level),
        "empty": trained.empty_share(level),
        TWIN: kinds[TWIN].median(level),
        "difference": trained.median_difference(kinds[TWIN], level),
        RANDOM: kinds[RANDOM].median(level),
        "trained, whole image": trained.median(level, whole=True),
    }


def phantom_size(study: Path, ensemble: Ensemble) -> tuple[int, tuple[int, int]]:
    """Return the rows and the range of the number of slices of the phantoms that a study was trained on."""
    member = ensemble.members[0]
    phantom = run_record(study, member.model, member.tag)["configuration"]["data"]["phantom"]
    low, high = phantom["n_slices"]
    return int(phantom["rows"]), (int(low), int(high))


def _cell(value: tuple[float, float, float] | float) -> str:
    if isinstance(value, float):
        return f"{100 * value:.0f}%"
    return "{:.2f} ({:.2f} to {:.2f})".format(*value)


if __name__ == "__main__":
    main()
