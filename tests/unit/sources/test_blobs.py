import itertools
import time
from email.utils import formatdate
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectra.errors import CheckpointError
from spectra.sources import blobs
from spectra.sources.blobs import HEAD, FsspecBlob, LocalBlob, coalesce, shown
from spectra.sources.remote.http_blobs import MAX_REDIRECTS, HttpBlob
from spectra.sources.remote.http_connections import HttpClient, Patience
from tests.servers import RangeServer

SIZE = 300_000
CONTENT = np.random.default_rng(5120938475).integers(0, 256, SIZE, np.uint8).tobytes()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with RangeServer(files={"/m.safetensors": CONTENT}) as running:
        yield running


@pytest.fixture
def waits():
    return []


@pytest.fixture
def client(waits):
    return HttpClient(Patience(attempts=4, sleep=waits.append))


def opened(server, client, **options):
    return HttpBlob(f"{server.url}/m.safetensors", client=client, **options)


def same(raw, begin, end):
    return raw.dtype == np.uint8 and raw.tobytes() == CONTENT[begin:end]


RANGES = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60)), max_size=12).map(
    lambda pairs: [(begin, begin + length) for begin, length in pairs]
)


@given(RANGES, st.integers(0, 50), st.integers(1, 200))
def test_merged_ranges_cover_what_was_asked_and_little_else(ranges, gap, most):
    merged = coalesce(ranges, gap, most)
    asked = {position for begin, end in ranges for position in range(begin, end)}
    fetched = [position for begin, end in merged for position in range(begin, end)]
    assert fetched == sorted(set(fetched))
    assert asked <= set(fetched)
    for begin, end in merged:
        inside = sorted({p for p in asked if begin <= p < end})
        assert (inside[0], inside[-1] + 1) == (begin, end)
        assert max(np.diff(inside), default=1) <= gap + 1
    for first, second in itertools.pairwise(merged):
        assert second[0] - first[1] > gap or second[1] - first[0] > most


def test_neighbours_that_are_expected_cost_one_request(server, client):
    blob = opened(server, client)
    before = len(server.requests)
    parts = [(200_000, 201_000), (201_000, 202_000), (203_000, 203_500)]
    blob.expect([*parts, (290_000, 290_010)])  # far from the others
    for part in (*parts[::-1], parts[0]):  # in any order; what is read again is fetched again
        assert same(blob.read(part[0], part[1] - part[0]), *part)
    assert same(blob.read(200_500, 20), 200_500, 200_520)  # a piece of what was expected
    assert server.ranges()[before:] == [
        "bytes=200000-203499",
        "bytes=200000-200999",
        "bytes=200500-200519",
    ]
    assert not blob._fetched  # nothing is kept beyond its last reader


def test_what_is_kept_for_later_is_bounded(server, client, monkeypatch):
    monkeypatch.setattr(blobs, "KEPT", 5_000)
    monkeypatch.setattr(blobs, "TOGETHER", 4_000)
    blob = opened(server, client)
    parts = [(begin, begin + 1_000) for begin in range(150_000, 190_000, 1_000)]
    blob.expect(parts)
    for part in parts[::4] + parts[1::4]:
        assert same(blob.read(part[0], 1_000), *part)
        assert sum(kept.size for kept in blob._fetched.values()) <= 5_000


