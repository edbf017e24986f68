"""Spectra inside the training loop: watch them, be warned, act on them.

``SpectralMonitor`` reads layers within a budget of time and never touches the model;
``Alarms`` judge what it reads; controllers set learning rates and weight decay layer by layer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectra.training.monitor import SpectralMonitor as SpectralMonitor
    from spectra.training.readings import Reading as Reading

_HOMES = {
    "ALPHADECAY": "rules",
    "ALPHADECAY_SIGMOID": "rules",
    "LLR": "rules",
    "LayerRule": "rules",
    "LayerwiseDecay": "controllers",
    "LayerwiseLR": "controllers",
    "Alarm": "tracking",
    "AlarmKind": "judgements",
    "AlarmRules": "judgements",
    "Alarms": "alarms",
    "Reading": "readings",
    "SpectralMonitor": "monitor",
    "TEMPBALANCE": "rules",
    "multipliers": "rules",
    "parameter_groups": "layer_groups",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module 'spectra.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spectra.training.{_HOMES[name]}"), name)
