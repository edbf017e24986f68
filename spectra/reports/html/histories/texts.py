"""The words of the page of a run's history."""

from collections.abc import Mapping
from types import MappingProxyType

from spectra.reports.html.texts import TERMS, Term
from spectra.trajectories import SignKind

WHAT_THIS_IS = (
    "Every layer is a matrix of weights, and the spread of its eigenvalues says how much it has learnt."
    " The number alpha holds that: in large layers of random weights it is 8 to 15, in training it falls; from 2"
    " to 6 is usual for well-trained layers, and below 2 a few directions rule. Layers are compared with"
    " themselves over the run. No data was used, only the weights."
)
NO_VALIDATION = (
    "None of this is a validation loss. Alpha that falls towards 2 is what good runs show; that it falls"
    " no further is no proof that training is done, and a run on bad data may look as well."
)
TOO_FEW = "Changes of a rate cannot be told from so few checkpoints: that takes {n}."
NO_TRAPS = "Correlation traps, one sign of over-training, were not looked for: --metrics all does."
SIGN_NAMES: Mapping[SignKind, str] = MappingProxyType(
    {
        SignKind.NON_FINITE: "× broken weights",
        SignKind.RANK_COLLAPSE: "○ rank collapse",
        SignKind.LEFT_BAND: "▼ fell below 2",
        SignKind.OVER_TRAINED_RISING: "▼ more layers below 2",
        SignKind.RANDOM_LIKE_RISING: "≈ more layers like random",
        SignKind.CORRELATION_TRAP: "◆ correlation trap",
    }
)
"""Every kind of sign, with a symbol, in a few words."""

HISTORY_TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "alpha": Term("Alpha", TERMS["alpha"].meaning, TERMS["alpha"].misleads),
        "typical": Term(
            "Typical alpha",
            "The mean of the middle half of the layers compared, which are those with an alpha at every"
            " checkpoint.",
            "Layers that have none at some checkpoint are in no number: see the table of checkpoints.",
        ),
        "interval": Term(
            "Interval",
            "95 times of 100 the typical alpha lies within it as the layers are resampled, the same ones"
            " at every step.",
            "Two checkpoints whose intervals overlap may differ for sure, since their layers are the"
            " same ones.",
        ),
        "band": Term(
            "Band of layers",
            "From the tenth to the ninetieth percentile of the layers compared: eight in ten lie in it.",
            "It is the spread of the layers, not an uncertainty.",
        ),
        "change": Term(
            "Change",
            "The step from which a rate differs most from the rate before, with the chance p that a"
            " steady drift looks as broken anywhere in the numbers watched.",
            "A rate that slows down evenly, as in most runs, has no one step. Six checkpoints can show"
            " only the largest changes.",
        ),
        "sign": Term(
            "Sign of over-training",
            "More layers below alpha 2 than at the start, a layer whose whole interval falls below 2, a"
            " correlation trap that appears, ranks that collapse, weights that are not finite.",
            "Signs are reasons to look, not proofs. Low-rank and tied weights, and early attention layers"
            " of good language models, have exponents below 2, too.",
        ),
        "noise": Term(
            "Like random",
            "The share of layers whose spectrum nothing tells from that of random weights: most at the"
            " start of a run, few in its end.",
            "Small layers look so for longer.",
        ),
        "ks": TERMS["ks"],
        "log_norm": Term("Log norm", TERMS["log_norm"].meaning, TERMS["log_norm"].misleads),
        "stable_rank": TERMS["stable_rank"],
    }
)
"""Terms of the page by name."""
