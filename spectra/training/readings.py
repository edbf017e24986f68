"""What a monitor reads: one record a layer and a step, and the file that keeps them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from spectra.errors import CheckpointError, unknown_name
from spectra.metrics import METRICS
from spectra.records import Finding, Kind, Status, Value, Verdict

Subject: TypeAlias = Literal["weight", "update", "gradient"]
SUBJECTS: tuple[Subject, ...] = get_args(Subject)
KNOWN = (*METRICS, "n_traps", "trap_p", "trap_size")
"""What a reading may hold."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One layer at one step of a training run.

    Attributes
    ----------
    step : int
        Optimizer steps taken when the weights were copied.
    layer : str
        The parameter's full name without the prefixes of wrappers (compile, DDP, FSDP, PEFT).
    of : {"weight", "update", "gradient"}
        What the spectrum is of; an update is the difference to the weights last read.
    kind, N, M, n_eigenvalues
        As in a ``LayerReport``.
    status : Status
        ``ok``, or why there are no numbers; `reason` says it in words.
    values : Mapping[str, float]
        Metrics by name, all NaN unless ``status`` is ``ok``. ``reading[metric]`` is NaN for those that
        were not asked for.
    warnings : tuple of Finding
    verdict : Verdict
    span : int
        Steps that an update covers; 0 for weights and gradients.
    seconds : float
        What this reading cost.

    Examples
    --------
    >>> reading = Reading(10, "fc.weight", "weight", "linear", 784, 300, 300, values={"alpha": 2.5})
    >>> reading["alpha"], Reading.from_json(reading.to_json()) == reading
    (2.5, True)
    """

    step: int
    layer: str
    of: Subject
    kind: Kind
    N: int
    M: int
    n_eigenvalues: int
    status: Status = Status.OK
    reason: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()
    verdict: Verdict = Verdict.NOT_JUDGED
    span: int = 0
    seconds: float = 0.0

    def __getitem__(self, metric: str) -> Value:
        if metric not in self.values and metric not in KNOWN:
            raise unknown_name(metric, "metric", tuple(dict.fromkeys((*self.values, *KNOWN))))
        return self.values.get(metric, math.nan)

    def to_row(self) -> dict[str, Any]:
        """Return the reading as plain values by name; what is not finite becomes None."""
        values = {k: v if math.isfinite(v) else None for k, v in self.values.items()}
        return {
            "step": self.step,
            "layer": self.layer,
            "of": self.of,
            "kind": self.kind,
            "N": self.N,
            "M": self.M,
            "n_eigenvalues": self.n_eigenvalues,
            "status": self.status.value,
            "reason": self.reason,
            "warnings": [finding.value for finding in self.warnings],
            "verdict": self.verdict.value,
            "span": self.span,
            "seconds": round(self.seconds, 6),
            **values,
        }

    def to_json(self) -> str:
        """Return the reading as one line of JSON."""
        return json.dumps(self.to_row(), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Reading":
        """Read back a line of `to_json`.

        Raises
        ------
        CheckpointError
            If it is no such line.
        """
        try:
            found: dict[str, Any] = json.loads(line)
            values = {k: found[k] for k in found if k not in _FIELDS}
            return cls(
                step=int(found["step"]),
                layer=str(found["layer"]),
                of=SUBJECTS[SUBJECTS.index(found["of"])],
                kind=found["kind"],
                N=int(found["N"]),
                M=int(found["M"]),
                n_eigenvalues=int(found["n_eigenvalues"]),
                status=Status(found["status"]),
                reason=str(found["reason"]),
                values={k: math.nan if v is None else v for k, v in values.items()},
                warnings=tuple(Finding(code) for code in found["warnings"]),
                verdict=Verdict(found["verdict"]),
                span=int(found["span"]),
                seconds=float(found["seconds"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                "E_HISTORY", "history", f"no line of a training history: {line[:60]!r}"
            ) from error


_FIELDS = frozenset(Reading.__dataclass_fields__) - {"values"}
