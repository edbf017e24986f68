"""Which layers to fine-tune, the others being frozen."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from spectra import rmt
from spectra.analysis import NOT_AVERAGED
from spectra.errors import CheckpointError, SelectionError, unknown_name
from spectra.policies.shares import (
    Policy,
    Share,
    check,
    inner_tensors,
    n_weights,
    no_numbers,
    type_of,
)
from spectra.records import ModelReport, Spectrum, Status, Vector
from spectra.sources.layouts import whole_name

NORMAL_IQR = 1.349  # interquartile range of a standard normal


def layers_to_train(
    report: ModelReport, fraction: float = 0.25, *, by: str = "snr", ends: bool = True
) -> Policy:
    """Choose the layers to fine-tune: of each type those of most signal over noise (Spectrum [1]_).

    A type is all layers with one name inside their blocks. Of n of a type, ⌊n · `fraction`⌋ are trained.

    Parameters
    ----------
    report : ModelReport
        With its spectra: not one read from JSON.
    fraction : float, default: 0.25
        From above 0 to 1.
    by : {"snr", "snr_edge"}
        `snr`: as the published program; `snr_edge`: with the edge of noise of the same shape. Both in
        `SCORES`.
    ends : bool, default: True
        Train embeddings and heads too, as the published files do.

    Returns
    -------
    Policy
        One share a tensor, valued 1 (trained) or 0. A tensor that holds several matrices has their
        mean score; one without a score is not trained.

    Raises
    ------
    SelectionError
        If there is no such score, or no type has enough layers for one to be chosen.
    CheckpointError
        If the report has no spectra.

    References
    ----------
    .. [1] Hartford et al., Spectrum: Targeted Training on Signal to Noise Ratio, arXiv 2406.06623.

    Examples
    --------
    >>> from spectra import analyze
    >>> rng = np.random.default_rng(0)
    >>> weights = {f"h.{i}.fc.weight": rng.standard_t(2 + 3 * i, (90, 60)) for i in range(2)}
    >>> layers_to_train(analyze(weights), 0.5).by_name
    {'h.0.fc.weight': 0, 'h.1.fc.weight': 1}
    """
    check("fraction", fraction, 0 < fraction <= 1, "above 0 and at most 1")
    if by not in SCORES:
        raise unknown_name(by, "score", tuple(SCORES))
    tensors = inner_tensors(report)
    if not any(row.spectrum for rows in tensors.values() for row in rows):
        if any(row.status is Status.OK for row in report.layers):
            reason = "its report was read from JSON, which holds no spectra"
            advice = "give the weights, or a file that --spectra wrote"
            raise CheckpointError("E_SPECTRA", report.source.address, reason, advice)
        raise no_numbers(report, "spectrum")
    scores = {
        name: _mean(
            [SCORES[by](row.spectrum) for row in rows if row.status is Status.OK and row.spectrum]
        )
        for name, rows in tensors.items()
    }
    types: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        types[type_of(name)].append(name)
    trained: set[str] = set()
    for names in types.values():
        scored = sorted((n for n in names if not math.isnan(scores[n])), key=lambda n: -scores[n])
        trained |= set(scored[: int(round(len(names) * fraction, 9))])  # 100 · 0.29 is 29
    if not trained:
        most = max(map(len, types.values()))
        reason = f"{fraction:g} of at most {most} layers of a type is none"
        raise SelectionError("E_VALUE", "fraction", reason, "take a larger one")
    shares = []
    for row in report.layers:
        name = whole_name(row.name) if row.layout else row.name
        if row.kind in NOT_AVERAGED and ends and row.status is not Status.NOT_REACHED:
            shares.append(Share(row.name, row.kind, math.nan, 1, n_weights(row)))
        elif name in tensors and row is tensors[name][0]:
            size = sum(map(n_weights, tensors[name]))
            shares.append(Share(name, type_of(name), scores[name], int(name in trained), size))
    return Policy(
        kind="freeze",
        source=report.source.address,
        options={"fraction": fraction, "by": by},
        shares=tuple(shares),
        complete=report.complete,
    )


def signal_to_noise(spectrum: Spectrum) -> float:
    """Return Spectrum's score: Σ of the σ above a threshold over Σ of the others, over the largest.

    The threshold is (1 + √(M/N)) times the interquartile range of the singular values over 1.349, as
    in the published program. That is not the Marchenko-Pastur edge of a matrix: the spread of the
    singular values stands in for that of the entries, and a factor √N is missing. Unit: 1/weight.
    Infinite if nothing lies below.

    Examples
    --------
    >>> from spectra.engine import solve
    >>> from spectra.records import Matrix
    >>> W = np.diag(np.arange(1.0, 6.0))
    >>> matrix = Matrix("w", "w", "linear", W.shape, "float64", W.nbytes, 5, 5)
    >>> signal_to_noise(solve(matrix, W[np.newaxis]))  # quartiles 2 and 4, threshold 2.965
    0.8
    """
    values = _singular_values(spectrum)
    low, high = np.quantile(values, [0.25, 0.75])
    threshold = (high - low) / NORMAL_IQR * (1 + math.sqrt(spectrum.M / spectrum.N))
    return _ratio(values, int(np.count_nonzero(values > threshold)))


def signal_above_edge(spectrum: Spectrum) -> float:
    """Return the same score with ``n_spikes`` for the signal: what noise of the same shape would not show."""
    return _ratio(_singular_values(spectrum), rmt.bulk(spectrum).n_spikes)


SCORES: Mapping[str, Callable[[Spectrum], float]] = MappingProxyType(
    {"snr": signal_to_noise, "snr_edge": signal_above_edge}
)
"""How layers are ranked for fine-tuning: signal over noise, by two thresholds."""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _singular_values(spectrum: Spectrum) -> Vector:
    # The score has a unit, so the convention's factor on convolutions must not enter.
    raw = spectrum if spectrum.raw is None else spectrum.raw
    values: Vector = np.sqrt(np.maximum(raw.eigenvalues, 0.0))
    return values


def _ratio(values: Vector, n_signal: int) -> float:
    noise = float(values[: values.size - n_signal].sum())
    signal = float(values[values.size - n_signal :].sum())
    return signal / noise / float(values[-1]) if noise else math.inf
