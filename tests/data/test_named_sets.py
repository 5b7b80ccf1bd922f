import math

import pytest
import torch
from scipy.stats import chi2, kstest, norm

from interpolants.data import checkerboard, eight_gaussians, moons, ring, two_spirals

SETS = [checkerboard, eight_gaussians, moons, two_spirals, ring]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("draw", SETS)
def test_the_same_seed_gives_the_same_finite_points(draw):
    first, again, other = (draw(500, generator=generator(seed)) for seed in (1, 1, 2))
    assert first.shape == (500, 2)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert draw(0).shape == (0, 2)


@pytest.mark.parametrize("draw", SETS)
def test_a_negative_number_of_points_is_refused(draw):
    with pytest.raises(ValueError, match="n must be at least 0, not -1"):
        draw(-1)


@pytest.mark.parametrize("draw", [eight_gaussians, moons, two_spirals, ring])
def test_a_negative_std_is_refused(draw):
    with pytest.raises(ValueError, match="std must be at least 0, not -1"):
        draw(3, std=-1)
    with pytest.raises(ValueError, match="std must be at least 0"):
        draw(3, std=float("nan"))


def test_checkerboard_is_uniform_on_eight_cells():
    n = 80_000
    x = checkerboard(n, generator=generator())
    assert (x.abs() <= 4).all()
    cell = ((x + 4) / 2).long().clamp(max=3)
    counts = torch.bincount(4 * cell[:, 0] + cell[:, 1], minlength=16).reshape(4, 4)
    dark = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    # Rounding to float32 may carry a point over the edge of its cell: at 1e-7 a point, fewer than 5 of them.
    assert counts[~dark].sum() < 5
    statistic = ((counts[dark] - n / 8) ** 2 / (n / 8)).sum()
    assert statistic < chi2.isf(1e-7, 7)  # false alarm once in ten million
    for axis in range(2):
        assert kstest((x[:, axis] % 2 / 2).numpy(), "uniform").pvalue > 1e-7


def test_eight_gaussians_have_their_centres_and_spread():
    n, std = 80_000, 0.3
    x = eight_gaussians(n, std=std, generator=generator()).double()
    angle = torch.arange(8) * math.pi / 4
    centres = 5 * torch.stack((angle.cos(), angle.sin()), dim=1).double()
    nearest = torch.cdist(x, centres).argmin(dim=1)
    statistic = ((nearest.bincount(minlength=8) - n / 8) ** 2 / (n / 8)).sum()
    assert statistic < chi2.isf(1e-7, 7)
    # Neighbours are 3.83 apart, so a point is 6 deviations from the line to the next centre.
    offsets = (x - centres[nearest]).flatten().numpy()
    assert kstest(offsets, norm(scale=std).cdf).pvalue > 1e-7


def test_noiseless_moons_are_two_half_circles():
    x = moons(2000, std=0.0, generator=generator())
    upper, lower = x - torch.tensor([-0.5, -0.25]), x - torch.tensor([0.5, 0.25])
    on_upper = ((upper.norm(dim=1) - 1).abs() < 1e-5) & (upper[:, 1] > -1e-5)
    on_lower = ((lower.norm(dim=1) - 1).abs() < 1e-5) & (lower[:, 1] < 1e-5)
    assert (on_upper | on_lower).all()
    # Binomial(2000, 1/2): 5.5 deviations of sqrt(500) are passed once in 2e7.
    assert abs(on_upper.sum() - 1000) < 5.5 * 500**0.5 + 1


def test_noiseless_spirals_grow_with_their_angle():
    x = two_spirals(2000, std=0.0, generator=generator()).double()
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    turned = 3 * math.pi * radius / 4
    mismatch = (angle - turned) / math.pi  # an integer: even on one arm, odd on the other
    assert torch.allclose(mismatch, mismatch.round(), atol=1e-3)
    assert 0 < (mismatch.round() % 2).mean() < 1
    # An even density along an arm whose length grows nearly like the square of its radius.
    assert kstest((radius / 4).square().numpy(), "uniform").pvalue > 1e-7


def test_ring_has_its_radius_and_every_angle():
    x = ring(2000, radius=3.0, std=0.0, generator=generator())
    assert torch.allclose(x.norm(dim=1), torch.tensor(3.0))
    turn = torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) % 1
    assert kstest(turn.numpy(), "uniform").pvalue > 1e-7
    with pytest.raises(ValueError, match="radius must be at least 0"):
        ring(3, radius=-1.0)
