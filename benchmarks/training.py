"""Training speed: the steady state of train.py compared with a bare loop and with Lightning's defaults.

python -m benchmarks.training --json training.json

Measures slices per second of each backbone at its own image size, in the precision that train.py selects on this
machine. The contenders are a bare loop on one resident batch; train.py's ``fit`` with its data module and callbacks;
and Lightning's defaults (float32, NCHW) with PIL transforms. Each is a process that trains only at its turn. A turn has
a few steps, loading included; the order is random. A second bare loop shows the noise of the measurement. With
--compile, a third one shows after how many steps torch.compile pays off. Needs the extra [bench].
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import pytorch_lightning as pl
from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser, write_json
from benchmarks.data_loading import PhantomSlices
from benchmarks.training_loops import (
    BARE,
    COMPILE,
    CONTENDERS,
    DEFAULTS,
    TRAIN_PY,
    Contender,
    Task,
    Turns,
    bare_loop_compile,
)
from cnr_iemn.constants import BACKBONES
from cnr_iemn.stage1.training.hardware import choose_hardware


def run_contender(contender: Contender, pipe: Connection, task: Task) -> None:
    """Run a contender. The target of its process."""
    pl.seed_everything(0, verbose=False)
    contender(Turns(pipe, task), task)


@contextmanager
def start_processes(contenders: dict[str, Contender], task: Task) -> Iterator[dict[str, Connection]]:
    """Start the contenders one after the other. Each runs its first turn at once and sends its seconds."""
    context = get_context("spawn")
    pipes, processes = {}, []
    try:
        for name, contender in contenders.items():
            pipes[name], child_end = context.Pipe()
            processes.append(context.Process(target=run_contender, args=(contender, child_end, task), daemon=False))
            processes[-1].start()
            child_end.close()
            if not pipes[name].poll(timeout=600):
                raise RuntimeError(f"{name}: the first turn with {task.model} took more than ten minutes.")
        yield pipes
    finally:
        for process in processes:
            process.kill()  # SIGTERM: Lightning would wait for the end of a step
            process.join()


@dataclass
class Measurement:
    """Speeds of all contenders with one backbone.

    Attributes:
        start: Seconds of the first turn, by contender.
        speeds: Slices per second of each turn, by contender.
    """

    start: dict[str, float]
    speeds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median speed of a contender."""
        return median(self.speeds[name])

    def speedup_over(self, name: str) -> float:
        """Return the speed of train.py divided by a contender's; both bare loops count as one."""
        speeds = self.speeds[BARE] + self.speeds[f"{BARE}, again"] if name == BARE else self.speeds[name]
        return self.median(TRAIN_PY) / median(speeds)

    def noise(self) -> tuple[float, float]:
        """Return the 10% and 90% quantiles of the ratio of the two bare loops, turn by turn."""
        low, high = np.quantile(np.divide(self.speeds[BARE], self.speeds[f"{BARE}, again"]), [0.1, 0.9])
        return float(low), float(high)


def measure(contenders: dict[str, Contender], task: Task, blocks: int) -> Measurement:
    """Let the contenders take turns, in random order in each block."""
    rng = np.random.default_rng(0)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    with start_processes(contenders, task) as pipes:
        start = {name: pipe.recv() for name, pipe in pipes.items()}
        for block in range(blocks + 1):  # the first is a warm-up
            for name in rng.permutation(list(pipes)):
                pipes[name].send("go")
                seconds = pipes[name].recv()
                if block:
                    speeds[name].append(task.batch * task.steps / seconds)
    return Measurement(start, speeds)


def print_table(task: Task, measurement: Measurement, blocks: int) -> None:
    """Print the table of one backbone."""
    title = f"{task.model}, {task.size} pixels, {blocks} turns of {task.steps} x {task.batch} slices, {task.hardware}"
    table = Table("", "slices/s", "10% to 90% of turns", "train.py / it", title=title)
    for name, values in measurement.speeds.items():
        low, high = np.quantile(values, [0.1, 0.9])
        table.add_row(
            name, f"{measurement.median(name):.1f}", f"{low:.1f} to {high:.1f}", f"{measurement.speedup_over(name):.2f}"
        )
    Console().print(table)
    low, high = measurement.noise()
    print(f"The bare loop divided by its repetition, turn by turn: {low:.2f} to {high:.2f} (10% to 90%).")
    if COMPILE in measurement.speeds:
        seconds = measurement.start[COMPILE] - measurement.start[BARE]
        saved = task.batch / measurement.median(BARE) - task.batch / measurement.median(COMPILE)
        verdict = f"pays off after {seconds / saved:.0f} steps" if saved > 0 else "never pays off"
        print(f"torch.compile takes {seconds:.0f} s at the start and saves {saved:.3f} s per step; it {verdict}.")


def compute_ratios(measurements: dict[str, Measurement]) -> dict[str, float]:
    """Return the ratios of all backbones."""
    bare = {model: m.speedup_over(BARE) for model, m in measurements.items()}
    defaults = {model: m.speedup_over(DEFAULTS) for model, m in measurements.items()}
    return {
        **{f"vs_bare_loop_{model}": value for model, value in bare.items()},
        **{f"vs_lightning_defaults_{model}": value for model, value in defaults.items()},
        "vs_bare_loop_min": min(bare.values()),
        "vs_lightning_defaults_geomean": geometric_mean(defaults.values()),
        "vs_itself_low": min(m.noise()[0] for m in measurements.values()),
        "vs_itself_high": max(m.noise()[1] for m in measurements.values()),
    }


def main() -> None:
    """Print a table for each backbone and, with --json, write the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--blocks", type=int, default=15, help="turns of each contender")
    parser.add_argument("--batch", type=int, help="default: 16 on a CPU, 64 on a GPU")
    parser.add_argument("--steps", type=int, help="steps in a turn; default: 1 on a CPU, 50 on a GPU")
    parser.add_argument("--precision", default="auto", choices=["auto", "32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="add a bare loop with torch.compile")
    options = parser.parse_args()
    hardware = choose_hardware(None, options.precision)
    gpu = hardware.device.type == "cuda"
    contenders = CONTENDERS | ({COMPILE: bare_loop_compile} if options.compile else {})
    measurements = {}
    with tempfile.TemporaryDirectory() as folder:
        PhantomSlices(Path(folder))  # write the cohort before the contenders start
        for model in options.models:
            task = Task(
                model=model,
                size=BACKBONES[model].image_size,
                batch=options.batch or (64 if gpu else 16),
                steps=options.steps or (50 if gpu else 1),
                hardware=hardware,
                folder=Path(folder),
            )
            measurements[model] = measure(contenders, task, options.blocks)
            print_table(task, measurements[model], options.blocks)
    ratios = compute_ratios(measurements)
    print(json.dumps(ratios, indent=1))
    speeds = {model: measurement.speeds for model, measurement in measurements.items()}
    starts = {model: measurement.start for model, measurement in measurements.items()}
    result = {"hardware": str(hardware), "ratios": ratios, "speeds": speeds, "start_seconds": starts}
    write_json(options.json, result)


if __name__ == "__main__":
    main()
