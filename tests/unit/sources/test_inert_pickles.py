import contextlib
import os
import pickle
import struct
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectra.errors import CheckpointError
from spectra.sources.pytorch import inert_pickles
from spectra.sources.pytorch.inert_pickles import Call, Global, read_pickle

PATH = Path("a.pkl")
PLAIN = {
    "text": ["a", "ü", ""],
    "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**40, -(2**63), 1.5, float("inf")],
    "others": (None, True, False, b"raw", (), (1,), (1, 2), (1, 2, 3, 4)),
    3: {"nested": {"deep": [[], {}]}},
    None: OrderedDict(a=1),
}


class Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


def refused(raw, known=frozenset()):
    with pytest.raises(CheckpointError) as error:
        read_pickle(raw, PATH, known)
    return error.value


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_of_the_standard_reader(protocol):
    values = dict(PLAIN)
    if protocol < 3:  # where bytes are written as a call of a codec
        values["others"] = (None, True, False, (), (1, 2, 3, 4))
    raw = pickle.dumps(values, protocol=protocol)
    assert read_pickle(raw, PATH, frozenset({"collections.OrderedDict"})) == pickle.loads(raw)


@pytest.mark.parametrize("protocol", range(6))
def test_the_global_a_pickle_would_run_is_named_and_not_run(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(pickle.dumps({"w": [Evil()]}, protocol=protocol))
    assert error.code == "E_UNSAFE"
    assert f"{os.system.__module__}.system" in str(error)
    assert not (tmp_path / "canary").exists()


def test_even_known_names_are_not_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"{os.system.__module__}.system"
    tree = read_pickle(pickle.dumps(Evil()), PATH, frozenset({name}))
    assert isinstance(tree, Call)
    assert (tree.name, tree.args) == (name, ("touch canary",))
    assert not (tmp_path / "canary").exists()


def test_a_prefix_lets_a_family_of_names_through():
    raw = b"\x80\x02c__torch__.a\nB\n."
    assert read_pickle(raw, PATH, frozenset(), prefix="__torch__.") == Global("__torch__.a.B")
    assert refused(raw).code == "E_UNSAFE"


def doubled(levels):
    """Return a tuple of 2^levels leaves that takes a few bytes a level."""
    return b")" + b"q\x00h\x00h\x00\x86" * levels


HOSTILE = {
    "empty": (b"", "E_TRUNCATED"),
    "no_stop": (b"\x80\x02}", "E_TRUNCATED"),
    "nothing_to_return": (b".", "E_ARCHIVE"),
    "text_past_the_end": (b"X\xff\xff\xff\x7fabc.", "E_TRUNCATED"),
    "text_of_2_to_63": (b"\x8d" + struct.pack("<Q", 2**63) + b"abc.", "E_TRUNCATED"),
    "bytes_of_2_to_63": (b"\x8e" + struct.pack("<Q", 2**63) + b"abc.", "E_TRUNCATED"),
    "huge_number": (b"\x8b\xff\xff\xff\x7f" + b"\1" * 99 + b".", "E_ARCHIVE"),
    "wide_number": (b"\x8a\xff" + b"\1" * 255 + b".", "E_ARCHIVE"),
    "long_decimals": (b"L" + b"9" * 4000 + b"L\n.", "E_ARCHIVE"),
    "line_without_end": (b"c" + b"a" * 100_000, "E_ARCHIVE"),
    "memo_never_set": (b"h\x05.", "E_ARCHIVE"),
    "memo_of_a_letter": (b"gx\n.", "E_ARCHIVE"),
    "marks": (b"(" * 100_000 + b".", "E_LIMIT"),
    "marks_never_set": (b"t.", "E_ARCHIVE"),
    "lists_without_end": (b"]" * 300_000 + b".", "E_LIMIT"),
    "dicts_in_dicts": (b"}" * 300_000 + b".", "E_LIMIT"),
    "key_that_hashes_for_ever": (b"}" + doubled(200) + b"Ns.", "E_ARCHIVE"),
    "list_as_key": (b"}]Ns.", "E_ARCHIVE"),
    "odd_items": (b"}(N\x88\x89u.", "E_ARCHIVE"),
    "fills_a_list": (b"]NNs.", "E_ARCHIVE"),
    "appends_to_a_dict": (b"}Na.", "E_ARCHIVE"),
    "state_of_nothing": (b"N}b.", "E_ARCHIVE"),
    "calls_a_text": (b"X\1\0\0\0a)R.", "E_ARCHIVE"),
    "calls_with_no_tuple": (b"ccollections\nOrderedDict\nNR.", "E_ARCHIVE"),
    "names_a_global_by_a_number": (b"K\1K\2\x93.", "E_ARCHIVE"),
    "bad_utf8": (b"X\2\0\0\0\xff\xfe.", "E_ARCHIVE"),
    "half_a_surrogate": (b"V\\ud800\n.", "E_ARCHIVE"),
    "surrogate_in_utf8": (b"X\3\0\0\0\xed\xa0\x80.", "E_ARCHIVE"),
    "set": (b"\x8f.", "E_ARCHIVE"),
    "extension": (b"\x82\x01.", "E_UNSAFE"),
    "no_instruction": (b"\xff.", "E_ARCHIVE"),
    "no_float": (b"Fabc\n.", "E_ARCHIVE"),
    "instance": (b"(ios\nsystem\n.", "E_UNSAFE"),
    "object": (b"(cos\nsystem\no.", "E_UNSAFE"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_at_once(name):
    raw, code = HOSTILE[name]
    begin = time.perf_counter()
    assert refused(raw, frozenset({"collections.OrderedDict"})).code == code
    assert time.perf_counter() - begin < 1


def test_a_memo_of_a_huge_number_takes_no_memory():
    assert read_pickle(b"Nr\xff\xff\xff\xff.", PATH, frozenset()) is None


def test_shared_tuples_and_deep_ones_are_read_without_being_unfolded():
    assert isinstance(read_pickle(doubled(900) + b".", PATH, frozenset()), tuple)
    deep = read_pickle(b")" + b"\x85" * 900 + b".", PATH, frozenset())
    assert isinstance(deep, tuple)


def test_pickles_beyond_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(inert_pickles, "MAX_PICKLE", 10)
    assert refused(b"N" * 20).code == "E_LIMIT"


VALID = pickle.dumps(PLAIN, protocol=2)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_pickles_are_read_or_refused(data):
    raw = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(CheckpointError):
        read_pickle(bytes(raw), PATH, frozenset({"collections.OrderedDict"}))


def test_random_bytes_are_read_or_refused():
    rng = np.random.default_rng(70215500391)
    for _ in range(2000):
        with contextlib.suppress(CheckpointError):
            read_pickle(rng.bytes(60), PATH, frozenset())
