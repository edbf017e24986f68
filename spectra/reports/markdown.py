"""Reports as Markdown for pull requests and issues: the worst layers first, the others folded."""

import re
from collections.abc import Iterable, Sequence

from spectra.errors import printable
from spectra.markup import inert
from spectra.ranking import Ranking
from spectra.records import ModelReport, Status
from spectra.reports import cells, ranking_cells
from spectra.reports.concerns import badness, worst_first

ROWS = 20
"""Most rows of a table that is not folded."""

MOST = 60_000
"""Characters of a whole report: GitHub takes 65,536 in a comment, the rest is for who posts it."""

LONGEST = 120
LISTED = 10
ALIGNED_LEFT = frozenset({"", "rank", "layer", "model", "note", "metric", "group"})

# Within backticks nothing has a meaning but backticks, and bars in tables; this is well inside that.
_PLAIN = re.compile(r"[\w./\-:,=+()\[\]](?:[\w./\-:,=+()\[\] ]*[\w./\-:,=+()\[\]])?")


def to_markdown(report: ModelReport) -> str:
    """Return a report as GitHub's Markdown, at most 60,000 characters long.

    Verdicts in numbers, the means, and one table: at most 20 layers, those that most need a look first.
    The others follow in checkpoint order, folded; what there is no room for is counted.
    """
    reached = [layer for layer in report.layers if layer.status is not Status.NOT_REACHED]
    ordered = worst_first(reached)
    shown, rest = ordered[:ROWS], ordered[ROWS:]
    options = report.options
    lines = [
        f"### spectra: {code(report.source.address)}",
        "",
        f"{cells.verdict_counts(report)}.{_means(report)}",
        "",
        *_flaws(report),
        *_table(cells.HEADERS, (_row(cells.row(layer)) for layer in shown)),
        "",
        f"<sub>{_prose(' · '.join(cells.legend(ordered)))}</sub>",
        "",
        f"<sub>convention {code(str(options['convention']))} · estimator"
        f" {code(str(options['estimator']))} · skipped: {code(cells.skipped_line(report.skipped), 4 * LONGEST)}"
        "</sub>",
    ]
    position = {id(layer): place for place, layer in enumerate(reached)}
    folded = [(position[id(layer)], _row(cells.row(layer))) for layer in rest]
    title = f"{len(rest)} more layers, in checkpoint order"
    return _with_folded("\n".join(lines) + "\n", title, cells.HEADERS, folded)


def ranking_to_markdown(ranking: Ranking) -> str:
    """Return a ranking as GitHub's Markdown: the best 20 models, the others folded."""
    headers = ranking_cells.headers(ranking)
    rows = [_row(row) for row in ranking_cells.cells(ranking)]
    lines = [
        f"### spectra: {len(ranking.models)} models by {_prose(ranking.metric)}",
        "",
        ranking_cells.verdict(ranking, code),
        "",
        *_table(headers, rows[:ROWS]),
        "",
        f"<sub>{_prose(' · '.join([ranking.why, *ranking_cells.legend(ranking)]))}</sub>",
    ]
    left_out = [f"- not ranked: {code(x.source)}: {code(x.reason)}" for x in ranking.left_out]
    lines += ["", *left_out[:LISTED]] if left_out else []
    if len(left_out) > LISTED:
        lines.append(f"- {len(left_out) - LISTED} more not ranked")
    if ranking.scores is not None:
        agreements = [_row(row) for row in ranking_cells.agreement_cells(ranking.scores)]
        lines += ["", f"{ranking_cells.scores_title(ranking.scores, code)}:", ""]
        lines += _table(ranking_cells.AGREEMENT, agreements[:ROWS])
        if len(agreements) > ROWS:
            lines += ["", f"{len(agreements) - ROWS} more groups are left out here."]
        lines += ["", _prose(ranking.scores.paradox)] if ranking.scores.paradox else []
    title = f"{len(rows) - ROWS} more models"
    return _with_folded(
        "\n".join(lines) + "\n", title, headers, list(enumerate(rows[ROWS:], start=ROWS))
    )


def code(text: str, longest: int = LONGEST) -> str:
    """Write text from outside as code: nothing in it is Markdown, HTML, a mention or a link.

    The middle of what is longer than `longest` is left out.

    Examples
    --------
    >>> code("layers.0.q_proj.weight"), code("a|b")
    ('`layers.0.q_proj.weight`', '<code>a&#124;b</code>')
    """
    text = cells.clip(text, longest)
    return f"`{text}`" if _PLAIN.fullmatch(text) else f"<code>{inert(text)}</code>"


def _row(texts: Sequence[str]) -> tuple[str, ...]:
    """Write the cells of a row: the name, always second, as code."""
    return (*texts[:1], code(texts[1]) if texts[1] else "", *map(_prose, texts[2:]))


def _prose(text: str) -> str:
    """Keep spectra's own words from meaning something else in Markdown."""
    return re.sub(r"[|<>*_`]", lambda found: f"\\{found[0]}", printable(text))


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rules = [":--" if header in ALIGNED_LEFT else "--:" for header in headers]
    return [_line(map(_prose, headers)), _line(rules), *map(_line, rows)]


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _means(report: ModelReport) -> str:
    summary = report.summary
    if not summary["n_averaged"]:
        return ""
    means = [f"{_prose(name)} {summary[name]:.3f}" for name in cells.MEANS if name in summary]
    return f" Mean of {summary['n_averaged']}: {' · '.join(means)}." if means else ""


def _flaws(report: ModelReport) -> list[str]:
    """Say what is missing, and name what to look at first."""
    lines = []
    if not report.complete:
        why = "files are missing" if report.source.partial else "the analysis was interrupted"
        lines += [f"**Incomplete: {why}.**", ""]
    loud = [layer for layer in worst_first(report.layers) if badness(layer)[0] == 3]
    if loud:
        named = [f"{code(x.name)} (alpha {cells.number(x, 'alpha', 2)})" for x in loud[:3]]
        lines += [f"Look first at {', '.join(named)}.", ""]
    return lines


def _with_folded(
    text: str, title: str, headers: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]
) -> str:
    """Add rows, the most important first, in the order of their places, as long as there is room."""
    if not rows:
        return text
    head = f"\n<details><summary>{title}</summary>\n\n"
    tail = "\n</details>\n"
    kept, room = [], MOST - len(text) - len(head) - len(tail) - 500
    for place, row in rows:
        line = _line(row)
        room -= len(line) + 1
        if room < 0:
            break
        kept.append((place, row))
    body = "\n".join(_table(headers, (row for _, row in sorted(kept))))
    left = len(rows) - len(kept)
    more = f"\n\n{left} more are left out here: too long for a comment." if left else ""
    return f"{text}{head}{body}{more}\n{tail}"
