"""The tables and ratios of ``benchmarks.inference``."""

from collections.abc import Callable
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.inference_agreement import Agreement
from benchmarks.inference_timing import Timed
from benchmarks.inference_ways import BASELINE, OURS

Rounds = list[dict[str, Timed]]
"""Of each round by way; the first has all ways."""


def ratios_of(rounds: Rounds, agreed: dict[str, Agreement]) -> dict[str, Any]:
    """Return the figures of all rounds: medians of ratios within a round; by way where one figure would not do."""

    def over(ratio: Callable[[dict[str, Timed]], float]) -> float:
        return median(ratio(each) for each in rounds)

    def times_baseline(way: str) -> float:
        return median(each[BASELINE].whole / each[way].whole for each in rounds if way in each)

    return {
        "vs_fp32": times_baseline(OURS),
        "vs_engine_alone": over(lambda each: each[OURS].whole / each[OURS].alone),
        "vs_engine_alone_first_scan": over(lambda each: each[OURS].first / each[OURS].first_alone),
        "vs_fp32_by_engine": {way: times_baseline(way) for way in rounds[0]},
        "agreement_slices": {way: each.slices_mixed for way, each in agreed.items()},
        "agreement_scans": {way: each.scans for way, each in agreed.items()},
    }


def show(rounds: Rounds, ratios: dict[str, Any], agreed: dict[str, Agreement], n_slices: int) -> None:
    """Print the tables."""
    columns = ("whole, s", "of the rounds", "networks, ms a slice", "fp32 / it", "asked twice", "start, s", "GiB")
    table = Table("", *columns, title=f"{n_slices} slices, four backbones, {len(rounds)} rounds")
    for way in rounds[0]:
        timed = [each[way] for each in rounds if way in each]
        spread = ", ".join(f"{each.whole:.1f}" for each in timed)
        table.add_row(
            way,
            f"{median(each.whole for each in timed):.1f}",
            spread,
            f"{median(each.first_ms_a_slice for each in timed):.0f}",
            f"{ratios['vs_fp32_by_engine'][way]:.2f}",
            f"{100 * median(each.again for each in timed):.1f}%",
            f"{median(each.start for each in timed):.1f}",
            f"{max(each.gib for each in timed):.2f}",
        )
    Console(width=140).print(table)
    pages = [each[OURS].page for each in rounds]
    print(f"A scan's page, Grad-CAM included, takes {median(pages):.1f} s more.")
    if agreed:
        shares = ("slices", "of mixed scans", "scans", "asked twice")
        table = Table("", *shares, "largest difference", title="The class of torch fp32")
        for way, each in agreed.items():
            figures = (each.slices, each.slices_mixed, each.scans, each.again)
            table.add_row(way, *(f"{100 * share:.2f}%" for share in figures), f"{each.difference:.4f}")
        Console(width=140).print(table)
        example = next(iter(agreed.values()))
        print(f"{example.n_scans} scans, {example.n_mixed} of them mixed: every class has 10% of the slices or more.")
