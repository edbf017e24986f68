"""A layer in plain words: what is seen, how sure that is, what it usually means, when it misleads."""

from collections.abc import Mapping

from spectra.records import (
    FINDING_TEXT,
    STATUS_TEXT,
    Finding,
    LayerReport,
    Phase,
    Status,
    Verdict,
)

MEANING: Mapping[Verdict, str] = {
    Verdict.WELL_TRAINED: "Layers of good models usually look like this; lower is better down to 2.",
    Verdict.OVER_TRAINED: "A few directions rule it more than in well-trained layers, which often goes"
    " with memorising or too large a step.",
    Verdict.UNDER_TRAINED: "It has learnt little that shows in its spectrum: too short a training, too"
    " small a step, or more parameters than the layer needs.",
    Verdict.RANDOM_LIKE: "Nothing tells its spectrum from that of random weights of the same shape.",
    Verdict.NOT_JUDGED: "Its exponent is reported but not judged.",
    Verdict.NO_NUMBERS: "It has no exponent.",
}
MISLEADS: Mapping[Verdict, str] = {
    Verdict.WELL_TRAINED: "An exponent in range is no proof of quality; compare within one architecture.",
    Verdict.OVER_TRAINED: "Low-rank and tied weights, and early attention layers of good language models,"
    " also have exponents below 2.",
    Verdict.UNDER_TRAINED: "Narrow layers and layers near noise give high exponents with wide intervals.",
    Verdict.RANDOM_LIKE: "A layer trained a little from random weights may look so too.",
    Verdict.NOT_JUDGED: "Neither a good nor a bad value says anything here.",
    Verdict.NO_NUMBERS: "",
}
PHASE_TEXT: Mapping[Phase, str] = {
    Phase.RANDOM_LIKE: "random",
    Phase.BULK_AND_SPIKES: "a random bulk with spikes",
    Phase.WEAKLY_HEAVY_TAILED: "weakly heavy-tailed",
    Phase.HEAVY_TAILED: "heavy-tailed",
    Phase.VERY_HEAVY_TAILED: "very heavy-tailed",
    Phase.RANK_COLLAPSE: "collapsed in rank",
    Phase.UNKNOWN: "of no clear phase",
}
NEAR_IDEAL = 2.0  # standard deviations of the ERG residual


def explain(layer: LayerReport) -> str:
    """Say in words what the numbers of a layer amount to.

    Parameters
    ----------
    layer : LayerReport

    Returns
    -------
    str
        Sentences: what is seen, how sure, what it usually means, when it misleads.

    Examples
    --------
    >>> import numpy as np, spectra
    >>> report = spectra.analyze({"fc": np.zeros((30, 30))})
    >>> explain(report["fc"])
    'fc has no exponent: all weights are zero.'
    """
    if layer.status is not Status.OK:
        return f"{layer.name} has no exponent: {layer.reason or STATUS_TEXT[layer.status]}."
    seen = (
        f"{layer.name}: alpha {layer['alpha']:.2f}, likely between {layer['alpha_low']:.2f} and"
        f" {layer['alpha_high']:.2f} (95 %), from {layer['n_tail']} of {layer.n_eigenvalues}"
        f" eigenvalues at a KS distance of {layer['ks']:.3f}; the spectrum is"
        f" {PHASE_TEXT[layer.phase]}."
    )
    doubts = [FINDING_TEXT[f] for f in layer.warnings if f not in _SAID]
    noted = f" Noted: {'; '.join(doubts)}." if doubts else ""
    if layer.best_family not in ("", "undecided", "power_law"):
        noted += f" A {layer.best_family.replace('_', ' ')} fits its tail better."
    parts = [seen + noted, MEANING[layer.verdict], _ideal(layer), MISLEADS[layer.verdict]]
    return " ".join(part for part in parts if part)


_SAID = {Finding.OVER_TRAINED, Finding.UNDER_TRAINED, Finding.RANDOM_LIKE}


def _ideal(layer: LayerReport) -> str:
    """Hold the layer against SETOL's conditions of ideal learning, those that need no data."""
    if layer.verdict in (Verdict.NOT_JUDGED, Verdict.RANDOM_LIKE):
        return ""
    first = layer["alpha_low"] <= 2 <= layer["alpha_high"]
    second = abs(layer["erg_z"]) < NEAR_IDEAL
    return (
        "Conditions of ideal learning (SETOL): alpha = 2 is"
        f" {'within' if first else 'outside'} the interval; the ERG condition is"
        f" {'met' if second else 'not met'} on the tail ({layer['erg_z']:+.1f} of its standard deviations);"
        " whether what generalises lies in the tail cannot be told without data."
    )
