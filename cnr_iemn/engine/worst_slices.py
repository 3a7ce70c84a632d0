"""The slices that a trained network is most wrong about."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.records import probability_columns
from cnr_iemn.slices.datamodule import SliceDataset


@dataclass(frozen=True)
class WorstSlice:
    """One labelled slice as the network sees it, and what it makes of it.

    ``grey``: lung window, uint8 [s, s]; ``lungs``: mask, 0 or 1, uint8 [s, s]; ``true_class`` and ``predicted_class``
    with the probability that the network gives each; ``class_loss``: focal.
    """

    grey: NDArray[np.uint8]
    lungs: NDArray[np.uint8]
    scan_id: str
    slice_index: int
    true_class: str
    predicted_class: str
    p_true: float
    p_predicted: float
    class_loss: float


def worst_slices(predictions: Predictions, slices: SliceDataset, *, n: int, gamma: float) -> list[WorstSlice]:
    """Return the ``n`` labelled slices of ``slices`` with the highest class loss, the highest first.

    ``gamma``: of the focal loss, which falls as the probability of the true class rises.
    """
    table, shown = predictions.table, slices.table
    classes = predictions.metadata.classes
    rows = {(shown.scan_ids[shown.scan[k]], int(shown.slice_index[k])): k for k in range(len(shown))}
    labelled = table[table["slice_label"].notna() & table["scan_id"].isin(shown.scan_ids)]
    probabilities = labelled[probability_columns(classes)].to_numpy(np.float64)
    true = np.array([classes.index(name) for name in labelled["slice_label"]], dtype=np.int64)
    p_true = probabilities[np.arange(len(true)), true]
    worst = []
    for k in np.argsort(p_true, kind="stable")[:n]:
        scan_id, slice_index = str(labelled["scan_id"].iloc[k]), int(labelled["slice_index"].iloc[k])
        grey, lungs, _ = slices[rows[scan_id, slice_index]]["image"].numpy()
        predicted = int(probabilities[k].argmax())
        worst.append(
            WorstSlice(
                grey=grey,
                lungs=lungs // 255,
                scan_id=scan_id,
                slice_index=slice_index,
                true_class=classes[true[k]],
                predicted_class=classes[predicted],
                p_true=float(p_true[k]),
                p_predicted=float(probabilities[k, predicted]),
                class_loss=float((1 - p_true[k]) ** gamma * -np.log(max(p_true[k], np.finfo(np.float64).tiny))),
            )
        )
    return worst
