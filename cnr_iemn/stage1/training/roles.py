"""Which scans train, validate or test in a study and a run, and what the split lacks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cnr_iemn.config.schema.settings import DataSettings, SplitSettings, TrainSettings
from cnr_iemn.data.cohort import FROM_PATIENT, Cohort, ScanRecord
from cnr_iemn.data.csv_io import read_rows
from cnr_iemn.data.spgc import SpgcSplit, is_result_table, spgc_split
from cnr_iemn.data.splits import make_folds, make_split, read_split, split_csv
from cnr_iemn.errors import CohortError, RunError
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage1.training.pseudo_labels import PseudoLabels, make_pseudo_labels
from cnr_iemn.utils.atomic_io import exclusive, write_text_atomic


@dataclass(frozen=True)
class Roles:
    """What each scan is for in one run. ``fold``: of the training scans; ``held_out``: the fold that trains nothing.

    ``measured_inside``: the held-out fold measures the network, and the validation scans are not looked at.
    ``pseudo``: labels of slices of training scans that no reader labelled.
    """

    split: Mapping[str, str]
    fold: Mapping[str, int]
    held_out: int | None
    measured_inside: bool = False
    pseudo: PseudoLabels = field(default_factory=PseudoLabels)

    def trains(self, scan: ScanRecord) -> bool:
        """Tell whether the slices of a scan may train the network."""
        labelled = scan.slice_labelled or scan.scan_id in self.pseudo.labels
        on_side = self.split[scan.scan_id] == TRAINING and labelled
        return on_side and (self.held_out is None or self.fold[scan.scan_id] != self.held_out)

    def validates(self, scan: ScanRecord) -> bool:
        """Tell whether the slices of a scan measure (and may select) the network."""
        if self.measured_inside:
            return scan.slice_labelled and self.fold.get(scan.scan_id, -1) == self.held_out
        return self.split[scan.scan_id] == VALIDATION and scan.slice_labelled


def assign_roles(settings: TrainSettings, cohort: Cohort) -> Roles:
    """Return what each scan is for in the run of these settings. Writes nothing; raises as ``study_split`` does.

    Raises RunError, too, where the study of ``data.pseudo_labels`` cannot label slices.
    """
    split = study_split(Path(settings.runs) / settings.study, cohort, settings.data.split)
    fold = make_folds(cohort, split, folds=settings.data.folds, seed=settings.data.split.seed)
    return Roles(split, fold, settings.data.fold, pseudo=_pseudo_labels(settings, cohort, split, fold))


def _pseudo_labels(
    settings: TrainSettings, cohort: Cohort, split: Mapping[str, str], fold: Mapping[str, int]
) -> PseudoLabels:
    """Return the pseudo-labels that the settings ask for, none where they ask for none. Raises RunError."""
    if settings.data.pseudo_labels is None:
        return PseudoLabels()
    study, _, tag = settings.data.pseudo_labels.partition("/")
    return make_pseudo_labels(
        cohort,
        split,
        fold,
        study=Path(settings.runs) / study,
        tag=tag or f"seed{settings.seed}",
        confidence=settings.data.pseudo_confidence,
    )


def require_every_class(cohort: Cohort, roles: Roles) -> None:
    """Raise CohortError where a class has no labelled slice to train on."""
    training = [scan for scan in cohort.scans if roles.trains(scan)]
    present = {scan.label for scan in training if scan.infected is None or scan.infected.any()}
    missing = [name for name in cohort.classes if name not in present]
    if missing:
        counts = ", ".join(f"{n} {name}" for name, n in cohort.counts.items())
        labelled = sum(scan.slice_labelled for scan in cohort.scans)
        raise CohortError(
            f"No slice-labelled training scan of class {', '.join(missing)}: a network cannot learn a class that it "
            f"never sees. The cohort {cohort.root} holds {counts} scans, {labelled} of "
            "them slice-labelled. Add scans or their labels (Index.csv and the label arrays, or data.slices of a "
            "manifest), or lower data.split.validation. Where only the scans have classes, train on weak labels: "
            f"data.slice_labels={FROM_PATIENT} gives every slice with lung its scan's class."
        )


def study_split(study: Path, cohort: Cohort, settings: SplitSettings) -> dict[str, str]:
    """Return the study's one split: from a file, the cohort's own, or made from the settings.

    It must equal runs/<study>/split.csv where that exists. Writes nothing; see ``save_split``. Raises RunError where
    the study was split otherwise.
    """
    spgc = organisers_split(cohort, settings)
    if spgc is not None:
        split = spgc.side
    elif settings.file is not None:
        split = read_split(Path(settings.file), cohort)
    elif cohort.split is not None:
        split = dict(cohort.split)
    else:
        split = make_split(cohort, validation=settings.validation, seed=settings.seed)
    _check_split(study / "split.csv", cohort, split)
    return split


def organisers_split(cohort: Cohort, settings: SplitSettings) -> SpgcSplit | None:
    """Return the split after a result table of the SPGC challenge, None where ``settings.file`` is none.

    Raises CohortError as ``spgc_split``.
    """
    if settings.file is None or not is_result_table(Path(settings.file)):
        return None
    return spgc_split(Path(settings.file), cohort, uncertain=settings.uncertain)


def save_split(study: Path, cohort: Cohort, split: Mapping[str, str]) -> None:
    """Write runs/<study>/split.csv, or check that it is this split where it is there already.

    Under a lock, so that of two runs that begin a study at once the second one meets the split of the first.

    Args:
        study: The study's folder.
        cohort: The cohort that is split.
        split: Side of each scan by scan_id.

    Raises:
        RunError: The study has been split otherwise.
    """
    path = study / "split.csv"
    with exclusive(study / ".split.lock", lambda: None):
        if path.is_file():
            _check_split(path, cohort, split)
        else:
            write_text_atomic(path, split_csv(cohort, split))


def _check_split(path: Path, cohort: Cohort, split: Mapping[str, str]) -> None:
    if path.is_dir():
        raise RunError(f"{path} is a folder where the study's split should be. Remove it, or give another study=.")
    if not path.is_file() or path.read_bytes() == split_csv(cohort, split).encode():
        return
    scan_ids = {row.get("scan_id", "") for _, row in read_rows(path, set(), None)}
    same = scan_ids == {scan.scan_id for scan in cohort.scans}
    what = "the same scans, but with other labels or data.split settings" if same else "other scans"
    keep = f", or data.split.file={path} to use it as it is" if same else ""
    raise RunError(
        f"{path} is not the split that this configuration makes of the cohort {cohort.name}: the study was begun on "
        f"{what}. All runs of a study share one split. Give another study={keep}."
    )


def cohort_notes(cohort: Cohort, split: Mapping[str, str], data: DataSettings) -> list[str]:
    """Return sentences that are printed before a training.

    Args:
        cohort: The cohort, with its reader's notes.
        split: Side of each scan by scan_id.
        data: The settings that the split was made with.

    Returns:
        The reader's notes, then one on classes without a validation scan, unless none were asked for.
    """
    notes = list(cohort.notes)
    spgc = organisers_split(cohort, data.split)
    if spgc is not None:
        notes += spgc.notes(Path(str(data.split.file)), data.split.uncertain)
    expected = data.split.file is not None or cohort.split is not None or data.split.validation > 0
    held_out = {scan.label for scan in cohort.scans if split[scan.scan_id] == VALIDATION}
    lacking = [name for name in cohort.classes if name not in held_out]
    if expected and lacking:
        notes.append(
            f"No validation scan of class {', '.join(lacking)}: nothing will be measured of "
            f"{'it' if len(lacking) == 1 else 'them'}{_reason(cohort, lacking, data)}"
        )
    return notes


def _reason(cohort: Cohort, lacking: list[str], data: DataSettings) -> str:
    """Return why the classes have no validation scan, and what to do about it, as the end of a sentence."""
    if data.split.file is not None or cohort.split is not None:
        return ", as the split that was given says. Name validation scans of every class in it."
    patients = {name: len({scan.patient_id for scan in cohort.scans if scan.label == name}) for name in lacking}
    counts = ", ".join(f"{n} of {name}" for name, n in patients.items())
    share = data.split.validation
    why = f". Of the patients ({counts}) the share data.split.validation={share}, rounded down, is none."
    fewest = min(patients.values())
    if fewest < 2:
        return f"{why} A class of one patient can train or be measured, not both: it needs more patients."
    enough = math.ceil(100 / fewest) / 100
    return (
        f"{why} Give data.split.validation={enough:g} or more, hold out folds (data.folds={min(fewest, data.folds)} "
        "data.fold=0, then 1, ...), or name the validation scans (data.split.file, or the column split of a manifest)."
    )
