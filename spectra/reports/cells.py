"""What the cells of a table of layers say, wherever it is shown: numbers, marks, notes, counts."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from spectra.errors import printable
from spectra.records import (
    Finding,
    LayerReport,
    Matrix,
    ModelReport,
    Skipped,
    Status,
    Verdict,
)
from spectra.reports.concerns import badness

# What the last column says, and the legend below it; doubts about the number before the number.
CODES: Mapping[Finding, tuple[str, str]] = MappingProxyType(
    {
        Finding.RANDOM_LIKE: ("noise", "a spectrum like that of random weights"),
        Finding.LIKE_SHUFFLED: ("shuffled", "the same entries in any order give this spectrum"),
        Finding.OVER_TRAINED: ("over", "alpha below 2, over-trained"),
        Finding.UNDER_TRAINED: ("under", "alpha above 6, under-trained"),
        Finding.RANK_COLLAPSE: ("rank", "a tenth or more of the eigenvalues are zero"),
        Finding.NO_BAND: ("band", "2 to 6 is csn's band, not this estimator's"),
        Finding.CORRELATION_TRAP: ("trap", "a mean shift or a few huge entries rule the top"),
        Finding.NOT_POWER_LAW: ("no-pl", "a power law is ruled out, p below 0.1"),
        Finding.POOR_FIT: ("fit", "KS above 0.1, hardly a power law"),
        Finding.SHORT_TAIL: ("tail", "fewer than 20 eigenvalues in it"),
        Finding.LOW_PRECISION: (
            "f32",
            "the smallest eigenvalues are beyond float32, ranks too low",
        ),
        Finding.SHORT_SPECTRUM: ("few", "fewer than 50 eigenvalues in all"),
    }
)
FAILED: Mapping[Status, str] = MappingProxyType(
    {
        Status.TOO_FEW_EIGENVALUES: "too few λ",
        Status.NON_FINITE: "NaN or Inf",
        Status.ZERO: "all zero",
        Status.DEGENERATE: "no spectrum",
        Status.UNSUPPORTED_DTYPE: "type not read",
        Status.NOT_REACHED: "not reached",
    }
)
COUNTED: Mapping[Verdict, str] = MappingProxyType(
    {
        Verdict.WELL_TRAINED: "well trained",
        Verdict.OVER_TRAINED: "over-trained",
        Verdict.UNDER_TRAINED: "under-trained",
        Verdict.RANDOM_LIKE: "random-like",
        Verdict.NOT_JUDGED: "not judged",
    }
)
HEADERS = ("", "layer", "N×M", "alpha", "KS", "tail", "α̂", "note")
"""The headings of the columns of `row`."""

MEANS = ("alpha", "alpha_hat", "log_norm", "log_spectral_norm", "stable_rank")
"""The means that stand for a model where there is room for a few."""


def row(layer: LayerReport) -> tuple[str, ...]:
    """Return the cells of a layer; the name as it is, whatever it holds."""
    return (
        mark(layer),
        layer.name,
        shape(layer),
        number(layer, "alpha", 2),
        number(layer, "ks", 3),
        number(layer, "n_tail", 0),
        number(layer, "alpha_hat", 2),
        note(layer),
    )


def mark(layer: LayerReport) -> str:
    """Return ``!`` for a layer to look at first, ``?`` for a doubtful number, ``-`` for none."""
    if layer.status is not Status.OK:
        return "-"
    return {3: "!", 2: "?"}.get(badness(layer)[0], "")


def note(layer: LayerReport) -> str:
    """Return a layer's findings as short codes, or why it has no number."""
    if layer.status is not Status.OK:
        return FAILED.get(layer.status, str(layer.status).replace("_", " "))
    kind = [] if layer.averaged else [layer.kind]
    return " ".join([*kind, *(code for f, (code, _) in CODES.items() if f in layer.warnings)])


def legend(layers: Sequence[LayerReport]) -> list[str]:
    """Explain the columns and the codes that a table of these layers uses."""
    used = {finding for layer in layers for finding in layer.warnings}
    codes = [f"{code}: {text}" for finding, (code, text) in CODES.items() if finding in used]
    parts = ["KS: distance of the tail from a power law", "tail: eigenvalues in it"]
    if any(layer.n_matrices > 1 for layer in layers):
        parts.append("N×M×k: k slices")
    return [*parts, *codes]


def shape(layer: LayerReport | Matrix) -> str:
    """Return the sides of a layer's matrices, and how many there are."""
    slices = f"×{layer.n_matrices}" if layer.n_matrices > 1 else ""
    return f"{layer.N}×{layer.M}{slices}"


def number(layer: LayerReport, metric: str, digits: int) -> str:
    """Return a metric with so many digits; a dash where there is none."""
    value = layer.metrics.get(metric, math.nan)
    if not math.isfinite(value):
        return "–"
    # An alpha of thousands is no exponent; scientific notation keeps the column narrow.
    return f"{value:.{digits}f}" if abs(value) < 1000 or not digits else f"{value:.0e}"


def verdict_counts(report: ModelReport) -> str:
    """Say what became of the layers: verdicts over those that are averaged, and the others.

    Examples
    --------
    >>> import numpy as np, spectra
    >>> verdict_counts(spectra.analyze({"fc": np.zeros((30, 30))}))
    '1 layer: 1 without alpha'
    """
    found = Counter(layer.verdict for layer in report.layers if layer.averaged)
    parts = [f"{found[verdict]} {text}" for verdict, text in COUNTED.items() if found[verdict]]
    fitted = sum(layer.status is Status.OK for layer in report.layers)
    others = {
        "embeddings and heads, not averaged": fitted - found.total(),
        "without alpha": len(report.layers) - fitted,
    }
    parts += [f"{count} {text}" for text, count in others.items() if count]
    total = f"{len(report.layers)} {'layer' if len(report.layers) == 1 else 'layers'}"
    return f"{total}: {', '.join(parts)}" if parts else total


def skipped_line(skipped: Sequence[Skipped]) -> str:
    """Count the skipped tensors by reason, most frequent first."""
    if not skipped:
        return "nothing"
    counts: Counter[str] = Counter()
    for item in skipped:
        counts[item.reason] += max(item.count, 1)
    reasons = counts.most_common()
    listed = "; ".join(f"{count} {reason}" for reason, count in reasons[:4])
    rest = sum(count for _, count in reasons[4:])
    return printable(listed) + (f"; {rest} for other reasons" if rest else "")


def clip(text: str, longest: int) -> str:
    """Make text of any origin printable, and leave out its middle if it is longer.

    Examples
    --------
    >>> clip("layers.0.attention.weight", 12)
    'layers…weight'
    """
    text = printable(text)
    half = longest // 2
    return text if len(text) <= longest + 1 else f"{text[:half]}…{text[-half:]}"
