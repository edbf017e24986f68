"""Weights of which each process holds a piece: DTensors (FSDP2, HSDP, tensor parallelism).

What is called collective here is called by all processes of a tensor's mesh, in the same order. The
pieces of FSDP1 and of DeepSpeed ZeRO-3 do not say what they are pieces of, and are refused.
"""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from spectra.errors import DistributedError, WeightError
from spectra.sources.base import Array

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed.tensor import DTensor

BLOCK = 2**24
"""Entries of a piece that are turned into float64 at a time."""

GATHER = (
    "gather it on all processes first: torch.distributed.checkpoint.state_dict.get_model_state_dict("
    "model, options=StateDictOptions(full_state_dict=True))"
)


def is_dtensor(value: object) -> bool:
    """Tell whether a value is a DTensor, without importing torch for it."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)


def is_sharded(value: Any) -> bool:  # noqa: ANN401 - a tensor or an array
    """Tell whether this process holds less than the whole of a tensor."""
    if not is_dtensor(value) or value.device_mesh.size() == 1:
        return False
    return not all(placement.is_replicate() for placement in value.placements)


def refuse_piece(name: str, value: Any) -> None:  # noqa: ANN401 - a tensor or an array
    """Raise if a tensor's numbers are not all in this process.

    Raises
    ------
    WeightError
        ``E_SHARDED`` if it is a piece, ``E_FREED`` if its memory was given back.
    """
    if is_sharded(value):
        raise WeightError(
            "E_SHARDED", name, f"is spread over {value.device_mesh.size()} processes", GATHER
        )
    if is_dtensor(value) or isinstance(value, np.ndarray) or not value.numel():
        return
    has_storage = value.device.type != "meta" and value.layout is sys.modules["torch"].strided
    if has_storage and not value.untyped_storage().nbytes():
        raise WeightError("E_FREED", name, "its memory was given back, as FSDP does", GATHER)


def refuse_outside(value: Any, n_processes: int) -> None:  # noqa: ANN401 - a tensor
    """Raise if the pieces of a tensor are not all with `n_processes`, of which this is one.

    Raises
    ------
    DistributedError
        ``E_SHARDED``.
    """
    if is_sharded(value) and value.device_mesh.size() > n_processes:
        raise DistributedError(
            "E_SHARDED", "the model", "is spread over processes", "leave `world` out"
        )
    if is_dtensor(value) and value.device_mesh.get_coordinate() is None:
        raise DistributedError(
            "E_SHARDED",
            "the model",
            "has tensors of which this process holds no piece",
            "watch with `layers=` those that all processes share",
        )


def refuse_pieces(module: "nn.Module") -> None:
    """Raise if parameters of a module are pieces that do not say of what.

    Raises
    ------
    WeightError
        ``E_SHARDED`` under FSDP1 and under DeepSpeed's ZeRO-3.
    """
    for name, parameter in module.named_parameters():
        whole = getattr(parameter, "ds_shape", parameter.shape)
        if tuple(whole) != tuple(parameter.shape):
            raise WeightError(
                "E_SHARDED",
                name,
                "is spread over processes by DeepSpeed ZeRO-3",
                "copy the parameters inside deepspeed.zero.GatheredParameters, and analyze the copies",
            )
        if getattr(parameter, "_is_flat_param", False):
            raise _flat(module)
    fsdp = sys.modules.get("torch.distributed.fsdp")
    wrapped = [] if fsdp is None else fsdp.FullyShardedDataParallel.fsdp_modules(module)
    if any(each.sharding_strategy.name != "NO_SHARD" for each in wrapped):
        raise _flat(module)


def _flat(module: object) -> WeightError:
    return WeightError(
        "E_SHARDED",
        type(module).__name__,
        "holds flat pieces of its weights (FSDP1)",
        f"shard with fully_shard (FSDP2) to watch it; to analyze it, {GATHER}",
    )


def settle(module: Any) -> None:  # noqa: ANN401 - of any framework
    """Have FSDP2 hold the pieces that it trains, and not the copies that a forward pass left.

    As torch's own ``state_dict`` does; the next forward pass gathers them as always.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    torch = sys.modules.get("torch")
    if fsdp is None or torch is None or not isinstance(module, torch.nn.Module):
        return
    for child in module.modules():
        if isinstance(child, fsdp.FSDPModule):
            child.reshard()


def local(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return what this process holds of a tensor; it shares its memory."""
    import torch

    with torch.no_grad():
        held: torch.Tensor = tensor.to_local() if is_dtensor(tensor) else tensor.detach()  # type: ignore[attr-defined]
        return held


def whole(tensor: Any) -> "torch.Tensor":  # noqa: ANN401 - a DTensor, whose methods torch leaves untyped
    """Gather a tensor; every process gets all of it, in memory of its own. Collective."""
    import torch

    with torch.no_grad():
        gathered: torch.Tensor = tensor.detach().full_tensor()
        is_own = gathered.data_ptr() == local(tensor).data_ptr()  # on a mesh of one process
        return gathered.clone() if is_own else gathered


def difference(now: Any, before: "torch.Tensor") -> "DTensor":  # noqa: ANN401 - a DTensor
    """Return a tensor less an earlier `local` of it, in the same pieces; halves as float32."""
    import torch
    from torch.distributed.tensor import DTensor

    piece = local(now)
    if piece.dtype in (torch.float16, torch.bfloat16):
        piece, before = piece.float(), before.float()
    with torch.no_grad():
        return DTensor.from_local(
            piece - before,
            now.device_mesh,
            now.placements,
            run_check=False,
            shape=now.shape,
            stride=now.stride(),
        )


def is_cut_by_rows(tensor: "DTensor") -> bool:
    """Tell whether the pieces of a tensor are rows of it: entries of its first axis, each whole."""
    from torch.distributed.tensor import Shard

    by_rows = [type(placement) is Shard and placement.dim == 0 for placement in tensor.placements]
    others = [p for p, is_cut in zip(tensor.placements, by_rows, strict=True) if not is_cut]
    return any(by_rows) and all(placement.is_replicate() for placement in others)


def rows_here(tensor: "DTensor") -> range:
    """Return the rows that this process holds; none where a tensor is cut otherwise."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not is_cut_by_rows(tensor):
        return range(0)
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return range(offset[0], offset[0] + shape[0])


def gram_of_rows(tensor: "DTensor", *, keep: bool) -> tuple[Array, float] | None:
    """Return WᵀW and ‖W‖²_F of a matrix cut by rows, which is gathered nowhere. Collective.

    Parameters
    ----------
    tensor : DTensor of shape (N, M)
        As `is_cut_by_rows` tells; pieces may be of unequal size, or empty.
    keep : bool
        Whether this process is to have it.

    Returns
    -------
    (ndarray of shape (M, M), float) or None
        In float64; None for those that do not keep it.
    """
    import torch
    from torch.distributed.tensor import DTensor, Partial

    piece, M = local(tensor), tensor.shape[1]
    with torch.no_grad():
        sums = torch.zeros((M + 1, M), dtype=torch.float64, device=piece.device)
        for block in piece.split(max(1, BLOCK // M)):  # type: ignore[no-untyped-call]
            rows = block.to(torch.float64)
            sums[:M].addmm_(rows.T, rows)
            sums[M, 0] += rows.square().sum()
        placements = [p if p.is_replicate() else Partial() for p in tensor.placements]
        parts = DTensor.from_local(sums, tensor.device_mesh, placements, run_check=False)
        summed = parts.full_tensor()
    if not keep:
        return None
    gram: Array = summed.cpu().numpy()
    return gram[:M], float(gram[M, 0])
