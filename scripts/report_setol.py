"""Write the tables and pictures of docs/setol-experiment.md from docs/setol/*.csv.

    python scripts/report_setol.py

The data are made by setol_mlp3.py. The paper's numbers (arXiv 2507.17912, section 6) are those of its
figures, read off by eye to about 0.02 in alpha and 0.0003 in error, and, for the five runs each at the
two ends where its authors' notebooks print them, of those.
"""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from filling import fill
from matplotlib.figure import Figure

from spectra.reports.plots import BLUE, GREEN, GREY, ORANGE, PINK

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "setol-experiment.md"
FIGURES = DOCS / "figures"

Row = dict[str, str]

# The settings of each sweep in the order of their steps, and what they are called in it.
LEARNING_RATES = {f"lr{k}": f"×{k}" for k in (1, 2, 4, 8, 16, 32)}
BATCH_SIZES = {"lr1": "32"} | {f"bs{k}": f"{k}" for k in (16, 8, 4, 2, 1)}
RATES, BATCHES = tuple(LEARNING_RATES), tuple(BATCH_SIZES)[1:]
TITLES = {s: f"lr {LEARNING_RATES[s]}" for s in RATES} | {
    s: f"batch {BATCH_SIZES[s]}" for s in BATCHES
}


def bare(settings: Sequence[str], means: Sequence[float]) -> dict[str, tuple[float, None]]:
    """Means of the first settings, of which the paper shows no spread."""
    return {setting: (mean, None) for setting, mean in zip(settings, means, strict=False)}


# Mean and spread (standard deviation, or half a range) of the paper; None where it shows none.
PAPER: dict[str, dict[str, tuple[float, float | None]]] = {
    "test_error": {
        **bare(RATES, (.0209, .0195, .0188, .0182, .0164)),
        "lr32": (0.0178, 0.0028),
        **bare(BATCHES, (.0196, .0190, .0182, .0164)),
        "bs1": (0.0197, 0.0034),
    },
    "train_error": {
        **dict.fromkeys((*RATES[:5], *BATCHES[:4]), (0.0, None)),
        "lr32": (0.0014, 0.0016),
        "bs1": (0.0024, 0.0020),
    },
    "fc1_alpha": {
        **bare(RATES, (3.63, 3.43, 3.21, 2.92)),
        "lr16": (2.470, 0.010),
        "lr32": (1.963, 0.028),
        **bare(BATCHES, (3.44, 3.22, 2.91)),
        "bs2": (2.460, 0.006),
        "bs1": (1.950, 0.022),
    },
    "fc2_alpha": {
        **bare(RATES, (2.47, 2.42, 2.40, 2.37)),
        "lr16": (2.295, 0.033),
        "lr32": (2.101, 0.030),
        "bs1": (2.106, 0.015),
    },
    "fc1_delta_lambda_min": {
        "lr1": (1.065, 0.055), "lr2": (0.955, 0.055), "lr4": (0.875, 0.035),
        "lr8": (0.705, 0.015), "lr16": (0.37, 0.04), "lr32": (-0.01, 0.02),
        "bs16": (0.955, 0.045), "bs8": (0.91, 0.06), "bs4": (0.705, 0.025),
        "bs2": (0.3675, 0.0075), "bs1": (-0.0175, 0.0125),
    },
    "fc2_delta_lambda_min": {
        "lr1": (0.235, 0.025), "lr2": (0.19, 0.02), "lr4": (0.22, 0.05),
        "lr8": (0.175, 0.025), "lr16": (0.145, 0.035), "lr32": (0.115, 0.055),
    },
}  # fmt: skip
COLUMNS = {
    "test_error": ("test error, %", 100, 2),
    "train_error": ("training error, %", 100, 2),
    "fc1_alpha": ("alpha fc1", 1, 3),
    "fc2_alpha": ("alpha fc2", 1, 3),
    "fc1_delta_lambda_min": ("delta_lambda_min fc1", 1, 3),
    "fc2_delta_lambda_min": ("delta_lambda_min fc2", 1, 3),
}


def read(name: str) -> list[Row]:
    with (DOCS / "setol" / name).open() as file:
        return list(csv.DictReader(file))


def values(rows: Iterable[Row], setting: str, rule: str, column: str) -> list[float]:
    return [float(r[column]) for r in rows if (r["setting"], r["rule"]) == (setting, rule)]


def spread(found: Sequence[float]) -> float:
    return stdev(found) if len(found) > 1 else math.nan


def cell(found: Sequence[float], factor: float, digits: int) -> str:
    return f"{factor * mean(found):.{digits}f} ± {factor * spread(found):.{digits}f}"


def published(column: str, setting: str, factor: float, digits: int) -> str:
    if setting not in PAPER[column]:
        return "–"
    value, sd = PAPER[column][setting]
    digits = min(digits, 2)
    text = f"{factor * value:.{digits}f}"
    return text if sd is None else f"{text} ± {factor * sd:.{digits}f}"


