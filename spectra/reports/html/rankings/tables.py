"""The tables of a ranking: its models, every pair of them, and what agrees with known scores."""

import math
from collections import Counter

from spectra.ranking import MARK_TEXT, Agreement, RankedModel, Ranking
from spectra.reports.html import pieces
from spectra.reports.html.marks import swatch
from spectra.reports.html.markup import Child, Markup, count, number, tag
from spectra.reports.html.pieces import Column
from spectra.reports.html.rankings import figures
from spectra.reports.html.rankings.texts import MARKS, RANKING_TERMS
from spectra.reports.names import shorten_middle
from spectra.reports.ranking_cells import interval, places, probability

MOST_PAIRED = 20  # models in the table of pairs
TABLE = "model-table"
AGREEMENTS = "agreement-table"
MODEL_COLUMNS = (
    Column("rank", "place", RANKING_TERMS["interval"].meaning),
    Column("name", "model", is_number=False, is_head=True),
    Column("group", "group", RANKING_TERMS["group"].meaning, is_number=False),
    Column("value", "value", RANKING_TERMS["value"].meaning),
    Column("interval", "95 % interval", RANKING_TERMS["interval"].meaning),
    Column("mean", "mean", "the plain mean over the same layers"),
    Column("n_layers", "layers", "how many layers are compared"),
    Column("beats", "beats next", "probability that it is better than the model below"),
    Column("note", "marks", "why its place is to be doubted", is_number=False, class_="words"),
)
AGREEMENT_COLUMNS = (
    Column("metric", "metric", is_number=False, is_head=True),
    Column("group", "group", is_number=False),
    Column("n_models", "models"),
    Column("tau", "tau", RANKING_TERMS["tau"].meaning),
    Column("tau_interval", "95 %", RANKING_TERMS["interval"].meaning),
    Column("p_value", "p", RANKING_TERMS["p_value"].meaning),
    Column("spearman", "Spearman", RANKING_TERMS["spearman"].meaning),
    Column("spearman_interval", "95 %"),
    Column("r_squared", "R²", RANKING_TERMS["r_squared"].meaning),
    Column("r_squared_interval", "95 %"),
)


def models_section(ranking: Ranking) -> Markup:
    """Return every model with its place, value, and what speaks against it."""
    following = [*ranking.models[1:], None]
    rows = [
        _model_row(ranking, model, after, place)
        for place, (model, after) in enumerate(zip(ranking.models, following, strict=True), start=1)
    ]
    used = Counter(mark for model in ranking.models for mark in model.warnings)
    listed = [
        tag("li", tag("strong", f"{symbol} {words}"), f": {MARK_TEXT[mark]}")
        for mark, (symbol, words) in MARKS.items()
        if used[mark]
    ]
    note = (
        f"{ranking.metric} of a model is the mean of the middle half of its layers; its 95 % interval"
        " is how far that moves as the layers are resampled."
    )
    return pieces.section(
        "models",
        "The models",
        tag("p", note, class_="note"),
        pieces.table(
            MODEL_COLUMNS, rows, key=TABLE, caption=f"{count(len(rows), 'model')}, best first"
        ),
        tag("ul", listed) if listed else None,
    )


def _model_row(
    ranking: Ranking, model: RankedModel, after: RankedModel | None, place: int
) -> pieces.Row:
    name = tag("code", shorten_middle(model.name, 60), title=shorten_middle(model.source, 400))
    noted = [f"{MARKS[mark][0]} {MARKS[mark][1]}" for mark in model.warnings]
    cells: tuple[Child, ...] = (
        places(model),
        name,
        shorten_middle(model.group, 12),
        number(model.value, 3),
        interval(model),
        number(model.mean),
        str(model.n_layers),
        "–" if after is None else _beats(ranking, model, after),
        ", ".join(noted),
    )
    return pieces.Row(cells, {"id": f"model-{place}"})


