"""Spectra that need no solving: looked up by the numbers they are the spectra of.

See docs/decisions/0019-result-store.md.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Protocol

import numpy as np

from spectra.engine.planning import Precision
from spectra.engine.weights import Stack, Weights
from spectra.records import Matrix, Spectrum

ALGORITHM = 1
"""Raised with every change that moves what the engine computes: what was stored is then not found."""


class Store(Protocol):
    """Keeps spectra by key, for several threads; neither way raises what goes wrong."""

    def key(self, **what: str | int | float | None) -> str:
        """Return the key for all that decides a spectrum."""
        ...

    def get(self, key: str) -> Spectrum | None:
        """Return what was put under a key, to the bit, or None."""
        ...

    def put(self, key: str, spectrum: Spectrum) -> None:
        """Keep a spectrum."""
        ...

    def __hash__(self) -> int:
        """Tell stores apart, where results are remembered by what they were computed from."""
        ...


class Shelf:
    """A store as one run uses it: what the run asks of the engine is part of every key.

    With `spool`, layers read in blocks of rows are kept in a temporary file once they were read for
    their key, and solved from there: what is far away travels once.
    """

    def __init__(
        self, store: Store, precision: Precision, resolution: float, *, spool: bool = False
    ) -> None:
        self._store = store
        self._precision = precision
        self._resolution = resolution
        self._spool = spool

    def find(self, weights: Weights, files: contextlib.ExitStack) -> Spectrum | None:
        """Return the spectrum of weights if it is known; they are read for that, all of them.

        Raises
        ------
        CheckpointError, OSError, MemoryError
            If they cannot be read, or are of another shape than their header says.
        """
        spool = self._spool and weights.is_streamed
        blocks = _spooled(weights, files) if spool else weights.stored()
        digest, dtype = hashlib.sha256(), ""
        for block in blocks:
            digest.update(block.data)
            dtype = block.dtype.str
        weights.content = f"{dtype} {digest.hexdigest()}"
        # Nearly always what is found is right at every resolution.
        for resolution in (None, self._resolution):
            found = self._store.get(self._key(weights, resolution))
            if found is not None:
                return found
        return None

    def keep(self, weights: Weights, spectrum: Spectrum, *, settled: bool) -> None:
        """Keep what was solved, for every resolution where it is `settled`."""
        self._store.put(self._key(weights, None if settled else self._resolution), spectrum)

    def _key(self, weights: Weights, resolution: float | None) -> str:
        matrix = weights.matrix
        return self._store.key(
            algorithm=ALGORITHM,
            precision=self._precision,
            resolution=resolution,
            content=weights.content,
            N=matrix.N,
            M=matrix.M,
            n_matrices=matrix.n_matrices,
            is_tall=weights.is_tall,
        )


def _spooled(weights: Weights, files: contextlib.ExitStack) -> Iterator[Stack]:
    """Yield the blocks of streamed weights into a temporary file too, and have them read from there.

    Where there is no room for it, what is needed again is read again from where it came.
    """
    file: IO[bytes] | None = None
    dtype: np.dtype[Any] = np.dtype(np.float64)
    with contextlib.suppress(OSError):
        temporary = tempfile.TemporaryFile(prefix="spectra-", buffering=0)  # noqa: SIM115 - entered below
        file = files.enter_context(temporary)
    for block in weights.stored():
        if file is not None:
            try:
                _write(file, block)
            except OSError:
                file = None
        dtype = block.dtype
        yield block
    if file is None:
        return
    spool, row = file, weights.matrix.M

    def read(matrix: Matrix, rows: tuple[int, int] | None = None, /) -> Stack:
        begin, end = rows or (0, matrix.N)
        spool.seek(begin * row * dtype.itemsize)
        block: Stack = np.fromfile(spool, dtype, (end - begin) * row)
        return block.reshape(1, end - begin, row)

    weights.read = read


def _write(file: IO[bytes], block: Stack) -> None:
    """Write all of a block, now: NumPy's own ``tofile`` says nothing where the last bytes find no room."""
    left = block.reshape(-1).view(np.uint8).data
    while left:
        left = left[file.write(left) :]
