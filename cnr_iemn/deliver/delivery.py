"""What each answered scan gets beside its line in the tables: a page, DICOM files, or neither."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.deliver.scan_page import key_evidence, write_scan_page
from cnr_iemn.engine.prediction import EnsembleNetworks
from cnr_iemn.patients.contributions import Contributions
from cnr_iemn.patients.slice_sets import ScanArray
from cnr_iemn.permissions import Permissions


class Delivery:
    """Pages are written while the scan's pixels are there, DICOM files at the end (``finish``).

    ``origin``: of the ensemble, its ``name`` and ``booster_sha256``. ``allowed``: as the scans are read with.
    ``segmentation``: the lung mask among the DICOM files. These need the extra [dicom], which the settings' checks have
    looked for.
    """

    def __init__(
        self,
        folder: Path,
        networks: EnsembleNetworks,
        origin: Mapping[str, str],
        *,
        allowed: Permissions,
        pages: bool,
        dicom: bool,
        segmentation: bool,
    ) -> None:
        self._folder, self._networks = folder, networks
        self._pages = pages
        self._dicom = None
        if dicom:
            from cnr_iemn.deliver.dicom.output import DicomOutput
            from cnr_iemn.deliver.dicom.software import Software

            software = Software(networks.ensemble.study, origin["name"], origin["booster_sha256"])
            self._dicom = DicomOutput(folder, networks.ensemble, software, allowed=allowed, lungs=segmentation)

    def add(
        self,
        path: Path,
        answer: dict[str, Any],
        gone_by: Contributions,
        sets: Sequence[ScanArray],
        prepared: PreparedScan,
    ) -> None:
        """Deliver what one scan gets. ``path``: of its files; ``answer``: of ``scan_answers``, told what was written.

        ``gone_by``: what the booster goes by; ``sets``: the scan as every set of networks sees it.
        """
        if not self._pages and self._dicom is None:
            return
        seen = key_evidence(answer, gone_by, sets, prepared, self._networks)
        if self._pages:
            ensemble = self._networks.ensemble
            answer["page"] = write_scan_page(self._folder, answer, gone_by, sets, prepared, ensemble, seen)
        if self._dicom is not None:
            self._dicom.keep(path, answer, prepared, seen)

    def finish(self) -> list[str]:
        """Write the DICOM files of all scans; return the reason of each scan that got none, in a sentence."""
        return [] if self._dicom is None else self._dicom.write()

    @property
    def beside(self) -> str:
        """What is written beside the tables, to be told after them."""
        pages = ", and a page for each scan" if self._pages else ""
        return pages if self._dicom is None else f"{pages}, and DICOM files in dicom/"
