"""Alarms of a training run: what its readings show often enough to be told, once, and when it is over."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from spectra.errors import CheckpointError, printable, unknown_name
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
        return json.dumps(_plain(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Alarm":
        """Read back a line of `to_json`.

        Raises
        ------
        CheckpointError
            If it is no such line.
        """
        try:
            return _alarm(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                "E_ALARM", "alarm", f"no line of alarms: {line[:60]!r}"
            ) from error


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


class Alarms:
    """Judge the readings of a run, and tell each thing once when it starts and once when it ends.

    An alarm is raised by ``rules.confirm`` readings of a layer one after the other that show it, and
    cleared by as many that are clear of it. Between showing it and being clear of it lies a gap (the
    whole interval of alpha below 2, against alpha itself at 2), so that what hovers at a limit
    does not flap. Readings that cannot tell, such as a doubtful fit for alpha, change nothing.

    Parameters
    ----------
    rules : AlarmRules, optional
    stop_on : iterable of str
        Kinds for which `should_stop` becomes true; none when left out.

    Raises
    ------
    SelectionError
        If a kind is not known.

    Notes
    -----
    False alarms, measured in ``tests/unit/training/test_alarms.py``: Gaussian noise raises traps in
    at most ``trap_level`` of the rounds over all layers, single readings counted, and no other kind.
    The level of alpha is that of one layer and is not divided by how many there are: of 100 layers
    whose exponent is 2, one or two readings at a time may show it, of exponents at 6 up to five.
    Sources: SETOL section 3.3.1 for traps; arXiv 2506.04434 for alpha < 2 with them.

    Examples
    --------
    >>> from spectra.records import Status
    >>> alarms = Alarms(stop_on=["non_finite"])
    >>> broken = Reading(7, "fc", "weight", "linear", 9, 9, 9, Status.NON_FINITE, "holds 2 NaN")
    >>> [alarm.text for alarm in alarms.observe(broken)], alarms.should_stop
    (['fc: holds 2 NaN, at its first reading, step 7; go back to the last sound checkpoint'], True)
    """

    def __init__(self, rules: AlarmRules | None = None, stop_on: Iterable[str] = ()) -> None:
        self.rules = AlarmRules() if rules is None else rules
        kinds = [kind.value for kind in AlarmKind]
        for name in (stop_on := tuple(stop_on)):
            if name not in kinds:
                raise unknown_name(name, "kind of alarm", kinds)
        self.stop_on = frozenset(AlarmKind(name) for name in stop_on)
        self._watched: dict[tuple[str, Subject], Watched] = {}

    def observe(self, reading: Reading) -> tuple[Alarm, ...]:
        """Judge one reading; return the alarms that it raises or clears.

        A second reading of the step read last is of the same weights, confirms nothing and is left
        aside.
        """
        key = (reading.layer, reading.of)
        before = self._watched.get(key, Watched())
        if before.step == reading.step:
            return ()
        others = sum(w.past.tested for place, w in self._watched.items() if place != key)
        self._watched[key], told = follow(before, reading, self.rules, others + 1)
        return told

    @property
    def active(self) -> tuple[Alarm, ...]:
        """Alarms that were raised and not cleared, the gravest kinds first, as last confirmed."""
        kinds = list(AlarmKind)
        found = [
            track.alarm
            for watched in self._watched.values()
            for track in watched.tracks.values()
            if track.alarm is not None
        ]
        return tuple(sorted(found, key=lambda alarm: (kinds.index(alarm.kind), alarm.since)))

    @property
    def should_stop(self) -> bool:
        """Whether an alarm of a kind in `stop_on` is active."""
        return any(alarm.kind in self.stop_on for alarm in self.active)

    def state_dict(self) -> dict[str, Any]:
        """Return all that was learnt from readings, in plain JSON values."""
        return {
            "version": 1,
            "layers": [
                {
                    "layer": layer,
                    "of": of,
                    "step": watched.step,
                    "past": dataclasses.asdict(watched.past)
                    | {"stable_ranks": list(watched.past.stable_ranks)},
                    "tracks": {
                        kind.value: dataclasses.asdict(track)
                        | {"alarm": None if track.alarm is None else _plain(track.alarm)}
                        for kind, track in watched.tracks.items()
                    },
                }
                for (layer, of), watched in self._watched.items()
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, in place of what was learnt here; rules are not part of it.

        Raises
        ------
        CheckpointError
            If it is none; nothing is changed then.
        """
        try:
            if state["version"] != 1:
                raise ValueError(state["version"])
            self._watched = {
                (str(row["layer"]), SUBJECTS[SUBJECTS.index(row["of"])]): _watched(row)
                for row in state["layers"]
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                "E_ALARM", "alarms", "not a state that alarms of this version wrote"
            ) from error


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
    past = remember(reading, before.past, rules, found)
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

    That both are false alarms is no likelier than the less sure of them (the largest p).
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


def _plain(alarm: Alarm) -> dict[str, Any]:
    return dataclasses.asdict(alarm) | {"kind": alarm.kind.value}


def _alarm(found: Mapping[str, Any]) -> Alarm:
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


def _watched(row: Mapping[str, Any]) -> Watched:
    past = dict(row["past"])
    ranks = tuple(float(rank) for rank in past.pop("stable_ranks"))
    tracks = {
        AlarmKind(kind): Track(**{**track, "alarm": track["alarm"] and _alarm(track["alarm"])})
        for kind, track in row["tracks"].items()
    }
    return Watched(int(row["step"]), Past(**past, stable_ranks=ranks), tracks)
