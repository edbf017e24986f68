"""How a judgement that is repeated becomes an alarm, and how one ends: pure functions of records."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, get_args

from spectra.errors import CheckpointError, printable
from spectra.training.judgements import (
    CLEAR,
    AlarmKind,
    AlarmRules,
    Judgement,
    Past,
    judge,
    remember,
)
from spectra.training.readings import SUBJECTS, Reading, Subject

Severity: TypeAlias = Literal["critical", "warning", "notice"]
State: TypeAlias = Literal["raised", "cleared"]

AT_ONCE = (AlarmKind.NON_FINITE, AlarmKind.ANTI_GROKKING_SIGN)
"""Kinds that need no second reading: what is certain, and what rests on confirmed alarms."""

ADVICE: Mapping[tuple[AlarmKind, Subject], str] = {
    (AlarmKind.NON_FINITE, "weight"): "go back to the last sound checkpoint",
    (AlarmKind.NON_FINITE, "update"): "go back to the last sound checkpoint",
    (AlarmKind.NON_FINITE, "gradient"): "a single step of it is usual under a loss scaler",
    (AlarmKind.DEAD, "weight"): "the layer passes nothing on: look at its initial values and decay",
    (AlarmKind.DEAD, "update"): "its weights do not move: cut off, or steps lost to rounding",
    (AlarmKind.DEAD, "gradient"): "nothing of the loss reaches it: dead units, or cut off",
    (AlarmKind.RANK_COLLAPSE, "weight"): "look for dead units and too strong a weight decay",
    (AlarmKind.CORRELATION_TRAP, "weight"): "a shifted mean, often harmless, or a few huge entries:"
    " look at both, and lower the learning rate if it grows",
    (
        AlarmKind.ALPHA_BELOW_BAND,
        "weight",
    ): "a sign of over-training: watch held-out data, and lower the learning rate or stop",
    (
        AlarmKind.ALPHA_ABOVE_BAND,
        "weight",
    ): "the layer loses what it had learnt: look at its learning rate and decay",
    (AlarmKind.ANTI_GROKKING_SIGN, "weight"): "in published runs of small networks both came before"
    " test accuracy fell, elsewhere this is not known: watch held-out data",
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that goes wrong in one layer, or its end.

    Attributes
    ----------
    kind : AlarmKind
    layer : str
    of : {"weight", "update", "gradient"}
        Whose spectrum shows it.
    since : int
        Step of the first reading of the run of readings that show it.
    step : int
        Step of the latest reading that shows it; of a ``cleared`` alarm, of the one that ended it.
    p : float
        How sure: the largest chance, over the readings that show it, of such a reading if nothing
        were wrong. It is that of one reading, never a product: consecutive readings are of nearly
        the same weights, and the largest holds however they depend on each other. For alpha, if the
        exponent were the edge of the band; for a trap, of any layer watched if all were noise; 0
        for what is counted.
    severity : {"critical", "warning", "notice"}
    text : str
        One sentence with the numbers and what to do; safe for a terminal.
    state : {"raised", "cleared"}

    Examples
    --------
    >>> alarm = Alarm(AlarmKind.DEAD, "fc", "weight", 10, 30, 0.0, "warning", "fc: is zero")
    >>> Alarm.from_json(alarm.to_json()) == alarm
    True
    """

    kind: AlarmKind
    layer: str
    of: Subject
    since: int
    step: int
    p: float
    severity: Severity
    text: str
    state: State = "raised"

    def to_json(self) -> str:
        """Return the alarm as one line of JSON."""
        return json.dumps(plain(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Alarm":
        """Read back a line of `to_json`.

        Raises
        ------
        CheckpointError
            If it is no such line.
        """
        try:
            return alarm_of(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                "E_ALARM", "alarm", f"no line of alarms: {line[:60]!r}"
            ) from error


class Judge(Protocol):
    """Whoever is told of every reading, such as ``Alarms``."""

    @property
    def active(self) -> Sequence[Alarm]:
        """The alarms raised and not yet cleared."""
        ...

    @property
    def should_stop(self) -> bool:
        """Whether training should end."""
        ...

    def observe(self, reading: Reading, /) -> Sequence[Alarm]:
        """Return the alarms that a reading raises or clears."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return plain values to go on from."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from `state`."""
        ...


@dataclass(frozen=True, slots=True)
class Track:
    """How far one kind of alarm has come in one layer.

    ``shown`` and ``clear`` count the readings of the run that shows it and of the one that may end
    it; ``sound`` says that an earlier reading was clear, so that it appeared under watch.
    """

    shown: int = 0
    clear: int = 0
    since: int = 0
    p: float = 0.0
    sound: bool = False
    alarm: Alarm | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """All that is kept of one layer and subject."""

    step: int | None = None
    past: Past = field(default_factory=Past)
    tracks: Mapping[AlarmKind, Track] = field(default_factory=dict)


def follow(
    before: Watched, reading: Reading, rules: AlarmRules, n_layers: int
) -> tuple[Watched, tuple[Alarm, ...]]:
    """Take one reading of a layer into account.

    Parameters
    ----------
    before : Watched
        Of this layer and subject.
    reading : Reading
    rules : AlarmRules
    n_layers : int
        Layers in which traps are looked for.

    Returns
    -------
    (Watched, tuple of Alarm)
        What is known after it, and the alarms it raised or cleared.
    """
    found = judge(reading, before.past, rules, n_layers)
    tracks = dict(before.tracks)
    told: list[Alarm | None] = []

    def advance(kind: AlarmKind, judged: Judgement, since: int) -> None:
        confirm = 1 if kind in AT_ONCE else rules.confirm
        tracks[kind], news = advanced(
            tracks.get(kind, Track()), kind, judged, reading, since, confirm
        )
        told.append(news)

    for kind, judged in found.items():
        advance(kind, judged, reading.step)
    if reading.of == "weight":
        advance(AlarmKind.ANTI_GROKKING_SIGN, *_together(tracks))
    collapsed = tracks.get(AlarmKind.RANK_COLLAPSE, Track()).shown > 0
    past = remember(reading, before.past, rules, collapsed=collapsed)
    return Watched(reading.step, past, tracks), tuple(news for news in told if news is not None)


def advanced(
    track: Track, kind: AlarmKind, judged: Judgement, reading: Reading, since: int, confirm: int
) -> tuple[Track, Alarm | None]:
    """Carry one kind of alarm over one reading; return the alarm if it is raised or cleared."""
    if judged.seen == "silent":
        return track, None
    if judged.seen == "shown":
        shown = track.shown + 1
        begun = track.since if track.shown else since
        p = max(track.p, judged.p)
        track = dataclasses.replace(track, shown=shown, clear=0, since=begun, p=p)
        if shown < confirm:
            return track, None
        alarm = _raised(track, kind, judged, reading)
        news = alarm if track.alarm is None else None
        return dataclasses.replace(track, alarm=alarm), news
    if track.alarm is None:
        return Track(sound=track.sound or judged.seen == "clear"), None
    clear = track.clear + 1 if judged.seen == "clear" else 0
    if clear < confirm:
        return dataclasses.replace(track, clear=clear), None
    over = f"{_name(reading)}: {kind.value} is over, after {reading.step - track.since} steps"
    ended = dataclasses.replace(
        track.alarm, step=reading.step, severity="notice", text=over, state="cleared"
    )
    return Track(sound=True), ended


def _together(tracks: Mapping[AlarmKind, Track]) -> tuple[Judgement, int]:
    """Judge alpha below the band beside a trap that appeared under watch; return since when.

    Both must be true, so the claim is as sure as the less sure of the two (an intersection-union
    test: the larger p, however they depend on each other).
    """
    below, trap = tracks[AlarmKind.ALPHA_BELOW_BAND], tracks[AlarmKind.CORRELATION_TRAP]
    if below.alarm is None or trap.alarm is None or not trap.sound:
        return CLEAR, 0
    text = "alpha is below the band and a trap has appeared"
    return Judgement("shown", max(below.p, trap.p), text), max(below.since, trap.since)


def _raised(track: Track, kind: AlarmKind, judged: Judgement, reading: Reading) -> Alarm:
    times = "" if track.shown == 1 else f"{track.shown} readings "
    if track.shown == 1 and track.sound:
        when = f"at step {reading.step}"
    elif track.sound:
        when = f"at {times}from step {track.since} to {reading.step}"
    elif track.shown == 1:
        when = f"at its first reading, step {reading.step}"
    else:
        when = f"at {times}from the first on, to step {reading.step}"
    sure = f", p {track.p:.1g}" if track.p else ""
    text = f"{_name(reading)}: {judged.text}, {when}{sure}; {ADVICE[kind, reading.of]}"
    severity = _severity(kind, reading.of, appeared=track.sound)
    return Alarm(
        kind, reading.layer, reading.of, track.since, reading.step, track.p, severity, text
    )


def _severity(kind: AlarmKind, of: Subject, *, appeared: bool) -> Severity:
    if kind is AlarmKind.NON_FINITE:
        return "warning" if of == "gradient" else "critical"
    if kind in (AlarmKind.CORRELATION_TRAP, AlarmKind.RANK_COLLAPSE) and not appeared:
        return "notice"  # what was there from the start is the architecture's
    return "notice" if kind is AlarmKind.ALPHA_ABOVE_BAND else "warning"


def _name(reading: Reading) -> str:
    name = printable(reading.layer)
    return name if reading.of == "weight" else f"{reading.of} of {name}"


def plain(alarm: Alarm) -> dict[str, Any]:
    """Return an alarm in plain JSON values."""
    return dataclasses.asdict(alarm) | {"kind": alarm.kind.value}


def alarm_of(found: Mapping[str, Any]) -> Alarm:
    """Read back what `plain` gave; KeyError, TypeError or ValueError if it is no such thing."""
    severities, states = get_args(Severity), get_args(State)
    return Alarm(
        kind=AlarmKind(found["kind"]),
        layer=str(found["layer"]),
        of=SUBJECTS[SUBJECTS.index(found["of"])],
        since=int(found["since"]),
        step=int(found["step"]),
        p=float(found["p"]),
        severity=severities[severities.index(found["severity"])],
        text=str(found["text"]),
        state=states[states.index(found["state"])],
    )
