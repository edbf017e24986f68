"""Weights that are not on this disk: URLs and Hugging Face repositories, read by byte ranges.

Opening costs the headers; a layer costs its own bytes when it is read. Nothing is kept on the disk.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from spectra.errors import CheckpointError
from spectra.extras import require
from spectra.sources.base import Source
from spectra.sources.blobs import Blob, FsspecBlob, located, shown
from spectra.sources.folders import INDEX_ENDING
from spectra.sources.remote.far_folders import (
    ENDING,
    FarFolder,
    open_far_file,
    open_far_folder,
    plain,
)
from spectra.sources.remote.http_blobs import HttpBlob
from spectra.sources.remote.http_connections import HttpClient

REPOSITORY = re.compile(
    r"(?:hf://)?(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<path>.*))?",
    re.ASCII,
)
PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?]+)(?:/(?P<path>[^?]*))?)?/?(?:\?.*)?",
    re.ASCII,
)


def open_url(url: str, *, client: HttpClient | None = None) -> Source:
    """Open weights at a URL by their header alone.

    Parameters
    ----------
    url : str
        A ``.safetensors`` file, a ``.safetensors.index.json``, or a folder of them: on a web server, in a
        store fsspec knows (``s3://``, ``gs://`` ...), or a repository (``hf://org/name@revision``).
    client : HttpClient, optional
        Whose connections and patience to use for web servers.

    Returns
    -------
    Source
        Its tensors are fetched when they are read.

    Raises
    ------
    CheckpointError
        If the URL cannot be read, or holds something other than safetensors.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise CheckpointError("E_URL", shown(url), f"is no URL ({error})", "check it") from error
    page = PAGE.fullmatch(url)
    if scheme == "hf":
        return open_repository(url, client=client)
    if page:
        path = unquote(page["path"] or "").strip("/")
        revision = unquote(page["revision"]) if page["revision"] else None
        return _open_hub(page["id"], revision, path, client or HttpClient())
    if scheme == "file":
        from spectra.sources import open_source

        return open_source(Path(url2pathname(urlsplit(url).path))).source
    if scheme in ("http", "https"):
        return _open_web(url, client or HttpClient())
    return _open_store(url)


def open_repository(
    repo_id: str, revision: str | None = None, *, client: HttpClient | None = None
) -> Source:
    """Open a Hugging Face repository: from the local cache, else from afar at one commit.

    Parameters
    ----------
    repo_id : str
        ``org/name``, or ``hf://org/name@revision/folder``.
    revision : str, optional
        Branch, tag or commit; ``main`` if not given.
    client : HttpClient, optional
        Whose connections and patience to use.

    Returns
    -------
    Source
        A folder of the cache, or tensors fetched when they are read.

    Raises
    ------
    CheckpointError
        ``E_NOT_FOUND`` for what does not exist, ``E_ACCESS`` for what is gated, ``E_OFFLINE`` if the
        repository is not cached and ``HF_HUB_OFFLINE`` is set.
    """
    match = REPOSITORY.fullmatch(repo_id)
    if match is None:
        reason = "is no repository, which is written org/name"
        raise CheckpointError("E_NOT_FOUND", shown(repo_id), reason, "check its name")
    named = unquote(match["revision"]) if match["revision"] else None
    path = (match["path"] or "").strip("/")
    return _open_hub(match["id"], revision or named, path, client or HttpClient())


def _open_hub(repo: str, revision: str | None, path: str, client: HttpClient) -> Source:
    hub = require("huggingface_hub", "hf")
    for part in (
        "constants",
        "errors",
        "utils",
    ):  # loaded by it on demand, and not under these names
        require(f"huggingface_hub.{part}", "hf")
    address = f"hf://{repo}" + (f"@{revision}" if revision else "")
    if not plain(path or "x") or not re.fullmatch(r"[\w./+-]+", revision or "main"):
        raise CheckpointError("E_PATH", address, f"has no {path or revision!r}", "check the name")
    if ".." in (revision or "").split("/"):
        raise CheckpointError("E_PATH", address, "is no revision", "give a branch, tag or commit")
    offline = bool(hub.constants.HF_HUB_OFFLINE)
    cached = _open_cached(hub, repo, revision, path, offline=offline)
    if cached is not None:
        return cached
    advice = f"unset HF_HUB_OFFLINE, or download it first: hf download {repo}"
    if offline:
        reason = "is not in the local cache, and HF_HUB_OFFLINE is set"
        raise CheckpointError("E_OFFLINE", address, reason, advice)
    info = _resolved(hub, repo, revision, address)
    pinned = f"hf://{repo}@{info.sha}"
    token = hub.utils.build_hf_headers().get("authorization")

    def open_file(name: str) -> Blob:
        url = hub.hf_hub_url(repo, name, revision=info.sha, endpoint=hub.constants.ENDPOINT)
        headers = {"Authorization": token} if token else {}
        return HttpBlob(url, headers=headers, address=f"{pinned}/{name}", client=client)

    files = [file.rfilename for file in info.siblings or () if plain(file.rfilename)]
    download = f"download it: hf download {repo}"
    if path in files:
        above, _, name = path.rpartition("/")
        inside = f"{above}/" if above else ""
        folder = FarFolder(f"{pinned}/{above}".rstrip("/"), None, lambda n: open_file(inside + n))
        return open_far_file(folder, name, open_file(path))
    inside = f"{path}/" if path else ""
    names = tuple(f.removeprefix(inside) for f in files if f.startswith(inside))
    if path and not names:
        raise CheckpointError("E_NOT_FOUND", address, f"holds no {path!r}", "check the name")
    return open_far_folder(
        FarFolder(f"{pinned}/{path}".rstrip("/"), names, lambda n: open_file(inside + n), download)
    )


def _open_cached(
    hub: Any,  # noqa: ANN401 - a module without types
    repo: str,
    revision: str | None,
    path: str,
    *,
    offline: bool,
) -> Source | None:
    """Open what the local cache holds; a part of a model counts only where the rest is out of reach."""
    from spectra.sources import open_source

    try:
        snapshot = hub.snapshot_download(repo, revision=revision, local_files_only=True)
    except (OSError, ValueError) as error:  # not cached; or an incomplete snapshot, which it names
        snapshot = getattr(error, "snapshot_path", None)
    if snapshot is None:
        return None
    try:
        return open_source(Path(snapshot) / path)
    except CheckpointError as error:
        incomplete = ("E_NO_WEIGHTS", "E_MISSING_SHARD", "E_NOT_FOUND")
        if offline or error.code not in incomplete:
            raise
        return None


def _resolved(hub: Any, repo: str, revision: str | None, address: str) -> Any:  # noqa: ANN401
    """Ask once which commit a revision is, and which files it holds."""
    errors = hub.errors
    try:
        return hub.HfApi(endpoint=hub.constants.ENDPOINT).model_info(repo, revision=revision)
    except errors.GatedRepoError as error:
        reason = "is gated"
        advice = "ask for access on its page, then run: hf auth login"
        raise CheckpointError("E_ACCESS", address, reason, advice) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        reason = "does not exist, or is private"
        advice = "check its name; if it is private, run: hf auth login"
        raise CheckpointError("E_NOT_FOUND", address, reason, advice) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError("E_NOT_FOUND", address, "has no such revision", "check it") from error
    except Exception as error:  # the library's own client, which changes with its version
        reason = f"cannot be reached ({type(error).__name__})"
        advice = f"check the connection, or download it: hf download {repo}"
        raise CheckpointError("E_NETWORK", address, reason, advice) from error


def _open_web(url: str, client: HttpClient) -> Source:
    parts = urlsplit(url)
    if parts.path.endswith("/") or not parts.path:
        return open_far_folder(FarFolder(shown(url), None, lambda n: _web_file(url, n, client)))
    above, _, name = parts.path.rpartition("/")
    home = urlunsplit(parts._replace(path=f"{above}/"))
    try:
        blob = HttpBlob(url, client=client)
    except CheckpointError as error:
        if error.code != "E_NOT_FOUND" or name.endswith((ENDING, INDEX_ENDING)):
            raise
        try:
            return _open_web(urlunsplit(parts._replace(path=f"{parts.path}/")), client)
        except CheckpointError:
            raise error from None
    return open_far_file(
        FarFolder(shown(home), None, lambda n: _web_file(home, n, client)), name, blob
    )


def _web_file(folder: str, name: str, client: HttpClient) -> HttpBlob:
    """Open a file of a folder, whose query (a signature) it shares."""
    parts = urlsplit(folder)
    path = f"{parts.path.rstrip('/')}/{name}"
    return HttpBlob(urlunsplit(parts._replace(path=path)), client=client)


def _open_store(url: str) -> Source:
    fs, path = located(url)
    base = url.rstrip("/")
    try:
        fs.invalidate_cache(path)
        # Asking what it is costs a request, and the name of a file says it.
        is_folder = not url.endswith((ENDING, INDEX_ENDING)) and fs.isdir(path)
        listed = fs.ls(path, detail=False) if is_folder else []
    except FileNotFoundError as error:
        reason = "does not exist"
        raise CheckpointError("E_NOT_FOUND", shown(url), reason, "check the address") from error
    except Exception as error:  # every store has a client of its own
        reason = f"cannot be listed ({type(error).__name__}: {error})"
        raise CheckpointError("E_NETWORK", shown(url), reason, "give one file") from error
    if is_folder:
        names = tuple(str(name).rstrip("/").rpartition("/")[2] for name in listed)
        return open_far_folder(FarFolder(shown(base), names, lambda n: FsspecBlob(f"{base}/{n}")))
    above, _, name = base.rpartition("/")
    folder = FarFolder(shown(above), None, lambda n: FsspecBlob(f"{above}/{n}"))
    return open_far_file(folder, name, FsspecBlob(url))
