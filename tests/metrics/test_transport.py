import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from interpolants.metrics import path_energy, sliced_wasserstein2, wasserstein2


def points(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- wasserstein2


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_wasserstein2_is_the_best_of_all_permutations(dim):
    x, y = points(6, dim, 1), points(6, dim, 2)
    best = min(((x - y[list(p)]) ** 2).sum().item() / 6 for p in itertools.permutations(range(6)))
    assert wasserstein2(x, y) == pytest.approx(math.sqrt(best), rel=1e-12)


def test_wasserstein2_of_a_shift_is_its_length():
    x = points(300, 3, 3)
    shift = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    assert wasserstein2(x, x[torch.randperm(300, generator=generator())] + shift) == pytest.approx(
        3, rel=1e-12
    )


def test_wasserstein2_on_a_line_matches_sorted_points():
    x, y = points(500, 1, 4), points(500, 1, 5) ** 3
    expected = np.sqrt(np.mean((np.sort(x.numpy(), axis=0) - np.sort(y.numpy(), axis=0)) ** 2))
    assert wasserstein2(x, y) == pytest.approx(expected, rel=1e-12)


def test_wasserstein2_is_zero_for_the_same_points_far_from_the_origin():
    x = points(50, 2, 6) + 1e6
    assert wasserstein2(x, x.flip(0)) == 0


def test_wasserstein2_takes_points_of_any_shape_and_type():
    x, y = points(8, 12, 7), points(8, 12, 8)
    expected = wasserstein2(x, y)
    assert wasserstein2(x.reshape(8, 3, 2, 2), y.reshape(8, 3, 2, 2)) == expected
    # Half precision rounds each coordinate by at most 2**-11 of its size.
    assert wasserstein2(x.half(), y.half()) == pytest.approx(expected, rel=1e-3)
    assert isinstance(wasserstein2(x.requires_grad_(), y), float)


def test_wasserstein2_refuses_sets_of_different_sizes():
    with pytest.raises(ValueError, match="equally many points on both sides, not 3 and 4"):
        wasserstein2(torch.zeros(3, 2), torch.zeros(4, 2))


# ---- sliced_wasserstein2


def test_sliced_distance_of_a_shift_is_its_length_over_the_root_of_the_dimension():
    dim, projections = 5, 4000
    x = points(200, dim, 1)
    shift = torch.tensor([0.0, 3.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    squared = sliced_wasserstein2(x, x + shift, projections=projections, generator=generator()) ** 2
    # For a unit direction u, (u . shift)^2 has mean |s|^2 / d and variance |s|^4 (3 / (d (d + 2)) - 1 / d^2).
    deviation = 25 * math.sqrt((3 / (dim * (dim + 2)) - 1 / dim**2) / projections)
    assert abs(squared - 25 / dim) < 5.5 * deviation  # false alarm once in 2e7


def test_sliced_distance_on_a_line_is_exact():
    x, y = points(40, 1, 2), points(40, 1, 3)
    assert sliced_wasserstein2(x, y, projections=3) == pytest.approx(wasserstein2(x, y), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (3, 7), (1, 5), (12, 4)])
def test_sliced_distance_of_unequal_sets_is_that_of_their_repetitions(n, m):
    x, y = points(n, 1, 4), points(m, 1, 5)
    expected = wasserstein2(x.repeat(m, 1), y.repeat(n, 1))  # both now have n m points
    assert sliced_wasserstein2(x, y, projections=2) == pytest.approx(expected, rel=1e-12)


def test_sliced_distance_of_unequal_sets_agrees_with_scipy_where_the_two_costs_coincide():
    # When every point moves by 0 or 1 the squared and the absolute cost are one.
    x, y = np.zeros(9), np.array([0.0, 0.0, 1.0, 1.0])
    squared = sliced_wasserstein2(torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None]) ** 2
    assert squared == pytest.approx(wasserstein_distance(x, y), rel=1e-12)


def test_sliced_distance_repeats_with_its_seed():
    x, y = points(30, 3, 6), points(20, 3, 7)
    first, again, other = (
        sliced_wasserstein2(x, y, projections=8, generator=generator(s)) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_sliced_distance_needs_a_projection():
    with pytest.raises(ValueError, match="projections must be at least 1, not 0"):
        sliced_wasserstein2(torch.zeros(3, 2), torch.zeros(3, 2), projections=0)


@pytest.mark.parametrize("metric", [wasserstein2, sliced_wasserstein2])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 1), r"one shape, not \(2,\) and \(1,\)"),
        (torch.zeros(0, 2), torch.zeros(3, 2), "x must have shape"),
        (torch.zeros(3, 2), torch.zeros(()), "y must have shape"),
        (torch.zeros(3, 2), torch.zeros(3, 2, device="meta"), "one device"),
        (torch.full((3, 2), float("nan")), torch.zeros(3, 2), "x must be finite"),
        (torch.zeros(3, 2), torch.full((3, 2), float("inf")), "y must be finite"),
    ],
)
def test_sets_without_a_distance_are_refused(metric, x, y, message):
    with pytest.raises(ValueError, match=message):
        metric(x, y)


# ---- path_energy


def test_energy_of_a_straight_path_is_the_squared_distance():
    t = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    x0, x1 = points(7, 3, 1), points(7, 3, 2)
    trajectory = x0 + t[:, None, None] * (x1 - x0)
    assert path_energy(trajectory, t) == pytest.approx(((x1 - x0) ** 2).sum().item() / 7, rel=1e-12)


def test_energy_of_a_quarter_circle_is_the_squared_arc_length():
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    angle = t * math.pi / 2
    trajectory = torch.stack((angle.cos(), angle.sin()), dim=-1)[:, None]
    # Chords fall short of arcs by a relative angle^2 / 24 each, here 3e-8, squared.
    assert path_energy(trajectory, t) == pytest.approx((math.pi / 2) ** 2, rel=1e-7)


def test_energy_weighs_each_step_by_its_duration():
    trajectory = torch.tensor([[[0.0]], [[1.0]], [[3.0]]])
    assert path_energy(trajectory, torch.tensor([0.0, 0.5, 0.75])) == 1 / 0.5 + 4 / 0.25


def test_energy_does_not_see_the_direction_of_time():
    trajectory, t = points(5, 6, 3).reshape(5, 3, 2), torch.tensor([0.0, 0.2, 0.3, 0.7, 1.0])
    assert path_energy(trajectory.flip(0), t.flip(0)) == pytest.approx(path_energy(trajectory, t), rel=1e-12)


@pytest.mark.parametrize(
    ("trajectory", "t", "message"),
    [
        (torch.zeros(1, 3, 2), torch.zeros(1), "T at least 2"),
        (torch.zeros(3), torch.arange(3.0), "trajectory must have shape"),
        (torch.zeros(3, 0, 2), torch.arange(3.0), "trajectory must have shape"),
        (torch.zeros(3, 4, 2), torch.arange(4.0), r"t must have shape \(3,\), not \(4,\)"),
        (torch.zeros(3, 4, 2), torch.tensor([0.0, 1.0, 1.0]), "rise strictly or fall strictly"),
        (torch.zeros(3, 4, 2), torch.tensor([0.0, 1.0, 0.5]), "rise strictly or fall strictly"),
        (torch.zeros(3, 4, 2), torch.tensor([0.0, float("nan"), 0.5]), "rise strictly or fall strictly"),
    ],
)
def test_paths_without_an_energy_are_refused(trajectory, t, message):
    with pytest.raises(ValueError, match=message):
        path_energy(trajectory, t)
