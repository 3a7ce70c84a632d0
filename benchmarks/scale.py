"""Seconds a scan and peak memory of finding, preparing and predicting, for growing numbers of scans.

python -m benchmarks.scale --runs runs --study demo --ensemble resnext50 --scans SCANS --numbers 200 1000 5000
python -m benchmarks.scale --find 100000      # finding alone, of folders with one empty file each beside one scan

``unchanged`` and ``again`` are the same commands once more, which find nothing to do but to look at every scan. Each
command is measured on a few scans first: this is its start, which the seconds a scan do not include. In the end, by
command: the largest over the smallest seconds a scan and peak memory.

The scans are folders of hard links to a few small scans, in turn: neighbours of one series would be one scan. Each
measurement is a process of its own, and the number of scans that it found is checked.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import add_study_options, describe_load, make_parser, write_json
from benchmarks.inference_memory import ROOT, PeakMemory

FIND = """
import sys
from pathlib import Path
from cnr_iemn.ct.io.discovery import find_scans
print("found", len(find_scans(Path(sys.argv[1]), workers=1)))
"""
START = 6
"""Number of scans of the first measurement; with five or more predict.py prints the line that is expected."""


@dataclass(frozen=True)
class Measurement:
    """One command on so many scans. ``gib``: peak memory with its processes, GiB."""

    command: str
    n_scans: int
    seconds: float
    gib: float

    @property
    def text(self) -> str:
        """The measurement in a line."""
        return f"{self.command:<10} {self.n_scans:>7} scans  {self.seconds:9.1f} s  {self.gib:.2f} GiB"

    def seconds_a_scan(self, start: "Measurement") -> float:
        """Return the seconds of each scan beyond those of ``start``, the same command on a few scans."""
        return (self.seconds - start.seconds) / (self.n_scans - start.n_scans)


def flatness(measurements: list[Measurement]) -> list[str]:
    """Return a line for each command with three measurements or more: how much scans cost among many and few."""
    lines = []
    for command in dict.fromkeys(measurement.command for measurement in measurements):
        start, *larger = (run for run in measurements if run.command == command)
        if len(larger) > 1:
            rates, gibs = [run.seconds_a_scan(start) for run in larger], [run.gib for run in larger]
            ratio = f"{max(rates) / min(rates):.2f}" if min(rates) > 0 else "lost in the noise: take more scans"
            spread = f"largest over smallest {ratio}, peak memory {max(gibs) / min(gibs):.2f}"
            figures = ", ".join(f"{1000 * rate:.1f}" for rate in rates)
            lines.append(f"{command:<10} {figures} ms a scan after {start.seconds:.1f} s of start; {spread}")
    return lines


def write_scans(sources: list[Path], folder: Path, count: int) -> None:
    """Make ``count`` folders of hard links to the files of scans, of different series."""
    files = [list(source.iterdir()) for source in sources]
    for k in range(count):
        target = folder / f"{k // 1000:03d}" / f"P{k:06d}"
        target.mkdir(parents=True)
        for path in files[k % len(files)]:
            os.link(path, target / path.name)


def measure(name: str, count: int, command: list[str], *, expected: str) -> Measurement:
    """Run a command and return its time and peak memory.

    Raises:
        RuntimeError: It fails, or does not say what is ``expected``.
    """
    start_time = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with PeakMemory(process.pid) as peak:
        output, _ = process.communicate()
    if process.returncode != 0 or expected not in output:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{output[-2000:]}")
    measurement = Measurement(name, count, time.perf_counter() - start_time, peak.gib)
    print(measurement.text, flush=True)
    return measurement


def main() -> None:
    """Print the measurements, and write them to the file of ``--json``."""
    parser = make_parser(__doc__)
    add_study_options(parser)
    parser.add_argument("--scans", type=Path, help="folder of two or more small scans, of different series")
    parser.add_argument("--numbers", type=int, nargs="*", default=[])
    parser.add_argument("--find", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ensemble = options.ensemble[0] if options.ensemble == ["all"] else f"[{','.join(options.ensemble)}]"
    study = [f"runs={options.runs.absolute()}", f"study={options.study}", f"ensemble={ensemble}", "gpus=0"]
    print(describe_load(len(os.sched_getaffinity(0))))
    measurements = []
    place = options.scans.absolute().parent if options.scans else None  # links do not cross file systems
    for count in [START, *options.numbers] if options.numbers else []:
        with tempfile.TemporaryDirectory(dir=place) as temporary:
            folder = Path(temporary)
            write_scans(sorted(options.scans.iterdir()), folder / "scans", count)
            rows = [f"{k:06d},{folder}/scans/{k // 1000:03d}/P{k:06d},{'ab'[k % 2]}" for k in range(count)]
            (folder / "scans.csv").write_text("\n".join(["scan_id,path,class", *rows]) + "\n", encoding="utf-8")
            cohort = ["data=manifest", f"data.csv={folder / 'scans.csv'}", "data.classes=[a,b]", "ingest.size=64"]
            prepare = ["prepare.py", *cohort, f"ingest.cache={folder / 'cache'}"]
            words = [*study, f"input={folder / 'scans'}", f"output={folder / 'out'}", "pages=false", "engine=torch"]
            measurements += [
                measure("find", count, ["-c", FIND, str(folder / "scans")], expected=f"found {count}\n"),
                measure("prepare", count, prepare, expected=f"{count} of {count} scans are in"),
                measure("unchanged", count, prepare, expected=f"{count} of {count} scans are in"),
                measure("predict", count, ["predict.py", *words], expected=f"{count}/{count} "),
                measure("again", count, ["predict.py", *words], expected=f"Each of the {count} scans has an answer"),
            ]
    if options.find:
        with tempfile.TemporaryDirectory() as temporary:
            for k in range(options.find):
                target = Path(temporary) / f"{k // 1000:03d}" / f"P{k:06d}"
                target.mkdir(parents=True)
                (target / "1.dcm").touch()
            command = ["-c", FIND, temporary]
            measurements.append(measure("find empty", options.find, command, expected=f"found {options.find}\n"))
    for line in flatness(measurements):
        print(line)
    write_json(options.json, [asdict(measurement) for measurement in measurements])


if __name__ == "__main__":
    main()