def test_a_local_file_is_read_where_asked_and_no_further(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(CONTENT)
    blob = LocalBlob(path)
    assert blob.size == SIZE
    assert same(blob.read(10, 90), 10, 100)
    with pytest.raises(CheckpointError, match="ends inside") as caught:
        blob.read(SIZE - 5, 10)
    assert caught.value.code == "E_TRUNCATED"
    path.unlink()
    for act in (lambda: blob.read(0, 1), lambda: LocalBlob(path)):
        with pytest.raises(CheckpointError) as caught:
            act()
        assert caught.value.code == "E_UNREADABLE"


def test_secrets_of_a_url_are_not_shown():
    assert shown("s3://bucket/a/m.safetensors") == "s3://bucket/a/m.safetensors"
    assert shown("https://u:p@host:81/m?X-Amz-Signature=1#f") == "https://host:81/m"
    assert "secret" not in shown("http://[bad/?secret")


def test_the_head_is_fetched_once_and_other_bytes_once(server, client):
    blob = opened(server, client)
    assert (blob.size, server.nbytes) == (SIZE, HEAD)
    assert same(blob.read(0, HEAD), 0, HEAD)
    assert len(server.requests) == 1
    assert same(blob.read(HEAD - 10, 1000), HEAD - 10, HEAD + 990)
    assert server.ranges()[1:] == [f"bytes={HEAD}-{HEAD + 989}"]
    assert same(blob.read(SIZE - 7, 7), SIZE - 7, SIZE)
    assert blob.read(5, 0).size == 0
    assert {h["Accept-Encoding"] for _, h in server.requests} == {"identity"}


@pytest.mark.parametrize(("offset", "nbytes"), [(SIZE - 5, 6), (SIZE + 9, 1), (-1, 2), (0, 2**62)])
def test_bytes_beyond_the_end_are_neither_asked_for_nor_allocated(offset, nbytes, server, client):
    blob = opened(server, client)
    with pytest.raises(CheckpointError) as caught:
        blob.read(offset, nbytes)
    assert caught.value.code == "E_TRUNCATED"
    assert len(server.requests) == 1


def test_long_reads_travel_in_pieces(server, client, monkeypatch):
    monkeypatch.setattr(blobs, "PIECE", 64_000)
    blob = opened(server, client)
    assert same(blob.read(0, SIZE), 0, SIZE)
    assert len(server.requests) == 1 + 4
    assert server.connections == 1


@pytest.mark.parametrize("size", [1, 4000, HEAD - 1, HEAD, HEAD + 1])
def test_files_smaller_than_a_head_are_one_request(size, server, client):
    server.files["/m.safetensors"] = CONTENT[:size]
    blob = opened(server, client)
    assert same(blob.read(0, size), 0, size)
    assert len(server.requests) == 1 + (size > HEAD)


FAULTS = {
    "no_range": "E_RANGES",
    "wrong_range": "E_RANGES",
    "less": "E_RANGES",
    "gzip": "E_RANGES",
    "chunked_more": "E_RANGES",
    "loop": "E_SERVER",
    "short": "E_TRUNCATED",
    "reset": "E_NETWORK",
    "hang_up": "E_NETWORK",
    301: "E_SERVER",  # with no place to go to, it leads back to itself
    400: "E_SERVER",
    401: "E_ACCESS",
    403: "E_ACCESS",
    404: "E_NOT_FOUND",
    410: "E_NOT_FOUND",
    429: "E_SERVER",
    500: "E_SERVER",
    503: "E_SERVER",
    206: "E_RANGES",
    204: "E_SERVER",
}
LATER = {
    **FAULTS,
    416: "E_TRUNCATED",
    "whole": "E_RANGES",
    "whole_chunked": "E_RANGES",
    "changed": "E_CHANGED",
}
FAULTS[416] = "E_EMPTY"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_at_fault_when_a_file_is_opened_is_refused(fault, server, client, waits):
    server.always = fault
    with pytest.raises(CheckpointError) as caught:
        opened(server, client)
    assert caught.value.code == FAULTS[fault]
    assert "\n" not in str(caught.value)
    assert len(server.requests) <= max(MAX_REDIRECTS + 1, 4)


@pytest.mark.parametrize("fault", LATER)
def test_a_server_at_fault_during_the_run_gives_an_error_and_no_number(fault, server, client):
    blob = opened(server, client)
    server.always = fault
    with pytest.raises(CheckpointError) as caught:
        blob.read(150_000, 1000)
    assert caught.value.code == LATER[fault]
    server.always = None
    assert same(blob.read(150_000, 1000), 150_000, 151_000)


@pytest.mark.parametrize("when", ["opening", "reading"])
@pytest.mark.parametrize("fault", ["short", "reset", "hang_up", 408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("times", [1, 3])
def test_faults_that_pass_are_waited_for(when, fault, times, server, client, waits):
    if when == "opening":
        server.faults = [fault] * times
    blob = opened(server, client)
    if when == "reading":
        server.faults = [fault] * times
    assert same(blob.read(150_000, 1000), 150_000, 151_000)
    # A connection hung up while it was idle is no fault of the server and costs no wait.
    assert len(waits) == times - (fault == "hang_up" and when == "reading")
    for n, wait in enumerate(waits):
        assert 0.25 * 2**n <= wait <= 0.5 * 2**n


@pytest.mark.parametrize("fault", ["chunked", "drop"])
def test_what_is_odd_but_right_is_read(fault, server, client, waits):
    server.always = fault
    blob = opened(server, client)
    for begin in (120_000, 150_000):
        assert same(blob.read(begin, 1000), begin, begin + 1000)
    assert waits == []


def test_a_server_that_asks_for_time_gets_it_within_bounds(server, client, waits):
    dates = [formatdate(time.time() + 20, usegmt=True), formatdate(0, usegmt=True)]
    for asked, low, high in [
        ("7", 7, 7),
        ("9999999", 60, 60),
        (dates[0], 10, 20),
        (dates[1], 0, 0),
    ]:
        server.extra = {"Retry-After": asked}
        server.faults = [429]
        opened(server, client)
        assert low <= waits.pop() <= high
    server.extra = {"Retry-After": "soon"}
    server.faults = [503]
    opened(server, client)
    assert 0.25 <= waits.pop() <= 0.5


def test_a_server_without_ranges_may_give_small_files(server, client):
    server.always = "whole"
    blob = opened(server, client)
    assert same(blob.read(0, SIZE), 0, SIZE)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", ["whole", "whole_chunked"])
def test_a_server_without_ranges_does_not_give_large_files(fault, server, client):
    server.files["/m.safetensors"] = bytes(2**20 + 1)
    server.always = fault
    with pytest.raises(CheckpointError, match="ignores byte ranges") as caught:
        opened(server, client)
    assert caught.value.code == "E_RANGES"


@pytest.mark.parametrize(
    ("before", "after", "size"),
    [('"one"', '"two"', SIZE), (None, None, SIZE + 1), ('"one"', None, SIZE + 1)],
    ids=["another_tag", "another_size", "all_of_it_untagged"],
)
def test_a_file_replaced_by_another_is_noticed(before, after, size, server, client):
    server.etag = before
    blob = opened(server, client)
    server.etag = after
    server.files["/m.safetensors"] = bytes(size)
    with pytest.raises(CheckpointError, match="was replaced during the run") as caught:
        blob.read(200_000, 10)
    assert caught.value.code == "E_CHANGED"


def test_weak_tags_are_compared_and_not_sent(server, client):
    server.etag = 'W/"one"'
    blob = opened(server, client)
    blob.read(200_000, 10)
    assert all("If-Range" not in headers for _, headers in server.requests)
    server.etag = '"one"'
    blob.read(200_000, 10)
    assert blob.read(200_000, 10).size == 10


def test_connections_are_used_again_and_closed_with_their_client(server, waits):
    client = HttpClient(Patience(sleep=waits.append))
    blob = opened(server, client)
    for begin in range(110_000, 120_000, 1000):
        blob.read(begin, 1000)
    assert server.connections == 1
    (_, connection), *_ = client._idle
    del blob, client
    assert connection.sock is None


def test_credentials_stay_with_the_server_they_were_given_for(server, client):
    with RangeServer(files={"/blob": CONTENT}) as mirror:
        server.redirects["/m.safetensors"] = {"Location": f"{mirror.url}/blob?signature=1"}
        blob = opened(server, client, headers={"Authorization": "Bearer secret"})
        assert same(blob.read(200_000, 9), 200_000, 200_009)
        assert server.requests[0][1]["Authorization"] == "Bearer secret"
        assert len(mirror.requests) == 2  # the second without the detour
        assert len(server.requests) == 1
        assert all("Authorization" not in headers for _, headers in mirror.requests)
        assert blob.address == f"{server.url}/m.safetensors"


def test_a_login_in_the_url_is_sent_and_never_shown(server, client):
    url = f"{server.url}/m.safetensors?token=t".replace("//", "//me:p%40ss@")
    blob = HttpBlob(url, client=client)
    assert server.requests[0][1]["Authorization"] == "Basic bWU6cEBzcw=="
    assert server.paths() == ["/m.safetensors?token=t"]
    assert blob.address == f"{server.url}/m.safetensors"


def test_a_signature_that_expired_is_asked_for_again(server, client):
    with RangeServer(files={"/blob": CONTENT}) as mirror:
        server.redirects["/m.safetensors"] = {"Location": f"{mirror.url}/blob"}
        blob = opened(server, client)
        mirror.faults = [403]
        assert same(blob.read(200_000, 9), 200_000, 200_009)
        assert len(server.requests) == 2
        mirror.always = 403
        with pytest.raises(CheckpointError) as caught:
            blob.read(200_000, 9)
        assert caught.value.code == "E_ACCESS"


@pytest.mark.parametrize("content", ["same", "other"])
def test_another_mirror_is_trusted_if_the_first_server_names_the_content(content, server, client):
    files = {"/blob": CONTENT}
    with (
        RangeServer(files=files) as mirror,
        RangeServer(files=files, etag='"of its own"') as second,
    ):
        linked = {"X-Linked-ETag": '"sha"'}
        server.redirects["/m.safetensors"] = {"Location": f"{mirror.url}/blob", **linked}
        blob = opened(server, client)
        mirror.always = 403
        linked = linked if content == "same" else {"X-Linked-ETag": '"other"'}
        server.redirects["/m.safetensors"] = {"Location": f"{second.url}/blob", **linked}
        if content == "same":
            assert same(blob.read(200_000, 9), 200_000, 200_009)
            return
        with pytest.raises(CheckpointError) as caught:
            blob.read(200_000, 9)
        assert caught.value.code == "E_CHANGED"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/m", "http://[x"])
def test_redirects_lead_to_web_servers_alone(location, server, client):
    server.redirects["/m.safetensors"] = {"Location": location}
    with pytest.raises(CheckpointError) as caught:
        opened(server, client)
    assert caught.value.code == "E_URL"


def test_redirects_do_not_give_up_encryption(server, client):
    blob = opened(server, client)
    answer = SimpleNamespace(headers={"Location": "http://host/m"})
    with pytest.raises(CheckpointError, match="from https to http"):
        blob._redirected("https://host/m", answer)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:1/m.safetensors", "E_NETWORK"),
        ("http://name.invalid/m.safetensors", "E_NETWORK"),
        ("http://127.0.0.1:99999/m", "E_URL"),
        ("http:///m", "E_URL"),
        ("http://a b/m", "E_URL"),
        ("http://" + "a" * 300 + "/m", "E_URL"),
        ("ftp://host/m", "E_URL"),
    ],
)
def test_addresses_that_lead_nowhere_are_one_clear_error(url, code, client):
    with pytest.raises(CheckpointError) as caught:
        HttpBlob(url, client=client)
    assert caught.value.code == code


def test_the_proxy_of_the_environment_is_used(server, client, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:pass@"))
    blob = HttpBlob("http://models.example/m.safetensors?x=1", client=client)
    assert same(blob.read(0, 10), 0, 10)
    path, headers = server.requests[0]
    assert path == "http://models.example/m.safetensors?x=1"
    assert headers["Host"] == "models.example"
    assert headers["Proxy-Authorization"].startswith("Basic ")


def test_names_of_any_alphabet_are_encoded(server, client):
    server.files["/%CE%B1%20b/m%2Bx.safetensors"] = CONTENT
    assert HttpBlob(f"{server.url}/α b/m%2Bx.safetensors", client=client).size == SIZE


@pytest.fixture
def memory():
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    fs.pipe("/spectra/m.safetensors", CONTENT)
    yield fs
    fs.rm("/spectra", recursive=True)


def test_a_file_of_any_store_is_read_by_ranges(memory, monkeypatch):
    asked = []
    plain = type(memory).cat_file

    def counted(self, path, start=None, end=None, **options):
        asked.append((start, end))
        return plain(self, path, start, end, **options)

    monkeypatch.setattr(type(memory), "cat_file", counted)
    blob = FsspecBlob("memory://spectra/m.safetensors")
    assert same(blob.read(HEAD - 5, 10), HEAD - 5, HEAD + 5)
    assert asked == [(0, HEAD), (HEAD, HEAD + 5)]


def test_a_store_whose_file_changes_or_goes_is_an_error(memory):
    blob = FsspecBlob("memory://spectra/m.safetensors")
    memory.pipe("/spectra/m.safetensors", CONTENT[::-1])
    with pytest.raises(CheckpointError) as caught:
        blob.read(200_000, 10)
    assert caught.value.code == "E_CHANGED"
    memory.rm("/spectra/m.safetensors")
    memory.pipe("/spectra/other", b"")
    for act in (lambda: blob.read(200_000, 10), lambda: FsspecBlob("memory://spectra/none")):
        with pytest.raises(CheckpointError) as caught:
            act()
        assert caught.value.code == "E_NOT_FOUND"


def test_a_store_that_gives_too_little_is_an_error(memory, monkeypatch):
    blob = FsspecBlob("memory://spectra/m.safetensors")
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: b"few")
    with pytest.raises(CheckpointError) as caught:
        blob.read(200_000, 10)
    assert caught.value.code == "E_TRUNCATED"


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (PermissionError("no"), "E_ACCESS"),
        (RuntimeError("a\nb"), "E_NETWORK"),
        (OSError(), "E_NETWORK"),
    ],
)
def test_what_a_store_raises_is_one_clear_error(raised, code, memory, monkeypatch):
    def fail(*_, **__):
        raise raised

    blob = FsspecBlob("memory://spectra/m.safetensors")
    monkeypatch.setattr(type(memory), "cat_file", fail)
    with pytest.raises(CheckpointError) as caught:
        blob.read(200_000, 10)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nothing://x/y", "E_URL"),
        ("abfs://c/m", "E_MISSING_PACKAGE"),
        ("memory://spectra", "E_NOT_A_FILE"),
    ],
)
def test_stores_nobody_reads_and_folders_are_refused(url, code, memory):
    with pytest.raises(CheckpointError) as caught:
        FsspecBlob(url)
    assert caught.value.code == code
