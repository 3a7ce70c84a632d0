"""Coverage of the bands of ROC and precision-recall curves and of the net benefit, on simulated cohorts.

python -m benchmarks.curve_coverage --cohorts 1000 --json coverage.json

Scores are binormal: N(0, 1) without the class and N(d, 1) with it, so the true curves are known. Class counts are those
of the paper's validation scans, each class against the others. Simulations are not evidence about patients.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from cnr_iemn.statistics.confidence_intervals import resample_patients
from cnr_iemn.statistics.curve_bands import precision_recall_band, roc_band
from cnr_iemn.statistics.net_benefit import decision_curve

Floats = NDArray[np.float64]
COUNTS = {"Normal": (24, 74), "COVID-19": (55, 43), "CAP": (19, 79)}
DISTANCES = (1.0, 2.0, 3.0)
"""Of the two means, in deviations: areas under the curve of 0.76, 0.92 and 0.98."""
RATES = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
RECALLS = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97])
THRESHOLDS = np.array([0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95])


def coverage(n_positive: int, n_negative: int, distance: float, *, cohorts: int, resamples: int) -> dict[str, Floats]:
    """Return the share of cohorts whose interval holds the truth, at each point of the three curves."""
    rng = np.random.default_rng([n_positive, int(10 * distance)])
    positive = np.arange(n_positive + n_negative) < n_positive
    share, owners = n_positive / len(positive), [str(k) for k in range(len(positive))]
    false_rate = norm.sf(norm.isf(RECALLS) + distance)
    cuts = np.log(THRESHOLDS / (1 - THRESHOLDS)) / distance + distance / 2  # where the balanced posterior is as high
    harm = (1 - share) * THRESHOLDS / (1 - THRESHOLDS)
    true = {
        "ROC": norm.cdf(distance + norm.ppf(RATES)),
        "precision-recall": share * RECALLS / (share * RECALLS + (1 - share) * false_rate),
        "net benefit": share * norm.sf(cuts - distance) - harm * norm.sf(cuts),
    }
    held = {name: np.zeros(len(RATES)) for name in true}
    for _ in range(cohorts):
        scores = rng.normal(distance * positive, 1)
        weights = resample_patients(positive.astype(np.int64), owners, resamples=resamples, rng=rng)
        curve = decision_curve(positive, 1 / (1 + np.exp(-distance * (scores - distance / 2))), THRESHOLDS.tolist())
        intervals = {"net benefit": (np.array(curve["low"]), np.array(curve["high"]))}
        bands = roc_band(positive, scores, weights), precision_recall_band(positive, scores, weights)
        for name, band, x in zip(("ROC", "precision-recall"), bands, (RATES, RECALLS), strict=True):
            places = np.searchsorted(band.x, x - 1e-9)
            intervals[name] = band.low[places], band.high[places]
        for name, (low, high) in intervals.items():
            held[name] += (low <= true[name] + 1e-9) & (true[name] <= high + 1e-9)
    return {name: counts / cohorts for name, counts in held.items()}


def main() -> None:
    """Print a row for each class, distance and curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for label, counts in COUNTS.items():
        for distance in DISTANCES:
            shares_by_curve = coverage(*counts, distance, cohorts=options.cohorts, resamples=options.resamples)
            for name, shares in shares_by_curve.items():
                rows.append({"class": label, "distance": distance, "curve": name, "coverage": shares.round(3).tolist()})
                print(f"{label:9}{distance:4.1f}  {name:17}", *(f"{100 * share:6.1f}" for share in shares), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
