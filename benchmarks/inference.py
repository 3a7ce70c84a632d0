"""Prediction of new scans: speed, memory and agreement of the engines of predict.py and of common alternatives.

python -m benchmarks.inference data.root=/data/COVID-CT-MD study=demo --json inference.json

Times four backbones at the paper's input sizes, from DICOM folders to predictions. Their weights are random, which does
not change the time; with close calls in float32, 5% of the slices are recomputed, the share in a trained study.

The baseline is torch in float32 and NCHW with pydicom and the tutorial's mask, one scan after the other. The other
engines read the next scan while the networks run, as predict.py does. Each engine runs in a new process. The first
round measures all engines, later rounds the baseline and the fastest engine of predict.py, in random order. Ratios are
taken within a round; their median is reported. Pages are timed separately. Start-up (weights, conversion, a first scan)
has its own column; the process that reads scans starts meanwhile, as in predict.py.

With study= (and runs=), the agreement of each engine with torch in float32 is measured on a trained study: the share of
slices and scans of phantoms and of the given scans that get the same class. --slices 1000 measures the memory of
predict.py on a scan of 1,000 slices. Needs the extras [bench] and [engines], and Linux.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import describe_load, in_new_process, make_parser, write_json


def main() -> None:
    """Print the tables and, with --json, write them."""
    # not at the top: the processes that read scans import this module, and would load torch
    from benchmarks.inference_agreement import Agreement, measure_agreement
    from benchmarks.inference_engines import BASELINE, ENGINES, FASTEST, STUDY, write_paper_study
    from benchmarks.inference_memory import long_scan_gib
    from benchmarks.inference_tables import compute_ratios, print_tables
    from benchmarks.inference_timing import measure
    from cnr_iemn.ct.io.discovery import find_scans

    parser = make_parser(__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="data.root=FOLDER; study=NAME runs=FOLDER")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    names = list(ENGINES)
    parser.add_argument("--engines", nargs="+", choices=names, default=names, metavar="ENGINE", help="; ".join(names))
    parser.add_argument("--phantoms", type=int, default=12, help="phantoms of each class for the agreement")
    parser.add_argument("--slices", type=int, help="slices of a long scan for the memory of predict.py")
    options = parser.parse_args()
    overrides = dict(override.split("=", 1) for override in options.overrides)
    scans = find_scans(Path(overrides.get("data.root") or os.environ["COVID_CT_MD_SAMPLE"]))
    engines: Sequence[str] = list(dict.fromkeys((BASELINE, *options.engines, FASTEST)))
    rng = np.random.default_rng(0)
    cores = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {"cores": cores}
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name) / "runs"
        in_new_process(write_paper_study, runs)
        n_slices = sum(len(list(path.iterdir())) for _, path in scans)
        if options.slices:
            result["long_scan_gib"] = long_scan_gib(runs, STUDY, options.slices, Path(name))
            peaks = ", ".join(f"{gib:.2f} GiB with engine={name}" for name, gib in result["long_scan_gib"].items())
            print(f"Peak memory of predict.py on {options.slices} slices, page included: {peaks}")
        agreement: dict[str, Agreement] = {}
        if "study" in overrides:
            study = Path(overrides.get("runs", "runs")), overrides["study"], overrides.get("ensemble", "all")
            agreement = in_new_process(measure_agreement, *study, engines, scans, options.phantoms, Path(name))
        rounds = []
        for k in range(options.rounds):
            contenders = engines if k == 0 else (BASELINE, FASTEST)
            timings = {
                engine: in_new_process(measure, engine, runs, scans) for engine in rng.permutation(contenders).tolist()
            }
            rounds.append({engine: timings[engine] for engine in contenders})
    ratios = compute_ratios(rounds, agreement)
    print_tables(rounds, ratios, agreement, n_slices)
    print(json.dumps({key: ratios[key] for key in ("vs_fp32", "vs_networks", "vs_networks_first_scan")}))
    print(describe_load(cores))
    result |= {"ratios": ratios, "slices": n_slices, "load": os.getloadavg()}
    result["agreement"] = {engine: asdict(row) for engine, row in agreement.items()}
    result["rounds"] = [{engine: asdict(timing) for engine, timing in timings.items()} for timings in rounds]
    write_json(options.json, result)


if __name__ == "__main__":
    main()
