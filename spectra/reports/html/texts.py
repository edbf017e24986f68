"""The words of the pages, in one place: what a number means in plain English, and when it misleads."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spectra.records import Finding, Verdict


@dataclass(frozen=True, slots=True)
class Term:
    """A quantity in words: what it is, how to read it, when it misleads."""

    title: str
    meaning: str
    misleads: str


TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "alpha": Term(
            "Mean alpha",
            "How fast the largest eigenvalues of a layer thin out. Well-trained layers lie between 2"
            " and 6, and lower is better down to 2; large layers of random weights give 8 to 15.",
            "Few eigenvalues (below 50) push it up, and a poor fit (KS above 0.1) makes it mean"
            " little. Compare it within one architecture only. The mean also counts layers whose"
            " alpha is not judged.",
        ),
        "alpha_median": Term(
            "Median alpha",
            "Half of the layers lie below it. A few wild layers move it less than the mean.",
            "It hides them, too: a model with three broken layers can have a fine median.",
        ),
        "share_in_band": Term(
            "Layers from 2 to 6",
            "Of the layers that can be judged, the share with an alpha from 2 to 6. Good models have"
            " four fifths and more.",
            "It says nothing about the layers left out because they could not be judged; see how"
            " many those are.",
        ),
        "alpha_hat": Term(
            "Mean alpha-hat",
            "The product of alpha and the logarithm of the largest eigenvalue. Lower goes with better test error"
            " among models of one family.",
            "It moves with the scale of the weights, so it compares no models of different"
            " architecture, normalisation or convention. A layer with a small largest eigenvalue"
            " makes it negative.",
        ),
        "log_norm": Term(
            "Mean log norm",
            "The size of the weights: log10 of the sum of all squared weights of a layer.",
            "It grows with the size of a layer and shrinks with weight decay; by itself it is no"
            " measure of quality.",
        ),
        "erg_gap": Term(
            "Mean ERG gap",
            "How many more eigenvalues the ERG condition of SETOL selects than the power law's tail"
            " holds. 0 is that theory's ideal; less than 0 goes with over-training.",
            "It counts eigenvalues, so large layers dominate the mean. Random weights have a large"
            " gap, too.",
        ),
        "interval": Term(
            "Interval",
            "A layer's alpha lies in its interval 95 times of 100 if its tail is a power law; it"
            " counts the choice of where the tail begins.",
            "The intervals of the numbers over the model are different: they say how much a mean"
            " hangs on single layers (2,000 resamples of the layers; Wilson's interval for the"
            " share). With fewer than 6 layers the least and the largest stand there instead.",
        ),
        "ks": Term(
            "KS",
            "The largest distance between the tail and its power law, from 0 to 1. Good layers have"
            " 0.01 to 0.04, random weights 0.11 to 0.13.",
            "Short tails have larger distances by chance.",
        ),
        "tail": Term(
            "Tail",
            "How many eigenvalues the power law was fitted to.",
            "Below 20, alpha is hardly known.",
        ),
        "spikes": Term(
            "Spikes",
            "Eigenvalues too large for random weights of the same shape: directions that were learnt.",
            "A mean that is not zero or a few huge weights make a spike as well; --metrics all tells.",
        ),
        "stable_rank": Term(
            "Stable rank",
            "How many directions share the layer's strength: the sum of the eigenvalues over the"
            " largest.",
            "One large eigenvalue makes it small, whatever the rest does.",
        ),
        "spectrum": Term(
            "Spectrum",
            "The eigenvalues λ of WᵀW: squared strengths by which the layer passes on different"
            " directions of its input.",
            "It says nothing about what those directions mean; that takes data.",
        ),
        "erg": Term(
            "ERG condition",
            "SETOL's second mark of an ideally trained layer: the eigenvalues of the tail multiply to"
            " one, in units where their mean is one.",
            "Random weights meet it with a cut of 1.2 to 3.1 on this scale, so a layer's value should"
            " be held against noise of its shape. In large language models it hardly goes with alpha.",
        ),
    }
)
"""Terms by name; those of the headline numbers first."""

VERDICTS: Mapping[Verdict, tuple[str, str, str]] = MappingProxyType(
    {
        Verdict.WELL_TRAINED: ("●", "well trained", "alpha from 2 to 6, and no doubt about it"),
        Verdict.OVER_TRAINED: ("▼", "over-trained", "alpha below 2, and no doubt about it"),
        Verdict.UNDER_TRAINED: ("▲", "under-trained", "alpha above 6, and no doubt about it"),
        Verdict.RANDOM_LIKE: ("≈", "like random", "nothing tells it from random weights"),
        Verdict.NOT_JUDGED: ("○", "not judged", "its alpha cannot be believed either way"),
        Verdict.NO_NUMBERS: ("×", "no alpha", "no power law could be fitted"),
    }
)
"""Symbol, word and explanation of every verdict, in the order they are listed."""

NOTES: Mapping[Finding, str] = MappingProxyType(
    {
        Finding.OVER_TRAINED: "alpha below 2",
        Finding.UNDER_TRAINED: "alpha above 6",
        Finding.SHORT_SPECTRUM: "few eigenvalues",
        Finding.SHORT_TAIL: "short tail",
        Finding.POOR_FIT: "poor fit",
        Finding.RANK_COLLAPSE: "rank collapse",
        Finding.RANDOM_LIKE: "like random",
        Finding.NOT_POWER_LAW: "no power law",
        Finding.CORRELATION_TRAP: "trap",
        Finding.NO_BAND: "no band",
        Finding.LIKE_SHUFFLED: "like shuffled",
        Finding.LOW_PRECISION: "float32",
    }
)
"""Every finding in a word or two, for a column of a table."""

WHAT_THIS_IS = (
    "Every layer multiplies its input by a matrix of weights. The eigenvalues of that matrix say how"
    " strongly it passes on different directions. In random weights they end abruptly; training"
    " stretches the largest ones into a long tail. The number alpha says how fast that tail thins out:"
    " from 2 to 6 is usual for well-trained layers; above 6 hardly anything was learnt; below 2 a few"
    " directions rule. No data was used, only the weights."
)
HOW_TO_READ_A_SPECTRUM = (
    "The shaded area is what the layer has, the dashed curve what random weights of the same shape"
    " and size would have; a trained layer reaches further to the right. Where the orange line"
    " follows the upper end of the area, the tail is a power law, and alpha is its slope. The"
    " smallest eigenvalues, at most 2 in 100, lie left of the picture."
)
READINGS = (
    "Below what well-trained layers have.",
    "In the range of well-trained layers.",
    "Above what well-trained layers have.",
)
"""Of a mean or median alpha: below 2, from 2 to 6, above 6."""
HARDLY = "Most of these layers are not judged or like random weights, so this number says little."
"""Of a mean or median of alphas that mostly cannot be believed."""
NO_SPECTRA = (
    "This page was made from a saved report, which holds the numbers but not the eigenvalues, so no"
    " spectrum can be drawn. The command below draws them from the weights."
)
