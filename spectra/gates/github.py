"""Outcomes for GitHub Actions: a summary in Markdown, and commands that annotate the run."""

from collections import Counter
from collections.abc import Callable, Sequence

from spectra.errors import printable
from spectra.gates.outcomes import Outcome
from spectra.markup import inert

MOST_LAYERS = 10
LONGEST_NAME = 100
MARKS = {"fail": "❌ fail", "not judged": "⚠️ not judged", "pass": "✅ pass"}


def markdown(outcomes: Sequence[Outcome], *, title: str) -> str:
    """Return a table of rules: what became of each, what was found, and in which layers.

    Parameters
    ----------
    outcomes : sequence of Outcome
    title : str
        What was analysed.

    Returns
    -------
    str
        Markdown. In texts from outside every character that is neither letter nor digit stands as
        its number, so that nothing in a name is read as Markdown or HTML.

    Examples
    --------
    >>> outcome = Outcome("any(zero)", True, 1.0, 1.0, "1 of 9 layers", ("a|b",))
    >>> print(markdown([outcome], title="model"))
    ### spectra: 1 fail in <code>model</code>
    <BLANKLINE>
    |  | rule | found | layers |
    | --- | --- | --- | --- |
    | ❌ fail | <code>any&#40;zero&#41;</code> | 1 of 9 layers | <code>a&#124;b</code> |
    <BLANKLINE>
    """
    counts: Counter[str] = Counter(outcome.verdict for outcome in outcomes)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MARKS if counts[verdict])
    lines = [
        f"### spectra: {told} in {_code(title)}",
        "",
        "|  | rule | found | layers |",
        "| --- | --- | --- | --- |",
    ]
    for outcome in outcomes:
        cells = (
            MARKS[outcome.verdict],
            _code(outcome.rule),
            inert(outcome.words),
            listing(outcome, _code),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def annotations(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Return a workflow command for every rule that is met (error) or not judged (warning).

    Examples
    --------
    >>> outcome = Outcome("layers(zero) > 5%", True, 50.0, 5.0, "1 of 2 layers, 50 %", ("fc",))
    >>> annotations([outcome])
    ('::error title=spectra::layers(zero) > 5%25: 1 of 2 layers, 50 %25: fc',)
    """
    levels = {"fail": "error", "not judged": "warning"}
    return tuple(
        f"::{levels[outcome.verdict]} title=spectra::{_escaped(sentence(outcome))}"
        for outcome in outcomes
        if outcome.verdict in levels
    )


def sentence(outcome: Outcome, name: Callable[[str], str] | None = None) -> str:
    """Say in one line what was found of a rule, and in which layers (ten at the most).

    Parameters
    ----------
    outcome : Outcome
    name : callable, optional
        How a layer's name is shown; control characters as escapes and at most a hundred characters
        when left out.

    Returns
    -------
    str

    Examples
    --------
    >>> sentence(Outcome("any(zero)", True, 1.0, 1.0, "1 of 9 layers", ("fc",)))
    'any(zero): 1 of 9 layers: fc'
    """
    listed = listing(outcome, name or _cut)
    return f"{outcome.rule}: {outcome.words}{f': {listed}' if listed else ''}"


def listing(outcome: Outcome, name: Callable[[str], str]) -> str:
    """List the layers to look at, ten at the most, each as `name` shows it."""
    more = len(outcome.culprits) - MOST_LAYERS
    shown = [name(layer) for layer in outcome.culprits[:MOST_LAYERS]]
    return ", ".join([*shown, f"{more} more"] if more > 0 else shown)


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST_NAME else f"…{text[1 - LONGEST_NAME :]}"


def _code(text: str) -> str:
    return f"<code>{inert(_cut(text))}</code>"


def _escaped(message: str) -> str:
    """Escape a message as the runner's own toolkit does; other characters mean nothing there."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
