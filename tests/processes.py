"""What the processes of a distributed run do in tests: ``python -m tests.processes RANK SIZE FOLDER``.

Each scenario runs on all processes; what it returns, or its error, is left in the folder.
"""

import datetime
import json
import math
import pickle
import sys
import time
import traceback
import warnings
from copy import deepcopy
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import spectra
from spectra.errors import SpectraError
from spectra.sources import shards
from spectra.training import Alarms, Alone, Group, SpectralMonitor
from spectra.training import reader as readers

ALL = ("weight", "update", "gradient")
SHORT = 3


class Attention(nn.Module):
    """Attention whose queries, keys and values are one fused projection."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(48, 144)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q, k, v) * 1.0


class Net(nn.Module):
    """An embedding, attention with a fused projection, layers of odd sizes, one of two rows."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(131, 48)
        self.attn = Attention()
        self.up = nn.Linear(48, 90)
        self.down = nn.Linear(90, 45)
        self.out = nn.Linear(45, 2)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.attn(x)
        return self.out(torch.relu(self.down(torch.relu(self.up(x)))))


def net():
    torch.manual_seed(3)
    return Net()


def plain(model):
    return model


def ddp(model):
    return DistributedDataParallel(model)


def sharded(model, mesh=None):
    for layer in (model.attn, model.up, model.down):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def halves(model):
    return sharded(model.bfloat16())