def sweep(rows: list[Row], settings: Mapping[str, str], rule: str, head: str) -> str:
    """A table with a row a quantity and a setting a column: ours above the paper's."""
    lines = [
        f"| {head} | {' | '.join(settings.values())} |",
        "| --- |" + " --- |" * len(settings),
    ]

    def line(title: str, of: Callable[[str], str]) -> None:
        lines.append(f"| {title} | {' | '.join(of(s) for s in settings)} |")

    line("epochs", lambda s: f"{mean(values(rows, s, rule, 'epoch')):.0f}")
    for column, (title, factor, digits) in COLUMNS.items():
        line(
            f"**{title}**",
            lambda s, c=column, f=factor, d=digits: cell(values(rows, s, rule, c), f, d),
        )
        line("paper", lambda s, c=column, f=factor, d=digits: published(c, s, f, d))
    for layer in ("fc1", "fc2"):
        line(
            f"runs with a trap in {layer}",
            lambda s, x=layer: trapped(values(rows, s, rule, f"{x}_n_traps")),
        )
    line(
        "largest shuffled eigenvalue of fc1 / edge",
        lambda s: f"{mean(values(rows, s, rule, 'fc1_shuffled_max')):.2f}",
    )
    return "\n".join(lines)


def trapped(counts: Sequence[float]) -> str:
    return f"{sum(count >= 1 for count in counts)} of {len(counts)}"


