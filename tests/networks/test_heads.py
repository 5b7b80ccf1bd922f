import pytest
import torch
from torch import nn

from interpolants import MLP, Heads


class Doubled(nn.Module):
    def forward(self, t, x, scale=1.0):
        return torch.cat([x, scale * 10 * x], dim=1)


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 5, 6)])
def test_channels_are_shared_out_in_the_order_of_the_names(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    heads = Heads(Doubled())(torch.zeros(4), x, scale=2.0)
    assert list(heads) == ["velocity", "denoiser"]
    assert torch.equal(heads["velocity"], x)
    assert torch.equal(heads["denoiser"], 20 * x)


def test_an_mlp_of_flattened_points_is_cut_alike():
    network = Heads(MLP(dim=6, out_dim=18), ("velocity", "x0", "x1"))
    heads = network(torch.zeros(4), torch.randn(4, 2, 3))
    assert [tuple(head.shape) for head in heads.values()] == [(4, 2, 3)] * 3


def test_its_parameters_are_those_of_the_network():
    inner = MLP(dim=2, out_dim=4)
    assert {id(p) for p in Heads(inner).parameters()} == {id(p) for p in inner.parameters()}


def test_a_network_of_too_few_channels_is_refused():
    with pytest.raises(ValueError, match=r"2 times the channels of x.*shape \(4, 4\) for x.*got \(4, 2\)"):
        Heads(MLP(dim=2))(torch.zeros(4), torch.zeros(4, 2))


@pytest.mark.parametrize("names", [(), ("velocity", "velocity"), "velocity"])
def test_names_that_name_nothing_are_refused(names):
    with pytest.raises(ValueError, match="different names"):
        Heads(Doubled(), names)


@pytest.mark.parametrize("dim", [0, 2], ids=["examples", "last"])
def test_heads_along_another_dimension_are_refused_rather_than_scrambled(dim):
    class Elsewhere(nn.Module):
        def forward(self, t, x):
            return torch.cat([x, 100 + x], dim=dim)

    with pytest.raises(ValueError, match="2 times the channels"):
        Heads(Elsewhere())(torch.zeros(4), torch.zeros(4, 3, 5))


def test_there_may_be_no_examples():
    heads = Heads(MLP(dim=2, out_dim=4))(torch.zeros(0), torch.zeros(0, 2))
    assert heads["denoiser"].shape == (0, 2)
