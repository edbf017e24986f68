"""What a monitor can be told, and what of it makes no sense: said when it is said, not in the run."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

from spectra import tails
from spectra.errors import SelectionError, unknown_name
from spectra.inventory import as_tuple
from spectra.metrics import METRICS
from spectra.training.readings import SUBJECTS, Subject
from spectra.training.tracking import Alarm, Judge


class MonitorOptions(TypedDict, total=False):
    """Options of ``SpectralMonitor`` that a trainer's callback hands on; see there."""

    every: int
    layers: str | Sequence[str]
    exclude: str | Sequence[str]
    watch: Subject | Sequence[Subject]
    metrics: Sequence[str]
    budget: float | None
    background: bool
    traps: int
    convention: str
    estimator: str
    seed: int
    replicates: int
    alarms: Judge | None
    on_alarm: Callable[[Alarm], None] | None


def check(**options: Unpack[MonitorOptions]) -> None:
    """Raise if an option makes no sense whatever the model.

    Raises
    ------
    SelectionError
        ``E_OPTION`` for a value out of its range, ``E_NAME`` for a name that is not known.

    Examples
    --------
    >>> check(every=100, budget=0.01)
    >>> check(budget=5)
    Traceback (most recent call last):
        ...
    spectra.errors.SelectionError: budget: is 5; give a share of time between 0 and 1, or None
    """
    for name in options:
        if name not in MonitorOptions.__annotations__:
            raise unknown_name(name, "option", tuple(MonitorOptions.__annotations__))
    for name, least in (("every", 1), ("traps", 0), ("replicates", 0)):
        value: Any = options.get(name, least)
        if not _is_number(value, numbers.Integral) or value < least:
            raise _refused(name, value, f"give a whole number, {least} or more")
    budget = options.get("budget")
    if budget is not None and not (_is_number(budget, numbers.Real) and 0 < budget < 1):
        raise _refused("budget", budget, "give a share of time between 0 and 1, or None")
    watch = as_tuple(options.get("watch", "weight"))
    if not watch:
        raise _refused("watch", watch, f"give some of {', '.join(SUBJECTS)}")
    for subject in watch:
        if subject not in SUBJECTS:
            raise unknown_name(subject, "watch", SUBJECTS)
    for metric in options.get("metrics", ()):
        if metric not in METRICS:
            raise unknown_name(metric, "metric", tuple(METRICS))
    estimator = options.get("estimator")
    if estimator is not None and estimator not in tails.ESTIMATORS:
        raise unknown_name(estimator, "estimator", tuple(tails.ESTIMATORS))
    alarms, on_alarm = options.get("alarms"), options.get("on_alarm")
    if alarms is not None and not hasattr(alarms, "observe"):
        raise _refused("alarms", alarms, "give Alarms(), or what has its methods")
    if on_alarm is not None and not callable(on_alarm):
        raise _refused("on_alarm", on_alarm, "give a function of one alarm")


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _refused(name: str, value: object, advice: str) -> SelectionError:
    return SelectionError("E_OPTION", name, f"is {value!r}", advice)