def hybrid(model):
    return sharded(model, init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard")))


def cut(model, mesh):
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


def tensor_parallel(model):
    return cut(model, init_device_mesh("cpu", (distributed.get_world_size(),)))


def sharded_and_cut(model):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    return sharded(cut(model, mesh["model"]), mesh["data"])


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def batch(step, *, same):
    """Tokens of a step: other ones on every process, but where tensors are cut."""
    generator = torch.Generator().manual_seed(1000 * step + (0 if same else distributed.get_rank()))
    return torch.randint(131, (4, 6), generator=generator)


def train(wrap, *, steps=6, watch=None, first=1, model=None, monitor=None):
    """Train, calling ``watch(model, step)`` after each step; return the whole weights."""
    model = model or wrap(net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    same = wrap in (tensor_parallel, sharded_and_cut)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        model(batch(step, same=same)).square().mean().backward()
        optimizer.step()
        if watch:
            watch(model, step)
    return {name: whole(p).detach().clone() for name, p in model.named_parameters()}


def mirrored(model, copy):
    """Make a plain copy hold the weights and gradients of a wrapped model."""
    with torch.no_grad():
        for ours, theirs in zip(copy.parameters(), model.parameters(), strict=True):
            ours.copy_(whole(theirs))
            ours.grad = None if theirs.grad is None else whole(theirs.grad).clone()


def rows(readings):
    """Readings without what they cost."""
    return [reading.to_row() | {"seconds": 0} for reading in readings]


def reading_as_one_process(wrap):
    """Watch a wrapped model, and beside it a plain copy of it as one process does."""
    model = wrap(net())
    copy = net().to(next(model.parameters()).dtype)
    options = {"every": 2, "budget": None, "watch": ALL, "replicates": 4}
    alone = SpectralMonitor(copy, world=Alone(), **options)
    monitor = SpectralMonitor(model, **options)

    def watch(model, step):
        monitor.step()
        mirrored(model, copy)
        if distributed.get_rank() == 0:
            alone.step()

    watched = train(wrap, watch=watch, model=model)
    without = train(wrap)
    return {
        "rows": rows(monitor.history),
        "expected": rows(alone.history),
        "same_weights": all(torch.equal(watched[name], without[name]) for name in without),
        "names": list(monitor.parameters),
        "owners": monitor._schedule.owners,
    }


def summed():
    """Read tall matrices by the sums of their Gram matrices, as if they were too large to gather."""
    model = sharded(net())
    with torch.no_grad():
        model.embed.weight.mul_(3.0)
    options = {"every": 1, "budget": None, "layers": "embed*"}
    monitor = SpectralMonitor(model, world=Group(gather_up_to=0), **options)
    copy = net()
    mirrored(model, copy)
    alone = SpectralMonitor(copy, world=Alone(), **options)
    found = {"rows": rows(monitor.step()), "expected": rows(alone.step())}
    # An eigenvalue of zero is not told by a Gram matrix: the tensor is gathered after all.
    with torch.no_grad():
        copy.embed.weight[:, 7] = copy.embed.weight[:, 5]
        local = model.embed.weight.to_local()
        local[:, 7] = local[:, 5]
    return found | {
        "deficient": rows(monitor.step()),
        "deficient_expected": rows(alone.step()),
    }


class Experts(nn.Module):
    """Five experts in one tensor, and one matrix cut by columns."""

    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(5, 40, 30))
        self.wide = nn.Linear(44, 36)

    def forward(self, x):
        return self.wide(x).sum() + (self.experts**2).sum()


def experts():
    """Read experts where they are: nothing of the stack is gathered."""
    torch.manual_seed(4)
    copy = Experts()
    model = deepcopy(copy)
    fully_shard(model, shard_placement_fn=lambda p: Shard(1) if p.shape == (36, 44) else Shard(0))
    options = {"every": 1, "budget": None, "watch": ALL, "replicates": 0}
    monitor = SpectralMonitor(model, **options)
    alone = SpectralMonitor(copy, world=Alone(), **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gathered = []
    whole_of, shards.whole = shards.whole, lambda t: gathered.append(t.shape) or whole_of(t)
    for _ in range(2):
        model(torch.ones(3, 44)).backward()
        optimizer.step()
        mirrored(model, copy)
        monitor.step()
        alone.step()
    shards.whole = whole_of
    return {
        "rows": rows(monitor.history),
        "expected": rows(alone.history),
        "owners": monitor._schedule.owners,
        "gathered": set(map(tuple, gathered)),
    }


def budgeted():
    """Watch within a budget, with clocks that disagree: one process is ten times as fast."""
    rank = distributed.get_rank()
    now = [100.0]
    real, time.perf_counter = time.perf_counter, lambda: now[0]
    solved = SpectralMonitor._solved

    def slow(self, *arguments):
        now[0] += 0.1 if rank else 0.01
        return solved(self, *arguments)

    SpectralMonitor._solved = slow
    try:
        model = ddp(nn.Sequential(*(nn.Linear(32, 32) for _ in range(6))))
        monitor = SpectralMonitor(model, every=40, budget=0.05, replicates=0)
        told = 0
        for _ in range(400):
            now[0] += 0.1 + 0.01 * rank
            told += len(monitor.step())
        return {
            "steps": [(reading.step, reading.layer) for reading in monitor.history],
            "told": told,
            "overhead": monitor.overhead,
            "state": monitor.state_dict()["schedule"] | {"spent": 0},
            "measured": monitor._schedule.measured,
        }
    finally:
        time.perf_counter, SpectralMonitor._solved = real, solved


def background(folder):
    """Solve in a thread of each process; nothing is lost and all hear of all."""
    path = folder / "background.jsonl"
    frozen = net()
    frozen.up.weight.requires_grad_(False)
    model = ddp(frozen)
    with SpectralMonitor(model, every=2, budget=None, background=True, history=path) as monitor:
        train(ddp, model=model, watch=lambda *_: (monitor.step(), monitor.flush()))
        count = len(monitor.measure())
    return {"rows": rows(monitor.history), "measured": count, "file": path.read_text()}


def resumed(folder):
    """Kill a run and go on from the state of its last process."""
    options = {"every": 2, "budget": None, "watch": ("weight", "update"), "replicates": 0}
    whole_run = folder / "whole.jsonl"
    model = sharded(net())
    with SpectralMonitor(model, history=whole_run, **options) as monitor:
        train(sharded, model=model, watch=lambda *_: monitor.step(), steps=5)
        saved = monitor.state_dict()
        weights = {n: p.detach().to_local().clone() for n, p in model.named_parameters()}
        more = train(sharded, model=model, watch=lambda *_: monitor.step(), first=6)

    path = folder / "killed.jsonl"
    if distributed.get_rank() == 0:
        path.write_text(whole_run.read_text() + '{"step": 12, "layer": "emb')
    states = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, json.loads(json.dumps(saved)))
    again = sharded(net())
    with torch.no_grad():
        for name, p in again.named_parameters():
            p.to_local().copy_(weights[name])
    with SpectralMonitor(again, history=path, **options) as monitor:
        monitor.load_state_dict(states[-1])
        held = len(monitor.history)
        after = train(sharded, model=again, watch=lambda *_: monitor.step(), first=6)
    return {
        "same": all(torch.equal(more[name], after[name]) for name in more),
        "held": held,
        "saved": saved["n_readings"],
        "whole": [json.loads(line) | {"seconds": 0} for line in whole_run.read_text().splitlines()],
        "again": [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()],
        "memory": rows(monitor.history),
    }


def settled():
    """Make the monitor between a forward pass and training; a computed weight among the layers."""
    model = net()
    model.up = nn.utils.parametrizations.weight_norm(model.up)
    model = sharded(model)
    with torch.no_grad():
        model(batch(0, same=False))  # FSDP2 keeps what the outermost module gathered for it
    unsharded = not hasattr(model.embed.weight, "full_tensor")
    monitor = SpectralMonitor(model, every=1, budget=None, replicates=0)
    train(sharded, model=model, watch=lambda *_: monitor.step(), steps=2)
    copy = net()
    copy.up = nn.utils.parametrizations.weight_norm(copy.up)
    mirrored(model, copy)
    alone = SpectralMonitor(copy, every=1, budget=None, replicates=0, world=Alone())
    return {"was": unsharded, "rows": rows(monitor.history)[-7:], "expected": rows(alone.step(2))}


def alarmed():
    """Let a weight of one layer, which one process owns and reads, become infinite."""
    model, alarms, told = sharded(net()), Alarms(stop_on=["non_finite"]), []
    monitor = SpectralMonitor(model, every=1, budget=None, alarms=alarms, on_alarm=told.append)
    monitor.step()
    before = alarms.should_stop
    if distributed.get_rank() == 0:
        with torch.no_grad():
            model.down.weight.to_local()[0, 0] = math.inf
    monitor.step()
    return {"before": before, "after": alarms.should_stop, "told": [a.text for a in told]}


def failing():
    """Fail on one process: while it gives its piece, and while it reads."""
    rank = distributed.get_rank()
    model = sharded(net())
    monitor = SpectralMonitor(model, every=1, budget=None, watch="gradient", replicates=0)
    model(batch(1, same=False)).square().mean().backward()
    if rank == 1:
        model.down.weight.grad = None
    no_gradient = monitor.step()

    monitor = SpectralMonitor(model, every=1, budget=None, watch="update", replicates=0)
    monitor.step()
    difference = readers_difference = shards.difference
    if rank == 1:

        def broken(now, before):
            if now is model.up.weight:
                raise MemoryError("no room for the difference")
            return difference(now, before)

        shards.difference = broken
    no_piece = monitor.step()
    shards.difference = readers_difference

    monitor = SpectralMonitor(model, every=1, budget=None, replicates=0)
    whole_of = shards.whole
    if rank == 1:

        def no_room(tensor):
            gathered = whole_of(tensor)
            if tensor.shape == (45, 90):
                raise MemoryError("no room for the whole")
            return gathered

        shards.whole = no_room
    no_room_here = monitor.step()
    shards.whole = whole_of

    outcome = readers._outcome
    if rank == 1:

        def fails(matrix, content):
            if not isinstance(content, spectra.engine.Failure):
                raise KeyError("a slip")
            return outcome(matrix, content)

        readers._outcome = fails
    slip = monitor.step()
    readers._outcome = outcome
    return {
        "no_gradient": rows(no_gradient),
        "no_piece": rows(no_piece),
        "no_room": rows(no_room_here),
        "slip": rows(slip),
        "owners": monitor._schedule.owners,
        "well_again": {reading.status.value for reading in monitor.measure()},
    }


def refused(folder):
    """What must be told rather than read: pieces that are not said to be some, other layers."""
    rank = distributed.get_rank()
    flat = {
        original: FullyShardedDataParallel(net(), use_orig_params=original, device_id="cpu")
        for original in (False, True)
    }
    model = sharded(net())
    zero = net()
    zero.up.weight.ds_shape = zero.up.weight.shape
    zero.up.weight.data = torch.empty(0)
    bad = folder / "bad.jsonl"
    bad.write_text('{"a": 1}\n')
    found = {
        "flat": told(lambda: SpectralMonitor(flat[False])),
        "flat_views": told(lambda: spectra.analyze(flat[True])),
        "zero": told(lambda: SpectralMonitor(zero)),
        "analyze": told(lambda: spectra.analyze(model)),
        "analyze_state": told(lambda: spectra.analyze(model.state_dict())),
        "one_alone": told(lambda: SpectralMonitor(model, world=Alone())),
        "other_layers": told(lambda: SpectralMonitor(nn.Linear(32, 40 + rank))),
        "bad_history": told(lambda: SpectralMonitor(net(), history=bad)),
    }
    # The way out that the messages name.
    for name, made in (("gathered", model), ("gathered_flat", flat[True])):
        state = get_model_state_dict(made, options=StateDictOptions(full_state_dict=True))
        found[name] = rows_of(spectra.analyze(state, replicates=0)) if rank == 0 else None
    found["expected_rows"] = rows_of(spectra.analyze(net().state_dict(), replicates=0))
    freed = nn.Linear(30, 40)
    monitor = SpectralMonitor(freed, budget=None, world=Alone())
    freed.weight.untyped_storage().resize_(0)
    found["freed"] = rows(monitor.step())
    return found


def rows_of(report):
    return [(layer.name, layer["alpha"], layer["stable_rank"]) for layer in report.layers]


def told(work):
    started = time.monotonic()
    try:
        work()
    except SpectraError as error:
        return {"code": error.code, "text": str(error), "seconds": time.monotonic() - started}
    return None


def mismatched():
    """Call otherwise on one process: another step, another call, no call at all."""
    rank = distributed.get_rank()

    def monitor():
        made = SpectralMonitor(net(), every=1, budget=None, world=Group(timeout=SHORT))
        made.step()
        return made

    first, second, third = monitor(), monitor(), monitor()
    distributed.barrier()
    found = {
        "step": told(lambda: first.step(5 if rank else 6)),
        "call": told(second.measure if rank else second.step),
        "missing": None if rank else told(third.step),
    }
    found["again"] = None if rank else told(third.step)  # at once: the group is given up
    distributed.barrier()
    found["made_alone"] = None if rank else told(lambda: Group(timeout=SHORT))
    return found


SCENARIOS = {
    2: {
        "ddp": lambda _: reading_as_one_process(ddp),
        "sharded": lambda _: reading_as_one_process(sharded),
        "halves": lambda _: reading_as_one_process(halves),
        "tensor_parallel": lambda _: reading_as_one_process(tensor_parallel),
        "background": background,
        "resumed": resumed,
        "experts": lambda _: experts(),
        "settled": lambda _: settled(),
        "alarmed": lambda _: alarmed(),
        "failing": lambda _: failing(),
        "refused": refused,
        "mismatched": lambda _: mismatched(),
    },
    4: {
        "ddp": lambda _: reading_as_one_process(ddp),
        "sharded": lambda _: reading_as_one_process(sharded),
        "hybrid": lambda _: reading_as_one_process(hybrid),
        "sharded_and_cut": lambda _: reading_as_one_process(sharded_and_cut),
        "summed": lambda _: summed(),
        "budgeted": lambda _: budgeted(),
    },
}


def main(rank, size, folder):
    """Run all scenarios of this many processes."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    # torch tells it of its own linear layers, for hooks that an in-place operation would lose.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    results = {}
    chosen = sys.argv[4:] or SCENARIOS[size]
    for name in chosen:
        try:
            results[name] = SCENARIOS[size][name](folder)
        except Exception:  # noqa: BLE001 - the test that asks for it shows it
            results[name] = traceback.format_exc()
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
