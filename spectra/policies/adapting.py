"""Which rank each adapter gets."""

import heapq
import math

from spectra.errors import SelectionError, unknown_name
from spectra.policies.shares import Policy, Share, check, inner_tensors, no_numbers, type_of
from spectra.records import LayerReport, ModelReport, Status

TAILS = ("n_spikes", "n_tail", "stable_rank")
HIGHEST = 4  # times the mean rank, unless told otherwise


def lora_ranks(
    report: ModelReport,
    mean_rank: int = 16,
    *,
    budget: int | None = None,
    by: str = "n_spikes",
    lowest: int = 1,
    highest: int | None = None,
) -> Policy:
    """Share out the ranks of LoRA adapters by the tails of the layers, at the price of one rank for all.

    Ours, by no paper: a layer with more directions above noise is given more of them to move. Each
    further rank goes to the layer with the most tail per rank, until nothing more fits (D'Hondt's rule),
    so ranks are in proportion to tails within their limits.

    Parameters
    ----------
    report : ModelReport
    mean_rank : int, default: 16
        The adapters together have as many parameters as with this rank everywhere.
    budget : int, optional
        Or the parameters themselves: Σ rank · (inputs + outputs).
    by : {"n_spikes", "n_tail", "stable_rank"}
        What is taken for the size of a tail; over the matrices of one tensor it is summed.
    lowest, highest : int
        Limits of a rank; four times the mean unless `highest` is given. No rank exceeds the smaller side.

    Returns
    -------
    Policy
        Ranks of the linear layers, one a tensor. One without a number counts as without a tail.

    Raises
    ------
    SelectionError
        If a number is out of range, there is no such column, or the budget is too small.
    CheckpointError
        If there is no linear layer.

    Examples
    --------
    >>> import numpy as np
    >>> from spectra import analyze
    >>> rng = np.random.default_rng(0)
    >>> weights = {f"h.{i}.fc.weight": rng.standard_t(2 + i, (90, 60)) for i in range(3)}
    >>> policy = lora_ranks(analyze(weights), 8)
    >>> sum(policy.by_name.values())
    24
    """
    check("mean_rank", mean_rank, mean_rank >= 1, "a rank of at least 1")
    if by not in TAILS:
        raise unknown_name(by, "column", TAILS)
    tensors = {
        name: rows
        for name, rows in inner_tensors(report).items()
        if rows[0].kind == "linear" and len(rows[0].shape) == 2
    }
    if not tensors:
        raise no_numbers(report, "two-dimensional weight")
    sides = {name: rows[0].shape for name, rows in tensors.items()}
    cost = {name: sum(shape) for name, shape in sides.items()}
    left = mean_rank * sum(cost.values()) if budget is None else budget
    mean = max(left // sum(cost.values()), 1)
    most = HIGHEST * mean if highest is None else highest
    check("lowest", lowest, 1 <= lowest <= most, f"from 1 to the highest rank, {most}")
    tails = {name: math.fsum(_tail(row, by) for row in rows) for name, rows in tensors.items()}
    ranks = {name: min(lowest, *shape) for name, shape in sides.items()}
    left -= sum(cost[name] * rank for name, rank in ranks.items())
    if left < 0:
        reason = f"rank {lowest} everywhere takes {-left} parameters more than there are"
        raise SelectionError("E_VALUE", "budget", reason, "raise it, or take a lower lowest rank")
    order = {name: position for position, name in enumerate(tensors)}
    queue = [(-tails[n] / (ranks[n] + 1), ranks[n], order[n], n) for n in tensors]
    heapq.heapify(queue)
    while queue:
        *_, name = heapq.heappop(queue)
        if ranks[name] < min(most, *sides[name]) and cost[name] <= left:
            ranks[name] += 1
            left -= cost[name]
            rank = ranks[name]
            heapq.heappush(queue, (-tails[name] / (rank + 1), rank, order[name], name))
    return Policy(
        kind="lora",
        source=report.source.address,
        options={"mean_rank": mean, "by": by, "lowest": lowest, "highest": most},
        shares=tuple(
            Share(n, type_of(n), tails[n], rank, cost[n] * rank) for n, rank in ranks.items()
        ),
        complete=report.complete,
    )


def _tail(layer: LayerReport, by: str) -> float:
    return float(layer[by]) if layer.status is Status.OK and math.isfinite(layer[by]) else 0.0
