"""Spectral diagnostics of neural networks: how good are these weights, with no data at all.

>>> import spectra
>>> report = spectra.analyze("model.safetensors")  # doctest: +SKIP
>>> report.summary["alpha"]  # doctest: +SKIP
2.465

Everything heavy is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectra.analysis import analyze as analyze
    from spectra.comparing import Comparison as Comparison
    from spectra.comparing import compare as compare
    from spectra.conventions import CONVENTIONS as CONVENTIONS
    from spectra.errors import AnalysisInterrupted as AnalysisInterrupted
    from spectra.errors import SpectraError as SpectraError
    from spectra.inventory import Inventory as Inventory
    from spectra.inventory import describe as describe
    from spectra.metrics import METRICS as METRICS
    from spectra.metrics import Metric as Metric
    from spectra.ranking import Ranking as Ranking
    from spectra.ranking import rank as rank
    from spectra.records import LayerReport as LayerReport
    from spectra.records import ModelReport as ModelReport
    from spectra.records import Status as Status
    from spectra.reports import explain as explain
    from spectra.smoothing import Smoothed as Smoothed
    from spectra.smoothing import smooth as smooth
    from spectra.store import Store as Store
    from spectra.training import SpectralMonitor as SpectralMonitor
    from spectra.trajectories import History as History
    from spectra.trajectories import history as history

__version__ = "0.1.0"

_HOMES = {
    "analyze": "analysis",
    "describe": "inventory",
    "Inventory": "inventory",
    "Comparison": "comparing",
    "compare": "comparing",
    "CONVENTIONS": "conventions",
    "AnalysisInterrupted": "errors",
    "SpectraError": "errors",
    "METRICS": "metrics",
    "Metric": "metrics",
    "Ranking": "ranking",
    "rank": "ranking",
    "LayerReport": "records",
    "ModelReport": "records",
    "Status": "records",
    "explain": "reports",
    "Smoothed": "smoothing",
    "smooth": "smoothing",
    "Store": "store",
    "SpectralMonitor": "training",
    "History": "trajectories",
    "history": "trajectories",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module 'spectra' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"spectra.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
