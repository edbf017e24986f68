"""Does a layer-wise controller help? One comparison at equal cost, on Fashion-MNIST.

    apt install dataset-fashion-mnist
    python scripts/compare_controllers.py run --data /usr/share/datasets/fashion-mnist --out runs.jsonl
    python scripts/compare_controllers.py table --runs runs.jsonl    # fills docs/controllers.md

A perceptron 784-512-256-256-128-10 is trained for 15 epochs with a cosine schedule: by SGD with momentum,
plain and under TempBalance, and by AdamW, plain and under LLR and AlphaDecay. Each way gets the same three
rates, the same epochs and the same five seeds; its rate is chosen by the mean error on 6,000 held-out
training images, and only then is its test error looked at. A run is one line of JSON; running again
goes on with those that are missing.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from filling import fill
from scipy import stats
from torch import Tensor, nn
from train_mlp3 import error, read_idx

from spectra.training import (
    ALPHADECAY,
    LLR,
    TEMPBALANCE,
    LayerwiseDecay,
    LayerwiseLR,
    parameter_groups,
)

PAGE = Path(__file__).parents[1] / "docs" / "controllers.md"
SIZES = (784, 512, 256, 256, 128, 10)
EPOCHS, BATCH, HELD_OUT = 15, 128, 6_000
SEEDS = range(5)
RATES = {"sgd": (0.025, 0.05, 0.1), "adamw": (5e-4, 1e-3, 2e-3)}
WAYS = {
    "SGD": ("sgd", "none"),
    "SGD, TempBalance": ("sgd", "tempbalance"),
    "AdamW": ("adamw", "none"),
    "AdamW, LLR": ("adamw", "llr"),
    "AdamW, AlphaDecay": ("adamw", "alphadecay"),
}
PAIRS = (
    ("SGD, TempBalance", "SGD"),
    ("AdamW, LLR", "AdamW"),
    ("AdamW, AlphaDecay", "AdamW"),
)


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    return flat - flat.mean(), torch.from_numpy(labels.astype(np.int64))


def build() -> nn.Sequential:
    model = nn.Sequential()
    for i, (wide, narrow) in enumerate(itertools.pairwise(SIZES), 1):
        model.add_module(f"fc{i}", nn.Linear(wide, narrow))
        if i < len(SIZES) - 1:
            model.add_module(f"relu{i}", nn.ReLU())
    return model


def one_run(way: str, rate: float, seed: int, data: Sequence[Tensor]) -> dict[str, Any]:
    images, labels, held_images, held_labels, test_images, test_labels = data
    torch.manual_seed(seed)
    model = build()
    kind, control = WAYS[way]
    groups = parameter_groups(model)
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.1)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    scheduler: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    decay = LayerwiseDecay(model, optimizer, rule=ALPHADECAY) if control == "alphadecay" else None
    if control in ("tempbalance", "llr"):
        rule = TEMPBALANCE if control == "tempbalance" else LLR
        scheduler = LayerwiseLR(model, optimizer, scheduler, rule=rule)
    begun = time.perf_counter()
    for _ in range(EPOCHS):
        if control == "tempbalance":
            scheduler.update()
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if decay is not None:
                decay.step()
    seconds = time.perf_counter() - begun
    return {
        "way": way,
        "rate": rate,
        "seed": seed,
        "held_out_error": error(model, held_images, held_labels),
        "test_error": error(model, test_images, test_labels),
        "train_error": error(model, images, labels),
        "seconds": round(seconds, 2),
    }


def all_runs() -> Iterator[tuple[str, float, int]]:
    for seed in SEEDS:
        for position in range(3):
            for way, (kind, _) in WAYS.items():
                yield way, RATES[kind][position], seed


def run(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    images, labels = load(folder, "train")
    data = (
        *(images[:-HELD_OUT], labels[:-HELD_OUT]),
        *(images[-HELD_OUT:], labels[-HELD_OUT:]),
        *load(folder, "t10k"),
    )
    done = {(r["way"], r["rate"], r["seed"]) for r in read_runs(out)}
    for key in all_runs():
        if key not in done:
            row = one_run(*key, data)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def read_runs(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of a mean."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)


def chosen(rows: list[dict[str, Any]], way: str) -> tuple[float, list[dict[str, Any]]]:
    """Return the rate with the least mean held-out error, and its runs by seed."""
    of_way = [row for row in rows if row["way"] == way]
    rates = sorted({row["rate"] for row in of_way})

    def held_out(rate: float) -> float:
        return mean(row["held_out_error"] for row in of_way if row["rate"] == rate)

    best = min(rates, key=held_out)
    return best, sorted((r for r in of_way if r["rate"] == best), key=lambda r: r["seed"])


def tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    lines = [
        "| way | rate chosen | held-out error, % | test error, % (95 %) | training error, % | time |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    baseline = {kind: next(w for w, (k, c) in WAYS.items() if (k, c) == (kind, "none")) for kind in RATES}  # fmt: skip
    for way, (kind, _) in WAYS.items():
        rate, of = chosen(rows, way)
        test = [100 * r["test_error"] for r in of]
        ratios = [
            mine["seconds"] / plain["seconds"]
            for mine in rows
            for plain in rows
            if (mine["way"], plain["way"]) == (way, baseline[kind])
            and (mine["rate"], mine["seed"]) == (plain["rate"], plain["seed"])
        ]
        lines.append(
            f"| {way} | {rate:g} | {100 * mean(r['held_out_error'] for r in of):.2f} "
            f"| {mean(test):.2f} ± {interval(test):.2f} "
            f"| {100 * mean(r['train_error'] for r in of):.2f} | {np.median(ratios):.2f} |"
        )
    pairs = [
        "| controller | against | test error, points (95 %, paired by seed) | better in |",
        "| --- | --- | --- | --- |",
    ]
    for way, plain in PAIRS:
        differences = [
            100 * (a["test_error"] - b["test_error"])
            for a, b in zip(chosen(rows, way)[1], chosen(rows, plain)[1], strict=True)
        ]
        better = sum(d < 0 for d in differences)
        pairs.append(
            f"| {way} | {plain} | {mean(differences):+.2f} ± {interval(differences):.2f} "
            f"| {better} of {len(differences)} seeds |"
        )
    every = ["| way | rate | held-out error, % | test error, % |", "| --- | --- | --- | --- |"]
    for way in WAYS:
        for rate in sorted({r["rate"] for r in rows if r["way"] == way}):
            of = [r for r in rows if (r["way"], r["rate"]) == (way, rate)]
            every.append(
                f"| {way} | {rate:g} | {100 * mean(r['held_out_error'] for r in of):.2f} "
                f"| {100 * mean(r['test_error'] for r in of):.2f} |"
            )
    named = {"ways": lines, "pairs": pairs, "rates": every}
    return {name: "\n".join(rows) for name, rows in named.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("run", help="train what is missing")
    training.add_argument("--data", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True)
    table = commands.add_parser("table", help="fill docs/controllers.md")
    table.add_argument("--runs", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "run":
        run(args.data, args.out)
        return
    text = PAGE.read_text()
    for name, filled in tables(read_runs(args.runs)).items():
        text = fill(text, name, filled)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
