"""How fast is a new scan answered? predict.py's engines beside torch as it comes and the usual way to read.

python -m benchmarks.inference data.root=/data/COVID-CT-MD study=demo --json inference.json

From DICOM folders to answers, for the four backbones at the paper's input sizes (random weights, which take the same
time; engine=openvino is made to ask 5% of the slices again in float32, as many as a trained study has close calls). The
baseline is torch in float32 and NCHW with pydicom and the tutorial's mask, one after the other; the others read the
next scan while the networks run, as predict.py does. Each way is a process of its own; the first round has all ways,
the others the baseline and predict.py's fastest, in another order each. Ratios are within a round, and their median
counts. Pages are not written (their own time is printed), and start-up (weights, conversion, a first scan) is a column
of its own; predict.py starts the process that reads meanwhile. With study= (and runs=) a trained study tells for each
way how many slices and scans get the class that torch gives in float32, on phantoms and the scans. --slices 1000: the
memory of predict.py on a scan of so many. Needs the extras [bench] and [engines], and Linux.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

R = TypeVar("R")


def in_new_process(function: Callable[..., R], *arguments: Any) -> R:
    """Return what the function gives in a process that nothing else has used."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Print the tables and, with --json, write them."""
    # not above: the processes that read scans import this module, and would load torch
    from benchmarks.inference_agreement import Agreement, agreements
    from benchmarks.inference_memory import long_scan_gib
    from benchmarks.inference_tables import ratios_of, show
    from benchmarks.inference_timing import measure
    from benchmarks.inference_ways import BASELINE, OURS, STUDY, WAYS, write_paper_study
    from cnr_iemn.ct.find import find_scans

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="data.root=FOLDER; study=NAME runs=FOLDER")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    shown = {"metavar": "WAY", "help": "; ".join(WAYS)}
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), **shown)
    parser.add_argument("--phantoms", type=int, default=12, help="of each class, for the agreement")
    parser.add_argument("--slices", type=int, help="of a long scan, for the memory of predict.py")
    given = parser.parse_args()
    words = dict(word.split("=", 1) for word in given.words)
    found = find_scans(Path(words.get("data.root") or os.environ["COVID_CT_MD_SAMPLE"]))
    ways: Sequence[str] = list(dict.fromkeys((BASELINE, *given.ways, OURS)))
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name) / "runs"
        in_new_process(write_paper_study, runs)
        n_slices = sum(len(list(path.iterdir())) for _, path in found)
        if given.slices:
            result["long_scan_gib"] = long_scan_gib(runs, STUDY, given.slices, Path(name))
            each = ", ".join(f"{gib:.2f} GiB with engine={name}" for name, gib in result["long_scan_gib"].items())
            print(f"predict.py on {given.slices} slices, page included, at most: {each}")
        agreed: dict[str, Agreement] = {}
        if "study" in words:
            where = Path(words.get("runs", "runs")), words["study"], words.get("ensemble", "all")
            agreed = in_new_process(agreements, *where, ways, found, given.phantoms, Path(name))
        rounds = []
        for k in range(given.rounds):
            these = ways if k == 0 else (BASELINE, OURS)
            timed = {way: in_new_process(measure, way, runs, found) for way in rng.permutation(these).tolist()}
            rounds.append({way: timed[way] for way in these})
    ratios = ratios_of(rounds, agreed)
    show(rounds, ratios, agreed, n_slices)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(json.dumps({key: ratios[key] for key in ("vs_fp32", "vs_engine_alone", "vs_engine_alone_first_scan")}))
    print(f"{result['cores']} cores, load {load} (1, 5, 15 minutes, this command's own included)")
    if given.json:
        result |= {"ratios": ratios, "slices": n_slices, "load": os.getloadavg()}
        result["agreement"] = {way: asdict(each) for way, each in agreed.items()}
        result["rounds"] = [{way: asdict(timed) for way, timed in each.items()} for each in rounds]
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
