"""What ``spectra doctor`` looks at: versions, devices, and whether this machine's LAPACK is right."""

import importlib.metadata
import os
import platform
import sys

import click
import numpy as np

import spectra
from spectra import engine, sources
from spectra.analysis import analyze
from spectra.engine import lapack
from spectra.records import Matrix, Spectrum

PACKAGES = ("numpy", "scipy", "torch", "safetensors", "matplotlib", "powerlaw", "click", "rich")
OPTIONAL = {
    "gguf": "gguf",
    "onnx": "onnx",
    "h5py": "keras",
    "huggingface_hub": "hf",
    "pyarrow": "frames",
    "pandas": "frames",
    "polars": "frames",
}


def run() -> bool:
    """Print the findings; tell whether all checks passed."""
    click.echo(f"spectra {spectra.__version__}, Python {platform.python_version()}, {sys.platform}")
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "missing: pip install spectra-diagnostics"
        click.echo(f"  {package:<15} {version}")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    click.echo(f"  {'BLAS':<15} {blas.get('name', 'unknown')} {blas.get('version', '')}")
    for package, extra in OPTIONAL.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = f"not installed: pip install 'spectra-diagnostics[{extra}]'"
        click.echo(f"  {package:<15} {version}")
    found = lapack.library()
    how = "in place, one and two stages" if found else "by NumPy alone: slower, more memory"
    click.echo(f"  {'LAPACK':<15} {how}")
    machine = engine.this_machine()
    click.echo(f"  {'cores':<15} {machine.cores} (of {os.cpu_count()})")
    click.echo(f"  {'memory':<15} {machine.memory / 1e9:.1f} GB free")
    click.echo(f"  {'device':<15} {engine.resolve_device('auto')} (what --device auto takes)")
    checks = {
        "eigenvalues agree with the singular values": _solver_is_right(),
        "the shipped model gives the expected alpha": _demo_is_right(),
    }
    for what, passed in checks.items():
        click.echo(f"  {'ok  ' if passed else 'FAIL'} {what}")
    return all(checks.values())


def _solver_is_right() -> bool:
    weights = np.random.default_rng(20260101).standard_normal((300, 200))
    matrix = Matrix("w", "w", "linear", weights.shape, "float64", weights.nbytes, 300, 200)
    device = engine.resolve_device("auto")
    found = engine.solve(matrix, weights[np.newaxis], device=device)
    expected = np.linalg.svd(weights, compute_uv=False)[::-1] ** 2
    return isinstance(found, Spectrum) and np.allclose(found.eigenvalues, expected, rtol=1e-10)


def _demo_is_right() -> bool:
    report = analyze(sources.demo_model())
    expected = sources.demo_record()["alpha"]
    return all(abs(report[name]["alpha"] - alpha) < 1e-6 for name, alpha in expected.items())
