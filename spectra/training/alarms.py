"""Alarms of a training run: each thing that goes wrong is told once, and once when it is over."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from spectra.errors import CheckpointError, unknown_name
from spectra.training.judgements import AlarmKind, AlarmRules, Past
from spectra.training.readings import SUBJECTS, Reading, Subject
from spectra.training.tracking import Alarm, Track, Watched, alarm_of, follow, plain


class Alarms:
    """Judge the readings of a run, and tell each thing once when it starts and once when it ends.

    An alarm is raised by ``rules.confirm`` readings of a layer one after the other that show it, and
    cleared by as many that are clear of it. Between showing it and being clear of it lies a gap (the
    whole interval of alpha below 2, against alpha itself at 2), so that what hovers at a limit
    does not flap. Readings that cannot tell, such as a doubtful fit for alpha, change nothing.

    Parameters
    ----------
    rules : AlarmRules, optional
    stop_on : str or iterable of str
        Kinds for which `should_stop` becomes true; none when left out.

    Raises
    ------
    SelectionError
        If a kind is not known.

    Notes
    -----
    False alarms, held to in ``tests/unit/training/test_alarms.py``: by its p-value alone a trap is
    seen in at most ``trap_level`` of the rounds over all layers of Gaussian noise, single readings
    counted; with ``trap_margin`` hardly ever, and of entries with Laplace tails in 3 % at most.
    Noise raises no other kind. The level of alpha is that of one layer: of 100 layers whose exponent
    is 2 one or two readings at a time may show it, of exponents at 6 up to five.
    Sources: SETOL section 3.3.1 for traps; arXiv 2506.04434 for alpha < 2 with them.

    Examples
    --------
    >>> from spectra.records import Status
    >>> alarms = Alarms(stop_on=["non_finite"])
    >>> broken = Reading(7, "fc", "weight", "linear", 9, 9, 9, Status.NON_FINITE, "holds 2 NaN")
    >>> [alarm.text for alarm in alarms.observe(broken)], alarms.should_stop
    (['fc: holds 2 NaN, at its first reading, step 7; go back to the last sound checkpoint'], True)
    """

    def __init__(self, rules: AlarmRules | None = None, stop_on: str | Iterable[str] = ()) -> None:
        self.rules = AlarmRules() if rules is None else rules
        kinds = [kind.value for kind in AlarmKind]
        stop_on = (stop_on,) if isinstance(stop_on, str) else tuple(stop_on)
        for name in stop_on:
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
                        | {"alarm": None if track.alarm is None else plain(track.alarm)}
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
            rows = {1: state["layers"]}[state["version"]]
            self._watched = {
                (str(row["layer"]), SUBJECTS[SUBJECTS.index(row["of"])]): _watched(row)
                for row in rows
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                "E_ALARM", "alarms", "not a state that alarms of this version wrote"
            ) from error


def _watched(row: Mapping[str, Any]) -> Watched:
    past, tracks = row["past"], row["tracks"]
    return Watched(
        step=int(row["step"]),
        past=Past(
            fitted=bool(past["fitted"]),
            inside=bool(past["inside"]),
            tested=bool(past["tested"]),
            stable_ranks=tuple(float(rank) for rank in past["stable_ranks"]),
        ),
        tracks={AlarmKind(kind): _track(tracks[kind]) for kind in tracks},
    )


def _track(found: Mapping[str, Any]) -> Track:
    return Track(
        shown=int(found["shown"]),
        clear=int(found["clear"]),
        since=int(found["since"]),
        p=float(found["p"]),
        sound=bool(found["sound"]),
        alarm=None if found["alarm"] is None else alarm_of(found["alarm"]),
    )
