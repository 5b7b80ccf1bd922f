"""The moons' laws, network and figures, and what the benchmarks in the plane share."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.accuracy import _planar, moons
from benchmarks.accuracy._planar import (
    HELD_OUT,
    INDEPENDENT,
    TRAINING,
    TRANSPORT,
    Bench,
    Contender,
    Feed,
    Pools,
    Recipe,
    adam,
    attempted,
    by_optimal_transport,
    calibration,
    distances,
    ours,
    peers,
    squared_wasserstein2,
)
from benchmarks.own import FivePercentOff
from benchmarks.record import FLOOR, LIMIT, OURS, PUBLISHED, measured
from benchmarks.settings import Settings
from interpolants import (
    MLP,
    Brownian,
    GaussianMixture,
    Interpolant,
    LearnedField,
    Linear,
    MixtureOracle,
    ODESampler,
    SpatiallyLinear,
    Trigonometric,
)
from interpolants.metrics import wasserstein2

TINY = moons.Sizes(steps=2, plans=1, points=32, held_out=64)


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    """Pools of one minibatch, within which transport takes no time."""
    monkeypatch.setattr(moons, "POOL", 256)


class Broken(Interpolant):
    """A path that cannot be evaluated."""

    def interpolate(self, t, x0, x1):
        raise RuntimeError("no such path\nand a second line")


def stacked(steps):
    """A bench of small networks that learn within seconds."""
    recipe = Recipe(
        lambda: MLP(2, width=32, depth=2), partial(adam, lr=5e-3), steps, 256, 256, 2, lambda k: 1 - k / steps
    )
    return Bench(partial(moons.pairs, 3), [0, 1, 2], recipe, torch.device("cpu"))


def test_arcs_are_evenly_spaced_and_moved_along_the_diagonal(generator):
    points = (moons.arcs(2, 100, generator).double() + 1) / 3
    angles = torch.linspace(0, math.pi, 50, dtype=torch.float64)
    across = torch.cat([angles.cos() - angles.sin(), 0.5 - angles.cos() + angles.sin()])
    for mine in points.view(2, 100, 2):
        # The shift is the same in both coordinates, so their difference is that of the arcs.
        torch.testing.assert_close(mine[:, 0] - mine[:, 1], across, atol=1e-6, rtol=0)
        shift = mine[:50, 0] - angles.cos()
        assert -1e-6 < shift.min() < 0.03
        assert 0.17 < shift.max() < 0.2 + 1e-6


def test_scattered_points_have_the_mean_and_variance_of_the_arcs_law(generator):
    n = 40_000
    points = moons.scattered(1, n, generator).double()
    centred = points - torch.tensor([0.8, 0.05], dtype=torch.float64)
    # Five standard errors each: chance exceeds them once in a million.
    assert (centred.mean(0).abs() < 5 * points.std(0) / math.sqrt(n)).all()
    squares = centred.square().sum(1)
    assert abs(squares.mean() - moons.VARIANCE) < 5 * squares.std() / math.sqrt(n)


def test_arcs_and_scattered_points_follow_one_law(generator):
    arcs, scattered = moons.arcs(1, 400, generator), moons.scattered(1, 400, generator)
    # Two independent sets of this size are about 0.03 apart; without the shift it would be 0.2.
    assert squared_wasserstein2(arcs, scattered) < 0.12


def test_each_gaussian_has_the_protocols_standard_deviation(generator):
    points, _ = moons.pairs(2, 20_000, generator)
    angles = torch.arange(8) * math.pi / 4
    centres = 5 * torch.stack([angles.cos(), angles.sin()], dim=1)
    residuals = points - centres[torch.cdist(points, centres).argmin(1)]
    # The nearest centre is the right one but for one point in a thousand; the rest is five standard errors.
    assert float(residuals.std()) == pytest.approx(math.sqrt(math.sqrt(0.1)), abs=0.01)


def test_the_network_has_as_many_weights_as_the_protocols():
    block = 128 * 512 + 512 + 512 * 128 + 128
    count = (2 * 128 + 128) + (128 + 128) + 3 * block + (128 * 2 + 2)
    assert sum(weight.numel() for weight in moons.Residual().parameters()) == count


def test_without_its_blocks_the_network_is_affine_in_point_and_time():
    network = moons.Residual().requires_grad_(False)
    for block in network.layers[:-1]:
        block.layers[-1].weight.zero_()
        block.layers[-1].bias.zero_()
    t, x = torch.rand(5), torch.randn(5, 2)
    middle = network.point(2 * x) + network.time(2 * t[:, None])
    start = network(torch.zeros(5), torch.zeros(5, 2))
    doubled = network(2 * t, 2 * x)
    torch.testing.assert_close(doubled, network.layers[-1](middle))
    torch.testing.assert_close(doubled - start, 2 * (network(t, x) - start), atol=1e-5, rtol=1e-4)


def test_an_exact_euler_step_from_independent_pairs_is_the_targets_variance_away(generator):
    mean = torch.tensor([0.8, 0.05])
    field = LearnedField(Linear(), velocity=lambda t, x: mean - x)
    x0, x1 = moons.pairs(2, 500, generator)
    found = distances(ODESampler("euler", steps=1).sample(field, x0).final, x1, 2)
    # The arcs are evenly spaced: only the shifts are left to chance.
    assert found == pytest.approx([moons.VARIANCE] * 2, rel=0.02)


def test_the_distance_is_squared_and_exact(generator):
    x = torch.randn(50, 2, generator=generator)
    assert squared_wasserstein2(x, x.flip(0) + torch.tensor([3.0, 4.0])) == pytest.approx(25, rel=1e-5)
    y = torch.randn(50, 2, generator=generator)
    assert squared_wasserstein2(x, y) == pytest.approx(wasserstein2(x, y) ** 2, rel=1e-9)


def test_distances_keep_the_seeds_apart(generator):
    x = torch.randn(20, 2, generator=generator)
    shift = torch.tensor([1.0, 2.0]).repeat_interleave(10)[:, None] * torch.tensor([1.0, 0.0])
    assert distances(x, x + shift, 2) == pytest.approx([1.0, 4.0], rel=1e-5)


def test_points_that_are_not_finite_have_no_distance():
    x = torch.zeros(3, 2)
    assert math.isnan(squared_wasserstein2(x, x / 0))
    assert measured([squared_wasserstein2(x / 0, x)])["value"] is None


def test_transport_pairs_each_seeds_points_by_a_permutation_that_costs_least(generator):
    kept = []

    def draw(n, generator):
        kept.append(moons.pairs(2, n, generator))
        return kept[-1]

    x0, x1 = next(iter(Pools(draw, 64, 2, generator, by_optimal_transport)))
    drawn0, drawn1 = (part.view(2, 64, 2) for part in kept[0])
    for k in range(2):
        for found, given in ((x0[k], drawn0[k]), (x1[k], drawn1[k])):
            assert sorted(found.tolist()) == sorted(given.tolist())
        cost = float((x0[k] - x1[k]).square().sum(1).mean())
        assert cost == pytest.approx(wasserstein2(drawn0[k], drawn1[k]) ** 2, rel=1e-5)
        # Else a minibatch would be one stretch of an arc.
        assert not torch.equal(x1[k], drawn1[k])


def test_plans_come_again_in_their_order_and_independent_pools_do_not(generator):
    draw = partial(moons.pairs, 1)
    plans = iter(Pools(draw, 8, 1, generator, by_optimal_transport, plans=2))
    first, second, third, fourth = (next(plans)[0] for _ in range(4))
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)
    fresh = iter(Pools(draw, 8, 1, generator))
    assert len({float(next(fresh)[0].sum()) for _ in range(4)}) == 4


def test_minibatches_are_stretches_of_a_pool_of_each_seed(generator):
    made = []

    def draw(n, generator):
        made.append(moons.pairs(2, n, generator))
        return made[-1]

    feed = Feed(Pools(draw, 8, 2, generator), 4, generator)
    batches = [next(feed)[1].view(2, 4, 2) for _ in range(3)]
    pools = [pair[1].view(2, 8, 2) for pair in made]
    torch.testing.assert_close(batches[0], pools[0][:, :4])
    torch.testing.assert_close(batches[1], pools[0][:, 4:])
    torch.testing.assert_close(batches[2], pools[1][:, :4])
    with pytest.raises(ValueError, match="divide"):
        Feed(Pools(draw, 8, 2, generator), 3, generator)


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), Linear(Brownian())], ids=str)
def test_the_exact_velocity_is_calibrated_and_one_that_is_too_fast_is_not(path, generator):
    sides = [
        GaussianMixture(torch.ones(1), torch.tensor([[shift, 0.0]]), torch.eye(2)[None])
        for shift in (0.0, 3.0)
    ]
    oracle = MixtureOracle(path, *sides)
    x0, x1 = (side.sample(40_000, generator=generator) for side in sides)
    for factor in (1.0, 1.05):
        field = LearnedField(path, velocity=lambda t, x, factor=factor: factor * oracle.velocity(t, x))
        found = calibration(field, x0, x1, 2, generator)
        # The standard error of a slope is about 0.004 with 20,000 pairs; 0.05 apart.
        assert found == pytest.approx([1 / factor] * 2, abs=0.02)


def test_a_path_with_a_wrong_derivative_stands_out():
    bench = stacked(300)
    right, wrong = (
        bench.calibration(bench.learnt(contender), contender, 20_000)
        for contender in (
            Contender("right", Linear(), INDEPENDENT),
            Contender("wrong", FivePercentOff(), INDEPENDENT),
        )
    )
    # Both see the same points and times, so that their difference is the derivative's alone.
    apart = measured(one - other for one, other in zip(right, wrong, strict=True))
    assert apart["value"] == pytest.approx(0.048, abs=0.01)
    assert apart["value"] > 5 * apart["standard_error"]


def test_a_path_that_learns_begins_anew_in_every_row(monkeypatch):
    class Learning(torch.nn.Module, SpatiallyLinear):
        def __init__(self):
            super().__init__()
            self.power = torch.nn.Parameter(torch.tensor(1.5))

        def alpha(self, t):
            return 1 - t**self.power

        def beta(self, t):
            return t**self.power

    path = Learning()
    monkeypatch.setattr(Settings, "paths", lambda self, default: {"mine": path})
    one, other = ours(Settings(), [], _planar.COUPLINGS)
    bench = stacked(3)
    bench.learnt(one)
    assert one.interpolant.power.item() != 1.5
    assert other.interpolant.power.item() == path.power.item() == 1.5
    assert all(map(math.isfinite, bench.calibration(bench.learnt(other), other, 256)))


def test_training_brings_moons_near():
    bench = stacked(300)
    contender = Contender("linear", Linear(), TRANSPORT)
    row = moons.cells(bench, contender, replace(TINY, points=200))
    untrained = moons.cells(stacked(1), contender, replace(TINY, points=200))
    assert row[moons.ADAPTIVE]["value"] < 1 < 5 < untrained[moons.ADAPTIVE]["value"]
    # Transport's paths are nearly straight: one step does.
    assert row[moons.EULER]["value"] < 1
    assert row[moons.EVALUATIONS]["value"] >= 7


def test_the_same_seeds_give_the_same_figures_and_others_do_not():
    settings = Settings(seeds=2)
    one, again, other = (
        moons.protocol(chosen, TINY).rows for chosen in (settings, settings, replace(settings, first_seed=2))
    )
    assert one == again
    for mine, theirs in zip(one, other, strict=True):
        if mine.kind in (OURS, FLOOR):
            assert mine.cells[moons.EULER]["values"] != theirs.cells[moons.EULER]["values"]


def test_floors_limits_and_published_figures_stand_beside_every_path():
    table = moons.protocol(Settings(seeds=2, interpolants=("trigonometric",)), TINY)
    kinds = [row.kind for row in table.rows]
    assert kinds == [FLOOR, LIMIT, PUBLISHED, PUBLISHED, OURS, OURS]
    labels = [row.label for row in table.rows[-2:]]
    assert labels == ["trigonometric, independent", "trigonometric, optimal transport"]
    for row in table.rows[-2:]:
        assert row.cells[moons.EULER]["standard_error"] > 0
        assert len(row.cells[moons.ADAPTIVE]["values"]) == 2
    theirs = table.rows[2].cells[moons.EULER]
    assert (theirs["value"], theirs["spread"]) == (6.232, 0.186)


def test_a_path_that_fails_loses_its_own_row_only(monkeypatch):
    monkeypatch.setattr(Settings, "paths", lambda self, default: {"broken": Broken(), "linear": Linear()})
    table, plot = moons.shorter(Settings(seeds=2, budget="smoke"), TINY)
    broken = [row for row in table.rows if "broken" in row.label]
    working = [row for row in table.rows if "linear" in row.label]
    assert len(broken) == len(working) == 2
    for row in broken:
        assert {cell["why"] for cell in row.cells.values()} == {"RuntimeError: no such path"}
    assert all(row.cells[moons.ADAPTIVE]["kind"] == "measured" for row in working)
    assert [len(series.x) for series in plot.series] == [0, 5, 0, 5]


def test_peers_stand_in_the_short_table_or_are_said_to_be_absent(monkeypatch):
    monkeypatch.setattr(_planar, "installed", lambda name: False)
    settings = Settings(seeds=2, interpolants=("linear",), peers=("torchcfm", "flow_matching", "azula"))
    rows = {row.label: row for row in moons.shorter(settings, TINY)[0].rows}
    assert {
        label.partition(",")[0]: row.cells[moons.ADAPTIVE]["why"]
        for label, row in rows.items()
        if row.kind == "peer"
    } == {
        "torchcfm": "torchcfm is not installed",
        "flow_matching": "flow_matching is not installed",
        "azula": "its source is Gaussian",
    }


def test_every_peer_is_asked_for_with_the_couplings_it_has():
    labels = [one.label for one in peers(Settings(peers=("torchcfm", "flow_matching")), _planar.COUPLINGS)]
    assert labels == [
        "torchcfm, independent",
        "flow_matching, independent",
        "torchcfm, optimal transport",
    ] or (labels == ["torchcfm, independent", "torchcfm, optimal transport", "flow_matching, independent"])
    assert [one.label for one in ours(Settings(), ["linear"], [TRANSPORT])] == ["linear, optimal transport"]


@pytest.mark.parametrize("peer", ["torchcfm", "flow_matching"])
def test_peers_have_the_straight_line(peer, generator):
    pytest.importorskip(peer)
    x0, x1 = torch.randn(2, 6, 2, generator=generator)
    t, xt, velocity = _planar.PEER_POINTS[peer](generator)(x0, x1)
    assert t.shape == (6,)
    torch.testing.assert_close(xt, Linear().interpolate(t, x0, x1))
    torch.testing.assert_close(velocity, x1 - x0)


def test_peers_neither_heed_nor_change_the_global_generator(monkeypatch):
    monkeypatch.setattr(_planar, "installed", lambda name: True)
    monkeypatch.setitem(_planar.PEER_POINTS, "torchcfm", lambda generator: straight_points)
    bench = stacked(2)
    contender = Contender("torchcfm, independent", Linear(), INDEPENDENT, "torchcfm")
    trained = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        trained.append(next(bench.network(contender).parameters()))
        assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(*trained)


def straight_points(x0, x1):
    t = torch.rand(len(x0))
    return t, torch.lerp(x0, x1, t[:, None]), x1 - x0


def test_contenders_of_one_coupling_share_their_plans():
    bench = stacked(1)
    one, other = (Contender(name, Linear(), TRANSPORT) for name in ("one", "other"))
    assert bench.pools(one, TRAINING, 2) is bench.pools(other, TRAINING, 2)
    assert bench.pools(one, HELD_OUT, 2) is not bench.pools(one, TRAINING, 2)


def test_what_went_wrong_is_said_in_one_line():
    def fails():
        raise ValueError("this\nand that")

    assert attempted(["a"], fails) == {"a": {"kind": "missing", "why": "ValueError: this"}}
    assert attempted(["a"], lambda: {"a": measured([1.0, 2.0])})["a"]["value"] == 1.5
