import os
import stat

import pytest

from spectra.errors import CheckpointError
from spectra.writing import replace_file, write_file


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "report.json"
    for content in (b"first", b"second, longer", b""):
        write_file(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, error):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(*_):
        raise error

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(type(error)):
        replace_file(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    replace_file(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert stat.S_ISREG((tmp_path / "ours").stat().st_mode)


def test_a_pipe_is_written_into_and_not_moved_over(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "pipe", b"through it")
    assert os.read(reader, 100) == b"through it"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_place_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        write_file(tmp_path / "absent" / "report.json", b"")
    assert caught.value.code == "E_WRITE"
    assert "\n" not in str(caught.value)
