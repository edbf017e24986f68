"""Which kind of change it is: documented rules on the numbers of each layer, then of the model.

Every threshold has its reason in docs/decisions/0021-comparing.md.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from spectra.comparing.records import Change, Delta, LayerChange, Overlap
from spectra.naming import ROLES
from spectra.records import Finding, LayerReport, Status

UNRELATED = 0.15
"""Cosine and overlap (0 random, 1 the same) up to which two matrices have nothing in common."""
ALONG = 0.99
"""Share of ‖ΔW‖² along W from which the change is a factor."""
LOW_RANK = 0.25
"""Part of the full rank up to which ΔW is of low rank."""
HELD = 0.9
"""Share of ‖ΔW‖² that those directions hold."""
HALF = 0.5
"""Share that is enough where rounding explains all the rest."""
SMALL = 0.25
"""Largest ‖ΔW‖ / ‖W‖ of noise that leaves a model usable."""
ASIDE = 0.01
"""Largest share of noise that lies along W; training shrinks or grows it."""
ALIKE = 1.05
"""Largest ``structure`` of noise in large layers; rounding of real ones with huge rows has 1.04."""
WIDE = 64
"""Smallest M of a layer in which ‖ΔW‖ beyond `SMALL` may be called noise."""
KEPT = 0.8
"""Overlap (0 random, 1 the same) from which leading directions count as kept."""
MOST = 0.9
"""Share of the changed layers that makes a kind that of the model."""
NAMED = 3


def change_of(
    delta: Delta | None, overlap: Overlap | None, base: LayerReport, other: LayerReport
) -> Change:
    """Say what kind of change a layer went through; the first rule that is met decides.

    Parameters
    ----------
    delta : Delta or None
    overlap : Overlap or None
    base, other : LayerReport
    """
    if (base.status is Status.NON_FINITE) != (other.status is Status.NON_FINITE):
        return Change.NON_FINITE
    if delta is None:
        return Change.UNKNOWN
    if delta.squared_norm == 0:
        return Change.IDENTICAL
    if delta.base_squared_norm == 0:
        return Change.FINE_TUNED  # trained from zero: relative to the base nothing is a number
    if math.isnan(delta.norm):
        return Change.UNKNOWN
    if max(abs(delta.cosine), -1.0 if overlap is None else overlap.excess) <= UNRELATED:
        return Change.UNRELATED
    if delta.along_base >= ALONG:
        return Change.RESCALED
    few = 0 < delta.rank <= LOW_RANK * base.n_eigenvalues
    needed = HALF if delta.rank_rest <= 1.0 else HELD
    if few and delta.rank_share >= needed:
        return Change.LOW_RANK
    kept = overlap is None or overlap.excess >= KEPT
    noisy = delta.structure <= most_structure_of_noise(base)
    # Large noise is told from training only where noise has little room to look like structure.
    if noisy and delta.norm > SMALL and base.M >= WIDE:
        return Change.NOISE_LIKE
    small = delta.norm <= SMALL and delta.along_base <= ASIDE
    # Too small to stand out of rounding is not yet noise: fine-tuning in few steps is that small.
    if small and kept and noisy:
        return Change.NOISE_LIKE
    return Change.FINE_TUNED


def most_structure_of_noise(layer: LayerReport) -> float:
    """Return how much ``structure`` noise of a layer's shape shows at most.

    Four deviations of 2/M in small layers, 1.05 in large ones.

    Examples
    --------
    >>> import numpy as np, spectra
    >>> layer = spectra.analyze({"w": np.random.default_rng(0).standard_normal((400, 400))}).layers[0]
    >>> most_structure_of_noise(layer)
    1.05
    """
    return max(ALIKE, 1.01 + 8.0 / (layer.M * math.sqrt(layer.n_matrices)))


def judge(layers: Sequence[LayerChange]) -> tuple[Change, str]:
    """Say what kind of change the model went through, as a code and in one or two sentences."""
    counts = Counter(layer.change for layer in layers)
    broken, lost = counts.pop(Change.NON_FINITE, 0), counts.pop(Change.UNKNOWN, 0)
    from_zero = sum(_is_from_zero(layer) for layer in layers)
    beside = f" NaN or infinite in one model alone: {broken} of them." if broken else ""
    if not any(layer.delta for layer in layers):
        return Change.UNKNOWN, _numbers_alone(layers) + beside
    beside += f" Zero in the base alone: {from_zero} of them." if from_zero else ""
    uncompared = _not_compared([layer for layer in layers if layer.change is Change.UNKNOWN])
    beside += uncompared + _like_random(layers)
    n, m = len(layers) - lost, len(layers) - lost - counts.pop(Change.IDENTICAL, 0)
    if not m and lost:
        return Change.UNKNOWN, f"{n} of {len(layers)} matched layers are identical.{beside}"
    if not m:
        return Change.IDENTICAL, f"Identical: all {n} matched layers hold the same numbers."
    changed = [layer for layer in layers if layer.change not in (Change.IDENTICAL, Change.UNKNOWN)]
    most, count = counts.most_common(1)[0] if counts else (Change.NON_FINITE, broken)
    of = f"{count} of {n} layers" if count < n else f"all {n} layers"
    rest = (f" {n - m} layers are identical." if n > m else "") + beside
    sizes = [layer.delta.norm for layer in changed if layer.delta and not _is_from_zero(layer)]
    size = f"by {np.median(sizes):.2g} of their norm (median)" if sizes else ""
    if most is Change.UNRELATED and count > m / 2:
        text = "Another training run: nothing tells the weights of"
        return most, f"{text} {of} from those of a separate run.{rest}"
    if most is Change.RESCALED and count >= MOST * m:
        scales = [layer.delta.scale for layer in changed if layer.delta and layer.change is most]
        text = f"Rescaled: {of} are the base's times a factor ({_span(scales)})."
        return most, text + rest
    if most is Change.LOW_RANK and count >= MOST * m:
        ranks = [layer.delta.rank for layer in changed if layer.delta and layer.change is most]
        roles = _roles([layer for layer in changed if layer.change is most])
        text = f"Low rank, as a merged LoRA: {of} differ by {_span(ranks)} directions ({roles})."
        return most, text + rest
    if most is Change.NOISE_LIKE and count >= MOST * m and m > n / 2:
        kept = "; leading directions are kept" if any(layer.overlap for layer in changed) else ""
        noise = f"{of} differ by what looks like noise, {size}{kept}."
        is_large = bool(sizes) and float(np.median(sizes)) > SMALL
        text = "Noise was added: " if is_large else "Rounded or quantised: "
        return most, text + noise + rest
    low_rank = [layer for layer in changed if layer.change is Change.LOW_RANK]
    if low_rank and counts[Change.LOW_RANK] + counts[Change.NOISE_LIKE] == m:
        ranks = [layer.delta.rank for layer in low_rank if layer.delta]
        text = (
            f"Low rank, as a merged LoRA, in {len(low_rank)} of {n} layers ({_span(ranks)} directions;"
            f" {_roles(low_rank)}); {m - len(low_rank)} differ as rounding does."
        )
        return Change.LOW_RANK, text + rest
    if m <= n / 2:
        names = ", ".join(layer.name for layer in changed[:NAMED])
        more = f" and {m - NAMED} more" if m > NAMED else ""
        text = f"Identical but for {m} of {n} layers: {names}{more}."
        moved = f" They moved {size}." if sizes else ""
        return Change.FEW_LAYERS, text + moved + beside
    if most is Change.NON_FINITE:
        return (
            most,
            f"Broken: {broken} of {n} layers hold NaN or infinite weights in one model alone."
            + uncompared,
        )
    kinds = "; ".join(f"{count} {_WORDS[kind]}" for kind, count in counts.most_common())
    moved = f"moved, {size}" if size else "moved"
    return Change.FINE_TUNED, f"Trained further: {m} of {n} layers {moved} ({kinds}).{rest}"


_WORDS = {
    Change.RESCALED: "rescaled",
    Change.LOW_RANK: "of low rank",
    Change.NOISE_LIKE: "noise-like",
    Change.FINE_TUNED: "trained",
    Change.UNRELATED: "with nothing in common",
}


def _is_from_zero(layer: LayerChange) -> bool:
    return bool(layer.delta and layer.delta.squared_norm > 0 == layer.delta.base_squared_norm)


def _like_random(layers: Sequence[LayerChange]) -> str:
    """Say where one model is noise and the other is not: no change explains that."""
    named = []
    for name, sides in (
        ("BASE", [layer.base for layer in layers]),
        ("OTHER", [layer.other for layer in layers]),
    ):
        fitted = [side for side in sides if side.averaged]
        noise = sum(Finding.RANDOM_LIKE in side.warnings for side in fitted)
        if noise > len(fitted) / 2:
            named.append(f" {noise} of {len(fitted)} layers of {name} are like random weights.")
    return "".join(named) if len(named) == 1 else ""


def _not_compared(layers: Sequence[LayerChange]) -> str:
    """Name the layers of which no change is known, each with what hinders it."""
    if not layers:
        return ""
    named = ", ".join(f"{layer.name} ({_hindrance(layer)})" for layer in layers[:NAMED])
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    noun = "matched layer" if len(layers) == 1 else "matched layers"
    return f" {len(layers)} {noun} could not be compared: {named}{more}."


def _hindrance(layer: LayerChange) -> str:
    statuses = dict.fromkeys(
        s for s in (layer.base.status, layer.other.status) if s is not Status.OK
    )
    return ", ".join(statuses) or "no numbers of the difference"


def _numbers_alone(layers: Sequence[LayerChange]) -> str:
    """Say what alphas tell where weights are not at hand."""
    with_alpha = [layer for layer in layers if not math.isnan(layer.alpha_change)]
    if not with_alpha:
        return "No layer of one has a counterpart with numbers in the other."
    moved = sum(layer.alpha_moved for layer in with_alpha)
    return (
        f"Weights were not compared. alpha moved beyond its interval in {moved} of"
        f" {len(with_alpha)} layers."
    )


def _roles(layers: Sequence[LayerChange]) -> str:
    found = Counter(layer.role for layer in layers)
    return ", ".join(f"{found[role]} {role}" for role in ROLES if found[role])


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
