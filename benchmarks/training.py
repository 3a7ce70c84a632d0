"""How far is training from what the machine can do? train.py's steady state beside a bare loop, in one run.

python -m benchmarks.training --json training.json

Slices a second of each backbone at its own image size, in the precision that train.py chooses on this machine: a bare
loop on one resident batch; train.py's own ``fit``, data module and callbacks; and Lightning as it comes (float32,
NCHW) with PIL transforms. Each is a process that trains only when it is its turn; turns are a few steps long, loading
included, and come in another order each time. A second bare loop tells how far identical code differs from itself;
with --compile a third one tells how long torch.compile takes to pay. Needs the extra [bench].
"""

import argparse
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

from benchmarks.input import Slices
from benchmarks.training_ways import BARE, COMPILED, CONTENDERS, DEFAULTS, OURS, Contender, Task, Turns, compiled_loop
from cnr_iemn.engine.hardware import choose_hardware
from cnr_iemn.registry import BACKBONES


def begin(contender: Contender, pipe: Connection, task: Task) -> None:
    """Run a contender in a process of its own."""
    pl.seed_everything(0, verbose=False)
    contender(Turns(pipe, task), task)


@contextmanager
def processes(contenders: dict[str, Contender], task: Task) -> Iterator[dict[str, Connection]]:
    """Start the contenders one after the other; each has its first turn behind it, whose seconds wait in its pipe."""
    context = get_context("spawn")
    pipes, started = {}, []
    try:
        for name, contender in contenders.items():
            pipes[name], theirs = context.Pipe()
            started.append(context.Process(target=begin, args=(contender, theirs, task), daemon=False))
            started[-1].start()
            theirs.close()
            if not pipes[name].poll(timeout=600):
                raise RuntimeError(f"{name}: no step of {task.model} ended within ten minutes.")
        yield pipes
    finally:
        for process in started:
            process.kill()  # on SIGTERM Lightning would wait for the end of a step
            process.join()


@dataclass
class Measured:
    """``start``: seconds of the first turn, by contender; ``speeds``: slices a second, turn by turn."""

    start: dict[str, float]
    speeds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median speed of a contender."""
        return median(self.speeds[name])

    def ours_to(self, name: str) -> float:
        """Return how many times as fast train.py is; both bare loops count as one."""
        speeds = self.speeds[BARE] + self.speeds[f"{BARE}, again"] if name == BARE else self.speeds[name]
        return self.median(OURS) / median(speeds)

    def itself(self) -> tuple[float, float]:
        """Return how far the bare loop is from itself, turn by turn: 10% and 90% of the ratios."""
        low, high = np.quantile(np.divide(self.speeds[BARE], self.speeds[f"{BARE}, again"]), [0.1, 0.9])
        return float(low), float(high)


def measure(contenders: dict[str, Contender], task: Task, blocks: int) -> Measured:
    """Have the contenders take turns, in another order in each block."""
    rng = np.random.default_rng(0)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    with processes(contenders, task) as pipes:
        start = {name: pipe.recv() for name, pipe in pipes.items()}
        for block in range(blocks + 1):  # the first warms up
            for name in rng.permutation(list(pipes)):
                pipes[name].send("go")
                seconds = pipes[name].recv()
                if block:
                    speeds[name].append(task.batch * task.steps / seconds)
    return Measured(start, speeds)


def show(task: Task, found: Measured, blocks: int) -> None:
    """Print the table of one backbone."""
    title = f"{task.model}, {task.size} pixels, {blocks} turns of {task.steps} x {task.batch} slices, {task.hardware}"
    table = Table("", "slices a second", "10% to 90% of turns", "train.py / it", title=title)
    for name, values in found.speeds.items():
        low, high = np.quantile(values, [0.1, 0.9])
        table.add_row(name, f"{found.median(name):.1f}", f"{low:.1f} to {high:.1f}", f"{found.ours_to(name):.2f}")
    Console().print(table)
    low, high = found.itself()
    print(f"The bare loop against itself, turn by turn: {low:.2f} to {high:.2f} (10% to 90%).")
    if COMPILED in found.speeds:
        longer = found.start[COMPILED] - found.start[BARE]
        saved = task.batch / found.median(BARE) - task.batch / found.median(COMPILED)
        pays = f"{longer / saved:.0f} steps" if saved > 0 else "never"
        print(f"torch.compile takes {longer:.0f} s at the start, saves {saved:.3f} s a step; it pays after: {pays}.")


def ratios_of(found: dict[str, Measured]) -> dict[str, float]:
    """Return the figures of all backbones."""
    bare = {model: m.ours_to(BARE) for model, m in found.items()}
    defaults = {model: m.ours_to(DEFAULTS) for model, m in found.items()}
    return {
        **{f"vs_bare_loop_{model}": value for model, value in bare.items()},
        **{f"vs_lightning_defaults_{model}": value for model, value in defaults.items()},
        "vs_bare_loop_min": min(bare.values()),
        "vs_lightning_defaults_geomean": geometric_mean(defaults.values()),
        "vs_itself_low": min(m.itself()[0] for m in found.values()),
        "vs_itself_high": max(m.itself()[1] for m in found.values()),
    }


def main() -> None:
    """Print a table for each backbone and, with --json, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--blocks", type=int, default=15, help="turns of each contender")
    parser.add_argument("--batch", type=int, help="default: 16 on a CPU, 64 on a GPU")
    parser.add_argument("--steps", type=int, help="in a turn; default: 1 on a CPU, 50 on a GPU")
    parser.add_argument("--precision", default="auto", choices=["auto", "32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="another bare loop, through torch.compile")
    words = parser.parse_args()
    hardware = choose_hardware(None, words.precision)
    gpu = hardware.device.type == "cuda"
    contenders = CONTENDERS | ({COMPILED: compiled_loop} if words.compile else {})
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        Slices(Path(folder))  # written once, for all
        for model in words.models:
            task = Task(
                model=model,
                size=BACKBONES[model].image_size,
                batch=words.batch or (64 if gpu else 16),
                steps=words.steps or (50 if gpu else 1),
                hardware=hardware,
                folder=Path(folder),
            )
            found[model] = measure(contenders, task, words.blocks)
            show(task, found[model], words.blocks)
    ratios = ratios_of(found)
    print(json.dumps(ratios, indent=1))
    if words.json:
        speeds = {model: m.speeds for model, m in found.items()}
        starts = {model: m.start for model, m in found.items()}
        text = json.dumps({"hardware": str(hardware), "ratios": ratios, "speeds": speeds, "start_seconds": starts})
        words.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
