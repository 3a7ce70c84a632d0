"""A trained ensemble, wherever it lies: in the study that made it, or in a bundle."""

from dataclasses import dataclass
from pathlib import Path

from cnr_iemn.engine.ensembles import Ensemble, read_ensemble


@dataclass(frozen=True)
class Opened:
    """``name``: of the ensemble in its study; ``folder``: what its members' files are relative to.

    ``booster``: its file. ``predictions``: the folder of answers, where no other is asked for.
    """

    name: str
    ensemble: Ensemble
    folder: Path
    booster: Path
    predictions: Path


def open_study(runs: Path, study: str, name: str) -> Opened:
    """Return an ensemble of a study. Raises RunError that lists what there is instead."""
    folder = runs / study
    ensemble = read_ensemble(runs, study, name)
    return Opened(name, ensemble, folder, folder / "ensembles" / name / "booster.ubj", folder / "predictions")
