"""The words of the page of a ranking."""

from collections.abc import Mapping
from types import MappingProxyType

from spectra.ranking import Mark
from spectra.reports.html.texts import TERMS, Term

WHAT_THIS_IS = (
    "Every layer of a network is a matrix of weights. How the eigenvalues of that matrix are spread"
    " says how much the layer has learnt; one number a layer holds it, and one number a model is what"
    " is typical of its layers. Lower is better. Nothing but the weights was used: no data, and no test."
)
SAME_TASK = (
    "Rank only models trained for the same task. What the weights cannot show, the order does not"
    " know: wrong labels learnt well, other data, another task."
)
OTHER_SHAPES = (
    "The models differ in the shapes of their layers. Over depths of one design alpha-hat has followed"
    " quality; over other designs, and over widths that differ by factors, it has not (EfficientNet-lite"
    " 0 to 2; a pitch tracker of two widths)."
)
ALPHA_OVER_SHAPES = (
    "The order is by alpha though the models differ in the shapes of their layers: over depths and"
    " widths alpha misleads. Left to choose, spectra takes alpha-hat."
)
CERTAINTY = (
    "Probabilities say how often the order stays as the layers are resampled. They speak of the"
    " weights, not of whether the rule holds for these models."
)
MARKS: Mapping[Mark, tuple[str, str]] = MappingProxyType(
    {
        Mark.BROKEN: ("×", "broken"),
        Mark.OVER_TRAINED: ("▼", "over-trained"),
        Mark.MOSTLY_RANDOM_LIKE: ("≈", "mostly like random"),
        Mark.FEW_LAYERS: ("○", "few layers"),
        Mark.MIXED_FORMATS: ("◇", "other format"),
        Mark.LAYERS_FAILED: ("×", "layers failed"),
        Mark.INCOMPLETE: ("◐", "incomplete"),
    }
)
"""Symbol and words of every mark."""

RANKING_TERMS: Mapping[str, Term] = MappingProxyType(
    {
        "alpha": Term("Alpha", TERMS["alpha"].meaning, TERMS["alpha"].misleads),
        "alpha_hat": Term("Alpha-hat", TERMS["alpha_hat"].meaning, TERMS["alpha_hat"].misleads),
        "value": Term(
            "Value of a model",
            "The mean of the middle half of its layers. Layers hardly told from noise have wild"
            " exponents, which would rule a plain mean.",
            "A model of which a few layers are broken looks well by it: see the marks, and the report"
            " of the model itself.",
        ),
        "interval": Term(
            "Interval of a value or a place",
            "95 times of 100 the value, or the place, lies within it as the layers are resampled.",
            "It knows how much the layers of a model differ, and allows for what moves all of them"
            " together as measured on other networks; it does not know whether a lower value means a"
            " better model here.",
        ),
        "probability": Term(
            "Probability of being better",
            "How often a model has the lower value as the layers are resampled; .50 is a tie. Models of"
            " equal layer shapes are compared layer by layer, which is much more sure.",
            "It is no probability of a better test error. With fewer than 8 layers it hangs on single"
            " ones.",
        ),
        "group": Term(
            "Group",
            "Models with the same layer shapes share a letter and are compared layer by layer.",
            "Equal shapes are no proof of equal training: other data and other tasks may be behind them.",
        ),
        "tau": Term(
            "Kendall's tau",
            "Of all pairs of models, those that metric and score order alike, less those that they"
            " order the other way: +1 always alike, 0 as chance, −1 always the other way.",
            "Few models give a tau of 1 by chance: 3 models once in 3, 4 models once in 12 (the sign"
            " aside). See p.",
        ),
        "spearman": Term(
            "Spearman's correlation",
            "The correlation of the two orders, from −1 to 1.",
            "As tau, it proves little with few models.",
        ),
        "r_squared": Term(
            "R²",
            "The share of the differences in score that a straight line through the metric explains.",
            "It has no sign: a metric that is always wrong has a high R², too. One far point rules it.",
        ),
        "p_value": Term(
            "p",
            "How often chance orders as few models as well, in either direction.",
            "Below .05 is rare by chance, but of the five metrics listed one may well get there.",
        ),
        "paradox": Term(
            "Simpson's paradox",
            "A metric may order the models of every group rightly and all models together wrongly,"
            " since between groups something else varies: depth, width, the scale of the weights.",
            "Groups that are named by hand can make it appear or vanish; say why they are groups.",
        ),
    }
)
"""Terms of the page by name."""
