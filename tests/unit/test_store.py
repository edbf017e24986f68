import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spectra.records import Spectrum
from spectra.store import Store, default_path, key_of
from tests.conftest import ROOT


def spectrum_of(*eigenvalues, n_matrices=1, **fields):
    values = np.array(eigenvalues, np.float64)
    usual = {"squared_norm": float(values.sum()), "residual": 3e-15, "solver": "gram"}
    side = values.size // n_matrices
    return Spectrum(values, 2 * side, side, n_matrices, **(usual | fields))


SPECTRUM = spectrum_of(5e-324, 0.1 + 0.2, 1.7e308, error=np.nextafter(1e-12, 1))
KEY = key_of(content="some weights")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def file_of(store, key=KEY):
    return store.path / key[:2] / f"{key[2:]}.spectrum"


def same(found, expected):
    numbers = ("N", "M", "n_matrices", "squared_norm", "residual", "solver", "error")
    return found.eigenvalues.tobytes() == expected.eigenvalues.tobytes() and all(
        getattr(found, name) == getattr(expected, name) for name in numbers
    )


@pytest.mark.parametrize(
    "spectrum",
    [
        SPECTRUM,
        spectrum_of(0.0),
        spectrum_of(0.0, 0.0, 1 / 3, 1 / 3, n_matrices=2, solver="svd", error=1e-17),
        spectrum_of(*np.sort(np.random.default_rng(3).pareto(1, 300))),
    ],
)
def test_what_is_got_is_what_was_put_to_the_bit(store, spectrum):
    assert store.get(KEY) is None
    store.put(KEY, spectrum)
    found = Store(store.path).get(KEY)
    assert same(found, spectrum)
    assert found.stored
    assert not spectrum.stored


def test_a_key_is_all_of_what_it_is_made_from_and_its_order_is_not():
    parts = {"content": "ab", "N": 3, "precision": "double", "resolution": None}
    changes = [{"content": "ac"}, {"N": 4}, {"N": 3.0}, {"N": "3"}, {"resolution": 0.0}, {"x": 1}]
    keys = [key_of(**(parts | change)) for change in ({}, *changes)]
    assert len(set(keys)) == len(keys)
    assert key_of(**dict(reversed(parts.items()))) == keys[0] == Store.key(**parts)


@pytest.mark.parametrize("key", ["", "../../etc/passwd", KEY[:-1], KEY.upper(), KEY + "0"])
def test_what_is_no_key_is_a_mistake_of_the_program(store, key):
    with pytest.raises(ValueError, match="no key"):
        store.get(key)
    with pytest.raises(ValueError, match="no key"):
        store.put(key, SPECTRUM)


def test_an_entry_with_any_bit_flipped_is_a_miss_and_is_replaced(store):
    store.put(KEY, SPECTRUM)
    good = file_of(store).read_bytes()
    for position in range(len(good)):
        for mask in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= mask
            file_of(store).write_bytes(bad)
            assert store.get(KEY) is None, position
    assert len(store.verify().damaged) == 1
    store.put(KEY, SPECTRUM)
    assert same(store.get(KEY), SPECTRUM)


def test_an_entry_cut_short_or_too_long_is_a_miss(store):
    store.put(KEY, SPECTRUM)
    good = file_of(store).read_bytes()
    for length in range(len(good)):
        file_of(store).write_bytes(good[:length])
        assert store.get(KEY) is None, length
        assert len(store.verify().damaged) == 1
    file_of(store).write_bytes(good + b"\0")
    assert store.get(KEY) is None


def test_an_entry_under_the_name_of_another_is_a_miss(store):
    other = key_of(content="other weights")
    store.put(KEY, SPECTRUM)
    file_of(store, other).parent.mkdir(exist_ok=True)
    file_of(store).rename(file_of(store, other))
    assert store.get(other) is None
    assert store.get(KEY) is None


