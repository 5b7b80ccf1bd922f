"""The contenders of the likelihood's benchmark: they do the same work."""

import pytest
import torch

from benchmarks.settings import Settings
from benchmarks.speed import likelihood


@pytest.mark.parametrize("dim", [2, 20])
@torch.no_grad()
def test_the_derivatives_by_hand_agree(dim, generator):
    network, x = likelihood.network_of(dim, Settings()), torch.randn(5, dim, generator=generator)
    expected = likelihood.backward_passes(network, torch.full((5,), 0.3), x)
    found = likelihood.forward_mode(network, torch.full((5,), 0.3), x)
    for part, wanted in zip(found, expected, strict=True):
        # Sums of some hundred products in single precision, in another order.
        torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-4)


def test_different_answers_are_not_compared():
    values = {likelihood.BASE: torch.zeros(3), likelihood.EAGER: torch.full((3,), 1e-5)}
    assert likelihood._apart(values) == pytest.approx(1e-5)
    with pytest.raises(RuntimeError, match="do not do the same work"):
        likelihood._apart({**values, likelihood.COMPILED: torch.tensor([0.0, 0.1, float("nan")])})


def test_the_table_has_a_row_for_each_contender(monkeypatch):
    # One that asks the network and no more: what is tested is the table.
    names = (likelihood.BASE, likelihood.EAGER)
    asks = {name: lambda network, x1: network(torch.zeros(len(x1)), x1).detach().sum(1) for name in names}
    monkeypatch.setattr(likelihood, "_contenders", lambda settings: asks)
    monkeypatch.setattr(likelihood, "installed", lambda name: False)
    (table,) = likelihood.run(Settings(budget="smoke", rounds=1, peers=("flow_matching",))).tables
    rows = {row.label: row.cells for row in table.rows}
    assert rows[likelihood.EAGER]["evaluations"]["value"] == 1
    assert rows[likelihood.EAGER]["to by hand"]["kind"] == "ratio"
    assert rows["flow_matching"]["to by hand"]["why"] == "flow_matching is not installed"
