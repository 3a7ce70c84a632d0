"""Seconds of predict.py for scans, its networks loaded, against those of the networks alone on the same prepared scans.

python -m benchmarks.network_share --runs runs --study demo --scans SCANS --repeats 4

Each folder in SCANS is one scan; it is predicted ``--repeats`` times under other ids. The networks alone are measured
before and after, so that a machine whose load changes shows.
"""

import os
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import add_study_options, describe_load, make_parser, write_json
from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.inference.predictor import Predictor
from cnr_iemn.inference.run_report import RunReporter
from cnr_iemn.inference.sources.local_input import local_input
from cnr_iemn.service.prediction import answer_input, load_predictor


@dataclass(frozen=True)
class Timing:
    """Seconds. ``first``: from the start to the first answer; ``networks``: alone, before and after ``whole``."""

    n_scans: int
    n_slices: int
    engine: str
    first: float
    whole: float
    networks: tuple[float, float]

    @property
    def ratio(self) -> float:
        """The whole over the networks alone."""
        return 2 * self.whole / sum(self.networks)


def network_seconds(predictor: Predictor, scans: list[PreparedScan], repeats: int) -> float:
    """Return the seconds that the networks take for prepared scans."""
    start_time = time.perf_counter()
    for scan in scans * repeats:
        predictor.networks.outputs(scan)
    return time.perf_counter() - start_time


def measure(runs: Path, study: str, ensemble: list[str], scans: list[Path], repeats: int) -> Timing:
    """Measure in this process and those that read."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [f"{path.name}-{k},{path}" for k in range(repeats) for path in scans]
        (folder / "scans.csv").write_text("\n".join(["scan_id,path", *rows]) + "\n", encoding="utf-8")
        settings = PredictSettings(
            input=str(folder / "scans.csv"),
            study=study,
            ensemble=ensemble[0] if ensemble == ["all"] else ensemble,
            runs=str(runs),
            output=str(folder / "out"),
            pages=False,
            gpus=0,
        )
        predictor = load_predictor(settings)
        with closing(predictor.prepare([(path.name, path) for path in scans])) as reader:
            prepared = [scan for _, scan in reader if isinstance(scan, PreparedScan)]
        if len(prepared) < len(scans):
            raise SystemExit("A scan is refused; run predict.py to see why.")
        predictor.networks.outputs(prepared[0])  # loads them
        before = network_seconds(predictor, prepared, repeats)
        start_time, wall_time = time.perf_counter(), time.time()
        with local_input(settings.input) as source:
            summary, answers = answer_input(settings, predictor, source, RunReporter(None))
        whole = time.perf_counter() - start_time
        times = [path.stat().st_mtime for path in answers.folder.glob("[!.]*.safetensors")]
        assert len(summary.predicted) == len(times) == len(rows)
        after = network_seconds(predictor, prepared, repeats)
    n_slices = repeats * sum(len(scan.grey) for scan in prepared)
    return Timing(len(rows), n_slices, predictor.engine, min(times) - wall_time, whole, (before, after))


def main() -> None:
    """Print the timing, and write it to the file of ``--json``."""
    parser = make_parser(__doc__)
    add_study_options(parser)
    parser.add_argument("--scans", type=Path, nargs="+", required=True, help="folders of scans, or of folders of them")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(describe_load(len(os.sched_getaffinity(0))))
    scans = sorted(path.absolute() for folder in options.scans for path in folder.iterdir() if path.is_dir())
    timing = measure(options.runs, options.study, options.ensemble, scans, options.repeats)
    print(
        f"{timing.n_scans} scans, {timing.n_slices} slices, {timing.engine}: whole {timing.whole:.1f} s, the first "
        f"answer after {timing.first:.1f} s; networks alone {timing.networks[0]:.1f} and {timing.networks[1]:.1f} s: "
        f"ratio {timing.ratio:.3f}"
    )
    write_json(options.json, asdict(timing))


if __name__ == "__main__":
    main()
