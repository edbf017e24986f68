"""Reports in notebooks: a small table of HTML, no script, no colours of its own, every name escaped."""

import html
import math
from collections.abc import Iterable, Sequence

from spectra.ranking import Ranking
from spectra.records import LayerReport, ModelReport, Status
from spectra.reports import ranking_cells
from spectra.reports.cells import clip, verdict_counts
from spectra.reports.concerns import badness, most_pressing

ROWS = 50
NAME_WIDTH = 120
METRICS = ("alpha", "alpha_low", "alpha_high", "ks", "n_tail", "alpha_hat")


def html_table(report: ModelReport) -> str:
    """Return at most 50 layers in checkpoint order, of more those that most need a look.

    Columns are called as in Python; layers to look at first are bold.
    """
    metrics = [name for name in METRICS if any(name in x.metrics for x in report.layers)]
    shown = most_pressing(report.layers, ROWS)
    rows = [_layer_cells(layer, metrics) for layer in shown]
    loud = [badness(layer)[0] == 3 for layer in shown]
    caption = f"{clip(report.source.address, NAME_WIDTH)} · {verdict_counts(report)}"
    if len(shown) < len(report.layers):
        caption += f" · the {len(shown)} shown are those that most need a look"
    if not report.complete:
        caption += " · incomplete"
    return _table(caption, ("name", "N", "M", *metrics, "verdict", "warnings"), rows, loud)


def ranking_html_table(ranking: Ranking) -> str:
    """Return the best 50 models of a ranking, best first."""
    rows = list(ranking_cells.cells(ranking))
    said = ranking_cells.verdict(ranking, lambda name: clip(name, NAME_WIDTH))
    caption = f"{len(rows)} models by {ranking.metric} · {said}"
    if len(rows) > ROWS:
        caption += f" · the best {ROWS} are shown"
    if ranking.left_out:
        caption += f" · {len(ranking.left_out)} not ranked"
    rows = rows[:ROWS]
    return _table(caption, ranking_cells.headers(ranking), rows, [False] * len(rows))


def _layer_cells(layer: LayerReport, metrics: Sequence[str]) -> tuple[str, ...]:
    numbers = [_number(layer.metrics.get(name, math.nan)) for name in metrics]
    said = str(layer.verdict if layer.status is Status.OK else layer.status)
    return (layer.name, str(layer.N), str(layer.M), *numbers, said, ", ".join(layer.warnings))


def _table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], loud: Iterable[bool]
) -> str:
    """Build the table; the classes keep MathJax, which can make links, away from names."""
    body = []
    for row, bold in zip(rows, loud, strict=True):
        cells = [html.escape(clip(text, NAME_WIDTH)) for text in row]
        cells = [f"<b>{cell}</b>" if bold and cell else cell for cell in cells]
        body.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    return (
        '<table class="tex2jax_ignore mathjax_ignore">'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
