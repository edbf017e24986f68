"""Which file and folder is read by whom: one table, by what a file begins with before its ending."""

import difflib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import CheckpointError
from spectra.sources import folders, refusals
from spectra.sources.base import Source

LFS_POINTER = b"version https://git-lfs"
ZIP = b"PK\x03\x04"
HEAD = 64
MAX_MEMBERS = 1_000_000


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file before it is opened: its path, its first bytes, its zip records."""

    path: Path
    head: bytes
    members: frozenset[str]

    def has(self, *records: str) -> bool:
        """Tell whether one of the zip records is of such a name, whatever folder is around them all."""
        inner = self.members | {name.partition("/")[2] for name in self.members}
        return not inner.isdisjoint(records)


@dataclass(frozen=True, slots=True)
class Format:
    """A format: how a file of it is told, in words and in fact, and who opens it.

    ``extra`` names the optional dependency that reading it takes.
    """

    name: str
    told_by: str
    is_it: Callable[[File], bool]
    open: Callable[[Path], Source]
    extra: str = ""


def _is_safetensors(file: File) -> bool:
    # The length of its header, below 2^32, and then its brace.
    if file.head[4:9] == b"\0\0\0\0{":
        return True
    return file.path.suffix == ".safetensors" and not file.head.startswith(ZIP)


def _is_flax(file: File) -> bool:
    """Tell a msgpack map whose first key is a text."""
    count = {0xDE: 2, 0xDF: 4}.get(file.head[0], 0)
    first = file.head[1 + count] if len(file.head) > 1 + count else 0
    is_map = bool(count) or 0x81 <= file.head[0] <= 0x8F
    is_text = 0xA0 <= first <= 0xBF or 0xD9 <= first <= 0xDB
    return file.path.suffix == ".msgpack" or (is_map and is_text)


def _safetensors(path: Path) -> Source:
    from spectra.sources.safetensors_files import SafetensorsFile

    return SafetensorsFile(path)


def _gguf(path: Path) -> Source:
    from spectra.sources.gguf_files import GgufFile

    return GgufFile(path)


def _keras(path: Path) -> Source:
    from spectra.sources.keras_files import KerasFile

    return KerasFile(path)


def _numpy(path: Path) -> Source:
    from spectra.sources.numpy_files import NumpyFile

    return NumpyFile(path)


def _onnx(path: Path) -> Source:
    from spectra.sources.onnx_files import OnnxFile

    return OnnxFile(path)


def _flax(path: Path) -> Source:
    from spectra.sources.flax_files import FlaxFile

    return FlaxFile(path)


def _program(path: Path) -> Source:
    from spectra.sources.pytorch.torch_programs import TorchProgram

    return TorchProgram(path)


def _torch(path: Path) -> Source:
    from spectra.sources.pytorch.torch_files import TorchFile

    return TorchFile(path)


PROGRAM = ("constants.pkl", "archive_format", "serialized_state_dict.pt")

FORMATS: tuple[Format, ...] = (
    Format(
        "safetensors",
        "a header's length and its brace at the start, or `.safetensors`",
        _is_safetensors,
        _safetensors,
    ),
    Format(
        "GGUF",
        "`GGUF` at the start; the parts of a split model are opened together",
        lambda file: file.head.startswith(b"GGUF"),
        _gguf,
        "gguf",
    ),
    Format(
        "Keras",
        "HDF5's signature at the start, or a zip archive that holds `model.weights.h5`",
        lambda file: file.head.startswith(b"\x89HDF") or "model.weights.h5" in file.members,
        _keras,
        "keras",
    ),
    Format(
        "NumPy",
        "`\\x93NUMPY` at the start, or a zip archive of `.npy` files",
        lambda file: (
            file.head.startswith(b"\x93NUMPY")
            or file.path.suffix == ".npz"
            or (bool(file.members) and all(name.endswith(".npy") for name in file.members))
        ),
        _numpy,
    ),
    Format(
        "TorchScript and torch.export",
        "a zip archive with `constants.pkl`, `archive_format` or `serialized_state_dict.pt`",
        lambda file: file.has(*PROGRAM),
        _program,
    ),
    Format(
        "torch",
        "a zip archive otherwise, a pickle, or `.pt` `.pth` `.th` `.bin` `.ckpt`",
        lambda file: (
            file.head.startswith((ZIP, b"\x80")) or file.path.suffix in folders.TORCH_ENDINGS
        ),
        _torch,
    ),
    Format("ONNX", "`.onnx`", lambda file: file.path.suffix == ".onnx", _onnx, "onnx"),
    Format(
        "Flax", "a msgpack map with words for keys at the start, or `.msgpack`", _is_flax, _flax
    ),
)
"""In the order in which they are tried."""


def is_local(path: Path) -> bool:
    """Tell whether a path leads somewhere here, or would with another name or a file's ending."""
    endings = tuple(folders.ENDINGS)
    return (
        path.exists()
        or path.parts[0] in ("/", ".", "..")
        or (Path(path.parts[0]).exists() or path.name.endswith(endings))
    )


