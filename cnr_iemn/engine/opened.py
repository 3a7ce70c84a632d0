"""A trained ensemble, wherever it lies: in the study that made it, or in a bundle."""

from dataclasses import dataclass
from pathlib import Path

from cnr_iemn.engine.ensembles import Ensemble, read_ensemble
from cnr_iemn.errors import RunError


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
    """Return an ensemble of a study. Raises RunError that lists what there is instead, or as ``check_pixels`` does."""
    folder = runs / study
    ensemble = read_ensemble(runs, study, name)
    check_pixels(ensemble)
    return Opened(name, ensemble, folder, folder / "ensembles" / name / "booster.ubj", folder / "predictions")


def check_pixels(ensemble: Ensemble) -> None:
    """Raise RunError where this version of the program makes other pixels than those that the networks learnt from."""
    if ensemble.store != ensemble.pixels.fingerprint():
        raise RunError(
            f"The networks of study {ensemble.study} learnt from slices as another version of the program prepares "
            f"them (another lung mask, for one; {ensemble.store}, this version: {ensemble.pixels.fingerprint()}): what "
            "was found of their answers does not hold for the slices that this version makes. Train and aggregate the "
            "study again (for a bundle, export it too, or get one that this version wrote), or answer with the version "
            "that trained it."
        )
