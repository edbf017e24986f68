"""Weights far away: a server of this machine stands for the web, the hub and the stores."""

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from spectra.errors import CheckpointError
from spectra.sources.blobs import HEAD
from spectra.sources.remote import open_url
from spectra.sources.remote.http_connections import HttpClient, Patience
from spectra.sources.safetensors_files import SafetensorsFile
from tests.integration.test_hostile_input import SAFETENSORS, entry, framed, tensors
from tests.servers import RangeServer

PARTS = {"model-00001-of-00002.safetensors": "ab", "model-00002-of-00002.safetensors": "c"}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with RangeServer() as running:
        yield running


@pytest.fixture
def client():
    return HttpClient(Patience(attempts=2, sleep=lambda _: None))


@pytest.fixture
def model(rng):
    return {name: rng.standard_normal((40, 30)).astype(np.float32) for name in "abc"}


def sharded(model):
    """Write the files of a model in two shards with their index."""
    files = {file: save({n: model[n] for n in held}) for file, held in PARTS.items()}
    index = {"weight_map": {n: file for file, held in PARTS.items() for n in held}}
    return files | {INDEX: json.dumps(index).encode()}


def serve(server, files, folder="/org/"):
    server.files |= {folder + name: content for name, content in files.items()}


def names(source):
    return [tensor.name for tensor in source.tensors]


def check(source, model):
    assert names(source) == list(model)
    for name, values in model.items():
        assert np.array_equal(source.read(name), values)
        assert np.array_equal(source.read_rows(name, 3, 9), values[3:9])


def refused(act, code):
    with pytest.raises(CheckpointError) as caught:
        act()
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)
    return caught.value


def test_one_tensor_of_a_large_file_costs_the_header_and_its_own_bytes(server, client, tmp_path):
    rows, columns = 1000, 5000
    nbytes = 4 * rows * columns
    header = {
        f"w{i}": {
            "dtype": "F32",
            "shape": [rows, columns],
            "data_offsets": [i * nbytes, (i + 1) * nbytes],
        }
        for i in range(5)
    }
    raw = json.dumps(header).encode()
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.seek(3 * nbytes, os.SEEK_CUR)
        file.write(values)
        file.truncate(8 + len(raw) + 5 * nbytes)
    assert path.stat().st_size > 10**8
    server.files["/large.safetensors"] = path
    source = open_url(f"{server.url}/large.safetensors", client=client)
    assert (server.nbytes, len(server.requests)) == (HEAD, 1)
    assert source.info.nbytes == 5 * nbytes
    assert np.array_equal(source.read("w3"), values)
    assert server.nbytes == HEAD + nbytes
    assert np.array_equal(source.read_rows("w3", 500, 510), values[500:510])
    assert server.nbytes == HEAD + nbytes + 10 * 4 * columns
    assert len(server.requests) == 3


def test_a_header_longer_than_the_head_is_fetched_once(server, client):
    many = {f"layers.{i}.weight": np.full((2, 2), i, np.float32) for i in range(3000)}
    raw = save(many)
    length = 8 + int.from_bytes(raw[:8], "little")
    assert length > 2 * HEAD
    server.files["/m.safetensors"] = raw
    source = open_url(f"{server.url}/m.safetensors", client=client)
    assert (server.nbytes, len(server.requests)) == (length, 2)
    assert source.read("layers.2999.weight")[0, 0] == 2999


