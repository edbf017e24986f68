"""From a layer that was taken out of a model to what is known of it."""

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spectra import analysis, engine
from spectra import traps as correlation_traps
from spectra.conventions import Convention
from spectra.metrics import METRICS, Metric
from spectra.records import Finding, Matrix, Status
from spectra.training.readings import Reading, Subject
from spectra.training.taking import Content

OVERHEAD = 5e-3
"""Seconds a layer is thought to cost beside its decompositions: the fit and its bootstrap."""

JUDGED_BY = ("alpha", "ks", "n_tail", "rank_loss", "n_spikes")
"""Metrics that findings and verdicts are made of: computed whatever was asked for."""


@dataclass(frozen=True)
class Reader:
    """How spectra are made and what is computed of them; the fields are the monitor's options."""

    rules: Convention
    estimator: str
    metrics: Sequence[str]
    traps: int
    seed: int
    replicates: int

    @property
    def _computed(self) -> Mapping[str, Metric]:
        return {name: METRICS[name] for name in (*self.metrics, *JUDGED_BY)}

    def reading(
        self, matrix: Matrix, name: str, step: int, subject: Subject, span: int, content: Content
    ) -> Reading:
        """Turn a stack (n_matrices, rows, columns), or a Gram matrix, into what is known of it."""
        begun = time.perf_counter()
        # Seeded by layer and step: neither order nor a resumed run changes a number.
        rng = np.random.default_rng([self.seed, step, zlib.crc32(f"{name} {subject}".encode())])
        row = analysis.layer_report(
            matrix,
            _outcome(matrix, content),
            self.rules,
            self.estimator,
            self._computed,
            replicates=self.replicates,
            rng=rng,
        )
        values = {metric: row[metric] for metric in self.metrics}
        warnings = row.warnings
        if (
            subject == "weight"
            and self.traps
            and row.status is Status.OK
            and isinstance(content, np.ndarray)
        ):
            values |= correlation_traps.traps(content, rng=rng, shuffles=self.traps)
            if values["n_traps"] > 0:
                warnings = (*warnings, Finding.CORRELATION_TRAP)
        return Reading(
            step=step,
            layer=name,
            of=subject,
            kind=row.kind,
            N=row.N,
            M=row.M,
            n_eigenvalues=row.n_eigenvalues,
            status=row.status,
            reason=row.reason,
            values=values,
            warnings=warnings,
            verdict=row.verdict,
            span=span,
            seconds=time.perf_counter() - begun,
        )

    def warm_up(self) -> float:
        """Read something small, twice: what is set up on first use is not the run's to pay.

        Returns
        -------
        float
            Seconds of the second time over those foreseen: how slow this machine is, 1 at least.
        """
        matrix = Matrix("", "", "linear", (128, 96), "float64", 0, 128, 96)
        stack = np.random.default_rng(0).standard_normal((1, 128, 96))
        took = [self.reading(matrix, "", 0, "weight", 0, stack).seconds for _ in range(2)]
        return max(1.0, took[-1] / self.foreseen(matrix))

    def foreseen(self, matrix: Matrix) -> float:
        """Return the seconds that reading a layer is thought to take."""
        return OVERHEAD + (1 + self.traps) * engine.seconds(matrix)


def _outcome(matrix: Matrix, content: Content) -> engine.Outcome:
    if isinstance(content, engine.Failure):
        return content
    if isinstance(content, engine.Gram):
        return engine.solve_gram(matrix, content)
    return engine.solve(matrix, content)