def test_an_entry_of_a_newer_version_is_a_miss_but_not_damaged_and_is_replaced(store):
    store.put(KEY, SPECTRUM)
    newer = bytearray(file_of(store).read_bytes())
    newer[8] += 1
    file_of(store).write_bytes(newer)
    assert store.get(KEY) is None
    assert store.verify(remove=True).damaged == ()
    assert file_of(store).exists()
    store.put(KEY, SPECTRUM)
    assert same(store.get(KEY), SPECTRUM)


@pytest.mark.parametrize(
    "values", [[1.0, np.nan], [-1.0, 1.0], [2.0, 1.0], [1.0, np.inf], [np.nan, np.nan]]
)
def test_an_entry_that_is_whole_but_no_spectrum_is_a_miss(store, values):
    store.put(KEY, spectrum_of(*values, squared_norm=1.0))
    assert file_of(store).exists()
    assert store.get(KEY) is None


def test_what_is_no_file_is_a_miss(store):
    file_of(store).parent.mkdir(parents=True)
    os.mkfifo(file_of(store))  # opened, it would wait for a writer forever
    assert store.get(KEY) is None
    file_of(store).unlink()
    file_of(store).symlink_to("/dev/zero")
    assert store.get(KEY) is None
    file_of(store).unlink()
    file_of(store).mkdir()
    assert store.get(KEY) is None


def failing(error):
    def write(*_):
        raise error

    return write


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_where_nothing_can_be_written_there_is_one_warning_and_reading_goes_on(
    store, code, monkeypatch, caplog
):
    store.put(KEY, SPECTRUM)
    monkeypatch.setattr("spectra.store.replace_file", failing(OSError(code, os.strerror(code))))
    for number in range(5):
        store.put(key_of(number=number), SPECTRUM)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert os.strerror(code).lower() in record.message
    assert same(store.get(KEY), SPECTRUM)


def test_a_full_disk_leaves_nothing_behind(store, monkeypatch, caplog):
    store.put(KEY, SPECTRUM)
    monkeypatch.setattr(Path, "replace", failing(OSError(errno.ENOSPC, "no space")))
    store.put(KEY, spectrum_of(1.0))
    assert [path for path in store.path.rglob("*") if path.is_file()] == [file_of(store)]
    assert same(store.get(KEY), SPECTRUM)
    assert len(caplog.records) == 1


def test_a_place_that_is_no_folder_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file")
    store.put(KEY, SPECTRUM)
    store.put(KEY, SPECTRUM)
    assert store.get(KEY) is None
    assert len(caplog.records) == 1
    assert list(store.entries()) == []
    assert store.verify().n_checked == store.clear().n_removed == 0


def test_the_place_is_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPECTRA_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_path() == Path("/own")
    monkeypatch.setenv("SPECTRA_CACHE", "")
    assert default_path() == Path("/xdg/spectra")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert default_path() == tmp_path / ".cache" / "spectra"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Store().path == tmp_path / ".cache" / "spectra"


def test_without_a_home_there_is_one_warning_and_no_store(monkeypatch, caplog):
    monkeypatch.delenv("SPECTRA_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", failing(RuntimeError("no home")))
    store = Store()
    store.put(KEY, SPECTRUM)
    store.put(KEY, SPECTRUM)
    assert store.path is None
    assert store.get(KEY) is None
    assert list(store.entries()) == []
    assert [record.message.count("SPECTRA_CACHE") for record in caplog.records] == [1]


def test_entries_are_listed_with_what_they_are(store):
    pooled = spectrum_of(1.0, 2.0, 3.0, 4.0, n_matrices=2, solver="svd")
    keys = sorted(key_of(number=number) for number in range(20))
    for key in keys:
        store.put(key, pooled)
    file_of(store, keys[3]).write_bytes(b"no entry")
    entries = list(store.entries())
    assert [entry.key for entry in entries] == keys[:3] + keys[4:]
    for entry in entries:
        assert (entry.N, entry.M, entry.n_matrices, entry.solver) == (4, 2, 2, "svd")
        assert entry.nbytes == file_of(store, entry.key).stat().st_size
        assert 0 <= time.time() - entry.time < 600


