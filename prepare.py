"""DICOM folders to the slice store, without training. A refused scan is named and never stops the others.

python prepare.py data=covid_ct_md data.root=/data/COVID-CT-MD
python prepare.py data=manifest data.csv=scans.csv ingest.workers=4
"""

import logging
from dataclasses import replace

from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.settings import PrepareSettings
from cnr_iemn.errors import PartialFailureError, reasons
from cnr_iemn.utils.exclusions import FILE_NAME, offer_exclusion
from cnr_iemn.utils.text import grouped

log = logging.getLogger("cnr_iemn.prepare")


@entry_point("prepare", PrepareSettings)
def main(settings: PrepareSettings) -> float:
    """Prepare every scan of the cohort. Returns the share of scans that could be prepared."""
    from cnr_iemn.report import quality_report
    from cnr_iemn.stage1.training import study_data
    from cnr_iemn.utils.shard import shard_of

    cohort = study_data.open_cohort(settings.data, settings.ingest)
    for note in cohort.notes:
        log.info("%s", note)
    if settings.part is not None:
        scans = tuple(scan for scan in cohort.scans if shard_of(scan.scan_id, settings.parts) == settings.part)
        cohort = replace(cohort, scans=scans)
    store, failures = study_data.open_store(cohort, settings.ingest, settings.lungs, verify=True)
    prepared = [scan.scan_id for scan in cohort.scans if scan.scan_id not in failures]
    if settings.part is None:
        quality_report.print_quality_table(store, prepared)
        page = quality_report.write_quality_report(store, prepared, failures)
    log.info("%d of %d scans are in %s", len(prepared), len(cohort.scans), store.root)
    if settings.part is None:
        log.info("wrote %s and report.json", page)
    else:
        log.info("After the last part, the same command without part= and parts= reports on all scans.")
    if failures:
        refused = reasons(failures)
        message = f"{len(failures)} scans were refused:\n{grouped(refused, rest=str(store.root / 'report.json'))}"
        if settings.part is None:
            left_out = offer_exclusion(store.root / FILE_NAME, refused, settings.data.exclude)
            message += f"\nTrain without them with {left_out}."
        raise PartialFailureError(message)
    return len(prepared) / len(cohort.scans) if cohort.scans else 1.0


if __name__ == "__main__":
    raise SystemExit(main())
