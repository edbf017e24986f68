"""Draw the pictures of docs/metrics: python scripts/make_figures.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import spectra
from spectra.reports.plots import BLUE, ORANGE, PINK, plot_esd
from spectra.rmt import marchenko_pastur_quantiles
from spectra.sources import demo_model

FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def pair() -> tuple[Figure, list]:
    figure = Figure(figsize=(10, 4))
    axes = list(figure.subplots(1, 2))
    figure.subplots_adjust(left=0.09, right=0.98, bottom=0.14, top=0.9, wspace=0.2)
    return figure, axes


def heavy_tail(trained, noise) -> Figure:
    figure, axes = pair()
    plot_esd(trained, axes[0]).set_title("trained: fc1 of the shipped perceptron", fontsize=10)
    plot_esd(noise, axes[1]).set_title("noise of the same shape", fontsize=10)
    return figure


def random_matrix(trained, noise) -> Figure:
    figure, axes = pair()
    for ax, layer, title in zip(axes, (noise, trained), ("noise", "trained"), strict=True):
        values = layer.spectrum.eigenvalues / layer.spectrum.eigenvalues.mean()
        law = marchenko_pastur_quantiles(layer.N, layer.M)
        bins = np.linspace(0, 6, 61)
        ax.hist(values, bins, density=True, color=BLUE, alpha=0.35, label="eigenvalues, mean 1")
        ax.hist(law, bins, density=True, histtype="step", color=ORANGE, label="Marchenko-Pastur")
        edge = layer.lambda_plus / layer.spectrum.eigenvalues.mean()
        ax.axvline(edge, color=PINK, linestyle="--", label=f"edge; {layer.n_spikes} spikes above")
        ax.set(title=f"{title}: mp_distance {layer.mp_distance:.3f}", xlabel="λ / mean λ")
        ax.legend(fontsize=8)
    return figure


def erg(layer) -> Figure:
    figure, axes = pair()
    values = layer.spectrum.eigenvalues
    scaled = values[::-1] / values.mean()
    counts = np.arange(1, scaled.size + 1)
    axes[0].plot(counts, np.cumsum(np.log(scaled)), color=BLUE)
    axes[0].axhline(0, color="black", linewidth=0.8)
    axes[0].axvline(layer.n_tail, color=ORANGE, linestyle="--", label=f"n_tail {layer.n_tail}")
    axes[0].axvline(layer.n_erg, color=PINK, linestyle=":", label=f"n_erg {layer.n_erg}")
    axes[0].set(xlabel="eigenvalues, from the largest", ylabel="Σ ln λ̃", title="the ERG condition")
    axes[0].legend(fontsize=8)
    plot_esd(layer, axes[1]).set_title("the same cut on the spectrum", fontsize=10)
    return figure


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    trained = spectra.analyze(demo_model())["fc1"]
    weights = np.random.default_rng(20261123).standard_normal((784, 300))
    noise = spectra.analyze({"noise": weights}).layers[0]
    pictures = {
        "heavy_tail": heavy_tail(trained, noise),
        "random_matrix": random_matrix(trained, noise),
        "erg": erg(trained),
    }
    for name, figure in pictures.items():
        figure.savefig(FIGURES / f"{name}.png", dpi=90)


if __name__ == "__main__":
    main()
