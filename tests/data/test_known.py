import math

import pytest
import torch

from interpolants.data import KnownDensity


@pytest.mark.parametrize("name", KnownDensity.names())
def test_the_log_density_integrates_to_one_and_its_mean_is_the_entropy(name):
    density = KnownDensity(name)
    steps = (torch.arange(2000, dtype=torch.float64) + 0.5) / 125 - 8
    grid = torch.cartesian_prod(steps, steps)
    log = density.log_prob(grid)
    mass = log.exp() / 125**2
    # The middle rule on cells that the board's edges meet exactly; beyond 8 the normal has 1e-14.
    assert mass.sum() == pytest.approx(1, abs=1e-9)
    assert -(mass * log.nan_to_num(neginf=0)).sum() == pytest.approx(density.entropy, abs=1e-9)


def test_the_entropy_of_the_checkerboard_is_the_logarithm_of_its_area():
    assert KnownDensity("checkerboard").entropy == math.log(32)


@pytest.mark.parametrize("name", KnownDensity.names())
def test_its_points_have_its_law(name, generator):
    density = KnownDensity(name)
    x = density.sample(100_000, generator=generator).double()
    assert (density.log_prob(x) > -math.inf).all()
    for quadrant in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        inside = ((x * torch.tensor(quadrant)).min(dim=1).values > 0).double().mean()
        # A quarter by symmetry; five standard errors of a share.
        assert abs(inside - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 100_000)
    variance = 1.0 if name == "normal" else 16 / 3
    assert x.var(dim=0).sub(variance).abs().max() < 5 * variance * math.sqrt(2 / 100_000)


@pytest.mark.parametrize("name", KnownDensity.names())
def test_acceptance_is_the_density_over_its_maximum(name):
    density = KnownDensity(name)
    grid = torch.cartesian_prod(torch.linspace(-5, 5, 41), torch.linspace(-5, 5, 41)).double() + 0.01
    acceptance = density.acceptance(grid)
    torch.testing.assert_close(
        acceptance, (density.log_prob(grid) - density.log_prob(grid).max()).exp(), rtol=1e-3, atol=1e-12
    )
    assert density.values.shape == (256, 256)
    assert density.values.max() <= 1


def test_the_picture_of_the_board_has_its_top_row_first():
    values = KnownDensity("checkerboard").values
    # The cell that touches the lower left corner of the board is dark, the upper left one is not.
    assert values[-20, 20] == 1
    assert values[20, 20] == 0


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="normal, checkerboard; got 'moons'"):
        KnownDensity("moons")
