"""DICOM folders to the slice store, without training. A refused scan is named and never stops the others.

python prepare.py data=covid_ct_md data.root=/data/COVID-CT-MD
"""

from cnr_iemn.errors import PartialFailureError
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.schema import PrepareSettings


@entry_point("prepare", PrepareSettings)
def main(settings: PrepareSettings) -> float:
    """Prepare every scan of the cohort. Returns the share of scans that could be prepared."""
    from cnr_iemn.engine import assemble
    from cnr_iemn.report import quality

    cohort = assemble.open_cohort(settings.data, settings.ingest)
    store, failures = assemble.prepared_store(cohort, settings.ingest, settings.lungs, verify=True)
    prepared = [scan.scan_id for scan in cohort.scans if scan.scan_id not in failures]
    quality.print_quality_table(store, prepared)
    page = quality.write_quality_report(store, prepared, failures)
    print(f"{len(prepared)} of {len(cohort.scans)} scans are in {store.root}\nwrote {page} and report.json")
    if failures:
        raise PartialFailureError(f"{len(failures)} scans were refused:\n" + "\n".join(failures.values()))
    return len(prepared) / len(cohort.scans)


if __name__ == "__main__":
    raise SystemExit(main())
