"""The names and blocks of parameters, against the framework's own modules."""

import pytest
import torch
from torch import nn

from g2lstm import G2LSTM, G2LSTMCell, layout

MODULES = {
    "layer": lambda: nn.LSTM(3, 4),
    "everything": lambda: G2LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "no bias": lambda: nn.LSTM(3, 4, bias=False),
    "cell": lambda: G2LSTMCell(3, 4),
    "cell without bias": lambda: nn.LSTMCell(3, 4, bias=False),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_every_parameter_is_found_once_in_the_modules_order(make):
    module = make()
    found = [layout.weights(module, ending) for endings in layout.endings(module) for ending in endings]
    tensors = [tensor for weights in found for tensor in weights if tensor is not None]
    assert all(ours is theirs for ours, theirs in zip(tensors, module.parameters(), strict=True))
    for weights in found:
        assert (weights.bias() is None) == (not module.bias)


def test_matrices_are_named_as_in_the_state_dict_wherever_they_are():
    model = nn.ModuleDict(
        {"a": nn.ModuleList([nn.LSTM(3, 4, 2, bidirectional=True)]), "b": nn.LSTMCell(4, 4), "c": nn.GRU(4, 4)}
    )
    found = layout.matrices(model)
    assert list(found) == ["a.0.l0", "a.0.l1", "b"]
    assert found["a.0.l1"]["recurrent"] == ["a.0.weight_hh_l1", "a.0.weight_hh_l1_reverse"]
    names = {name for kinds in found.values() for some in kinds.values() for name in some}
    assert names == {name for name in model.state_dict() if "weight" in name and not name.startswith("c.")}


def test_blocks_are_rows_and_scaling_them_scales_pre_activations():
    cell, factors = nn.LSTMCell(3, 4), (2.0, 3.0, 5.0, 7.0)
    for block, part in zip(layout.BLOCKS, layout.blocks(cell.weight_ih), strict=True):
        assert torch.equal(cell.weight_ih[layout.rows(block, 4)], part)
    state = layout.scale_blocks(dict(cell.state_dict()), factors)
    x, h = torch.randn(2, 3), torch.randn(2, 4)

    def pre_activations(state):
        return x @ state["weight_ih"].mT + h @ state["weight_hh"].mT + state["bias_ih"] + state["bias_hh"]

    expected = pre_activations(cell.state_dict()) * torch.tensor(factors).repeat_interleave(4)
    torch.testing.assert_close(pre_activations(state), expected)
