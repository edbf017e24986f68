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


def density_of(spectrum: Spectrum, *, low: float = 0.0) -> Density | None:
    """Return the density ρ(λ) of the eigenvalues that count; None where all of them are equal.

    Parameters
    ----------
    spectrum : Spectrum
    low : float
        Where the bins begin at the earliest. Smaller eigenvalues count in the whole all the same: the
        integral is the share of the eigenvalues that are in a bin.
    """
    values = positive_eigenvalues(spectrum)
    seen = values[values >= low]
    if seen.size < 2 or seen[-1] <= seen[0] * (1 + 1e-6):
        return None
    edges = np.geomspace(seen[0], seen[-1], min(BINS, max(8, seen.size // 3)) + 1)
    edges[0], edges[-1] = seen[0], seen[-1]
    counts, _ = np.histogram(seen, edges)
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
    low = max(variance * (N**0.5 - M**0.5) ** 2, float(spectrum.eigenvalues[-1]) * 1e-9)
    high = rmt.edge(N, M, variance)
    steps = (1 - np.cos(np.linspace(0, np.pi, POINTS))) / 2
    x = low * (high / low) ** steps
    return x, rmt.marchenko_pastur_density(x, N, M, variance)
