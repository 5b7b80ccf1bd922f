"""The plane's laws are those of scikit-learn, and its figures those of flows that are known."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.accuracy import plane
from benchmarks.accuracy._planar import INDEPENDENT, TRANSPORT, Contender
from benchmarks.own import FivePercentOff
from benchmarks.record import FLOOR, LIMIT, OURS, measured
from benchmarks.settings import Settings
from interpolants import LearnedField, Linear

TINY = plane.Sizes(steps=2, plans=1, training=600, points=32, baseline=64, held_out=64)
SHIFT = torch.tensor([3.0, 4.0])
AWAY = plane.Task("away", "Away", plane.normal, lambda n, generator: plane.normal(n, generator) + SHIFT)


def known(velocity, monkeypatch, task=AWAY, sizes=TINY):
    """A bench whose contenders have learnt a known velocity."""
    bench = plane.bench_of(Settings(), task, sizes, [0, 1, 2])
    monkeypatch.setattr(bench, "learnt", lambda contender: LearnedField(Linear(), velocity=velocity))
    return bench


def row(bench, shortest, task=AWAY, sizes=TINY):
    contender = Contender("linear", Linear(), INDEPENDENT)
    return plane.cells(bench, task, contender, sizes, shortest)


def near(points, others):
    """Whether means and second moments of two sets agree within five standard errors."""
    for one, other in (
        (points, others),
        (points.square(), others.square()),
        (points.prod(1, True), others.prod(1, True)),
    ):
        error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 5 * error).all()


def test_moons_are_scikit_learns(generator):
    sets = pytest.importorskip("sklearn.datasets")
    theirs = torch.from_numpy(sets.make_moons(20_000, noise=0.05, random_state=0)[0]) * 2 - 1
    near(plane.two_moons(20_000, generator).double(), theirs)


def test_the_s_curve_is_scikit_learns(generator):
    sets = pytest.importorskip("sklearn.datasets")
    theirs = torch.from_numpy(sets.make_s_curve(20_000, noise=0.05, random_state=0)[0])[:, [0, 2]] * 1.5
    near(plane.s_curve(20_000, generator).double(), theirs)


def test_the_moons_lie_on_their_arcs_but_for_the_noise(generator):
    points = (plane.two_moons(2_000, generator) + 1) / 2
    upper = (points.norm(dim=1) - 1).abs()
    lower = ((points - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    # Noise of 0.05 passes 0.3 once in a billion.
    assert (torch.minimum(upper, lower) < 0.3).all()


def test_the_gaussians_have_variance_one_on_a_circle_of_radius_five(generator):
    points = plane.gaussians(20_000, generator).double()
    # E|x|^2 = 25 + 2; five standard errors.
    squares = points.square().sum(1)
    assert abs(squares.mean() - 27) < 5 * squares.std() / math.sqrt(len(points))


@pytest.mark.parametrize("task", plane.TASKS, ids=lambda task: task.name)
def test_every_seed_draws_from_its_own_training_points(task, generator):
    x0s, x1s = plane.pairs(task, 3, 50, torch.Generator().manual_seed(7))
    draw = plane.training_pairs(task, 3, 50, torch.Generator().manual_seed(7))
    x0, x1 = draw(40, generator)
    for found, given in ((x0, x0s), (x1, x1s)):
        inside = [
            [any(torch.equal(point, one) for one in given[50 * seed : 50 * seed + 50]) for point in part]
            for seed, part in enumerate(found.view(3, 40, 2))
        ]
        fresh = found is x0 and task.source is plane.normal
        assert all(any(part) != fresh and all(part) != fresh for part in inside)


def test_training_points_are_chosen_all_over_each_seeds_set(generator):
    points = torch.arange(30.0)[:, None]
    found = plane.chosen(points, 3, 500, generator).view(3, 500)
    for seed in range(3):
        assert sorted(set(found[seed].tolist())) == [10.0 * seed + k for k in range(10)]


def test_a_constant_velocity_has_its_squared_length_as_energy_and_no_excess(monkeypatch):
    bench = known(lambda t, x: SHIFT.expand(x.shape), monkeypatch)
    found = row(bench, [25.0, 25.0, 20.0])
    assert found[plane.ENERGY]["values"] == pytest.approx([25.0] * 3, rel=1e-5)
    assert found[plane.NORMALISED]["values"] == pytest.approx([0, 0, 0.25], abs=1e-5)
    floor = plane.floor(bench, AWAY, 32)
    # The flow is exact: only the two finite sets keep the distance from 0.
    assert 0 < found[plane.DISTANCE]["value"] < 2 * floor["value"]


def test_too_little_energy_is_an_excess_too(monkeypatch):
    bench = known(lambda t, x: 0.5 * SHIFT.expand(x.shape), monkeypatch)
    found = row(bench, [25.0] * 3)
    assert found[plane.NORMALISED]["value"] == pytest.approx(0.75, rel=1e-5)
    assert found[plane.DISTANCE]["value"] == pytest.approx(2.5, abs=0.5)


def test_energies_are_of_each_seeds_own_points(monkeypatch):
    def velocity(t, x):
        speed = torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(len(x) // 3)
        return torch.stack([speed, 0 * speed], dim=1)

    bench = known(velocity, monkeypatch)
    assert row(bench, [1.0] * 3)[plane.ENERGY]["values"] == pytest.approx([1.0, 4.0, 9.0], rel=1e-5)


def test_the_distance_is_not_squared(monkeypatch):
    bench = known(lambda t, x: torch.zeros_like(x), monkeypatch, sizes=replace(TINY, points=300))
    found = row(bench, [25.0] * 3, sizes=replace(TINY, points=300))
    # |shift| = 5, and means of 300 points are within 5 * (2/300)^(1/2) = 0.4.
    assert found[plane.DISTANCE]["value"] == pytest.approx(5, abs=0.4)


def test_the_baseline_is_the_squared_distance_of_the_laws():
    bench = plane.bench_of(Settings(), AWAY, TINY, [0, 1])
    # Five deviations of a mean of 256 differences along the shift: 2 * 5 * 5 * (2 / 256)^(1/2).
    assert plane.baseline(bench, AWAY, 256) == pytest.approx([25.0, 25.0], abs=4.5)


def test_a_path_with_a_wrong_derivative_stands_out():
    sizes = replace(TINY, steps=100, held_out=4_000, points=50)
    bench = plane.bench_of(Settings(), plane.TASKS[2], sizes, [0, 1])
    rows = [
        plane.cells(bench, plane.TASKS[2], Contender("", path, INDEPENDENT), sizes, [14.0] * 2)
        for path in (Linear(), FivePercentOff())
    ]
    # The same points, times and weights at the start: what differs is the derivative.
    right, wrong = (found[plane.CALIBRATION]["values"] for found in rows)
    apart = measured(one - other for one, other in zip(right, wrong, strict=True))
    assert apart["value"] == pytest.approx(0.048, abs=0.015)
    assert apart["value"] > 5 * apart["standard_error"]
    energies = [found[plane.ENERGY]["value"] for found in rows]
    assert energies[1] > 1.05 * energies[0]


def test_every_pair_of_laws_has_its_floor_its_baseline_and_every_path():
    tables = [
        plane.table(Settings(interpolants=("trigonometric",)), task, TINY, [0, 1]) for task in plane.TASKS
    ]
    assert [found.name for found in tables] == [task.name for task in plane.TASKS]
    for found in tables:
        assert [one.kind for one in found.rows] == [FLOOR, LIMIT, OURS, OURS]
        assert [one.label for one in found.rows[2:]] == [
            f"trigonometric, {word}" for word in (INDEPENDENT, TRANSPORT)
        ]
        for one in found.rows[2:]:
            assert all(cell["standard_error"] is not None for cell in one.cells.values())


def test_transport_needs_less_energy_than_independent_pairs():
    sizes = replace(TINY, steps=100, plans=2)
    task = plane.TASKS[2]
    bench = plane.bench_of(Settings(), task, sizes, [0, 1])
    found = [
        plane.cells(bench, task, Contender("", Linear(), word), sizes, [14.0] * 2)[plane.ENERGY]["value"]
        for word in (INDEPENDENT, TRANSPORT)
    ]
    assert found[0] > 1.1 * found[1]