def open_path(path: Path, *, allow_partial: bool = False) -> Source:
    """Open a file, a folder or an index of shards.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, unsafe or of a format that is not read.
    """
    try:
        if path.is_dir():
            return _open_folder(path, allow_partial=allow_partial)
        if path.name.endswith(folders.INDEX_ENDING) and path.is_file():
            return folders.open_index(path, open_file, allow_partial=allow_partial)
        return open_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            "E_UNREADABLE", str(path), reason.lower(), "check the path and its permissions"
        ) from error


def _open_folder(path: Path, *, allow_partial: bool) -> Source:
    from spectra.sources.pytorch.distributed_checkpoints import (
        DistributedCheckpoint,
        is_distributed,
    )

    if is_distributed(path):
        return DistributedCheckpoint(path)
    refused = refusals.refuse_folder(path)
    if refused is not None:
        raise refused
    return folders.open_folder(path, open_file, allow_partial=allow_partial)


def open_file(path: Path) -> Source:
    """Open one file, by what its content says it is."""
    if not path.exists():
        raise _not_found(path)
    if not path.is_file():
        raise CheckpointError(
            "E_NOT_A_FILE", str(path), "is neither a file nor a folder", "give a checkpoint"
        )
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise CheckpointError("E_EMPTY", str(path), "is empty", "download or copy it again")
    if head.startswith(LFS_POINTER):
        raise CheckpointError(
            "E_LFS_POINTER", str(path), "is a git-lfs pointer, not the file", "run: git lfs pull"
        )
    file = File(path, head, _members(path) if head.startswith(ZIP) else frozenset())
    refused = refusals.refuse_archive(path, file.members)
    if refused is not None:
        raise refused
    text = b"" if FORMATS[0].is_it(file) else head.lstrip().lower()
    if text.startswith((b"<", b"{", b"[")):
        if b'"spectra_version"' in head:
            raise CheckpointError(
                "E_NOT_A_CHECKPOINT",
                str(path),
                "is a report of spectra, not weights",
                "give it to rank, compare, history or --baseline; --spectra keeps what analyze reads",
            )
        what = "a web page" if text.startswith(b"<") else "a JSON text"
        raise CheckpointError(
            "E_NOT_A_CHECKPOINT", str(path), f"is {what}, not weights", "download the file again"
        )
    for form in FORMATS:
        if form.is_it(file):
            source = form.open(path)
            refused = refusals.refuse_names(path, [tensor.name for tensor in source.tensors])
            if refused is not None:
                raise refused
            return source
    raise CheckpointError(
        "E_NOT_A_CHECKPOINT",
        str(path),
        f"begins with {head[:12]!r}, which is no known checkpoint",
        f"expected one of {', '.join(form.name for form in FORMATS)}",
    )


def _members(path: Path) -> frozenset[str]:
    """Return the names of a zip archive's records; none of one that is damaged: its reader tells."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(archive.namelist()[:MAX_MEMBERS])
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return frozenset()


def _not_found(path: Path) -> CheckpointError:
    parent = path.parent
    close: list[str] = []
    if parent.is_dir():
        others = [p.name for p in parent.iterdir() if p.name != path.name]
        close = difflib.get_close_matches(path.name, others, n=2)
    advice = f"did you mean {' or '.join(close)}?" if close else "give a file or folder"
    return CheckpointError("E_NOT_FOUND", str(path), "does not exist", advice)
