"""The last parts of a page: what was left out, and where the numbers come from."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType

from spectra.records import ModelReport, Status
from spectra.reports.html import pieces
from spectra.reports.html.markup import Child, Markup, count, tag

LISTED = 200  # names under one heading; the JSON block has all
NAMELESS = frozenset({"model", "pytorch_model", "weights", "checkpoint", "data"})
DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "convention": "htsr",
        "estimator": "csn",
        "layers": (),
        "exclude": (),
        "conv": "slices",
        "precision": "double",
        "seed": 0,
        "replicates": 20,
        "evidence": False,
    }
)
"""What ``analyze`` takes when an option is left out; the command to repeat it names the others."""


def source_name(report: ModelReport) -> str:
    """Return what a model is called: the last part of where it came from, with its folder if needed.

    Examples
    --------
    >>> import numpy as np, spectra
    >>> source_name(spectra.analyze({"fc": np.eye(30)}))
    'weights in memory'
    """
    address = report.source.address
    if in_memory(report):
        return "weights in memory"
    path = PurePath(address)
    if path.stem in NAMELESS and path.parent.name:
        return f"{path.parent.name}/{path.name}"
    return path.name or address


def in_memory(report: ModelReport) -> bool:
    """Tell whether the weights came from an object, not from a place."""
    return report.source.address.startswith("<")


def reproduce(report: ModelReport) -> str:
    """Return the command that makes this report again; the Python for weights that were in memory.

    Examples
    --------
    >>> import numpy as np, spectra
    >>> reproduce(spectra.analyze({"fc": np.eye(30)}, seed=3))
    "spectra.analyze(weights, seed=3).write('report.html')"
    """
    if in_memory(report):
        options = {k: v for k, v in report.options.items() if v != DEFAULTS.get(k)}
        arguments = "".join(f", {key}={value!r}" for key, value in options.items())
        return f"spectra.analyze(weights{arguments}).write('report.html')"
    words = ["spectra", "analyze", report.source.address, *option_words(report.options)]
    words += ["--allow-partial"] if report.source.partial else []
    device = str(report.run.get("device", "cpu"))
    words += ["--device", device] if device != "cpu" else []
    return shlex.join([*words, "--html", "report.html"])


def option_words(options: Mapping[str, object]) -> list[str]:
    """Return the options of an analysis as words of a command, without those left at their defaults.

    Examples
    --------
    >>> option_words({"convention": "htsr", "seed": 3, "layers": ("a.*", "b.*")})
    ['--seed', '3', '--layers', 'a.*', '--layers', 'b.*']
    """
    words: list[str] = []
    for key, value in options.items():
        if value == DEFAULTS.get(key):
            continue
        if key == "evidence":
            words += ["--metrics", "all"]
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [f"--{key}", str(each)]
    return words


def left_out_section(report: ModelReport, hrefs: Mapping[int, str]) -> Markup:
    """Return the layers without numbers and the tensors that were skipped, each with its reason."""
    failed = [(i, layer) for i, layer in enumerate(report.layers) if layer.status is not Status.OK]
    lists: list[Child] = []
    if failed:
        items = [
            (tag("a", f"#{i + 1} ", pieces.name_of(x.name, 80), href=hrefs[i]), f": {x.reason}")
            for i, x in failed
        ]
        lists += [tag("h3", f"No alpha: {count(len(failed), 'layer')}"), listed(items)]
    names: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for item in report.skipped:
        names.setdefault(item.reason, []).append(item.name)
        counts[item.reason] += max(item.count, 1)
    for reason, n in counts.most_common():
        summary = tag("summary", f"{count(n, 'tensor')} skipped: {reason}")
        lists.append(
            tag("details", summary, listed([pieces.name_of(name, 80) for name in names[reason]]))
        )
    nothing = tag("p", "Every tensor was analysed, and every layer has an alpha.")
    return pieces.section("skipped", "Failed and skipped", lists or nothing)


def provenance_section(report: ModelReport) -> Markup:
    """Return the source, the options, the versions, and the command that makes the report again."""
    source = report.source
    pairs: list[tuple[str, Child]] = [
        ("source", tag("code", source.address)),
        ("format", source.format),
        ("tensors", f"{source.n_tensors:,} ({source.nbytes / 1e6:,.1f} MB)"),
        *(("note", note) for note in source.notes),
        *((key, words_of(value)) for key, value in report.options.items()),
        *((key, words_of(value)) for key, value in report.run.items()),
    ]
    where = tag("code", "report")
    return pieces.section(
        "provenance",
        "Where these numbers come from",
        tag("p", "This makes the report again:"),
        pieces.command(reproduce(report)),
        pieces.facts(pairs),
        tag("p", "All numbers are in this file as JSON, in the block with the id ", where,
            ", as --json writes them.", class_="note"),
    )  # fmt: skip


def listed(items: Sequence[Child]) -> Markup:
    """Return items as a list, at most 200 of them."""
    more = len(items) - LISTED
    rest = tag("li", f"and {more} more, in the JSON block") if more > 0 else None
    return tag("ul", [tag("li", item) for item in items[:LISTED]], rest)


def words_of(value: object) -> str:
    """Return the value of an option in words."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
