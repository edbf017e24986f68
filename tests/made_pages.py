"""One page of every kind, made from small networks, for tests that say the same of all of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import spectra
from spectra.comparing import Comparison
from spectra.ranking import Ranking
from spectra.records import ModelReport
from spectra.reports import (
    comparison_to_html,
    history_to_html,
    ranking_to_html,
    to_html,
    to_json,
)
from spectra.reports.comparisons import comparison_to_json
from spectra.reports.histories import history_to_json
from spectra.reports.rankings import ranking_to_json
from spectra.trajectories import History

ROLES = ("q_proj", "v_proj", "up_proj", "down_proj")
NAMES = tuple(f"layers.{i // 4}.{ROLES[i % 4]}.weight" for i in range(12))


def network(tail: float, seed: int = 0, names: Sequence[str] = NAMES) -> dict[str, np.ndarray]:
    """Return a network of heavy tails (small `tail`) or nearly none."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_t(tail, (80, 60)) for name in names}


def report(tail: float, address: str, names: Sequence[str] = NAMES, seed: int = 0) -> ModelReport:
    """Return the analysis of such a network, as if it had come from `address`."""
    found = spectra.analyze(network(tail, seed, names), replicates=0)
    return dataclasses.replace(found, source=dataclasses.replace(found.source, address=address))


def model(names: Sequence[str] = NAMES, addresses: str = "run/{}.pt") -> ModelReport:
    return report(3.0, addresses.format("only"), names)


def ranking(names: Sequence[str] = NAMES, addresses: str = "run/{}.pt") -> Ranking:
    """Four models in two groups of layer shapes, held against scores, and one left out."""
    reports = [report(tail, addresses.format(f"a{tail}"), names) for tail in (2.5, 3.5, 30)]
    reports.append(report(3.0, addresses.format("other"), names[:-1]))
    scores = {addresses.format(f"a{tail}"): tail for tail in (2.5, 3.5, 30)}
    scores[addresses.format("other")] = 3.0
    found = spectra.rank([*reports, "/nowhere/at/all.pt"], scores=scores, higher_is_better=False)
    assert found.left_out
    return found


def history(names: Sequence[str] = NAMES, addresses: str = "run/{}.pt") -> History:
    """Six checkpoints of a run that goes below 2 at its end."""
    tails = (30, 10, 5, 3, 2, 1.2)
    reports = [
        report(tail, addresses.format(f"epoch-{10 * i}"), names) for i, tail in enumerate(tails)
    ]
    return spectra.history(reports)


def comparison(names: Sequence[str] = NAMES, addresses: str = "run/{}.pt") -> Comparison:
    """Two networks that differ in all but one layer, and in one more that only the base has."""
    base, other = network(3.0, names=names), network(2.2, seed=1, names=names)
    other[names[0]] = base[names[0]]
    base["base only.weight"] = np.ones((30, 30)) + np.eye(30)
    found = spectra.compare(base, other, replicates=0)
    return dataclasses.replace(
        found, base=addresses.format("base"), other=addresses.format("other")
    )


KINDS: Mapping[str, tuple[Callable[..., object], Callable[..., str], Callable[..., str]]] = {
    "report": (model, to_html, to_json),
    "ranking": (ranking, ranking_to_html, ranking_to_json),
    "history": (history, history_to_html, history_to_json),
    "comparison": (comparison, comparison_to_html, comparison_to_json),
}
"""By the id of its block of data: what makes the record, its page, its JSON."""
