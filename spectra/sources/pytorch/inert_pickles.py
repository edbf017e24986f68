"""Pickles read as data: nothing is imported, built or called.

A pickle is a program for a machine with a stack. The machine here knows only the instructions that
make plain values. A class or function that a pickle names becomes a word, and its call a record of
the call, to be looked at by the reader of a format; a name that format has no use for is refused.
"""

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from spectra.errors import CheckpointError

MAX_PICKLE = 128 * 2**20  # half a million pieces of distributed tensors need about 70 MB
MAX_DEPTH = 200
MAX_LINE = 4096
MAX_LONG = 16
BYTES_PER_OBJECT = 3
"""Real pickles spend eight bytes and more on a container; this bounds memory by the file's size."""
SPARE_OBJECTS = 1000

PERSISTENT = "persistent id"
"""The name of the call a persistent id becomes; no global has a blank in its name."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by its dotted name."""

    name: str


@dataclass(slots=True, eq=False)
class Call:
    """A call that was not made: of what, with what, and the state the object would then be given."""

    name: str
    args: tuple[object, ...]
    state: object = None


def read_pickle(
    raw: bytes, path: Path, known: frozenset[str], *, prefix: str | None = None, advice: str = ""
) -> object:
    """Return what a pickle describes, as plain values, `Global` and `Call`.

    Parameters
    ----------
    raw : bytes
        The pickle.
    path : Path
        The file to name in errors.
    known : frozenset of str
        Dotted names the pickle may mention.
    prefix : str, optional
        Names that begin so are known too.
    advice : str
        What to do about a pickle that names anything else.

    Raises
    ------
    CheckpointError
        ``E_UNSAFE`` for other names, ``E_TRUNCATED``, ``E_LIMIT`` or ``E_ARCHIVE`` for bad pickles.
    """
    if len(raw) > MAX_PICKLE:
        reason = f"has a pickle of {len(raw):,} bytes, more than {MAX_PICKLE:,}"
        raise CheckpointError("E_LIMIT", str(path), reason, "save it in parts")
    return _Machine(raw, path, known, prefix, advice).run()


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(
        self, raw: bytes, path: Path, known: frozenset[str], prefix: str | None, advice: str
    ) -> None:
        self.raw, self.path, self.known = raw, path, known
        self.prefix, self.advice = prefix, advice
        self.position = 0
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        # A dict, since a list would have to be as long as the largest number a pickle claims.
        self.memo: dict[int, object] = {}
        self.globals: dict[str, Global] = {}
        self.objects_left = len(raw) // BYTES_PER_OBJECT + SPARE_OBJECTS

    def run(self) -> object:
        raw, size = self.raw, len(self.raw)
        try:
            while self.position < size:
                code = raw[self.position]
                self.position += 1
                if code == 0x2E:  # STOP
                    return self.stack.pop()
                instruction = _INSTRUCTIONS.get(code)
                if instruction is None:
                    self.bad(f"has the instruction {bytes((code,))!r}, which no checkpoint needs")
                instruction(self)
        except (IndexError, KeyError, ValueError, TypeError, struct.error):
            self.bad("takes values that are not there")
        return self.cut()

    def bad(self, reason: str) -> NoReturn:
        raise CheckpointError(
            "E_ARCHIVE", str(self.path), f"has a damaged pickle, which {reason}", "save it anew"
        ) from None

    def cut(self) -> NoReturn:
        raise CheckpointError(
            "E_TRUNCATED", str(self.path), "has a pickle that ends too early", "copy it again"
        ) from None

    def take(self, count: int) -> bytes:
        begin = self.position
        self.position = begin + count
        if self.position > len(self.raw):
            self.cut()
        return self.raw[begin : self.position]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def line(self) -> bytes:
        end = self.raw.find(b"\n", self.position, self.position + MAX_LINE)
        if end < 0:
            self.bad("has a line without end")
        text = self.raw[self.position : end]
        self.position = end + 1
        return text

    def push(self, value: object) -> None:
        """Push a new container, of which there are only so many."""
        self.objects_left -= 1
        if self.objects_left < 0:
            raise CheckpointError(
                "E_LIMIT", str(self.path), "has a pickle that is a bomb", "do not trust it"
            )
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.below) >= MAX_DEPTH:
            raise CheckpointError(
                "E_LIMIT", str(self.path), "has a pickle nested without end", "do not trust it"
            )
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def tuple_of(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        if len(values) < count:
            self.bad("takes values that are not there")
        del self.stack[-count:]
        self.push(values)

    def resolve(self, module: str, name: str) -> Global:
        full = f"{module}.{name}"
        found = self.globals.get(full)
        if found is None:
            ours = self.prefix is not None and full.startswith(self.prefix)
            if full not in self.known and not ours:
                raise CheckpointError(
                    "E_UNSAFE",
                    str(self.path),
                    f"asks to run code ({full}), which is never done",
                    self.advice,
                )
            found = self.globals[full] = Global(full)
        return found

    def call(self, callee: object, args: object) -> None:
        if not isinstance(callee, Global) or not isinstance(args, tuple):
            self.bad("calls what is no function")
        plain = callee.name == "collections.OrderedDict" and not args
        self.push({} if plain else Call(callee.name, args))

    def fill(self, pairs: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            self.bad("fills what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # A tuple of tuples could take for ever to hash; calls hash by identity.
            if not isinstance(key, str | int | float | Call | bytes | None):
                self.bad("has a dict with keys that are no words")
            target[key] = value

    def extend(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            self.bad("appends to what is no list")
        target.extend(values)

    def global_line(self) -> None:
        module = self.line().decode()
        self.stack.append(self.resolve(module, self.line().decode()))

    def global_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self.bad("names a global by something else than a text")
        self.stack.append(self.resolve(module, name))

    def instance(self) -> None:
        module = self.line().decode()
        callee = self.resolve(module, self.line().decode())
        self.call(callee, tuple(self.since_mark()))

    def object_of(self) -> None:
        callee, *args = self.since_mark()
        self.call(callee, tuple(args))

    def new_with_names(self) -> None:
        self.stack.pop()
        self.reduce()

    def reduce(self) -> None:
        args = self.stack.pop()
        self.call(self.stack.pop(), args)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # an OrderedDict's own attributes, such as _metadata
            self.bad("gives state to what is no object")

    def whole(self) -> None:
        text = self.line()
        if text in (b"00", b"01"):
            self.stack.append(text == b"01")
        elif re.fullmatch(rb"[+-]?\d{1,20}L?", text):
            self.stack.append(int(text.removesuffix(b"L")))
        else:
            self.bad("has a number that is none")

    def long(self, count: int) -> None:
        if count > MAX_LONG:
            self.bad("has a number beyond measure")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def text(self, count: int) -> None:
        self.stack.append(self.take(count).decode())

    def text_line(self) -> None:
        text = self.line().decode("raw-unicode-escape")
        text.encode()  # half a surrogate pair could be shown nowhere
        self.stack.append(text)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def two(self) -> list[object]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def dict_of(self) -> None:
        pairs = self.since_mark()
        self.push({})
        self.fill(pairs)


_Instruction = Callable[[_Machine], object]

# By the letters of pickle's own description of its format (pickletools).
_INSTRUCTIONS: Mapping[int, _Instruction] = MappingProxyType(
    {
        0x80: lambda m: m.take(1),  # PROTO
        0x95: lambda m: m.take(8),  # FRAME
        ord("("): _Machine.mark,
        ord("N"): lambda m: m.stack.append(None),
        0x88: lambda m: m.stack.append(True),
        0x89: lambda m: m.stack.append(False),
        ord("K"): lambda m: m.stack.append(m.number(1)),
        ord("M"): lambda m: m.stack.append(m.number(2)),
        ord("J"): lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)),
        ord("I"): _Machine.whole,
        ord("L"): _Machine.whole,
        0x8A: lambda m: m.long(m.number(1)),
        0x8B: lambda m: m.long(m.number(4)),
        ord("G"): lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
        ord("F"): lambda m: m.stack.append(float(m.line())),
        0x8C: lambda m: m.text(m.number(1)),
        ord("X"): lambda m: m.text(m.number(4)),
        0x8D: lambda m: m.text(m.number(8)),
        ord("V"): _Machine.text_line,
        ord("C"): lambda m: m.stack.append(m.take(m.number(1))),
        ord("B"): lambda m: m.stack.append(m.take(m.number(4))),
        0x8E: lambda m: m.stack.append(m.take(m.number(8))),
        ord(")"): lambda m: m.stack.append(()),
        ord("t"): lambda m: m.push(tuple(m.since_mark())),
        0x85: lambda m: m.tuple_of(1),
        0x86: lambda m: m.tuple_of(2),
        0x87: lambda m: m.tuple_of(3),
        ord("]"): lambda m: m.push([]),
        ord("l"): lambda m: m.push(m.since_mark()),
        ord("a"): lambda m: m.extend([m.stack.pop()]),
        ord("e"): lambda m: m.extend(m.since_mark()),
        ord("}"): lambda m: m.push({}),
        ord("d"): _Machine.dict_of,
        ord("s"): lambda m: m.fill(m.two()),
        ord("u"): lambda m: m.fill(m.since_mark()),
        ord("c"): _Machine.global_line,
        0x93: _Machine.global_stack,
        ord("i"): _Machine.instance,
        ord("o"): _Machine.object_of,
        ord("R"): _Machine.reduce,
        0x81: _Machine.reduce,  # NEWOBJ
        0x92: _Machine.new_with_names,
        0x82: lambda m: m.resolve("copyreg", f"extension {m.number(1)}"),
        0x83: lambda m: m.resolve("copyreg", f"extension {m.number(2)}"),
        0x84: lambda m: m.resolve("copyreg", f"extension {m.number(4)}"),
        ord("b"): _Machine.build,
        ord("Q"): lambda m: m.push(Call(PERSISTENT, (m.stack.pop(),))),
        ord("p"): lambda m: m.remember(int(m.line()[:20])),
        ord("q"): lambda m: m.remember(m.number(1)),
        ord("r"): lambda m: m.remember(m.number(4)),
        0x94: lambda m: m.remember(len(m.memo)),
        ord("g"): lambda m: m.recall(int(m.line()[:20])),
        ord("h"): lambda m: m.recall(m.number(1)),
        ord("j"): lambda m: m.recall(m.number(4)),
    }
)
