"""The stage-2 methods by name. To add one: a file with a ``Method``, and a line here (docs/developer/extending.md)."""

from cnr_iemn.constants import BOOSTER_METHOD
from cnr_iemn.stage2.methods.attention import Attention, DeepAttention
from cnr_iemn.stage2.methods.base import Method
from cnr_iemn.stage2.methods.boosted import Boosted, TreeSettings
from cnr_iemn.stage2.methods.descriptions import (
    FEW_FEATURES,
    MEAN_PROBABILITIES,
    PERCENTAGES,
    PERCENTAGES_AND_MEANS,
    infected_rule,
    least_healthy_three,
    shares_of_slices,
)
from cnr_iemn.stage2.methods.infected_first import InfectedFirst
from cnr_iemn.stage2.methods.logistic import Logistic
from cnr_iemn.stage2.methods.network_attention import NetworkAttention
from cnr_iemn.stage2.methods.rules import Rule


def stage2_methods(*, rounds: int = 100, max_depth: int = 6, eta: float = 0.3) -> dict[str, Method]:
    """Return every method by its name. The arguments are XGBoost's, of those that use it.

    ``constants.method_names`` reads the names from this source, so each key is written out.
    """
    trees = TreeSettings(rounds=rounds, max_depth=max_depth, eta=eta)
    return {
        "majority vote of the slices": Rule(shares_of_slices),
        "infected from 3% of the slices": Rule(infected_rule),
        "three least healthy slices": Rule(least_healthy_three),
        "logistic regression on percentages": Logistic(PERCENTAGES),
        BOOSTER_METHOD: Boosted(PERCENTAGES, trees),
        "XGBoost on percentages, classes weighted": Boosted(PERCENTAGES, trees, weighted=True),
        "XGBoost on mean probabilities": Boosted(MEAN_PROBABILITIES, trees),
        "XGBoost on both": Boosted(PERCENTAGES_AND_MEANS, trees),
        "logistic regression on few features": Logistic(FEW_FEATURES),
        "XGBoost on few features": Boosted(FEW_FEATURES, trees),
        "infected first, then which": InfectedFirst(trees),
        "attention over the slices": Attention(),
        "attention over deep features": DeepAttention(gated=True),
        "attention of the networks": NetworkAttention(),
    }


METHODS = stage2_methods()
"""With the paper's settings of XGBoost. A method that is only loaded needs no settings."""
