"""Rules of layer-wise control: what the alphas of the layers make of a learning rate or weight decay.

A rule is a frozen record, a map a pure function of all alphas at once: layers whose tails are light
(large alpha) are taken for trained less than the others, and get more of whatever is shared out.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from spectra.errors import SelectionError, unknown_name
from spectra.naming import block_of
from spectra.policies import linear_map
from spectra.tails import ESTIMATORS

Map: TypeAlias = Literal["linear", "sqrt", "log2", "step", "block_sigmoid"]
Embeddings: TypeAlias = Literal["untouched", "largest"]

Share: TypeAlias = Callable[[Sequence[float], "LayerRule"], list[float]]

STEEPNESS = 4.0  # of AlphaDecay's sigmoid


@dataclass(frozen=True, slots=True)
class LayerRule:
    """How alphas become multipliers, one a layer, and when.

    Attributes
    ----------
    map : {"linear", "sqrt", "log2", "step", "block_sigmoid"}
        ``linear``: from `low` at the least alpha to `high` at the largest. ``step``: the same by
        rank, `low` + (`high` - `low`) r/n for r = 0 ... n - 1. ``sqrt`` and ``log2``: √alpha or
        log2 alpha over its mean. ``block_sigmoid``: 2 / (1 + e^(-4z)), z being alpha less the mean
        of its block in standard deviations of the block. Only the first two read `low` and `high`.
    low, high : float
        Multipliers, positive. `low` above `high` turns the rule round.
    estimator : str
        How alpha is measured; see ``spectra.tails``.
    every : int
        Measure at every so many calls of ``step``; 0: only when told to.
    ramp : int
        Calls of ``step`` over which a multiplier moves in equal parts to its new value; 0: at once.
    embeddings : {"untouched", "largest"}
        Embeddings have no say in the map: they keep what is scheduled, or take the largest multiplier.
    min_eigenvalues : int
        Layers with fewer keep what is scheduled.

    Raises
    ------
    SelectionError
        If there is no such map or estimator, or a number is out of its range.

    Examples
    --------
    >>> LayerRule("linear", 0.8, 1.2).every
    0
    """

    map: Map = "linear"
    low: float = 0.5
    high: float = 1.5
    estimator: str = "hill_mid"
    every: int = 0
    ramp: int = 0
    embeddings: Embeddings = "untouched"
    min_eigenvalues: int = 50

    def __post_init__(self) -> None:
        for name, what, known in (
            (self.map, "map", get_args(Map)),
            (self.embeddings, "way with embeddings", get_args(Embeddings)),
            (self.estimator, "estimator", tuple(ESTIMATORS)),
        ):
            if name not in known:
                raise unknown_name(name, what, known)
        if not (0 < self.low < math.inf and 0 < self.high < math.inf):
            reason = f"low {self.low} and high {self.high} are not both positive and finite"
            raise SelectionError("E_RULE", "rule", reason)
        if min(self.every, self.ramp, self.min_eigenvalues) < 0:
            raise SelectionError("E_RULE", "rule", "every, ramp and min_eigenvalues are counts")


TEMPBALANCE = LayerRule()
"""Zhou et al., NeurIPS 2023 (arXiv 2312.00359): half to one and a half, told once an epoch."""

LLR = LayerRule(low=1.0, high=3.0, every=100, ramp=50, embeddings="largest")
"""Learning rates of 1 to 3 (up to 5) times, every 40 to 100 steps with a ramp of 20 to 50 (arXiv 2605.22297)."""

ALPHADECAY = LayerRule(low=0.67, high=5.0, every=500)
"""AlphaDecay (2025): weight decay of 0.67 to 5 (or 3) times, more for lighter tails."""

ALPHADECAY_SIGMOID = LayerRule("block_sigmoid", every=500)
"""AlphaDecay's other map: between 0 and 2, each layer against the others of its block."""


def multipliers(alphas: Mapping[str, float], rule: LayerRule) -> dict[str, float]:
    """Turn the alphas of layers into multipliers.

    An alpha that is not finite, or not above 1, is none: its layer keeps 1 and has no say in the
    others. Where fewer than two alphas differ there is nothing to share out: all keep 1.

    Parameters
    ----------
    alphas : Mapping[str, float]
        By the layers' names, which tell the blocks.
    rule : LayerRule

    Returns
    -------
    dict of str to float
        Positive, in the order of `alphas`.

    Notes
    -----
    The plain versions are ``tests/reference/training.py``. In a ``step`` equal alphas share the mean
    of their ranks; the published program gives them in the order its sort happens to leave.

    Examples
    --------
    >>> multipliers({"a": 2.0, "b": 3.0, "c": 4.0, "d": float("nan")}, TEMPBALANCE)
    {'a': 0.5, 'b': 1.0, 'c': 1.5, 'd': 1.0}
    """
    known = {name: a for name, a in alphas.items() if is_exponent(a)}
    found = dict.fromkeys(alphas, 1.0)
    shares: list[tuple[list[str], Share]]
    if rule.map == "block_sigmoid":
        blocks: dict[str, list[str]] = defaultdict(list)
        for name in known:
            blocks[block_of(name)].append(name)
        shares = [(names, _sigmoid) for names in blocks.values()]
    else:
        shares = [(list(known), _MAPS[rule.map])]
    for names, share in shares:
        values = [known[name] for name in names]
        if len(set(values)) > 1:
            found |= zip(names, share(values, rule), strict=True)
    return found


def is_exponent(alpha: float) -> bool:
    """Tell whether a number can be the exponent of a tail that has a total.

    Examples
    --------
    >>> is_exponent(2.5), is_exponent(1.0), is_exponent(float("nan"))
    (True, False, False)
    """
    return math.isfinite(alpha) and alpha > 1


def _linear(alphas: Sequence[float], rule: LayerRule) -> list[float]:
    return linear_map(alphas, rule.low, rule.high)


def _step(alphas: Sequence[float], rule: LayerRule) -> list[float]:
    ranks = [sum(b < a for b in alphas) + (alphas.count(a) - 1) / 2 for a in alphas]
    return [rule.low + (rule.high - rule.low) * rank / len(alphas) for rank in ranks]


def _sqrt(alphas: Sequence[float], rule: LayerRule) -> list[float]:
    return _over_mean([math.sqrt(a) for a in alphas])


def _log2(alphas: Sequence[float], rule: LayerRule) -> list[float]:
    return _over_mean([math.log2(a) for a in alphas])


def _over_mean(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value / mean for value in values]


def _sigmoid(alphas: Sequence[float], rule: LayerRule) -> list[float]:
    mean = math.fsum(alphas) / len(alphas)
    spread = math.sqrt(math.fsum((a - mean) ** 2 for a in alphas) / len(alphas))
    # e^(4|z|) / e^(4|z|) keeps the exponential from overflowing for layers far below their block
    shrunk = [math.exp(-STEEPNESS * abs(a - mean) / spread) for a in alphas]
    return [
        2 / (1 + e) if a >= mean else 2 * e / (1 + e) for a, e in zip(alphas, shrunk, strict=True)
    ]


_MAPS: Mapping[str, Share] = MappingProxyType(
    {"linear": _linear, "step": _step, "sqrt": _sqrt, "log2": _log2}
)
