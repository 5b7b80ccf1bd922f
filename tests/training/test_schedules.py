"""Schedules of the learning rate, against the formula and torch's own."""

import math

import pytest
import torch

from interpolants import MLP, Linear, Regression, Trainer
from interpolants.training import WarmUp


def test_the_warm_up_is_linear_and_reaches_one():
    assert [WarmUp(5)(step) for step in range(8)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0]
    assert WarmUp()(0) == WarmUp()(10**9) == 1.0


def test_the_decay_is_torch_s_half_cosine():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.1)
    schedule = WarmUp(10, steps=60, floor=0.1)
    for step in range(10, 61):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_it_stays_at_the_floor():
    schedule = WarmUp(2, steps=10, floor=0.25)
    assert schedule(10) == schedule(11) == schedule(10**6) == 0.25
    assert schedule(6) == pytest.approx((1 + 0.25) / 2)
    assert schedule(2) == schedule(1) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm_up": -1}, "warm_up must not be negative; got -1"),
        ({"warm_up": 5, "steps": 5}, "steps after the 5 of warm-up; got 5"),
        ({"floor": -0.1}, "floor must lie in"),
        ({"floor": 1.1}, "floor must lie in"),
        ({"floor": math.nan}, "floor must lie in"),
    ],
    ids=str,
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WarmUp(**options)


def test_every_group_of_the_optimiser_has_its_own_rate_times_the_factor():
    def optimizer(parameters):
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)

    trainer = Trainer(
        MLP(1, width=4, depth=1),
        Regression(Linear()),
        [(torch.zeros(4, 1), torch.ones(4, 1))],
        steps=4,
        optimizer=optimizer,
        schedule=WarmUp(4),
    )
    for step in trainer:
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        assert rates == pytest.approx([0.5 * step.index / 4, 0.1 * step.index / 4])
