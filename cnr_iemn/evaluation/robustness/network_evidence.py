"""Evidence for which the networks run again: input ablations, and perturbed scans."""

from pathlib import Path

from cnr_iemn.ct.perturbations import PERTURBATIONS
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.evaluation.ablation import ablate
from cnr_iemn.evaluation.aggregate import Results
from cnr_iemn.evaluation.robustness.perturbed_scans import FOLDER, AnswerFiles, answer_perturbed
from cnr_iemn.evaluation.robustness.robustness_metrics import AS_READ, Robustness, measure_robustness
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.schemas import VALIDATION
from cnr_iemn.stage1.run_cohort import scan_sources
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage2.ensemble import Ensemble
from cnr_iemn.stage2.out_of_fold import by_fold


def add_network_evidence(
    folder: Path,
    results: Results,
    ensemble: Ensemble,
    store: SliceStore,
    run: RunFolder,
    *,
    ablations: bool,
    robustness: bool,
    gpus: int | None,
) -> None:
    """Add the ablations and the robustness to the metrics, where they are requested.

    Args:
        folder: The ensemble's, which keeps the answers for perturbed scans.
        results: To which it is added.
        ensemble: Whose networks run.
        store: The slices that the study was trained on.
        run: Of the study, whose cohort is read.
        ablations: Whether the networks' input is altered.
        robustness: Whether the scans are perturbed.
        gpus: As ``choose_hardware`` takes it.

    Raises:
        RunError: As ``ablate`` and ``measure_robustness`` do.
    """
    study = folder.parents[1]
    if ablations:
        plain = ensemble, store, results.patients, results.slices, results.predict
        results.metrics["ablations"] = ablate(study, *plain, gpus=gpus, space=results.space)
    if robustness:
        results.metrics["robustness"] = _robustness(folder, results, ensemble, store, run, gpus=gpus)


def _robustness(
    folder: Path, results: Results, ensemble: Ensemble, store: SliceStore, run: RunFolder, *, gpus: int | None
) -> Robustness:
    sources = scan_sources(run)
    networks = EnsembleNetworks(
        folder.parents[1], ensemble, choose_hardware(gpus), batch_size=16, engine="auto", space=results.space
    )
    held_out = results.patients[results.patients["split"] == VALIDATION]
    scan_ids = held_out.index.tolist()
    answers = answer_perturbed(networks, store, sources, scan_ids, AnswerFiles(folder / FOLDER, networks))
    names = (AS_READ, *PERTURBATIONS)
    sets = {
        name: {
            scan_id: by_fold(scan.channels[name], ensemble.folds)
            for scan_id, scan in answers.items()
            if name in scan.channels
        }
        for name in names
    }
    refused = {
        name: {scan_id: scan.refused[name] for scan_id, scan in answers.items() if name in scan.refused}
        for name in names
    }
    return measure_robustness(sets, refused, held_out, ensemble.classes, results.predict)
