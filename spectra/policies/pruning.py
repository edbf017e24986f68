"""How much of each layer to prune."""

import math
from collections import defaultdict

from spectra.errors import SelectionError
from spectra.naming import block_of
from spectra.policies.shares import (
    Policy,
    Share,
    block_or_layer,
    check,
    inner_layers,
    linear_map,
    n_weights,
    no_numbers,
)
from spectra.records import ModelReport, Status


def pruning_ratios(
    report: ModelReport,
    target: float = 0.7,
    spread: float = 0.3,
    *,
    estimator: str = "xmin_peak",
) -> Policy:
    """Say how much of each layer to prune: more where tails are light (AlphaPruning [1]_).

    The mean alpha of each block is mapped linearly to 1 - `spread` at the least and 1 + `spread` at
    the largest, and scaled so that the mean over all parameters is `target`.

    Parameters
    ----------
    report : ModelReport
    target : float, default: 0.7
        Share of all parameters to be pruned, between 0 and 1.
    spread : float, default: 0.3
        How far blocks may differ, from 0 to below 1.
    estimator : str, default: "xmin_peak"
        That of the alphas; the paper's. Another is taken only where it is named here.

    Returns
    -------
    Policy
        Ratios by layer, the same within a block. Embeddings, heads and layers outside blocks are left
        out; where no layer is in a block, each is one by itself. A block without any alpha gets the
        factor 1; so do all where no two blocks differ.

    Raises
    ------
    SelectionError
        If a number is out of range, the alphas are of another estimator, or a block would have to be
        pruned whole.
    CheckpointError
        If no layer has an alpha.

    References
    ----------
    .. [1] Lu et al., AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved
       Layer-wise Pruning of Large Language Models, NeurIPS 2024 (arXiv 2410.10912).

    Examples
    --------
    >>> import numpy as np
    >>> from spectra import analyze
    >>> rng = np.random.default_rng(0)
    >>> weights = {f"h.{i}.fc.weight": rng.standard_t(2 + i, (90, 60)) for i in range(3)}
    >>> policy = pruning_ratios(analyze(weights, estimator="xmin_peak"), target=0.5)
    >>> round(sum(policy.by_name.values()) / 3, 9)
    0.5
    """
    check("target", target, 0 < target < 1, "between 0 and 1")
    check("spread", spread, 0 <= spread < 1, "from 0 to below 1")
    theirs = str(report.options["estimator"])
    if theirs.removesuffix("_compat") != estimator.removesuffix("_compat"):
        reason = f"its alphas are by {theirs}, where {estimator} is asked for"
        advice = f"analyze with estimator {estimator}, or name {theirs} here"
        raise SelectionError("E_ESTIMATOR", "report", reason, advice)
    inner = inner_layers(report)
    layers = [layer for layer in inner if block_of(layer.name)] or inner
    alphas: dict[str, list[float]] = defaultdict(list)
    for layer in layers:
        if layer.status is Status.OK:
            alphas[block_or_layer(layer)].append(layer["alpha"])
    if not alphas:
        raise no_numbers(report, "alpha")
    means = {block: math.fsum(found) / len(found) for block, found in alphas.items()}
    mapped = linear_map(list(means.values()), 1 - spread, 1 + spread)
    factors = dict(zip(means, mapped, strict=True))
    sizes = [n_weights(layer) for layer in layers]
    wanted = [factors.get(block_or_layer(layer), 1.0) for layer in layers]
    scale = target * math.fsum(sizes) / math.fsum(map(math.prod, zip(sizes, wanted, strict=True)))
    if scale * max(wanted) >= 1:
        worst = block_or_layer(layers[wanted.index(max(wanted))])
        reason = f"{worst} would lose all its weights (ratio {scale * max(wanted):.2f})"
        raise SelectionError("E_VALUE", "spread", reason, "take less spread or a lower target")
    return Policy(
        kind="prune",
        source=report.source.address,
        options={"target": target, "spread": spread, "estimator": theirs},
        shares=tuple(
            Share(
                layer.name,
                block_or_layer(layer),
                means.get(block_or_layer(layer), math.nan),
                scale * f,
                size,
            )
            for layer, f, size in zip(layers, wanted, sizes, strict=True)
        ),
        complete=report.complete,
    )
