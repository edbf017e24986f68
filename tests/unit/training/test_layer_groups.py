import torch
from torch import nn

from spectra import analyze
from spectra.training import parameter_groups


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.norm = nn.BatchNorm2d(8)
        self.rnn = nn.LSTM(16, 24)
        self.attn = nn.MultiheadAttention(16, 2)
        self.fc = nn.Linear(16, 24)


def names_of(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


def test_a_bias_goes_with_its_weight_and_a_batch_norm_with_the_convolution_named_alike():
    model = Block()
    found = names_of(model, parameter_groups(model))
    assert found == {
        "conv1.weight": ["conv1.weight", "bn1.weight", "bn1.bias"],
        "rnn.weight_ih_l0": ["rnn.weight_ih_l0", "rnn.bias_ih_l0"],
        "rnn.weight_hh_l0": ["rnn.weight_hh_l0", "rnn.bias_hh_l0"],
        "attn.in_proj_weight": ["attn.in_proj_weight", "attn.in_proj_bias"],
        "attn.out_proj.weight": ["attn.out_proj.weight", "attn.out_proj.bias"],
        "fc.weight": ["fc.weight", "fc.bias"],
        "rest": ["norm.weight", "norm.bias"],
    }


def test_without_followers_all_that_is_no_layer_is_in_the_rest():
    model = Block()
    groups = parameter_groups(model, followers=False, weight_decay=0.1)
    assert all(len(group["params"]) == 1 for group in groups[:-1])
    assert {p.ndim for p in groups[-1]["params"]} == {1}
    assert all(group["weight_decay"] == 0.1 for group in groups)


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = Block()
    model.fc.requires_grad_(False)
    tied = nn.ModuleList([model, model])
    for module in (model, tied):
        held = [id(p) for group in parameter_groups(module) for p in group["params"]]
        assert sorted(held) == sorted({id(p) for p in module.parameters() if p.requires_grad})
        torch.optim.AdamW(parameter_groups(module))


def test_groups_are_called_what_the_report_calls_their_layers():
    model = torch.compile(nn.DataParallel(Block()), backend="eager")
    names = [group["name"] for group in parameter_groups(model)]
    tensors = dict.fromkeys(layer.name.partition("[")[0] for layer in analyze(model).layers)
    assert names[:-1] == list(tensors)