def test_damaged_entries_are_named_and_removed_if_asked(store):
    keys = [key_of(number=number) for number in range(4)]
    for key in keys:
        store.put(key, SPECTRUM)
    spoilt = bytearray(file_of(store, keys[1]).read_bytes())
    spoilt[-1] ^= 1
    file_of(store, keys[1]).write_bytes(spoilt)
    file_of(store, keys[2]).write_bytes(b"")
    expected = {
        file_of(store, keys[1]): "fails its checksum",
        file_of(store, keys[2]): "is no entry",
    }
    for remove in (False, True):
        found = store.verify(remove=remove)
        assert found.n_checked == 4
        assert dict(found.damaged) == expected
    assert store.verify() == type(found)(2, ())


def test_only_what_is_old_enough_is_cleared_and_only_what_is_ours(store, tmp_path):
    old, new = key_of(age="old"), key_of(age="new")
    for key in (old, new):
        store.put(key, SPECTRUM)
    month_ago = time.time() - 31 * 86400
    os.utime(file_of(store, old), (month_ago, month_ago))
    shard = file_of(store, new).parent
    theirs = [
        store.path / "notes.txt",
        shard / "notes.txt",
        store.path / "zz" / f"{'0' * 62}.spectrum",
    ]
    outside = tmp_path / "outside.spectrum"
    for path in (*theirs, outside):
        path.parent.mkdir(exist_ok=True)
        path.write_text("keep me")
    (shard / f"{'1' * 62}.spectrum").symlink_to(outside)
    abandoned, current = shard / ".spectra-0abc.tmp", shard / ".spectra-1abc.tmp"
    for path in (abandoned, current):
        path.write_text("half")
    os.utime(abandoned, (month_ago, month_ago))

    done = store.clear(older_than=30 * 86400)
    assert (done.n_removed, done.n_left) == (1, 0)
    assert store.get(old) is None
    assert same(store.get(new), SPECTRUM)
    assert not abandoned.exists()
    assert current.exists()  # of a process that is writing it
    done = store.clear()
    assert (done.n_removed, done.nbytes > 0) == (1, True)
    assert all(path.read_text() == "keep me" for path in (*theirs, outside))


def test_what_cannot_be_removed_is_counted(store, monkeypatch):
    store.put(KEY, SPECTRUM)
    monkeypatch.setattr(Path, "unlink", failing(PermissionError(errno.EACCES, "denied")))
    assert (store.clear().n_removed, store.clear().n_left) == (0, 1)


WRITER = """
import sys
import numpy as np
from spectra.records import Spectrum
from spectra.store import Store, key_of
store, mine = Store(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(150):
    shared = np.full(400, float(number))
    store.put(key_of(number=number), Spectrum(shared, 400, 400, 1, 1.0, 0.0, "gram"))
    own = np.full(300, float(number) + int(mine) / 10)
    store.put(key_of(number=number, mine=mine), Spectrum(own, 300, 300, 1, 1.0, 0.0, "gram"))
    assert store.get(key_of(number=number)).eigenvalues[0] == number
"""


def test_two_processes_write_the_same_and_different_entries_at_once(store):
    command = [sys.executable, "-c", WRITER, str(store.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, mine], cwd=ROOT, **pipes) for mine in "12"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    assert store.verify() == type(store.verify())(450, ())
    for number in range(150):
        assert store.get(key_of(number=number)).eigenvalues.tolist() == [number] * 400
        for mine in "12":
            own = store.get(key_of(number=number, mine=mine)).eigenvalues
            assert own.tolist() == [number + int(mine) / 10] * 300
    assert not list(store.path.rglob("*.tmp"))
