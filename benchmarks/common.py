"""Helpers that several benchmarks share. Their worker processes import this module too, so it must not import torch."""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")


def make_parser(docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser with the module's docstring as its description."""
    return argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--runs``, ``--study`` and ``--ensemble``."""
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="demo", help="a phantom study that aggregate.py has evaluated")
    parser.add_argument("--ensemble", nargs="+", default=["all"])


def write_json(path: Path | None, result: object) -> None:
    """Write a result to the file of ``--json``, if there is one."""
    if path:
        path.write_text(json.dumps(result, indent=1), encoding="utf-8")


def run_record(study: Path, model: str, tag: str) -> dict[str, Any]:
    """Return the run.json of a network of a study."""
    record: dict[str, Any] = json.loads((study / model / tag / "run.json").read_text(encoding="utf-8"))
    return record


def describe_load(cores: int) -> str:
    """Return the number of cores and the load of the machine as a sentence."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"{cores} cores, load {load} (1, 5 and 15 minutes, including this command)"


def in_new_process(function: Callable[..., R], *arguments: Any) -> R:
    """Return the result of a function that runs in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
