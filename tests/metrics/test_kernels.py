import math

import numpy as np
import pytest
import scipy.stats
import torch

from interpolants.metrics import energy_distance, kernels, mmd


def points(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def average(x, y, function, *, but_itself=False):
    pairs = [
        function(math.dist(a, b))
        for i, a in enumerate(x.tolist())
        for j, b in enumerate(y.tolist())
        if not (but_itself and i == j)
    ]
    return math.fsum(pairs) / len(pairs)


def loop(x, y, function, *, unbiased):
    within = sum(average(z, z, function, but_itself=unbiased) for z in (x, y))
    return within - 2 * average(x, y, function)


@pytest.fixture(params=[1 << 21, 20, 1], ids=["one block", "blocks", "rows"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(kernels, "_PAIRS_AT_ONCE", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("dim", [1, 3])
def test_energy_distance_is_the_double_loop(unbiased, dim):
    x, y = points(13, dim, 1), 1 + 2 * points(9, dim, 2)
    expected = -loop(x, y, lambda distance: distance, unbiased=unbiased)
    assert energy_distance(x, y, unbiased=unbiased) == pytest.approx(expected, rel=1e-10)


def test_energy_distance_on_a_line_is_the_square_of_scipys():
    x, y = points(200, 1, 3), 0.5 + points(150, 1, 4)
    expected = scipy.stats.energy_distance(x.ravel().numpy(), y.ravel().numpy()) ** 2
    # Sums of 3e4 distances of which the digits of the difference cancel.
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_energy_distance_of_a_set_from_itself_is_zero():
    x = points(100, 2, 5)
    assert energy_distance(x, x) == 0
    assert energy_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    assert energy_distance(x, x, unbiased=True) < 0


def test_unbiased_estimates_average_to_zero_for_equal_distributions():
    sets = [points(10, 2, seed) for seed in range(800)]
    pairs = list(zip(sets[::2], sets[1::2], strict=True))
    for metric in (lambda x, y: energy_distance(x, y, unbiased=True), lambda x, y: mmd(x, y, bandwidth=1.0)):
        values = np.array([metric(x, y) for x, y in pairs])
        # 400 independent estimates; 6 standard errors allow for the skew of their distribution.
        assert abs(values.mean()) < 6 * values.std() / 20
    biased = np.array([energy_distance(x, y) for x, y in pairs])
    assert biased.mean() > 20 * biased.std() / 20


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("bandwidth", [0.7, 3.0])
def test_mmd_is_the_double_loop(bandwidth):
    x, y = points(13, 2, 1), 1 + 2 * points(9, 2, 2)
    expected = loop(x, y, lambda distance: math.exp(-(distance**2) / (2 * bandwidth**2)), unbiased=True)
    assert mmd(x, y, bandwidth=bandwidth) == pytest.approx(expected, rel=1e-10)


def test_mmd_of_shifted_gaussians_has_its_closed_form():
    n, shift, h = 4000, 1.5, 1.0
    x, y = points(n, 1, 6), shift + points(n, 1, 7)
    # E exp(-(u + s)^2 / 2 h^2) with u normal of variance 2 is sqrt(h^2 / (h^2 + 2)) exp(-s^2 / 2 (h^2 + 2)).
    expected = 2 * math.sqrt(h**2 / (h**2 + 2)) * (1 - math.exp(-(shift**2) / (2 * (h**2 + 2))))
    # The estimate is close to an average over n points of a function with range 2, twice, so its deviation is
    # at most 2 * 2 * sqrt(2 / n) / 2; 5.5 of them are passed once in 2e7.
    assert abs(mmd(x, y, bandwidth=h) - expected) < 5.5 * 2 * math.sqrt(2 / n)


def test_mmd_takes_the_median_distance_by_default():
    x, y = points(20, 3, 8), 2 + points(31, 3, 9)
    pooled = torch.cat((x, y)).tolist()
    distances = sorted(math.dist(a, b) for i, a in enumerate(pooled) for b in pooled[:i])
    median = distances[(len(distances) - 1) // 2]
    assert mmd(x, y) == pytest.approx(mmd(x, y, bandwidth=median), rel=1e-10)


def test_mmd_of_many_points_takes_the_median_of_some():
    x, y = points(3000, 1, 10), points(2500, 1, 11)
    # The median distance of two normal numbers is sqrt(2) times 0.6745. Its error for 1834 of them is of the
    # order 1 / sqrt(1834) = 0.023, and the derivative of the estimate in the bandwidth is tiny here.
    assert mmd(x, y) == pytest.approx(mmd(x, y, bandwidth=math.sqrt(2) * 0.6745), abs=1e-4)


def test_far_from_the_origin_nothing_is_lost():
    x, y = points(50, 2, 12), points(60, 2, 13)
    shift = 2.0**20
    x, y = x.float().double(), y.float().double()  # so that the shift is exact
    assert energy_distance(x + shift, y + shift) == pytest.approx(energy_distance(x, y), rel=1e-9)
    assert mmd(x + shift, y + shift) == pytest.approx(mmd(x, y), rel=1e-9)


def test_points_of_any_shape_and_type_have_a_distance():
    x, y = points(8, 12, 14), points(7, 12, 15)
    for metric in (energy_distance, mmd):
        expected = metric(x, y)
        assert metric(x.reshape(8, 3, 4), y.reshape(7, 3, 4)) == expected
        assert metric(x.float().requires_grad_(), y.float()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", [energy_distance, mmd])
def test_sets_of_different_points_are_refused(metric):
    with pytest.raises(ValueError, match=r"one shape, not \(2,\) and \(3,\)"):
        metric(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="y must be finite"):
        metric(torch.zeros(3, 2), torch.full((3, 2), float("nan")))


def test_averages_without_a_point_itself_need_two_points():
    one, two = torch.zeros(1, 2), torch.ones(2, 2)
    assert energy_distance(one, two) == pytest.approx(2 * math.sqrt(2))
    with pytest.raises(ValueError, match="n at least 2"):
        energy_distance(one, two, unbiased=True)
    with pytest.raises(ValueError, match="n at least 2"):
        mmd(two, one)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan")])
def test_bandwidth_must_be_positive(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be above 0; not"):
        mmd(torch.zeros(3, 2), torch.ones(3, 2), bandwidth=bandwidth)


def test_a_median_of_zero_asks_for_a_bandwidth():
    with pytest.raises(ValueError, match="median distance is 0: name a bandwidth"):
        mmd(torch.zeros(3, 2), torch.zeros(3, 2))
