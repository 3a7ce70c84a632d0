"""Tables and ratios of ``benchmarks.inference``."""

from collections.abc import Callable
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.inference_agreement import Agreement
from benchmarks.inference_engines import BASELINE, FASTEST
from benchmarks.inference_timing import Timing

Rounds = list[dict[str, Timing]]
"""Timings of each round by engine; the first round has all engines."""


def compute_ratios(rounds: Rounds, agreement: dict[str, Agreement]) -> dict[str, Any]:
    """Return the medians over the rounds of the ratios within a round, and the agreement, by engine."""

    def median_ratio(ratio: Callable[[dict[str, Timing]], float]) -> float:
        return median(ratio(timings) for timings in rounds)

    def speedup(engine: str) -> float:
        return median(timings[BASELINE].total / timings[engine].total for timings in rounds if engine in timings)

    return {
        "vs_fp32": speedup(FASTEST),
        "vs_networks": median_ratio(lambda timings: timings[FASTEST].total / timings[FASTEST].networks),
        "vs_networks_first_scan": median_ratio(
            lambda timings: timings[FASTEST].first_scan / timings[FASTEST].first_networks
        ),
        "vs_fp32_by_engine": {engine: speedup(engine) for engine in rounds[0]},
        "agreement_slices": {engine: row.mixed_slices for engine, row in agreement.items()},
        "agreement_scans": {engine: row.scans for engine, row in agreement.items()},
    }


def print_tables(rounds: Rounds, ratios: dict[str, Any], agreement: dict[str, Agreement], n_slices: int) -> None:
    """Print the tables."""
    columns = ("total, s", "by round", "networks, ms per slice", "speedup", "rechecked", "start, s", "GiB")
    table = Table("", *columns, title=f"{n_slices} slices, four backbones, {len(rounds)} rounds")
    for engine in rounds[0]:
        timings = [timings_of_round[engine] for timings_of_round in rounds if engine in timings_of_round]
        table.add_row(
            engine,
            f"{median(timing.total for timing in timings):.1f}",
            ", ".join(f"{timing.total:.1f}" for timing in timings),
            f"{median(timing.ms_per_slice for timing in timings):.0f}",
            f"{ratios['vs_fp32_by_engine'][engine]:.2f}",
            f"{100 * median(timing.recheck_share for timing in timings):.1f}%",
            f"{median(timing.start for timing in timings):.1f}",
            f"{max(timing.gib for timing in timings):.2f}",
        )
    Console(width=140).print(table)
    pages = [timings_of_round[FASTEST].page for timings_of_round in rounds]
    print(f"The page of a scan, with Grad-CAM, takes another {median(pages):.1f} s.")
    if agreement:
        agreement_columns = ("slices", "slices of mixed scans", "scans", "rechecked", "largest difference")
        table = Table("", *agreement_columns, title="Same class as torch fp32")
        for engine, row in agreement.items():
            shares = (row.slices, row.mixed_slices, row.scans, row.recheck_share)
            table.add_row(engine, *(f"{100 * share:.2f}%" for share in shares), f"{row.largest_difference:.4f}")
        Console(width=140).print(table)
        example = next(iter(agreement.values()))
        print(f"{example.n_scans} scans, {example.n_mixed} of them mixed: each class has at least 10% of the slices.")
