"""What a SpectralMonitor costs a training run: run as a process by bench.py.

    python benchmarks/training.py MODEL SECONDS BUDGET [background]

Trains MODEL (mlp3, gpt or resnet) on made-up data for about SECONDS, with a monitor and without in turns
of five steps: one and the same model, since two copies differ by several per cent with where they lie in
memory, and short turns, since a shared machine is fast and slow for seconds on end. On one thread, so that
the process's time on the CPU can be compared too. Prints JSON.
"""

import json
import math
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn

from spectra import SpectralMonitor

STEPS = 5


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.short = (
            nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.short(x))


def mlp3() -> tuple[nn.Module, Tensor, Tensor]:
    layers = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(*layers), torch.rand(32, 784), torch.randint(10, (32,))


def gpt() -> tuple[nn.Module, Tensor, Tensor]:
    width, words, length = 256, 2048, 128
    blocks = (Block(width, 4) for _ in range(4))
    model = nn.Sequential(nn.Embedding(words, width), *blocks, nn.Linear(width, words))
    tokens = torch.randint(words, (2, length + 1))
    return model, tokens[:, :-1], tokens[:, 1:].flatten()


def resnet() -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-20 for images of 32 x 32."""
    sizes = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1)]
    sizes += [(32, 64, 2), (64, 64, 1), (64, 64, 1)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    top = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    blocks = [Residual(*size) for size in sizes]
    return nn.Sequential(*stem, *blocks, *top), torch.rand(8, 3, 32, 32), torch.randint(10, (8,))


def main() -> None:
    name, seconds, budget = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, inputs, targets = {"mlp3": mlp3, "gpt": gpt, "resnet": resnet}[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        outputs = model(inputs)
        nn.functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets).backward()
        optimizer.step()

    for _ in range(5):
        step()
    # The monitor's clock runs in the turns without it too, which are half the time.
    monitor = SpectralMonitor(
        model, every=100, budget=budget / 2, background="background" in sys.argv
    )

    def turn(*, with_monitor: bool) -> np.ndarray:
        """Take a turn; return the seconds of a step: by the clock and on the CPU."""
        begun = np.array([time.perf_counter(), time.process_time()])
        for _ in range(STEPS):
            step()
            if with_monitor:
                monitor.step()
        if with_monitor:
            monitor.flush()  # what it has in hand must not slow the other's turn
        return (np.array([time.perf_counter(), time.process_time()]) - begun) / STEPS

    pairs = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        first = bool(len(pairs) % 2)
        one, two = turn(with_monitor=first), turn(with_monitor=not first)
        pairs.append((two, one) if first else (one, two))
    took = time.perf_counter() - begun
    without, with_it = np.array(pairs).swapaxes(0, 1)  # each (pairs, 2)
    extra = (with_it - without) / without.mean(axis=0)
    ratio, error = 1 + extra.mean(axis=0), extra.std(axis=0, ddof=1) / math.sqrt(len(pairs))
    found = {
        "step": without[:, 0].mean(),
        "ratio": ratio[0],
        "error": error[0],
        "cpu": ratio[1],
        "cpu_error": error[1],
        "own": monitor.overhead / (with_it.sum() / (with_it.sum() + without.sum())),
        "readings": len(monitor.history),
        "layers": len(monitor.parameters),
        "seconds": took,
    }
    monitor.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
