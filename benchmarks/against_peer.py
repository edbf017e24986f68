"""Time whole processes of spectra and of WeightWatcher on the same weights, in pairs.

    python benchmarks/against_peer.py --peer PYTHON [--runs 3] [--model NAME=FILE.safetensors ...]

PYTHON is an interpreter with weightwatcher 0.7.7, torch and safetensors. Each case is run once to
warm up, then in turn; the table gives medians of the ratio pair by pair, and the largest
difference in alpha over the layers both fit, in WeightWatcher's convention.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PEER = """
import json, logging, sys
logging.disable(logging.CRITICAL)
import weightwatcher
from safetensors.torch import load_file
details = weightwatcher.WeightWatcher(model=load_file(sys.argv[1])).analyze(detX=True)
rows = {r["longname"]: r["alpha"] for _, r in details.iterrows()}
json.dump(rows, open(sys.argv[2], "w"))
"""
OURS = """
import json, sys
import spectra
report = spectra.analyze(sys.argv[1], convention=sys.argv[3])
rows = {r.name.removesuffix(".weight"): r.alpha for r in report.layers if r.status == "ok"}
json.dump(rows, open(sys.argv[2], "w"))
"""


def made_up(folder: Path) -> dict[str, Path]:
    """Write heavy-tailed matrices of the shapes that the ratios are promised for."""
    rng = np.random.default_rng(20261123)
    shapes = {
        "4 of 2048²": [(2048, 2048)] * 4,
        "1 of 4096²": [(4096, 4096)],
        "200 of 1024×512": [(1024, 512)] * 200,
    }
    cases = {}
    for case, sides in shapes.items():
        weights = {
            f"layers.{i}.weight": (0.02 * rng.standard_t(4, size)).astype(np.float32)
            for i, size in enumerate(sides)
        }
        cases[case] = folder / f"{len(cases)}.safetensors"
        save_file(weights, cases[case])
    return cases


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FILE")
    args = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},", end=""
    )
    print(f" numpy {np.__version__}")
    print(
        "| weights | WeightWatcher s | spectra s | ratio | with defaults s | difference of alpha |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = dict(pair.split("=", 1) for pair in args.model)
        cases = made_up(folder) | {key: Path(path) for key, path in models.items()}
        theirs, ours = folder / "theirs.json", folder / "ours.json"
        for case, path in cases.items():
            peer = [args.peer, "-c", PEER, str(path), str(theirs)]
            same = [sys.executable, "-c", OURS, str(path), str(ours), "weightwatcher-0.7.7"]
            default = [*same[:-2], str(folder / "default.json"), "htsr"]
            for command in (peer, same):
                timed(command)
            times = [(timed(peer), timed(same), timed(default)) for _ in range(args.runs)]
            a, b = (json.loads(file.read_text()) for file in (theirs, ours))
            worst = max(abs(a[k] - b[k]) / a[k] for k in b if k in a)
            ratio = statistics.median(t / s for t, s, _ in times)
            medians = [statistics.median(column) for column in zip(*times, strict=True)]
            cells = (case, *(f"{m:.2f}" for m in medians[:2]), f"{ratio:.1f}", f"{medians[2]:.2f}")
            print("|", " | ".join(cells), f"| {worst:.0e} |", flush=True)


if __name__ == "__main__":
    main()
