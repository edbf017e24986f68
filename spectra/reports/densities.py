"""The curves of a picture of a spectrum: its density, its power law, and noise of its shape."""

from typing import NamedTuple

import numpy as np

from spectra import rmt
from spectra.records import LayerReport, Spectrum, Vector

BINS = 60
POINTS = 60
LEAST = float(np.finfo(np.float64).tiny) * 1e16


class Density(NamedTuple):
    """A histogram in bins of equal ratio: `heights` of shape (n,) between `edges` of (n + 1,)."""

    edges: Vector
    heights: Vector


def positive_eigenvalues(spectrum: Spectrum) -> Vector:
    """Return the eigenvalues that do not count as zero, ascending."""
    return spectrum.eigenvalues[spectrum.eigenvalues > max(spectrum.floor, LEAST)]


def density_of(spectrum: Spectrum) -> Density | None:
    """Return the density ρ(λ) of the eigenvalues that count; None where all of them are equal.

    Its integral is 1.
    """
    values = positive_eigenvalues(spectrum)
    if values.size < 2 or values[-1] <= values[0] * (1 + 1e-6):
        return None
    edges = np.geomspace(values[0], values[-1], min(BINS, max(8, values.size // 3)) + 1)
    edges[0], edges[-1] = values[0], values[-1]
    counts, _ = np.histogram(values, edges)
    return Density(edges, counts / (values.size * np.diff(edges)))


def power_law_of(layer: LayerReport) -> tuple[Vector, Vector]:
    """Return points of the fitted power law from xmin to xmax, on the scale of the whole density.

    Parameters
    ----------
    layer : LayerReport
        With status ``ok`` and a spectrum.
    """
    if layer.spectrum is None:
        raise ValueError(f"layer {layer.name!r} has no spectrum ({layer.status})")
    alpha, xmin = layer["alpha"], layer["xmin"]
    x = np.geomspace(xmin, layer["xmax"], POINTS)
    share = layer["n_tail"] / positive_eigenvalues(layer.spectrum).size
    return x, share * (alpha - 1) / xmin * (x / xmin) ** -alpha


def noise_of(spectrum: Spectrum) -> tuple[Vector, Vector]:
    """Return points of the density of random weights of the same shape and the same variance.

    The Marchenko-Pastur law; dense near its edges, where it turns.
    """
    N, M = spectrum.N, spectrum.M
    variance = float(np.mean(spectrum.eigenvalues)) / N
    low = max(variance * (N**0.5 - M**0.5) ** 2, float(spectrum.eigenvalues[-1]) * 1e-6)
    high = rmt.edge(N, M, variance)
    steps = (1 - np.cos(np.linspace(0, np.pi, POINTS))) / 2
    x = low * (high / low) ** steps
    return x, rmt.marchenko_pastur_density(x, N, M, variance)
