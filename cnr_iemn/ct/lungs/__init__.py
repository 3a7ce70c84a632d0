"""The lung mask of a volume in HU (docs/lungs.md)."""

from cnr_iemn.ct.lungs.components import THRESHOLD_HU
from cnr_iemn.ct.lungs.rules import Lungs, border_rule, pleura_rule, segment_lungs, tutorial_rule

__all__ = ["THRESHOLD_HU", "Lungs", "border_rule", "pleura_rule", "segment_lungs", "tutorial_rule"]
