"""The checkpoints of a run: which entries of a folder they are, and in which order, by their names."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from spectra import saved
from spectra.errors import CheckpointError
from spectra.ranking import LeftOut
from spectra.sources import folders
from spectra.sources.base import natural_key

REPORT = ".json"
ENDINGS = (*folders.ENDINGS, ".spectra")
START = 4096
MAX_DIGITS = 15  # a longer number is no step
POSITION = "position"

# What training leaves beside the weights, in a file's name as a word of its own.
BESIDE = re.compile(
    r"(^|[^a-z])(optim(izer)?s?|opt|sched(uler)?s?|scaler|rng_states?|random_states?|training_args"
    r"|trainer_state)([^a-z]|$)",
    re.IGNORECASE,
)
# A day, with its time of day where that cannot be a count: 2024-01-05, 20240105T120000.
DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"(?:[-_T ](?:[01]\d|2[0-3])([-_:.])[0-5]\d\2[0-5]\d|T?(?:[01]\d|2[0-3])(?:[0-5]\d){2})?(?!\d)"
)
TO_THE_SECOND = 14  # digits of a date with its time
NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kKmMbB](?![A-Za-z]))?")
WORD = re.compile(r"[A-Za-z]+$")
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
# Words before a number, the likelier to count steps the earlier; a result is never a step.
STEP_WORDS = (
    re.compile(r"(?:global|train)?(?:steps?|iters?|iterations?|updates?|batch(?:es)?)"),
    re.compile(r"(?:epochs?|ep|e)"),
    re.compile(r"(?:tokens?|samples?)"),
    re.compile(r"(?:checkpoints?|ckpts?|chkpts?|snapshots?)"),
)
RESULTS = re.compile(
    r".*(?:loss|acc|accuracy|err|error|ppl|perplexity|bleu|auc|map|score|wer|cer|lr|val|top|seed)"
)
CHECKPOINT = 1  # the likelihood of a word that says that there is a checkpoint, not what is counted
COUNTS = ("step", "epoch", "token", "step")  # what each of them counts

Key: TypeAlias = tuple[str, int]
DATED = "(date)"  # in place of the word before a number; no word has brackets


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint before it is opened: what to give ``analyze``, its name, its step."""

    source: Path
    name: str
    step: int


def find(folder: Path) -> tuple[list[Found], str, str, list[LeftOut]]:
    """List the checkpoints of a run in a folder, in order.

    Parameters
    ----------
    folder : Path
        Its files, its sub-folders, and saved reports; no deeper. A folder that is itself one sharded
        checkpoint is a run of one.

    Returns
    -------
    found : list of Found
        By step.
    unit : str
        The word before the number that varies; ``position`` if there is none.
    choice : str
        As `steps_of` says it.
    skipped : list of LeftOut
        What is no checkpoint, or is one a second time.

    Raises
    ------
    CheckpointError
        If it cannot be listed or holds nothing that could be a checkpoint.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("E_UNREADABLE", str(folder), reason, "check the path") from None
    indexes = {path.name for path in entries if path.name.endswith(folders.INDEX_ENDING)}
    skipped: list[LeftOut] = []
    candidates: list[Path] = []
    for path in entries:
        reason = _why_not(path, indexes)
        if reason:
            skipped.append(LeftOut(path.name, reason))
        else:
            candidates.append(path)
    if not candidates:
        if any(folders.SHARD.fullmatch(path.stem) for path in entries):
            return [Found(folder, folder.resolve().name, 0)], POSITION, "", []
        raise CheckpointError(
            "E_NO_CHECKPOINTS",
            str(folder),
            "holds no checkpoints",
            f"expected folders, saved reports, or files of {', '.join(ENDINGS)}",
        )
    found, unit, choice, again = _in_order(candidates)
    return found, unit, choice, [*skipped, *again]


def _why_not(path: Path, indexes: set[str]) -> str:
    """Say why an entry of a run's folder is no checkpoint of its own, or nothing."""
    name = path.name
    if name.startswith("."):
        return "hidden"
    if path.is_dir():
        return "" if _looks_like_one(path) else "a folder without weight files"
    if BESIDE.search(name) or folders.NOT_WEIGHTS.match(name):
        return "beside the weights: optimizer, schedule or state of a generator"
    if name in indexes:
        return ""
    shard = folders.SHARD.fullmatch(path.stem)
    if shard:
        index = f"{shard['stem']}{path.suffix}{folders.INDEX_ENDING}"
        return f"a shard of {index}" if index in indexes else "a shard; give its folder"
    if name.endswith(ENDINGS):
        return ""
    return "" if _is_model_report(path) else "no weight file"


