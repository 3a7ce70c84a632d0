"""The scans of predict.py's input: their ids, which of them are refused, and reasons to doubt a prediction."""

import hashlib
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from cnr_iemn.constants import N_GROUPS
from cnr_iemn.ct.io.discovery import find_scans, scan_ids
from cnr_iemn.ct.io.folders import folders_with_files, is_litter, natural_key
from cnr_iemn.ct.io.image_stack import SUFFIXES, ImageStack
from cnr_iemn.ct.perturbations import UNPERTURBED, Perturbation
from cnr_iemn.ct.preprocess import PreparedScan, prepare_scan
from cnr_iemn.data.readers.manifest import read_inputs
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import CnrIemnError, CohortError, RefusalCode, RunError, ScanError, fault
from cnr_iemn.inference.sources.dicomweb import is_remote
from cnr_iemn.inference.sources.path_list import is_path_list, read_paths
from cnr_iemn.schemas import UNKNOWN_SCANS, TrainingScans
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.text import visible

MIN_LITRES = 0.5
"""With less, no lungs were found: an adult's have more than a litre after a forced expiration. The air in sinuses or
bowel, or the tips of the lungs in a scan of the abdomen, is less."""
MAX_SPACING_MM = 5.0
"""With more, small lesions fall between the slices; the paper's cohort has 2 mm."""
MAX_END_SHARE = 0.25
"""Of the largest lung area in a slice: if the first or the last slice has more, the lungs continue outside the scan.
Real scans have at most 3%, coarse phantoms 21%."""
MIN_LUNG_SHARE = 0.6
"""Share of slices with lung; chest scans have 87% and more."""
_MAX_NAME_BYTES, _SHORT_NAME = 200, 60  # bytes of a folder's name; characters of a shortened one

Source = Path | ImageStack
"""What a scan is read from: a DICOM folder, a zip or a volume, or images."""


def find_new_scans(
    source: Path, *, anonymous: bool, training: TrainingScans = UNKNOWN_SCANS
) -> list[tuple[str, Source]]:
    """Return id and source of each scan of the input.

    Args:
        source: What ``find_scans`` takes; an image, a folder of images, which are one scan, or a folder of such
            folders; a CSV as ``read_inputs`` takes it; or a list of paths (``read_paths``). Images in a folder that
            also holds other scans are scans if the study was trained on images; otherwise they are screenshots.
        anonymous: Call the scans scan-0001 and so on, in their order.
        training: What the study was trained on.

    Raises:
        CohortError: The input holds no scan.
    """
    scans = _find_sources(source, anonymous, training)
    if not anonymous:
        return scans
    ids = [f"scan-{k:04d}" for k in range(1, len(scans) + 1)]
    return [
        (scan_id, replace(scan, scan_id=scan_id) if isinstance(scan, ImageStack) else scan)
        for scan_id, (_, scan) in zip(ids, scans, strict=True)
    ]


def _find_sources(source: Path, anonymous: bool, training: TrainingScans) -> list[tuple[str, Source]]:
    if source.is_file() and source.suffix.lower() in {".csv", ".txt"}:
        try:
            return read_paths(source) if is_path_list(source) else read_inputs(source)
        except CohortError as error:
            if not anonymous:
                raise
            raise CohortError("the list of scans has problems. Leave out anonymise_ids=true to see them.") from error
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        name = visible(source.stem)
        return [(name, ImageStack(name, (source,)))]
    try:
        volumes = [path for _, path in find_scans(source, workers=1, label="the input" if anonymous else None)]
    except CohortError:
        volumes = []
        images = _image_folders(source, [])
        if not images:
            raise
    else:
        images = _image_folders(source, volumes) if "windowed" in training.values else {}
    paths = sorted([*volumes, *images], key=lambda path: natural_key(path.as_posix()))
    ids = dict(zip(paths, scan_ids(source, paths), strict=True))
    return [(ids[path], ImageStack(ids[path], tuple(images[path])) if path in images else path) for path in paths]


def _image_folders(root: Path, volumes: Collection[Path]) -> dict[Path, list[Path]]:
    """Return the images of each folder in which most files are images, and which is in none of the volumes."""
    folders: dict[Path, list[Path]] = {}
    volume_paths = set(volumes)
    for folder, files, _ in folders_with_files(root, lambda *_: None) if root.is_dir() else ():
        slices = [path for path in files if not is_litter(path.relative_to(root))]
        images = [path for path in slices if path.suffix.lower() in SUFFIXES]
        if images and 2 * len(images) >= len(slices) and volume_paths.isdisjoint((folder, *folder.parents)):
            folders[folder] = images
    return folders


