import math

import pytest
import torch

from interpolants.metrics import Estimate
from interpolants.metrics.estimates import disjoint_parts, jackknife_error, mean_of


def test_mean_of_values_has_the_error_of_the_mean():
    estimate = mean_of([1.0, 2.0, 3.0, 6.0], 7)
    # Deviations -2, -1, 0, 3: variance 14 / 3, over 4 values.
    assert estimate == Estimate(3.0, pytest.approx(math.sqrt(14 / 12)), 7, 4)


def test_one_value_has_no_known_error():
    assert mean_of([2.5], 7) == Estimate(2.5, None, 7, 1)


def test_an_estimate_prints_its_error_where_it_is_known():
    assert str(Estimate(1234.56, 0.123, 5)) == "1235 ± 0.12"
    assert str(Estimate(0.5, None, 5)) == "0.5"


def test_parts_share_no_index_and_are_drawn_at_random(generator):
    parts = disjoint_parts(17, 4, at_most=9, generator=generator)
    assert [len(part) for part in parts] == [4, 4, 4, 4]
    indices = torch.cat(parts).tolist()
    assert len(set(indices)) == 16
    assert set(indices) <= set(range(17))
    assert indices != sorted(indices)
    assert len(disjoint_parts(17, 4, at_most=3, generator=generator)) == 3


def test_parts_repeat_with_their_seed():
    first, again, other = (
        disjoint_parts(50, 50, at_most=1, generator=torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("size", "at_most"), [(0, 1), (6, 1), (3, 0)])
def test_parts_that_do_not_exist_are_refused(size, at_most):
    with pytest.raises(ValueError, match="must be"):
        disjoint_parts(5, size, at_most=at_most)


def test_leaving_out_one_of_each_gives_the_error_of_the_mean(generator):
    x = torch.randn(30, generator=generator, dtype=torch.float64)
    error = jackknife_error(lambda some: some.mean().item(), x, groups=30, generator=generator)
    assert error == pytest.approx((x.var() / 30).sqrt().item(), rel=1e-10)


def test_leaving_out_groups_gives_the_error_of_a_variance(generator):
    n, trials = 200, 300
    errors = [
        jackknife_error(
            lambda some: some.var().item(),
            torch.randn(n, generator=generator, dtype=torch.float64),
            generator=generator,
        )
        for _ in range(trials)
    ]
    # The variance of n normal numbers has deviation sqrt(2 / (n - 1)). A square of an error from 10 groups
    # scatters by about sqrt(2 / 9) of itself, somewhat more for the heavy tails here: 0.7 at most.
    mean_square = sum(error**2 for error in errors) / trials
    expected = 2 / (n - 1)
    assert abs(mean_square - expected) < 5 * 0.7 * expected / math.sqrt(trials)


@pytest.mark.parametrize(("n", "groups"), [(1, 10), (5, 1)])
def test_leaving_out_groups_needs_two(n, groups):
    with pytest.raises(ValueError, match="at least 2 samples and 2 groups"):
        jackknife_error(lambda some: 0.0, torch.zeros(n), groups=groups)