def pairs_section(ranking: Ranking) -> Markup | None:
    """Return the probability for every pair that the one is better than the other.

    None for two models, whose one probability is in the table of models.
    """
    models = ranking.models[:MOST_PAIRED]
    if len(models) < 3:
        return None
    paired = {frozenset((pair.a, pair.b)): pair.paired for pair in ranking.pairs}
    heads = [
        tag("th", str(place), scope="col", title=shorten_middle(model.name, 60))
        for place, model in enumerate(models, start=1)
    ]
    rows = [
        tag(
            "tr",
            tag("th", f"{place}  ", tag("code", shorten_middle(model.name, 40)), scope="row"),
            [
                tag("td", class_="self")
                if other is model
                else _cell(
                    ranking, model, other, paired=paired[frozenset((model.name, other.name))]
                )
                for other in models
            ],
        )
        for place, model in enumerate(models, start=1)
    ]
    caption = "probability that the model of the row is better than that of the column"
    if len(ranking.models) > MOST_PAIRED:
        caption += f"; the first {MOST_PAIRED} of {len(ranking.models)} models"
    head = tag("thead", tag("tr", tag("td"), heads))
    table = tag("table", tag("caption", caption), head, tag("tbody", rows), class_="matrix")
    return pieces.section(
        "pairs",
        "Pair by pair: how sure",
        pieces.legend(figures.shade_legend()),
        tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption),
        tag("p", "Columns are numbered as the rows are. The darker a cell, the surer; without colour the"
            " weights say nothing.", class_="note"),
    )  # fmt: skip


def _cell(ranking: Ranking, a: RankedModel, b: RankedModel, *, paired: bool) -> Markup:
    """Return a cell of the table of probabilities that `a` is better than `b`."""
    p = _beats(ranking, a, b)
    names = f"{shorten_middle(a.name, 60)} better than {shorten_middle(b.name, 60)}"
    how = "compared layer by layer" if paired else "of other layer shapes"
    if p == "–":
        return tag("td", p, title="not held against each other: see the marks")
    shade = figures.shade(ranking.p_better(a.name, b.name)) or None
    return tag("td", p, class_=shade, title=f"{names}: {p}, {how}")


def _beats(ranking: Ranking, a: RankedModel, b: RankedModel) -> str:
    """Return how probable it is that `a` is better; a dash where one of them is over-trained.

    The over-trained one comes after the other whatever its value is, since lower is not better there.
    """
    if a.is_set_aside != b.is_set_aside:
        return "–"
    return probability(ranking.p_better(a.name, b.name))


def scores_section(ranking: Ranking) -> Markup | None:
    """Return how the metrics agree with known scores, in a picture and a table; None without scores."""
    scores = ranking.scores
    if scores is None:
        return None
    label = shorten_middle(scores.label, 60)
    styles = figures.styles_of([scores.groups[model.name] for model in ranking.models])
    legend = pieces.legend(
        (swatch(shape, f"r-{colour}"), shorten_middle(group, 40))
        for group, (colour, shape) in styles.items()
    )
    caption = (
        "Every mark is a model. Where the metric orders as the scores do, the marks fall on a line"
        f" that {'falls' if scores.higher_is_better else 'rises'} to the right. A mark without room for its"
        " name says it when a pointer rests on it."
    )
    better = "higher" if scores.higher_is_better else "lower"
    rows = [_agreement_row(agreement) for agreement in scores.agreements]
    return pieces.section(
        "scores",
        "Held against known scores",
        tag("p", f"{label}; {better} is better."),
        tag("p", tag("strong", f"{scores.paradox}."), class_="alert") if scores.paradox else None,
        pieces.figure(figures.scores_picture(ranking, label), caption,
                      legend=legend if styles else None),
        pieces.table(AGREEMENT_COLUMNS, rows, key=AGREEMENTS,
                     caption="agreement of every metric with the scores"),
        tag("p", "Few models prove little: with four no order has a p below .083.", class_="note"),
    )  # fmt: skip


def _agreement_row(agreement: Agreement) -> pieces.Row:
    cells: tuple[Child, ...] = (
        agreement.metric,
        shorten_middle(agreement.group, 30),
        str(agreement.n_models),
        signed(agreement.tau),
        _ends(agreement.tau_low, agreement.tau_high),
        number(agreement.p_value, 3),
        signed(agreement.spearman),
        _ends(agreement.spearman_low, agreement.spearman_high),
        number(agreement.r_squared),
        _ends(agreement.r_squared_low, agreement.r_squared_high, signs=False),
    )
    return pieces.Row(cells, {})


def signed(value: float) -> str:
    """Return a number with its sign; a dash where there is none.

    Examples
    --------
    >>> signed(0.5), signed(-1.0), signed(math.nan)
    ('+0.50', '-1.00', '–')
    """
    return f"{value:+.2f}" if math.isfinite(value) else "–"


def _ends(low: float, high: float, *, signs: bool = True) -> str:
    if not math.isfinite(low):
        return "–"
    write = signed if signs else number
    return f"{write(low)} to {write(high)}"