def test_a_claim_of_100_gigabytes_costs_no_disk_and_no_time(monkeypatch):
    """The library checks the header in a file with a hole; the hole takes no room."""
    size = 10**11
    raw = framed(tensors(w=entry(0, size, (size // 4,))))

    class Claim:
        address = "https://host/m.safetensors"

        def __init__(self, size):
            self.size = size

        def read(self, offset, nbytes):
            return np.frombuffer(raw[offset : offset + nbytes], np.uint8)

    left = []
    plain = tempfile.TemporaryDirectory.cleanup

    def cleanup(self):
        left.extend(p.stat().st_blocks * 512 for p in Path(self.name).iterdir())
        plain(self)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", cleanup)
    assert SafetensorsFile(Claim(len(raw) + size)).info.nbytes == size
    assert left
    assert max(left) <= 65536
    refused(lambda: SafetensorsFile(Claim(len(raw) + size - 1)), "E_TRUNCATED")
    refused(lambda: SafetensorsFile(Claim(2**62)), "E_LIMIT")


def test_a_header_that_claims_to_be_huge_is_not_fetched(server, client):
    server.files["/m.safetensors"] = (30_000_000).to_bytes(8, "little") + b"{" + bytes(HEAD)
    server.claimed = 10**9
    refused(lambda: open_url(f"{server.url}/m.safetensors", client=client), "E_HEADER_SIZE")
    assert server.nbytes == HEAD


def test_threads_read_one_source_together(server, client, rng):
    model = {f"w{i}": rng.standard_normal((60, 50)) for i in range(40)}
    server.files["/m.safetensors"] = save(model)
    source = open_url(f"{server.url}/m.safetensors", client=client)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(source.read, model))
    assert all(np.array_equal(a, b) for a, b in zip(got, model.values(), strict=True))
    assert server.connections <= 9


@pytest.mark.parametrize("name", SAFETENSORS)
def test_files_refused_on_disk_are_refused_from_afar_for_the_same_reason(name, server, client):
    content, code = SAFETENSORS[name]
    server.files["/m.safetensors"] = content
    error = refused(lambda: open_url(f"{server.url}/m.safetensors", client=client), code)
    assert error.subject == f"{server.url}/m.safetensors"


def test_a_file_replaced_during_the_run_is_an_error_that_names_the_tensor(server, client, model):
    server.files["/m.safetensors"] = save({"w": np.zeros((300, 300))})
    source = open_url(f"{server.url}/m.safetensors", client=client)
    server.etag = '"two"'
    assert "'w'" in str(refused(lambda: source.read("w"), "E_CHANGED"))


@pytest.mark.parametrize("where", ["org/", "org", f"org/{INDEX}", f"org/{INDEX}?signature=1"])
def test_shards_on_a_web_server_are_one_source(where, server, client, model):
    serve(server, sharded(model))
    source = open_url(f"{server.url}/{where}", client=client)
    check(source, model)
    assert source.info.address == f"{server.url}/org/"
    assert source.info.notes == (f"2 shards, listed by {INDEX}",)
    if "?" in where:
        assert all(path.endswith("?signature=1") for path in server.paths())


def test_a_folder_on_a_web_server_may_hold_one_file(server, client, model):
    serve(server, {"model.safetensors": save(model)})
    check(open_url(f"{server.url}/org/", client=client), model)
    refused(lambda: open_url(f"{server.url}/none/", client=client), "E_NO_WEIGHTS")
    refused(lambda: open_url(f"{server.url}/none", client=client), "E_NOT_FOUND")
    refused(lambda: open_url(f"{server.url}/none.safetensors", client=client), "E_NOT_FOUND")
    server.always = 500
    refused(lambda: open_url(f"{server.url}/org/", client=client), "E_SERVER")


BAD_INDEXES = {
    "outside": ({"w": "../x.safetensors"}, "E_PATH"),
    "absolute": ({"w": "/etc/x.safetensors"}, "E_PATH"),
    "windows": ({"w": "C:x.safetensors"}, "E_PATH"),
    "backslash": ({"w": "..\\x.safetensors"}, "E_PATH"),
    "other_host": ({"w": "http://host/x.safetensors"}, "E_PATH"),
    "encoded": ({"w": "%2e%2e/x.safetensors"}, "E_PATH"),
    "query": ({"w": "x?y.safetensors"}, "E_PATH"),
    "absent": ({"w": "absent.safetensors"}, "E_MISSING_SHARD"),
    "torch": ({"w": "pytorch_model.bin"}, "E_FORMAT"),
    "itself": ({"w": INDEX}, "E_INDEX"),
    "lies": ({"other": "model-00001-of-00002.safetensors"}, "E_INDEX"),
    "number": ({"w": 3}, "E_INDEX"),
    "list": ([], "E_INDEX"),
    "too_many": ({str(i): f"{i}.safetensors" for i in range(5000)}, "E_LIMIT"),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_far_indexes_that_lie_or_leave_their_folder_are_refused(name, server, client, model):
    weight_map, code = BAD_INDEXES[name]
    files = sharded(model) | {INDEX: json.dumps({"weight_map": weight_map}).encode()}
    serve(server, files)
    refused(lambda: open_url(f"{server.url}/org/", client=client), code)
    assert all(path.startswith("/org/") for path in server.paths())


@pytest.mark.parametrize("text", [b"{" * 9, b"[1]", b"null", b"[" * 100_000, b"\xff"])
def test_far_indexes_that_are_no_json_are_refused(text, server, client):
    serve(server, {INDEX: text})
    refused(lambda: open_url(f"{server.url}/org/{INDEX}", client=client), "E_INDEX")


def test_a_far_index_that_claims_to_be_huge_is_not_fetched(server, client, model):
    serve(server, sharded(model))
    server.claimed = 10**12
    server.files[f"/org/{INDEX}"] = bytes(HEAD)
    refused(lambda: open_url(f"{server.url}/org/{INDEX}", client=client), "E_INDEX")
    assert server.nbytes == HEAD


def test_the_same_tensor_in_two_far_shards_is_refused(server, client, model):
    files = sharded(model)
    files["model-00002-of-00002.safetensors"] = save(model)
    serve(server, files)
    error = refused(lambda: open_url(f"{server.url}/org/", client=client), "E_DUPLICATE")
    assert server.url in str(error)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.bin", b"PK\x03\x04" + bytes(99), "a torch, Keras or NumPy archive"),
        ("m.safetensors", b"PK\x03\x04" + bytes(99), "a torch, Keras or NumPy archive"),
        ("m.pt", b"\x80\x02" + bytes(99), "a pickle"),
        ("m.gguf", b"GGUF" + bytes(99), "a GGUF file"),
        ("m.h5", b"\x89HDF" + bytes(99), "an HDF5 file"),
        ("m.npy", b"\x93NUMPY" + bytes(99), "a NumPy array file"),
        ("m", b"<!DOCTYPE html>", "a web page"),
        ("m", b"no idea", "no safetensors file"),
    ],
)
def test_other_formats_are_named_with_the_advice_to_download(name, content, words, server, client):
    server.files[f"/{name}"] = content
    error = refused(lambda: open_url(f"{server.url}/{name}", client=client), "E_FORMAT")
    assert words in error.reason
    assert "download" in error.advice


@pytest.fixture
def memory():
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/org", recursive=True)


@pytest.mark.parametrize("where", ["", "/", f"/{INDEX}"])
def test_any_store_may_hold_the_shards(where, memory, model):
    memory.pipe({f"/org/{name}": content for name, content in sharded(model).items()})
    check(open_url(f"memory://org{where}"), model)


def test_a_store_lists_its_folder_so_that_no_index_is_needed(memory, model):
    files = sharded(model)
    memory.pipe({f"/org/{name}": files[name] for name in PARTS})
    memory.pipe("/org/optimizer.safetensors", b"")
    source = open_url("memory://org")
    check(source, model)
    assert source.info.notes == ("2 shards, shards without an index",)
    memory.rm(f"/org/{min(PARTS)}")
    refused(lambda: open_url("memory://org"), "E_MISSING_SHARD")
    memory.pipe({"/org/x.safetensors": save(model), "/org/sub/m.safetensors": save(model)})
    refused(lambda: open_url("memory://org"), "E_AMBIGUOUS")
    check(open_url("memory://org/sub"), model)
    check(open_url("memory://org/x.safetensors"), model)
    memory.pipe("/org/empty/readme.txt", b"x")
    refused(lambda: open_url("memory://org/empty"), "E_NO_WEIGHTS")
    refused(lambda: open_url("memory://org/none"), "E_NOT_FOUND")
    memory.pipe("/org/empty.safetensors", b"")
    refused(lambda: open_url("memory://org/empty.safetensors"), "E_EMPTY")


@pytest.fixture(scope="module")
def moto():
    """Run a store that speaks S3, on this machine."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        "127.0.0.1", port=0, verbose=False
    )
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(moto, monkeypatch):
    import boto3
    from s3fs import S3FileSystem

    settings = {
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "no_proxy": "*",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    S3FileSystem.clear_instance_cache()
    store = boto3.client("s3")
    yield store
    store.close()
    S3FileSystem.clear_instance_cache()


def test_shards_in_an_s3_bucket_are_one_source(s3, model):
    s3.create_bucket(Bucket="shards")
    for name, content in sharded(model).items():
        s3.put_object(Bucket="shards", Key=f"org/{name}", Body=content)
    check(open_url("s3://shards/org"), model)
    check(open_url(f"s3://shards/org/{INDEX}"), model)
    refused(lambda: open_url("s3://shards/none"), "E_NOT_FOUND")
    refused(lambda: open_url("s3://nobody/none"), "E_NOT_FOUND")


@pytest.mark.parametrize("versioned", [True, False])
def test_an_object_replaced_during_the_run_is_read_as_it_was_or_not(versioned, s3, rng):
    bucket, key = f"changing-{versioned}".lower(), "m.safetensors"
    s3.create_bucket(Bucket=bucket)
    if versioned:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = rng.standard_normal((300, 300))
    s3.put_object(Bucket=bucket, Key=key, Body=save({"w": old}))
    source = open_url(f"s3://{bucket}")  # listed, and what is listed remembered
    assert np.array_equal(source.read("w"), old)
    s3.put_object(Bucket=bucket, Key=key, Body=save({"w": old + 1}))
    if versioned:
        assert np.array_equal(source.read("w"), old)
    else:
        refused(lambda: source.read("w"), "E_CHANGED")


def test_a_file_url_is_a_file(tmp_path, model):
    save_file(model, tmp_path / "α b.safetensors")
    check(open_url((tmp_path / "α b.safetensors").as_uri()), model)


@pytest.mark.parametrize("url", ["nothing://x/y", "http://[bad", "no url"])
def test_urls_that_nobody_reads_are_refused(url):
    with pytest.raises(CheckpointError):
        open_url(url)