def output_name(source: Path, *, anonymous: bool) -> str:
    """Return the name of the output folder: the input's, or ``anonymised`` where names must not show.

    That of a DICOMweb address would hold UIDs: a part of its hash stands for it.
    """
    name = "anonymised" if anonymous else visible(source.resolve().name)
    if is_remote(str(source)):
        return f"dicomweb-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    return f"{name[:_SHORT_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def output_folder(folder: str | None, predictions: Path, source: Path, *, anonymous: bool) -> Path:
    """Return the folder for the predictions. A default folder belongs to one input and refuses another of its name.

    Beside a default folder, which may be passed on, ``.<folder>.input`` has a hash of its input's path, so that the
    same input replaces its own predictions and no other's.

    Args:
        folder: The folder in the settings; None for the default.
        predictions: The folder of all default ones.
        source: The input.
        anonymous: Whether names of the input must not show.

    Returns:
        The folder, which may not exist.

    Raises:
        RunError: The default folder holds the predictions for another input, or for an unknown one.
    """
    if folder:
        return Path(folder)
    default = predictions / output_name(source, anonymous=anonymous)
    mark = default.with_name(f".{default.name}.input")
    digest = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()
    previous = mark.read_bytes() if mark.is_file() else b""
    if previous != digest.encode() and (default / "predictions.json").exists():
        owner = "another input of this name" if previous else "an input that an earlier version did not record"
        raise RunError(
            f"{visible(str(default))} holds the predictions for {owner}; they would be overwritten. Give another "
            "folder (output=), or move or delete this one."
        )
    write_text_atomic(mark, digest)
    return default


def prepare_new_scan(
    pixels: PixelSettings,
    anonymous: bool,
    job: tuple[str, Source],
    *,
    training: TrainingScans = UNKNOWN_SCANS,
    display: bool = False,
    perturbation: Perturbation = UNPERTURBED,
) -> PreparedScan:
    """Return a scan that can be classified, with any doubts among its findings.

    An unexpected error refuses this scan alone, and its message, which may quote the scan, is not shown.

    Args:
        pixels: How to prepare it.
        anonymous: Number the scan's files in refusals instead of naming them.
        job: Its id and source.
        training: What the study was trained on.
        display: Keep slices for a reader.
        perturbation: A change of the scan before its lungs are found.

    Raises:
        ScanError: It cannot be read or classified.
    """
    scan_id, source = job
    try:
        _check_values(scan_id, source, training)
        prepared = prepare_scan(
            source, **vars(pixels), scan=scan_id, numbered=anonymous, display=display, perturbation=perturbation
        )
        n_slices = min(N_GROUPS, training.fewest_slices) if isinstance(source, ImageStack) else N_GROUPS
        return check_prepared(prepared, scan_id, min_slices=n_slices)
    except (CnrIemnError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - one scan must not stop the others
        raise fault(scan_id, error) from None


def _check_values(scan_id: str, source: Source, training: TrainingScans) -> None:
    """Refuse pixels of another kind than the networks were trained on."""
    values = source.values if isinstance(source, ImageStack) else "hu"
    if not training.values or values in training.values:
        return
    if values == "windowed":
        raise ScanError(
            RefusalCode.PIXEL_VALUES,
            f"{scan_id}: 8-bit images in an unknown window, but the study was trained on scans in HU. Give DICOM or "
            "NIfTI, or a CSV with values=hu and offset for images in HU, or a study trained on such images.",
        )
    raise ScanError(
        RefusalCode.PIXEL_VALUES,
        f"{scan_id}: a scan in HU, but the study was trained on windowed 8-bit images. Give images made in the same "
        "way, or a study trained on scans in HU.",
    )


def check_prepared(prepared: PreparedScan, scan_id: str, *, min_slices: int = N_GROUPS) -> PreparedScan:
    """Return the scan with reasons to doubt its prediction added to its findings.

    Raises:
        ScanError: It has too few slices, or no lungs.
    """
    n_slices, litres = len(prepared.grey), prepared.lung_litres
    if n_slices < min_slices:
        reason = (
            f"a prediction is made from {N_GROUPS} groups of slices"
            if min_slices == N_GROUPS
            else "no training scan of the study has fewer"
        )
        raise ScanError(
            RefusalCode.TOO_FEW_SLICES,
            f"{scan_id}: {n_slices} slices, at least {min_slices} are needed: {reason}. "
            "Give a series with thinner slices, or the whole one.",
        )
    area = np.count_nonzero(prepared.lungs, axis=(1, 2))
    if not area.any() or litres < MIN_LITRES:
        raise ScanError(
            RefusalCode.NO_LUNGS,
            f"{scan_id}: no lungs found ({litres:.2f} litres, at least {MIN_LITRES} are needed): not a chest CT, or "
            "one whose lungs the mask misses. Give the chest series; prepare.py shows the mask of a scan.",
        )
    doubts = [
        f"lungs may be cut: the {name} slice holds {100 * share:.0f}% of the largest lung area"
        for name, share in (("top", area[0] / area.max()), ("lowest", area[-1] / area.max()))
        if share > MAX_END_SHARE
    ]
    lung_share = np.count_nonzero(area) / n_slices
    if lung_share < MIN_LUNG_SHARE:
        doubts.append(f"lung in only {100 * lung_share:.0f}% of the slices: not a chest alone")
    if prepared.spacing_mm[0] > MAX_SPACING_MM:
        doubts.append(f"thick slices: {prepared.spacing_mm[0]:.1f} mm apart, small lesions may lie between")
    return replace(prepared, findings=(*prepared.findings, *(f"prediction in doubt: {doubt}" for doubt in doubts)))
