"""What aggregate.py prints: the result first, then tables, the files and the next command."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cnr_iemn.constants import WEAK_LABELS_NOTICE
from cnr_iemn.evaluation.external_metrics import ExternalMetrics
from cnr_iemn.evaluation.peer_comparison import PeerComparison
from cnr_iemn.evaluation.study_comparison import StudyComparison
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.evidence_sentences import evidence_sentences
from cnr_iemn.report.headline import headline
from cnr_iemn.report.tables import ResultTable
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.report.tables.external import external_tables, paired_table, peer_table
from cnr_iemn.report.tables.results import confusion_table, result_tables, scan_table
from cnr_iemn.schemas import READER
from cnr_iemn.utils.console import table_console
from cnr_iemn.utils.text import listed, visible


class ResultPrinter:
    """Prints results on the terminal. Names and paths are text, never markup."""

    def __init__(self) -> None:
        self._console = table_console()

    def study(
        self,
        metrics: StudyMetrics,
        folder: Path,
        following: str,
        *,
        verbose: bool,
        seconds: Mapping[str, float],
    ) -> None:
        """Print a study's result.

        Args:
            metrics: metrics.json.
            folder: The ensemble's.
            following: The command to run next.
            verbose: Print all tables of the report; otherwise one screen of at most 40 lines.
            seconds: By analysis.
        """
        notes = [] if metrics["slice_labels"] == READER else [WEAK_LABELS_NOTICE]
        notes += [metrics["notice"]] if "notice" in metrics else []
        for text in (*notes, headline(metrics)):
            self._print(text)
        if verbose:
            self._tables((*result_tables(metrics), *evidence_tables(metrics)))
            self._print("; ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
        else:
            self._tables((scan_table(metrics, brief=True), confusion_table(metrics, brief=True)))
            for sentence in evidence_sentences(metrics):
                self._print(sentence)
        self._print(f"Open {visible(str(folder / 'report.html'))} (all tables are there, or with verbose=true)")
        self._print(f"Next: {following}")

    def external(self, sets: Mapping[str, ExternalMetrics], folder: Path) -> None:
        """Print the results of external sets. ``folder``: the ensemble's."""
        self._tables(external_tables(sets))
        for scan in list(sets.values())[-1]["missing"].values():  # of all sets together, or of the only set
            self._print(f"no prediction, of class {scan['label']}: {visible(scan['refused'])}")
        for name in sets:
            self._print(f"wrote {visible(str(folder / 'external' / name))}/patients.csv and metrics.json")

    def comparison(self, comparison: StudyComparison | PeerComparison, path: Path) -> None:
        """Print a paired comparison with an ensemble or with published systems. ``path``: of its file."""
        if "peers" in comparison:
            self._tables((peer_table(comparison),))
            if comparison["left_out"]:
                self._print(f"Left out, since their row is missing or not certain: {listed(comparison['left_out'])}.")
        else:
            self._tables((paired_table(comparison),))
        self._print(f"wrote {visible(str(path))}")

    def _tables(self, tables: Iterable[ResultTable]) -> None:
        for table in tables:
            self._console.print(table.rich())

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)
