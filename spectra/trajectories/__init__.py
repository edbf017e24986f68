"""The history of a training run: how its checkpoints' spectra move, where that changes, what goes wrong.

See docs/decisions/0026-histories.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectra.analysis import Progress, part_of
from spectra.errors import CheckpointError, SelectionError, WeightError
from spectra.ranking import LeftOut, report_of
from spectra.ranking.order import distinct_names
from spectra.records import ModelReport
from spectra.trajectories import checkpoints
from spectra.trajectories.build import Step, history_of, without_spectra
from spectra.trajectories.changes import FEWEST
from spectra.trajectories.records import (
    SIGN_TEXT,
    ChangePoint,
    History,
    HistoryInterrupted,
    HistoryPoint,
    Sign,
    SignKind,
    Trajectory,
)

__all__ = [
    "FEWEST",
    "SIGN_TEXT",
    "ChangePoint",
    "History",
    "HistoryInterrupted",
    "HistoryPoint",
    "Sign",
    "SignKind",
    "Trajectory",
    "history",
    "history_of",
]


def history(
    run: Any,  # noqa: ANN401 - a folder, or a sequence of whatever analyze takes
    *,
    seed: int = 0,
    allow_partial: bool = False,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - those of analyze
) -> History:
    """Follow a training run over its checkpoints, by their weights alone.

    Parameters
    ----------
    run : path or sequence
        A folder whose entries are the checkpoints (files, folders, saved reports), or the checkpoints
        themselves: whatever `analyze` takes, saved reports (``.json``), or records of reports. The
        number that varies among the names is the step; dates give the order alone. Given ones without such a number keep their
        order and count from 0.
    seed : int, default: 0
        Seed of the analyses, of the resampling of layers and of the permutations.
    allow_partial : bool, default: False
        Take incomplete checkpoints and reports too.
    progress : callable, optional
        Called as ``progress(done, total, name)`` after each layer, in checkpoints.
    **options
        As for `analyze`; not for saved reports, which keep their own.

    Returns
    -------
    History
        A checkpoint that cannot be read, or is of another architecture than most, is in
        ``left_out`` and takes no other with it.

    Raises
    ------
    SpectraError
        If there is no checkpoint that can be used, or an option names nothing.
    HistoryInterrupted
        On Ctrl-C; its ``history`` holds the checkpoints finished.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> noise, learnt = rng.normal(size=(200, 100)), rng.standard_t(2, (200, 100))
    >>> run = [{"fc.weight": noise + part * learnt} for part in (0, 0.5, 1, 2)]
    >>> found = history(run)
    >>> found.unit, found.steps
    ('position', (0, 1, 2, 3))
    >>> found.checkpoints[0].alpha > found.checkpoints[-1].alpha
    True
    """
    options |= {"seed": seed, "allow_partial": allow_partial}
    skipped: list[LeftOut] = []
    if isinstance(run, str | Path) and Path(run).is_dir():
        address = str(run)
        found, unit, choice, skipped = checkpoints.find(Path(run))
        sources: list[Any] = [str(item.source) for item in found]
        names, places = [item.name for item in found], [item.step for item in found]
    else:
        sources = list(run) if _is_several(run) else [run]
        address = str(run) if isinstance(run, str | Path) else f"{len(sources)} checkpoints"
        sources, names, places, unit, choice = _given(sources)
    steps: list[Step] = []
    left_out: list[LeftOut] = []
    failed: list[CheckpointError | SelectionError | WeightError] = []
    complete = True
    for i, (source, name, place) in enumerate(zip(sources, names, places, strict=True)):
        try:
            report = report_of(source, options, part_of(progress, i, len(sources)))
        except (CheckpointError, SelectionError, WeightError) as error:
            if isinstance(error, SelectionError) and error.code != "E_NO_MATCH":
                raise  # an option names nothing: no checkpoint is to blame
            failed.append(error)
            left_out.append(LeftOut(name, str(error)))
            continue
        except KeyboardInterrupt:
            complete = False
            break
        if report.complete or allow_partial:
            steps.append(Step(place, name, without_spectra(report)))
        else:
            left_out.append(LeftOut(name, "incomplete: files missing, or interrupted"))
    if not steps:
        if not complete:
            raise KeyboardInterrupt
        raise _nothing(address, failed, left_out)
    result = history_of(
        steps,
        address=address,
        unit=unit,
        choice=choice,
        skipped=skipped,
        left_out=left_out,
        seed=seed,
        complete=complete,
    )
    if not complete:
        raise HistoryInterrupted(result)
    return result


def _is_several(run: Any) -> bool:  # noqa: ANN401
    return isinstance(run, Sequence) and not isinstance(run, str)


def _given(sources: list[Any]) -> tuple[list[Any], list[str], list[int], str, str]:
    """Name the checkpoints that were handed over and put them in order, if their names tell one."""
    if not sources:
        raise SelectionError("E_TOO_FEW", "history", "needs a checkpoint, got none")
    addresses = [_address(source) for source in sources]
    names = distinct_names([where or f"number {i}" for i, where in enumerate(addresses)])
    steps, unit, choice = checkpoints.steps_of(names if all(addresses) else [])
    known = [step for step in steps if step is not None]
    if len(set(known)) < len(sources):
        return sources, names, list(range(len(sources))), checkpoints.POSITION, ""
    order = sorted(range(len(sources)), key=lambda i: known[i])
    return [sources[i] for i in order], [names[i] for i in order], sorted(known), unit, choice


def _address(source: Any) -> str:  # noqa: ANN401
    if isinstance(source, ModelReport):
        return source.source.address
    return str(source) if isinstance(source, str | Path) else ""


def _nothing(
    address: str,
    failed: Sequence[CheckpointError | SelectionError | WeightError],
    left_out: Sequence[LeftOut],
) -> CheckpointError | SelectionError | WeightError:
    """Build the error for a run of which nothing is left: the only one there is, or the first."""
    if len(left_out) == 1 and failed:
        return failed[0]
    if failed and isinstance(failed[0], SelectionError):
        return failed[0]
    return CheckpointError(
        "E_NO_CHECKPOINTS",
        address,
        f"none of its {len(left_out)} checkpoints can be used",
        f"the first: {left_out[0].source}: {left_out[0].reason}",
    )
