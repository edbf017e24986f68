"""A policy on a terminal: what each block or type gets, and what it comes to."""

import math

from rich.console import Console
from rich.text import Text

from spectra.errors import printable
from spectra.policies import Policy, Share
from spectra.reports.terminal import MAX_ROWS, add_row, new_table, shorten

NAME_WIDTH = 40
HEADERS = {
    "prune": ("group", "layers", "alpha", "ratio"),
    "freeze": ("group", "layers", "signal/noise", "trained"),
    "lora": ("group", "layers", "tail", "rank"),
}


def show_policy(policy: Policy, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print a row a group (at most `rows`; 0: all) and the sum of it."""
    rule = " · ".join(f"{key} {value}" for key, value in policy.options.items())
    console.print(Text(printable(policy.source), style="bold"), highlight=False)
    console.print(Text(f"{policy.kind} · {rule}", style="dim"), highlight=False)
    if not policy.complete:
        text = "the weights are not complete: shares are those of the layers that were there"
        console.print(Text(text, style="bold red"))
    table = new_table(*HEADERS[policy.kind])
    groups: dict[str, list[Share]] = {}
    for share in policy.shares:
        groups.setdefault(share.group, []).append(share)
    shown = list(groups.items())[: rows or None]
    for group, shares in shown:
        scores = [share.score for share in shares if not math.isnan(share.score)]
        add_row(
            table,
            shorten(group, NAME_WIDTH),
            f"{len(shares)}",
            _span(scores) if scores else "–",
            _value(policy, shares),
        )
    console.print(table)
    if len(shown) < len(groups):
        text = f"  … {len(groups) - len(shown)} more groups; --rows 0 shows all"
        console.print(Text(text, style="dim"))
    console.print(Text(_total(policy)), highlight=False)


def _value(policy: Policy, shares: list[Share]) -> str:
    values = [share.value for share in shares]
    if policy.kind == "prune":
        return f"{values[0]:.3f}"
    if policy.kind == "freeze":
        return f"{sum(values)}"
    least, most = min(values), max(values)
    return f"{least}" if least == most else f"{least}–{most}"


def _span(scores: list[float]) -> str:
    least, most = (f"{score:.3g}" for score in (min(scores), max(scores)))
    return least if least == most else f"{least}–{most}"


def _total(policy: Policy) -> str:
    shares = policy.shares
    size = sum(share.n_parameters for share in shares)
    if policy.kind == "prune":
        pruned = math.fsum(share.value * share.n_parameters for share in shares)
        return f"{pruned / size:.1%} of {size:,} weights are pruned"
    if policy.kind == "freeze":
        trained = sum(share.n_parameters for share in shares if share.value)
        count = sum(bool(share.value) for share in shares)
        return (
            f"{count} of {len(shares)} weights trained, {trained / size:.1%} of {size:,} parameters"
        )
    return f"{size:,} parameters in adapters of {len(shares)} layers"
