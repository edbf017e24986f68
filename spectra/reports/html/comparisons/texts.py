"""The words of the page of a comparison."""

from collections.abc import Mapping
from types import MappingProxyType

from spectra.comparing import Change
from spectra.reports.html.texts import TERMS, Term

WHAT_THIS_IS = (
    "Every layer is a matrix of weights, W. What changed from the base to the other model is the matrix"
    " ΔW = W(other) − W(base). How large it is, how many directions it has and whether it looks like noise"
    " tell rounding from training, and both from a few added directions (a merged LoRA). The number alpha"
    " says how far a layer's spectrum looks trained: from 2 to 6 is usual. No data was used."
)
NOT_BETTER = (
    "It says what changed, not which model is better: rank does that, and only data can settle it."
    " Biases and norms are not compared."
)
KIND_IS_GUESSED = (
    "The kind of change is read off its size and its spectrum. Noise of any origin looks like rounding,"
    " and a training run that hardly moves may look like noise."
)
NO_WEIGHTS = (
    "{n} layers have no ΔW, since the weights of both models were not at hand; only their numbers are"
    " compared."
)
CHANGES: Mapping[Change, tuple[str, str]] = MappingProxyType(
    {
        Change.IDENTICAL: ("=", "identical"),
        Change.RESCALED: ("×", "rescaled"),
        Change.LOW_RANK: ("◧", "low rank"),
        Change.NOISE_LIKE: ("≈", "like noise"),
        Change.FINE_TUNED: ("●", "trained further"),
        Change.UNRELATED: ("◆", "unrelated"),
        Change.NON_FINITE: ("!", "NaN or infinite"),
        Change.UNKNOWN: ("○", "not known"),
        Change.FEW_LAYERS: ("◐", "few layers"),
    }
)
"""Symbol and words of every kind of change, in the order they are listed."""

COMPARISON_TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "alpha": Term("Alpha", TERMS["alpha"].meaning, TERMS["alpha"].misleads),
        "alpha_change": Term(
            "Change of alpha",
            "Alpha of the other model less that of the base, and the 95 % interval of that. A star says"
            " that 0 lies outside the interval.",
            "The interval takes both exponents for independent. Of checkpoints of one run they are not,"
            " so small changes may be real though the interval holds 0.",
        ),
        "delta_norm": Term(
            "Size of ΔW",
            "The length of ΔW over that of the base's weights: 0 for the same numbers, some 0.01 for"
            " rounding to 8 bits, about 1.4 for two models that have nothing in common.",
            "Layers with small weights show large sizes for the same step of training.",
        ),
        "delta_rank": Term(
            "Rank of ΔW",
            "How many directions of ΔW rounding to the stored type cannot explain. A merged LoRA has as"
            " many as its rank, training and noise have all.",
            "It counts directions, however small they are.",
        ),
        "delta_structure": Term(
            "Structure of ΔW",
            "1 if ΔW is noise, however unequal its rows and columns; more if it is anything else.",
            "A single large direction makes it large, whatever the rest is.",
        ),
        "overlap": Term(
            "Overlap of leading directions",
            "How much of the leading directions of the base is among those of the other: 1 for all of it."
            " Left ones are on the side of the rows, right ones on that of the columns.",
            "Directions of nearly equal strength turn into each other at the slightest change. Two"
            " random sets overlap a little, too: the small tick in the picture says how much.",
        ),
        "delta_share": Term(
            "Share of the change",
            "Of all that changed in the model, squared and summed, the part that lies in these layers.",
            "Large layers have a large share of any change.",
        ),
    }
)
"""Terms of the page by name."""