def rules(rows: list[Row]) -> str:
    """How the two readings of the rule to stop differ."""
    lines = [
        "| setting | rule | epochs | training loss | training error, % | test error, % | worst seed, % | alpha fc1 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting in TITLES:
        for rule in ("window", "patience"):
            errors = values(rows, setting, rule, "test_error")
            lines.append(
                f"| {TITLES[setting]} | {rule} "
                f"| {mean(values(rows, setting, rule, 'epoch')):.0f} "
                f"| {mean(values(rows, setting, rule, 'train_loss')):.5f} "
                f"| {cell(values(rows, setting, rule, 'train_error'), 100, 2)} "
                f"| {cell(errors, 100, 2)} | {100 * max(errors):.2f} "
                f"| {cell(values(rows, setting, rule, 'fc1_alpha'), 1, 3)} |"
            )
    return "\n".join(lines)


def truncation(rows: list[Row]) -> str:
    """What cutting both layers to a tail costs, at the end of training."""
    lines = [
        "| setting | alpha fc1 | power law: training | test | ERG: training | test |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for setting in TITLES:
        cells = []
        for to in ("power_law", "erg"):
            for split in ("train", "test"):
                cut = values(rows, setting, "window", f"{split}_error_{to}")
                whole = values(rows, setting, "window", f"{split}_error")
                cells.append(cell([a - b for a, b in zip(cut, whole, strict=True)], 100, 2))
        alpha = mean(values(rows, setting, "window", "fc1_alpha"))
        lines.append(f"| {TITLES[setting]} | {alpha:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def deviations(rows: list[Row]) -> str:
    """Every mean that is further from the paper's than both spreads together allow."""
    lines = [
        "| setting | quantity | here | paper | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for column, (title, factor, digits) in COLUMNS.items():
        for setting, (value, sd) in PAPER[column].items():
            found = values(rows, setting, "window", column)
            read_off = 0.02 if "error" not in column else 0.0003
            allowed = math.hypot(spread(found), read_off if sd is None else sd)
            difference = mean(found) - value
            if abs(difference) > allowed:
                lines.append(
                    f"| {TITLES[setting]} | {title} "
                    f"| {cell(found, factor, digits)} | {published(column, setting, factor, digits)} "
                    f"| {factor * difference:+.{digits}f} |"
                )
    return "\n".join(lines) if len(lines) > 2 else "None."


def colours(settings: Mapping[str, str]) -> dict[str, str]:
    return dict(zip(settings, (GREY, "#56B4E9", BLUE, GREEN, ORANGE, PINK), strict=True))


def figure(columns: int = 2) -> tuple[Figure, list]:
    made = Figure(figsize=(5 * columns, 4))
    axes = list(made.subplots(1, columns))
    made.subplots_adjust(left=0.08, right=0.98, bottom=0.14, top=0.9, wspace=0.24)
    return made, axes


def march(epochs: list[Row], ends: list[Row]) -> Figure:
    """Every epoch in the plane of alpha and delta_lambda_min, as in the paper's section 6.3."""
    made, axes = figure()
    for ax, layer in zip(axes, ("fc1", "fc2"), strict=True):
        for setting, colour in colours(LEARNING_RATES).items():
            rows = [r for r in epochs if r["setting"] == setting and int(r["epoch"]) > 4]
            ax.scatter(
                [float(r[f"{layer}_alpha"]) for r in rows],
                [float(r[f"{layer}_delta_lambda_min"]) for r in rows],
                s=6, color=colour, alpha=0.5, label=LEARNING_RATES[setting],
            )  # fmt: skip
            last = [r for r in ends if (r["setting"], r["rule"]) == (setting, "window")]
            ax.scatter(
                [float(r[f"{layer}_alpha"]) for r in last],
                [float(r[f"{layer}_delta_lambda_min"]) for r in last],
                s=22, color=colour, edgecolor="black", linewidth=0.7,
            )  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.7)
        ax.axvline(2, color="black", linewidth=0.7)
        ax.set(
            xlabel="alpha", ylabel="delta_lambda_min", title=f"{layer}, every epoch from the fifth"
        )
    axes[0].legend(title="learning rate", fontsize=8, title_fontsize=8)
    axes[0].set(xlim=(1.7, 5), ylim=(-0.3, 2))
    axes[1].set(xlim=(1.8, 3.5), ylim=(-0.2, 1))
    return made


def errors(ends: list[Row]) -> Figure:
    """Test error against alpha of the first layer, at the end of each run, for both rules."""
    made, axes = figure()
    for ax, settings, title in (
        (axes[0], LEARNING_RATES, "learning rate"),
        (axes[1], BATCH_SIZES, "batch size"),
    ):
        for rule, marker in (("window", "o"), ("patience", "x")):
            for setting, colour in colours(settings).items():
                ax.scatter(
                    values(ends, setting, rule, "fc1_alpha"),
                    [100 * e for e in values(ends, setting, rule, "test_error")],
                    marker=marker, s=28, color=colour,
                    label=settings[setting] if rule == "window" else None,
                )  # fmt: skip
        points = [(PAPER["fc1_alpha"][s][0], PAPER["test_error"][s]) for s in settings]
        ax.errorbar(
            [alpha for alpha, _ in points],
            [100 * value for _, (value, _) in points],
            [100 * (sd or 0) for _, (_, sd) in points],
            color="black", linewidth=0.8, marker="s", markersize=4, capsize=3, label="paper",
        )  # fmt: skip
        ax.axvline(2, color="black", linewidth=0.7)
        ax.set(
            xlabel="alpha of fc1",
            ylabel="test error, %",
            title=f"over {title}: window o, patience x",
        )
        ax.legend(fontsize=8)
    return made


def over_epochs(epochs: list[Row]) -> Figure:
    """alpha of the first layer, and the largest shuffled eigenvalue over the edge of noise."""
    made, axes = figure()
    for setting, colour in colours(LEARNING_RATES).items():
        for seed in sorted({r["seed"] for r in epochs}):
            rows = [r for r in epochs if (r["setting"], r["seed"]) == (setting, seed)]
            x = [int(r["epoch"]) for r in rows]
            label = LEARNING_RATES[setting] if seed == "0" else None
            for ax, column in zip(axes, ("fc1_alpha", "fc1_shuffled_max"), strict=True):
                ax.plot(x, [float(r[column]) for r in rows], color=colour, linewidth=0.8, label=label)  # fmt: skip
    axes[0].axhline(2, color="black", linewidth=0.7)
    axes[0].set(xlabel="epoch", ylabel="alpha of fc1", xscale="log", ylim=(1.5, 8))
    axes[1].axhline(1, color="black", linewidth=0.7)
    axes[1].set(xlabel="epoch", ylabel="largest eigenvalue of shuffled fc1 / edge", xscale="log")
    axes[0].legend(title="learning rate", fontsize=8, title_fontsize=8)
    return made


def cut(epochs: list[Row]) -> Figure:
    """What cutting to a tail costs in accuracy, epoch by epoch, at learning rate x16."""
    made, axes = figure()
    for ax, to, title in zip(
        axes, ("power_law", "erg"), ("power-law tail", "ERG tail"), strict=True
    ):
        for split, shade in (("train", BLUE), ("test", ORANGE)):
            by_epoch: dict[int, list[float]] = {}
            for row in epochs:
                if row["setting"] == "lr16":
                    lost = float(row[f"{split}_error_{to}"]) - float(row[f"{split}_error"])
                    by_epoch.setdefault(int(row["epoch"]), []).append(100 * lost)
            x = sorted(by_epoch)
            ax.errorbar(
                x, [mean(by_epoch[e]) for e in x], [spread(by_epoch[e]) for e in x],
                color=shade, marker="o", markersize=3, capsize=2, label=split,
            )  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.7)
        ax.set(xlabel="epoch", ylabel="accuracy lost, points", title=f"cut to the {title}, ×16")
        ax.set_ylim(-0.3, 1.5)
        ax.legend(fontsize=8)
    return made


def main() -> None:
    ends, epochs = read("runs.csv"), read("epochs.csv")
    text = PAGE.read_text()
    for name, table in {
        "learning rates": sweep(ends, LEARNING_RATES, "window", "learning rate"),
        "batch sizes": sweep(ends, BATCH_SIZES, "window", "batch size"),
        "rules": rules(ends),
        "truncation": truncation(ends),
        "deviations": deviations(ends),
    }.items():
        text = fill(text, name, table)
    PAGE.write_text(text)
    for name, made in {
        "march": march(epochs, ends),
        "errors": errors(ends),
        "epochs": over_epochs(epochs),
        "cut": cut(epochs),
    }.items():
        made.savefig(FIGURES / f"setol_{name}.png", dpi=80)


if __name__ == "__main__":
    main()
