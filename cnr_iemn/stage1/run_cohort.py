"""The cohort of a finished run, read again: where the files of its scans are."""

from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cnr_iemn.config.schema.settings import DataSettings, IngestSettings
from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.errors import CnrIemnError, RunError
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.study_data import open_cohort
from cnr_iemn.utils.json_io import first_fault


def scan_sources(run: RunFolder) -> dict[str, Path | ImageStack]:
    """Return what each scan of a run's cohort is read from, by scan id; its files may be gone.

    Raises:
        RunError: The cohort cannot be opened, or run.json does not tell where it is.
    """
    record = run.record() or {}
    try:
        data = TypeAdapter(DataSettings).validate_python(record["configuration"]["data"])
        if data.reader == "phantom":  # as train.py has written it; it is not written again
            data = replace(data, reader="covid_ct_md", root=record["cohort"]["root"])
        cohort = open_cohort(data, IngestSettings())
    except (CnrIemnError, KeyError, ValueError) as error:
        if isinstance(error, KeyError):
            reason = f"{run.path / 'run.json'} lacks {error}."
        else:
            reason = f"{first_fault(error)}." if isinstance(error, ValidationError) else str(error)
        raise RunError(
            f"The scans of {run.path} are to be read again, and their cohort cannot be opened: {reason} Run from the "
            "folder in which the runs were trained, with the cohort where it was."
        ) from error
    return {scan.scan_id: scan.source for scan in cohort.scans}