def _looks_like_one(folder: Path) -> bool:
    """Tell whether a folder may be a checkpoint: weight files, or a step in its name, and not empty."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return True  # its analysis says what is wrong
    weights = any(name.endswith((*ENDINGS, ".distcp")) for name in names)
    counts = folder.name.isdecimal() or any(
        _likelihood(word) for word, _ in numbers_in(folder.name)
    )
    return bool(names) and (weights or counts)


def _is_model_report(path: Path) -> bool:
    """Tell a saved report of a model from other JSON, that of rankings and histories too."""
    try:
        if not saved.is_report(path):
            return False
        with path.open("rb") as file:
            return b'"complete"' in file.read(START).partition(b'"source"')[0]
    except OSError:
        return False


def _in_order(paths: Sequence[Path]) -> tuple[list[Found], str, str, list[LeftOut]]:
    """Give every path its step; leave out those without one and those that come twice."""
    names = [stem_of(path) for path in paths]
    steps, unit, choice = steps_of(names)
    if all(step is None for step in steps):
        places: dict[str, int] = {}
        steps = [places.setdefault(name, len(places)) for name in names]  # once in every format
    order = sorted(
        range(len(paths)), key=lambda i: (steps[i] or 0, _preference(paths[i]), len(names[i]), i)
    )
    found: list[Found] = []
    again: list[LeftOut] = []
    holders: dict[int, str] = {}
    for i in order:
        step = steps[i]
        if step is None:
            again.append(
                LeftOut(paths[i].name, f"no {'number' if unit == POSITION else unit} in its name")
            )
        elif step in holders:
            again.append(LeftOut(paths[i].name, f"{unit} {step} a second time: {holders[step]}"))
        else:
            holders[step] = paths[i].name
            found.append(Found(paths[i], names[i], step))
    return found, unit, choice, again


def _preference(path: Path) -> int:
    """Order what one step may be stored in: folders, formats best first, saved reports last."""
    if path.suffix == REPORT and not path.name.endswith(folders.INDEX_ENDING):
        return len(ENDINGS) + 1
    kinds = [i for i, ending in enumerate(ENDINGS) if path.name.endswith(ending)]
    return kinds[0] + 1 if kinds else 0


def stem_of(path: Path) -> str:
    """Return a name without the ending of a weight file or report: dots in it may be decimals.

    Examples
    --------
    >>> stem_of(Path("RFB-Epoch-20-Loss-3.70.pth")), stem_of(Path("run/step1.5"))
    ('RFB-Epoch-20-Loss-3.70', 'step1.5')
    """
    name = path.name
    for ending in (folders.INDEX_ENDING, REPORT, *ENDINGS):
        name = name.removesuffix(ending)
    return name or path.name


def numbers_in(name: str) -> dict[Key, int]:
    """Return the whole numbers in a name by the word before each, and how often that word came before.

    A date is one number, to the second, unless a word such as step or epoch says what it counts.

    Examples
    --------
    >>> numbers_in("epoch=3-step=1.5k-val_loss=0.31")
    {('epoch', 0): 3, ('step', 0): 1500}
    >>> numbers_in("run-2024-01-05-2")
    {('(date)', 0): 20240105000000, ('', 0): 2}
    """
    found: dict[Key, int] = {}
    seen: Counter[str] = Counter()
    end = 0
    while match := NUMBER.search(name, end):
        word = WORD.search(name[end : match.start()].rstrip(" _-=.:/"))
        label = word.group().lower() if word else ""
        date = DATE.match(name, match.start())
        if date and _likelihood(label) <= CHECKPOINT:
            found[(DATED, seen[DATED])] = _second(date.group())
            seen[DATED] += 1
            end = date.end()
            continue
        end = match.end()
        key = (label, seen[label])
        seen[label] += 1
        digits, unit = match.group(1), (match.group(2) or "").lower()
        whole, _, decimals = digits.partition(".")
        power = len(str(UNITS[unit])) - 1
        if len(digits) <= MAX_DIGITS and len(decimals) <= power:
            found[key] = int(whole + decimals) * 10 ** (power - len(decimals))
    return found


def _second(date: str) -> int:
    return int(re.sub(r"\D", "", date).ljust(TO_THE_SECOND, "0"))


def steps_of(names: Sequence[str]) -> tuple[list[int | None], str, str]:
    """Find the number that varies among names, and what it counts.

    Of all numbers the one that takes most values is the step; among equals, the one after a word such
    as step or epoch; never a loss or another result. If no such word is before it, it is compared
    together with all others that have none, from the left. Those, and dates, give an order and no
    distances: the steps are places in it.

    Returns
    -------
    steps : list of int or None
        None for names without that number.
    unit : str
        ``position`` where the steps are places, or no number varies and all steps are None.
    choice : str
        Which numbers were taken and which were not, as they are in one name; empty where one varies.

    Examples
    --------
    >>> steps_of(["RFB-Epoch-0-Loss-6.5", "RFB-Epoch-20-Loss-3.7", "last"])
    ([0, 20, None], 'epoch', '')
    >>> steps_of(["best", "last"])
    ([None, None], 'position', '')
    >>> steps_of(["net-2-100", "net-1-500"])
    ([1, 0], 'position', 'net 2, then 100, as in net-2-100')
    """
    numbers = [numbers_in(name) for name in names]
    values: dict[Key, set[int]] = {}
    for found in numbers:
        for key, value in found.items():
            values.setdefault(key, set()).add(value)
    counts = Counter(key for found in numbers for key in found)
    keys = [
        key
        for key, taken in values.items()
        if not RESULTS.fullmatch(key[0])
        # A word that says nothing must be in most names: digits of hashes vary too.
        and (_likelihood(key[0]) or (len(taken) > 1 and counts[key] > len(names) / 2))
    ]
    if not keys:
        return [None] * len(names), POSITION, ""
    best = max(keys, key=lambda key: (len(values[key]), _likelihood(key[0]), -key[1]))
    with_it = [i for i, found in enumerate(numbers) if best in found]
    first = with_it[0]
    varying = [key for key in numbers[first] if key in keys and len(values[key]) > 1]
    likelihood = _likelihood(best[0])
    taken = [best]
    if not likelihood:  # what some of the names lack may be a digit of a hash
        taken = [
            key
            for key in varying
            if not _likelihood(key[0]) and all(key in numbers[i] for i in with_it)
        ]
    rest = [key for key in varying if key not in taken]
    choice = _choice(names[first], numbers[first], taken, rest)
    if len(taken) == 1 and best[0] != DATED:
        unit = COUNTS[len(STEP_WORDS) - likelihood] if likelihood else "step"
        return [found.get(best) for found in numbers], unit, choice
    together = [tuple(found[key] for key in taken) if best in found else None for found in numbers]
    places = {x: i for i, x in enumerate(sorted({x for x in together if x is not None}))}
    return [None if x is None else places[x] for x in together], POSITION, choice


def _choice(name: str, numbers: dict[Key, int], taken: Sequence[Key], rest: Sequence[Key]) -> str:
    """Say which numbers of a name were taken and which not; nothing where there was no choice."""
    if len(taken) + len(rest) < 2:
        return ""
    text = ", then ".join(_written(key, numbers[key]) for key in taken)
    others = " or ".join(_written(key, numbers[key]) for key in rest)
    return f"{text}{', not ' if others else ''}{others}, as in {name}"


def _written(key: Key, value: int) -> str:
    if key[0] != DATED:
        return f"{key[0]} {value}".lstrip()
    day = f"{value // 10**6}"
    return f"the date {day[:4]}-{day[4:6]}-{day[6:]}"


def _likelihood(word: str) -> int:
    """Say how likely a number after this word is to count steps: 0 for words that say nothing."""
    places = [i for i, pattern in enumerate(STEP_WORDS) if pattern.fullmatch(word)]
    return len(STEP_WORDS) - places[0] if places else 0
