"""Conventions: what is counted and how it is scaled, as one frozen record; two named ones.

``htsr`` is the default; ``weightwatcher-0.7.7`` reproduces that program's rules, for migration and
for tests. Numbers of different conventions are not comparable.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from spectra.errors import unknown_name
from spectra.records import Kind, Spectrum

Conv = Literal["slices", "flatten"]

# Rounding the entries of W to float32 moves no singular value by more than half of this times ‖W‖_F
# (Weyl's inequality, with |δw| <= eps/2 |w|); see docs/decisions/0003-zero-eigenvalues.md.
FLOAT32_EPS = float(np.finfo(np.float32).eps)
FLOAT64_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Convention:
    """Rules that turn weights into numbers.

    Attributes
    ----------
    min_eigenvalues : int
        Fewest non-zero eigenvalues a fit is tried on.
    min_tail : int
        Fewest eigenvalues the tail of a fit may hold.
    conv_scale : float
        Factor on the eigenvalues of convolution slices.
    absolute_cutoff : float or None
        Eigenvalues at or below are not fitted; ``None``: a cut-off relative to ‖W‖²_F.
    small_sample_below : int
        With fewer eigenvalues than this, alpha uses k - 1 instead of k and tails of at least 8.
    average_all : bool
        Whether embeddings and output heads enter the summary.
    peer_layouts : bool
        Take exactly the tensors WeightWatcher takes from a state dict: names in ``.weight``, two or
        four dimensions, its limits of size, groups of convolutions not told apart.
    conv : str
        ``slices``: a kernel is as many matrices as it has positions, and their eigenvalues are
        pooled; ``flatten``: it is one matrix, outputs by inputs times positions.
    """

    name: str
    min_eigenvalues: int
    min_tail: int
    conv_scale: float
    absolute_cutoff: float | None
    small_sample_below: int
    average_all: bool
    peer_layouts: bool
    conv: Conv = "slices"

    @property
    def rank_tolerance(self) -> float:
        """Relative size of σ below which a singular value counts as zero."""
        return FLOAT32_EPS if self.absolute_cutoff is None else FLOAT64_EPS


HTSR = Convention(
    name="htsr",
    min_eigenvalues=20,
    min_tail=10,
    conv_scale=0.5,
    absolute_cutoff=None,
    small_sample_below=0,
    average_all=False,
    peer_layouts=False,
)
WEIGHTWATCHER = Convention(
    name="weightwatcher-0.7.7",
    min_eigenvalues=2,
    min_tail=2,
    conv_scale=0.5,
    absolute_cutoff=1e-5,
    small_sample_below=20,
    average_all=True,
    peer_layouts=True,
)
CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {convention.name: convention for convention in (HTSR, WEIGHTWATCHER)}
)


def named(name: str, *, conv: Conv = "slices") -> Convention:
    """Return the convention called `name`, with kernels cut as `conv` says.

    Raises
    ------
    SelectionError
        If there is none; the message lists close names.

    Examples
    --------
    >>> named("htsr").min_tail
    10
    """
    if name not in CONVENTIONS:
        raise unknown_name(name, "convention", tuple(CONVENTIONS))
    if conv not in get_args(Conv):
        raise unknown_name(conv, "way to cut convolutions", get_args(Conv))
    convention = CONVENTIONS[name]
    if conv == "slices":
        return convention
    return dataclasses.replace(convention, conv=conv, conv_scale=1.0)  # the scale is the slices'


def apply(spectrum: Spectrum, kind: Kind, convention: Convention) -> Spectrum:
    """Scale a raw spectrum and mark which of its eigenvalues count as zero.

    In ``htsr`` an eigenvalue counts unless rounding the weights to float32 could have made it:
    λ > eps² ‖W‖²_F. That is relative, so nothing but log-scale quantities changes with W -> cW.
    """
    scale = convention.conv_scale if kind.startswith("conv") else 1.0
    eigenvalues = spectrum.eigenvalues if scale == 1.0 else spectrum.eigenvalues * scale
    squared_norm = spectrum.squared_norm * scale
    error = spectrum.error * scale
    if convention.absolute_cutoff is None:
        floor = convention.rank_tolerance**2 * squared_norm
        cutoff = floor
    else:
        # The peer's rank: σ > σ_max · N · eps, over the pooled slices.
        floor = float(eigenvalues[-1]) * (spectrum.N * convention.rank_tolerance) ** 2
        cutoff = convention.absolute_cutoff
    if spectrum.solver == "gram_float32":  # what rounding could have made, counts as zero
        floor, cutoff = max(floor, error), max(cutoff, error)
    return dataclasses.replace(
        spectrum,
        eigenvalues=eigenvalues,
        squared_norm=squared_norm,
        error=error,
        floor=floor,
        cutoff=cutoff,
        density_fit=convention.peer_layouts,
        raw=spectrum,
    )
