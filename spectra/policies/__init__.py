"""Policies: what a report says of how to prune, fine-tune or adapt a model, layer by layer.

Pure functions of one report; nothing is done to any model. Decision 0028 says which formulas are the
papers' and which are ours.
"""

from spectra.policies.adapting import TAILS, lora_ranks
from spectra.policies.freezing import SCORES, layers_to_train
from spectra.policies.pruning import pruning_ratios
from spectra.policies.shares import Policy, Share, linear_map

__all__ = [
    "SCORES",
    "TAILS",
    "Policy",
    "Share",
    "layers_to_train",
    "linear_map",
    "lora_ranks",
    "pruning_ratios",
]
