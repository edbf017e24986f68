"""Spectra inside the training loop: watch them, be warned, act on them.

``SpectralMonitor`` reads layers within a budget of time and never touches the model;
``Alarms`` judge what it reads; controllers set learning rates and weight decay layer by layer.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectra.training.alarms import Alarms as Alarms
    from spectra.training.controllers import LayerwiseDecay as LayerwiseDecay
    from spectra.training.controllers import LayerwiseLR as LayerwiseLR
    from spectra.training.group import Group as Group
    from spectra.training.judgements import AlarmKind as AlarmKind
    from spectra.training.judgements import AlarmRules as AlarmRules
    from spectra.training.layer_groups import parameter_groups as parameter_groups
    from spectra.training.monitor import SpectralMonitor as SpectralMonitor
    from spectra.training.readings import Reading as Reading
    from spectra.training.rules import ALPHADECAY as ALPHADECAY
    from spectra.training.rules import ALPHADECAY_SIGMOID as ALPHADECAY_SIGMOID
    from spectra.training.rules import LLR as LLR
    from spectra.training.rules import TEMPBALANCE as TEMPBALANCE
    from spectra.training.rules import LayerRule as LayerRule
    from spectra.training.rules import multipliers as multipliers
    from spectra.training.tracking import Alarm as Alarm
    from spectra.training.world import Alone as Alone

_HOMES = {
    "Alarms": "alarms",
    "Alone": "world",
    "Group": "group",
    "LayerwiseDecay": "controllers",
    "LayerwiseLR": "controllers",
    "AlarmKind": "judgements",
    "AlarmRules": "judgements",
    "parameter_groups": "layer_groups",
    "SpectralMonitor": "monitor",
    "Reading": "readings",
    "ALPHADECAY": "rules",
    "ALPHADECAY_SIGMOID": "rules",
    "LLR": "rules",
    "LayerRule": "rules",
    "TEMPBALANCE": "rules",
    "multipliers": "rules",
    "Alarm": "tracking",
}
__all__ = [*_HOMES]


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module 'spectra.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spectra.training.{_HOMES[name]}"), name)
