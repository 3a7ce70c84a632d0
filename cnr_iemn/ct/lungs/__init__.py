"""The lung mask of a volume in HU (docs/method/lung-mask.md)."""

from cnr_iemn.ct.lungs.parameters import THRESHOLD_HU
from cnr_iemn.ct.lungs.segmentation import Lungs, segment_lungs

__all__ = ["THRESHOLD_HU", "Lungs", "segment_lungs"]
