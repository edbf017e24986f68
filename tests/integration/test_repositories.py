"""Hugging Face repositories: from a cache laid out as the hub's own library does, and from a hub here."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from spectra.errors import CheckpointError
from spectra.sources.remote import open_repository, open_url
from spectra.sources.remote.http_connections import HttpClient, Patience
from tests.servers import RangeServer

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.constants")

SHA = "0123456789abcdef0123456789abcdef01234567"
PARTS = {"model-00001-of-00002.safetensors": "ab", "model-00002-of-00002.safetensors": "c"}
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the library away from the user's cache, token and network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("no_proxy", "*")
    return folder


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def model(rng):
    return {name: rng.standard_normal((40, 30)).astype(np.float32) for name in "abc"}


@pytest.fixture
def files(model):
    made = {file: save({n: model[n] for n in held}) for file, held in PARTS.items()}
    index = {"weight_map": {n: file for file, held in PARTS.items() for n in held}}
    return made | {INDEX: json.dumps(index).encode(), "config.json": b"{}"}


def put_in_cache(cache, files, repo="org/name", revision="main"):
    """Lay out files as the library's downloads do: blobs, a snapshot of links, a reference."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / SHA
    for number, (name, content) in enumerate(files.items()):
        blob = folder / "blobs" / f"{number:064x}"
        link = snapshot / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    reference = folder / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(SHA)
    return snapshot


@pytest.fixture
def server(monkeypatch):
    """Run a hub and a mirror it redirects to, as the real one does."""
    with RangeServer() as mirror, RangeServer() as here:
        here.mirror = mirror
        monkeypatch.setattr(hub.constants, "ENDPOINT", here.url)
        template = here.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield here
        hub.close_session()


def publish(server, files, repo="org/name"):
    listing = {
        "id": repo,
        "sha": SHA,
        "siblings": [{"rfilename": name} for name in (*files, "../outside.safetensors")],
    }
    for path in ("", "/revision/main", "/revision/refs%2Fpr%2F1", f"/revision/{SHA}"):
        server.files[f"/api/models/{repo}{path}"] = json.dumps(listing).encode
    for name, content in files.items():
        server.redirects[f"/{repo}/resolve/{SHA}/{name}"] = {
            "Location": f"{server.mirror.url}/{name}?signature=1",
            "X-Linked-ETag": f'"{name}"',
        }
        server.mirror.files[f"/{name}"] = content


@pytest.fixture
def client():
    return HttpClient(Patience(attempts=2, sleep=lambda _: None))


def check(source, model):
    assert [tensor.name for tensor in source.tensors] == list(model)
    for name, values in model.items():
        assert np.array_equal(source.read(name), values)


def refused(act, code):
    with pytest.raises(CheckpointError) as caught:
        act()
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["org/name", "hf://org/name", "hf://org/name@main", SHA])
def test_a_cached_repository_is_read_from_the_cache(name, cache, files, model, server):
    snapshot = put_in_cache(cache, files)
    source = open_repository("org/name", SHA) if name == SHA else open_repository(name)
    check(source, model)
    assert source.info.address == str(snapshot)
    assert server.requests == []


def test_a_file_or_folder_of_a_cached_repository_is_read(cache, model, offline):
    put_in_cache(cache, {"unet/m.safetensors": save(model), "config.json": b"{}"})
    check(open_repository("hf://org/name/unet"), model)
    check(open_repository("hf://org/name@main/unet/m.safetensors"), model)


def test_offline_what_is_not_cached_says_so(cache, files, offline):
    error = refused(lambda: open_repository("org/name"), "E_OFFLINE")
    assert "hf download org/name" in error.advice
    put_in_cache(cache, files)
    refused(lambda: open_repository("org/name", "other"), "E_OFFLINE")


def test_offline_a_part_of_a_model_is_not_the_model(cache, files, offline):
    del files[max(PARTS)]
    put_in_cache(cache, files)
    refused(lambda: open_repository("org/name"), "E_MISSING_SHARD")


@pytest.mark.parametrize("left", [["config.json"], ["config.json", INDEX], [INDEX, min(PARTS)]])
def test_what_the_cache_lacks_is_read_from_the_hub(left, cache, files, model, server, client):
    put_in_cache(cache, {name: files[name] for name in left})
    publish(server, files)
    check(open_repository("org/name", client=client), model)


