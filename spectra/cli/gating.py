"""Gates on the command line: their options, what became of each rule, and the exit code of it."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spectra.cli import exits
from spectra.cli.files import append
from spectra.cli.options import Command

if TYPE_CHECKING:
    from spectra.gates import Allowance, Outcome, Rule
    from spectra.records import ModelReport

NAME_WIDTH = 40
LABELS = {"fail": "FAIL", "pass": "pass", "not judged": "not judged"}
OPTIONS = ("fail_on", "baseline", "max_regress", "github")
SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, slots=True)
class Gate:
    """What was asked for: rules, what may get worse than a baseline, whether GitHub is told."""

    rules: tuple["Rule", ...]
    allowances: tuple["Allowance", ...]
    baseline: "ModelReport | None"
    github: bool


def gates(command: Command) -> Command:
    """Add the options of gates."""
    options = [
        click.option(
            "--fail-on",
            metavar="RULE",
            multiple=True,
            help="Exit with 1 if this is so: 'alpha_hat > 6', 'layers(alpha < 2) > 5%',"
            " 'any(non_finite)'; may be repeated. All rules: docs/gates.md.",
        ),
        click.option(
            "--baseline",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="An earlier report of the same layers, written with --json.",
        ),
        click.option(
            "--max-regress",
            metavar="NAME=AMOUNT",
            multiple=True,
            help="Exit with 1 if this number of the summary is worse than the baseline's by more:"
            " alpha=5%, alpha_hat=0.1; may be repeated.",
        ),
        click.option(
            "--github",
            is_flag=True,
            help="Tell GitHub Actions: annotations, and a table in the job's summary.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def prepare(asked: Mapping[str, Any], options: Mapping[str, Any], *, evidence: bool) -> Gate | None:
    """Read rules and baseline before the analysis starts.

    Parameters
    ----------
    asked : Mapping
        Values of the options of gates.
    options : Mapping
        Those of the analysis to come.
    evidence : bool
        Whether it gathers evidence.
    """
    limits, file = asked["max_regress"], asked["baseline"]
    if bool(limits) != bool(file):
        raise click.UsageError("--baseline and --max-regress need each other")
    if not asked["fail_on"] and not limits:
        if asked["github"]:
            raise click.UsageError("--github needs a rule: --fail-on or --max-regress")
        return None
    from spectra.gates import parse, parse_allowance, refuse_unlike
    from spectra.saved import read_report

    rules = tuple(parse(r, evidence=evidence, subject="--fail-on") for r in asked["fail_on"])
    allowances = tuple(parse_allowance(text, subject="--max-regress") for text in limits)
    baseline = read_report(file) if file else None
    if baseline:
        refuse_unlike(baseline, {**options, "evidence": evidence}, allowances)
    return Gate(rules, allowances, baseline, asked["github"])


@contextmanager
def names_are_no_commands(gate: Gate | None, *, err: bool) -> Iterator[None]:
    """Keep the runner of GitHub Actions from obeying what stands in a file.

    It reads commands from the output (``::add-mask::...``), and names of layers are printed. A token
    that no file can know stops that and resumes it.
    """
    if not gate or not gate.github:
        yield
        return
    token = secrets.token_hex(16)
    click.echo(f"::stop-commands::{token}", err=err)
    try:
        yield
    finally:
        click.echo(f"::{token}::", err=err)


def judge(
    gate: Gate | None, report: "ModelReport", *, quiet: bool, err: bool
) -> "tuple[Outcome, ...]":
    """Hold the report against the gate, and show what became of each rule."""
    if not gate:
        return ()
    from spectra.gates import check, regressions

    outcomes = tuple(check(report, rule) for rule in gate.rules)
    try:
        if gate.baseline:
            outcomes += regressions(report, gate.baseline, gate.allowances)
    finally:  # a baseline that does not fit costs no rule its line
        (_lines if quiet else _table)(outcomes, err=err)
    return outcomes


def conclude(
    gate: Gate | None, report: "ModelReport", outcomes: Sequence["Outcome"], *, err: bool
) -> int:
    """Tell GitHub if that was asked for, and return the exit code of the outcomes."""
    if gate and gate.github:
        from spectra.gates import annotations, markdown

        for line in annotations(outcomes):
            click.echo(line, err=err)
        place = os.environ.get(SUMMARY)
        if place:
            append(Path(place), markdown(outcomes, title=report.source.address))
        else:
            click.echo(f"--github: {SUMMARY} is not set, so no summary is written", err=True)
    if any(outcome.met for outcome in outcomes):
        return exits.RULE_MET
    return exits.LAYERS if any(outcome.not_judged for outcome in outcomes) else exits.DONE


def _lines(outcomes: Sequence["Outcome"], *, err: bool) -> None:
    from spectra.gates import sentence

    for outcome in outcomes:
        click.echo(f"{LABELS[outcome.verdict]}: {sentence(outcome, _short)}", err=err)


def _table(outcomes: Sequence["Outcome"], *, err: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from spectra.gates import listing

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("", "")
    for outcome in outcomes:
        style = "" if outcome.verdict == "pass" else "red"
        words = f"{outcome.rule}: {outcome.words}"
        grid.add_row(Text(LABELS[outcome.verdict], style=style), Text(words))
        if outcome.culprits:
            grid.add_row("", Text(listing(outcome, _short)))
    Console(stderr=err).print(grid)


def _short(name: str) -> str:
    from spectra.reports.terminal import shorten

    return shorten(name, NAME_WIDTH)
