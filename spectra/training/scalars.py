"""What a monitor knows, as flat numbers by name: what trackers draw curves of."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from spectra.analysis import NOT_AVERAGED
from spectra.errors import SelectionError, unknown_name
from spectra.metrics import METRICS
from spectra.ranking.statistics import typical
from spectra.records import Finding, Status, Vector, Verdict
from spectra.training.readings import SUBJECTS, Reading
from spectra.training.tracking import Alarm

SHOWN = ("alpha", "alpha_hat", "log_norm", "stable_rank")
"""Metrics drawn when none are asked for: the exponent, the size, and the rank that is left."""

SUMMARIES: Mapping[str, Callable[[Vector], float]] = {
    "typical": typical,
    "mean": np.mean,
    "min": np.min,
    "max": np.max,
}

FOREIGN = re.compile(r"[^\w\-./]+")
"""What some tracker refuses or rewrites: MLflow takes blanks and colons too, TensorBoard does not."""


def scalars(
    readings: Iterable[Reading],
    alarms: Iterable[Alarm] = (),
    *,
    prefix: str = "spectral",
    per_layer: bool = False,
    metrics: Sequence[str] = SHOWN,
) -> dict[str, float]:
    """Sum up what is known of a model's layers in numbers fit for any tracker.

    Parameters
    ----------
    readings : iterable of Reading
        ``monitor.latest.values()``: the newest of each layer, so that a curve does not jump with which
        layers happened to be read. Of several readings of a layer the last counts.
    alarms : iterable of Alarm
        Those active.
    prefix : str, default: "spectral"
        What all keys begin with.
    per_layer : bool, default: False
        Add each metric of each layer. A thousand layers make thousands of curves.
    metrics : sequence of str
        Of those that the monitor reads.

    Returns
    -------
    dict of str to float
        All finite; what no layer has is left out.

        ``spectral/alpha/typical``
            The mean of the middle half of the layers: what ``spectra rank`` goes by, since a plain
            mean is ruled by the few layers that are hardly told from noise.
        ``spectral/alpha/mean``, ``/min``, ``/max``
            Over all layers with a number; the mean is that of a report's summary.
        ``spectral/layers/<verdict>``
            How many layers are ``well_trained``, ``over_trained`` and ``under_trained`` (outside the
            band beyond doubt), ``random_like``, ``not_judged``, or have ``no_numbers``. Their sum is the
            number of layers read so far.
        ``spectral/layers/correlation_trap``
            How many layers showed a trap when they were read last.
        ``spectral/alarms``
            How many alarms are active.
        ``spectral/alpha/<layer>``
            With `per_layer`, and of embeddings and heads too, which nothing else here counts.
        ``spectral/update/...``, ``spectral/gradient/...``
            The same metrics of updates and gradients; no counts, as they have no band.

    Raises
    ------
    SelectionError
        If a metric is not known, or the prefix holds what a tracker would refuse.

    Examples
    --------
    >>> def read(layer, alpha):
    ...     return Reading(9, layer, "weight", "linear", 64, 48, 48, values={"alpha": alpha})
    >>> found = scalars([read("fc1", 2.5), read("fc2", 3.5)], metrics=["alpha"], per_layer=True)
    >>> found["spectral/alpha/mean"], found["spectral/alpha/fc2"], found["spectral/layers/not_judged"]
    (3.0, 3.5, 2.0)
    """
    if not prefix or FOREIGN.search(prefix) or _clean(prefix) != prefix:
        reason = f"{prefix!r} does not begin a key that all trackers take"
        raise SelectionError("E_VALUE", "prefix", reason, "use letters, digits and -_./")
    for name in metrics:
        if name not in METRICS:
            raise unknown_name(name, "metric", tuple(METRICS))
    newest = {(reading.layer, reading.of): reading for reading in readings}
    found: dict[str, float] = {}
    for subject in SUBJECTS:
        found |= _of_subject(
            [reading for reading in newest.values() if reading.of == subject],
            prefix if subject == "weight" else f"{prefix}/{subject}",
            metrics,
            per_layer=per_layer,
        )
    weights = [reading for reading in newest.values() if reading.of == "weight"]
    found |= _counts([reading for reading in weights if _is_counted(reading)], prefix)
    found[f"{prefix}/alarms"] = float(sum(alarm.state == "raised" for alarm in alarms))
    return found


def _of_subject(
    readings: Sequence[Reading], prefix: str, metrics: Sequence[str], *, per_layer: bool
) -> dict[str, float]:
    """Return the metrics of the readings of one subject."""
    found: dict[str, float] = {}
    for metric in metrics:
        numbers = [
            (reading, float(reading[metric]))
            for reading in readings
            if reading.status is Status.OK and math.isfinite(reading[metric])
        ]
        averaged = np.array([value for reading, value in numbers if _is_counted(reading)])
        if averaged.size:
            found |= {f"{prefix}/{metric}/{k}": float(f(averaged)) for k, f in SUMMARIES.items()}
        for reading, value in numbers if per_layer else ():
            found[_free_key(f"{prefix}/{metric}/{_clean(reading.layer)}", found)] = value
    return found


def _counts(readings: Sequence[Reading], prefix: str) -> dict[str, float]:
    """Return how many layers are in which state, of those that are counted."""
    verdicts = [reading.verdict for reading in readings]
    counts = {verdict.value: verdicts.count(verdict) for verdict in Verdict}
    trap = Finding.CORRELATION_TRAP
    counts[trap.value] = sum(trap in reading.warnings for reading in readings)
    return {f"{prefix}/layers/{name}": float(count) for name, count in counts.items()}


def _is_counted(reading: Reading) -> bool:
    """Tell whether a layer is one of those that a report averages."""
    return reading.kind not in NOT_AVERAGED


def _clean(name: str) -> str:
    """Return a name that every tracker takes as it is.

    Examples
    --------
    >>> _clean("blocks.0.qkv_proj.weight[q]"), _clean("a: b//../c/")
    ('blocks.0.qkv_proj.weight.q', 'a.b/c')
    """
    parts = FOREIGN.sub(".", name).split("/")
    return "/".join(part.strip(".") for part in parts if part.strip("."))


def _free_key(key: str, taken: Mapping[str, float]) -> str:
    """Return `key`, or with a number where two layers' names become one."""
    number, free = 2, key
    while free in taken:
        number, free = number + 1, f"{key}.{number}"
    return free