@pytest.mark.parametrize(
    ("where", "revision"),
    [
        ("org/name", None),
        ("org/name", "main"),
        ("hf://org/name@refs/pr/1", None),
        (f"hf://org/name@{SHA}/{INDEX}", None),
    ],
)
def test_a_repository_is_read_by_ranges_at_one_commit(
    where, revision, server, files, model, client, cache
):
    publish(server, files)
    source = open_repository(where, revision, client=client)
    asked = [path for path in server.paths() if path.startswith("/api/")]
    assert len(asked) == 1
    check(source, model)
    assert source.info.address == f"hf://org/name@{SHA}"
    resolved = [path for path in server.paths() if "/resolve/" in path]
    assert resolved
    assert all(f"/resolve/{SHA}/" in path for path in resolved)
    assert len(set(resolved)) == len(resolved)  # afterwards the mirror is asked
    assert not cache.exists()


def test_the_token_goes_to_the_hub_and_not_to_its_mirror(server, files, client):
    publish(server, files)
    open_repository("org/name", client=client).read("a")
    hub_headers = [h for path, h in server.requests if "/resolve/" in path]
    assert {h["Authorization"] for h in hub_headers} == {"Bearer hf_secret"}
    assert server.mirror.requests
    assert not any("Authorization" in h for _, h in server.mirror.requests)


def test_a_page_of_the_hub_is_its_repository(server, files, model, client):
    publish(server, files)
    for page in ("", "/", "/tree/main", f"/blob/main/{INDEX}", f"/resolve/main/{INDEX}?download=1"):
        check(open_url(f"https://huggingface.co/org/name{page}", client=client), model)
    check(open_url("hf://org/name", client=client), model)


def test_files_of_a_repository_are_chosen_as_in_a_folder(server, model, client):
    files = {
        "model.safetensors": save(model),
        "consolidated.safetensors": b"twice",
        "optimizer.safetensors": b"no",
        "unet/m.safetensors": save(model),
        "pytorch_model.bin": b"no",
    }
    publish(server, files)
    check(open_repository("org/name", client=client), model)
    check(open_repository("hf://org/name/unet", client=client), model)
    check(open_repository("hf://org/name/unet/m.safetensors", client=client), model)
    refused(lambda: open_repository("hf://org/name/none", client=client), "E_NOT_FOUND")
    refused(lambda: open_repository("hf://org/name/pytorch_model.bin"), "E_FORMAT")


def test_a_repository_without_safetensors_is_refused_with_the_way_out(server, model, client):
    publish(server, {"pytorch_model.bin": b"no"})
    error = refused(lambda: open_repository("org/name", client=client), "E_NO_WEIGHTS")
    assert "hf download org/name" in error.advice
    publish(server, {"unet/m.safetensors": save(model)})
    error = refused(lambda: open_repository("org/name", client=client), "E_NO_WEIGHTS")
    assert "unet" in error.advice


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "E_NOT_FOUND"),
        (401, {"X-Error-Code": "RepoNotFound"}, "E_NOT_FOUND"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "E_NOT_FOUND"),
        (403, {"X-Error-Code": "GatedRepo"}, "E_ACCESS"),
        (500, {}, "E_NETWORK"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_error(status, headers, code, server, client):
    server.always = status
    server.extra = headers
    refused(lambda: open_repository("org/name", "main", client=client), code)


def test_a_hub_that_is_not_there_is_one_clear_error(server, monkeypatch, client):
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    error = refused(lambda: open_repository("org/name", client=client), "E_NETWORK")
    assert "hf download org/name" in error.advice


@pytest.mark.parametrize(
    ("name", "revision", "code"),
    [
        ("name", None, "E_NOT_FOUND"),
        ("", None, "E_NOT_FOUND"),
        ("../org/name", None, "E_NOT_FOUND"),
        ("org/na me", None, "E_NOT_FOUND"),
        ("org--x/na..me", None, "E_NOT_FOUND"),
        ("org/name", "../../etc", "E_PATH"),
        ("org/name", "a b", "E_PATH"),
        ("hf://org/name/../../etc/passwd", None, "E_PATH"),
        ("hf://org/name@%2e%2e/x", None, "E_PATH"),
    ],
)
def test_names_that_are_no_repositories_are_refused(name, revision, code, server, client):
    refused(lambda: open_repository(name, revision, client=client), code)
    assert server.requests == []


def test_without_the_library_its_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = refused(lambda: open_repository("org/name"), "E_MISSING_PACKAGE")
    assert "[hf]" in error.advice
