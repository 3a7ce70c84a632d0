"""refused.csv: the scans of an input without a prediction, with the code of each refusal."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cnr_iemn.inference.scan_result import Refusal
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.spreadsheet import people_csv

REFUSALS = "refused.csv"
COLUMNS = ("schema_version", "scan", "code", "reason")


def write_refusals(folder: Path, refusals: Sequence[Refusal]) -> None:
    """Write refused.csv of predict.py's output folder, a row a refused scan; without one, remove an earlier file.

    Args:
        folder: predict.py's output folder.
        refusals: In the order of the input.
    """
    path = folder / REFUSALS
    if not refusals:
        path.unlink(missing_ok=True)
        return
    rows = [(SCHEMA_VERSION, refusal.scan_id, refusal.code.value, refusal.reason) for refusal in refusals]
    write_text_atomic(path, people_csv(pd.DataFrame(rows, columns=COLUMNS)))
