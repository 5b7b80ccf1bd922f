"""The checkerboard's likelihood is that of flows that are known in closed form."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.accuracy import density
from benchmarks.accuracy._planar import INDEPENDENT, TEST, Contender
from benchmarks.own import FivePercentOff
from benchmarks.record import FLOOR, OURS, PEER, measured
from benchmarks.settings import Settings
from interpolants import Brownian, LearnedField, Linear

TINY = density.Sizes(steps=2, points=16, sde_steps=4, held_out=64)


def flow(rate):
    """The flow that scales the plane by e^rate."""
    return LearnedField(Linear(), velocity=lambda t, x: rate * x)


def points(n, seeds=1):
    return density.pairs(seeds, n, torch.Generator().manual_seed(3))[1]


def contender(path):
    return Contender("", path, INDEPENDENT)


def test_a_flow_that_stands_still_has_the_normal_laws_likelihood():
    found = density.likelihood(flow(0.0), points(20_000), 1)
    # E|x|^2 = 2 * 16/3 on the board, whose squares deviate by 2 * 16/3 * (4/5)^(1/2) at most.
    exact = math.log(2 * math.pi) + 16 / 3
    assert found[density.LIKELIHOOD]["value"] == pytest.approx(exact, abs=5 * 4.8 / math.sqrt(20_000))


def test_a_flow_that_spreads_has_the_likelihood_of_a_wider_normal_law():
    x1, rate = points(500), 0.7
    found = density.likelihood(flow(rate), x1, 1)
    exact = math.log(2 * math.pi) + 2 * rate + float(x1.square().sum(1).mean()) * math.exp(-2 * rate) / 2
    assert found[density.LIKELIHOOD]["value"] == pytest.approx(exact, abs=1e-4)
    assert found[density.EVALUATIONS]["value"] > 6


def test_each_seeds_likelihood_is_of_its_own_points():
    x1 = points(50, seeds=3)
    found = density.likelihood(flow(0.0), x1, 3)[density.LIKELIHOOD]
    exact = math.log(2 * math.pi) + x1.view(3, 50, 2).square().sum(2).mean(1) / 2
    assert found["values"] == pytest.approx(exact.tolist(), rel=1e-5)


def test_the_divergence_is_the_likelihood_above_the_entropy():
    found = density.likelihood(flow(0.5), points(50, seeds=2), 2)
    assert found[density.DIVERGENCE]["value"] == pytest.approx(
        found[density.LIKELIHOOD]["value"] - math.log(32), abs=1e-9
    )


def test_the_floor_is_the_entropy_of_half_a_square():
    assert math.log(8 * 2**2) == pytest.approx(density.ENTROPY)
    x0, x1 = density.pairs(2, 500, torch.Generator().manual_seed(0))
    assert x0.shape == x1.shape == (1000, 2)
    assert ((x1 / 2).floor().sum(1) % 2 == 0).all()
    # Five standard errors of a variance of 1.
    assert float(x0.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / 2000))


def test_the_learning_rate_falls_from_one_to_nothing():
    assert density.annealed(0, 100) == 1
    assert density.annealed(50, 100) == pytest.approx(0.5)
    assert density.annealed(100, 100) == pytest.approx(0, abs=1e-12)


def test_training_lowers_the_likelihoods_negative_but_not_below_the_floor():
    sizes = replace(TINY, points=50)
    rows = [
        density.cells(
            density.bench_of(Settings(), replace(sizes, steps=steps), [0, 1]), contender(Linear()), sizes
        )
        for steps in (2, 80)
    ]
    before, after = (row[density.LIKELIHOOD]["value"] for row in rows)
    assert density.ENTROPY < after < before - 0.5


def test_the_bound_lies_above_the_flows_likelihood_and_needs_a_denoiser():
    sizes = replace(TINY, steps=60, points=50, sde_steps=20)
    bench = density.bench_of(Settings(), sizes, [0, 1])
    found = density.cells(bench, contender(Linear(Brownian())), sizes)
    assert len(found[density.BOUND]["values"]) == 2
    assert density.ENTROPY < found[density.BOUND]["value"] < 7
    without = density.cells(bench, contender(Linear()), TINY)[density.BOUND]
    assert without["kind"] == "missing"
    assert "latent noise" in without["why"]


def test_a_path_with_a_wrong_derivative_stands_out():
    bench = density.bench_of(Settings(), replace(TINY, steps=150), [0, 1])
    right, wrong = (
        bench.calibration(bench.learnt(one), one, 5_000)
        for one in (contender(Linear()), contender(FivePercentOff()))
    )
    apart = measured(one - other for one, other in zip(right, wrong, strict=True))
    assert apart["value"] == pytest.approx(0.048, abs=0.01)
    assert apart["value"] > 5 * apart["standard_error"]


def test_floor_paths_and_peers_stand_in_one_table(monkeypatch):
    monkeypatch.setattr(Settings, "pick", lambda self, smoke, small, full: TINY)
    settings = Settings(seeds=2, interpolants=("trigonometric",), peers=("azula",))
    found = density.run(settings).tables[0]
    assert [(row.label, row.kind) for row in found.rows] == [
        ("entropy of the target, ln 32", FLOOR),
        ("trigonometric", OURS),
        ("azula", PEER),
    ]
    assert found.rows[0].cells[density.LIKELIHOOD]["value"] == 3.4657
    assert found.rows[1].cells[density.LIKELIHOOD]["standard_error"] > 0


def test_the_same_seeds_give_the_same_figures_and_others_do_not():
    rows = [
        density.cells(density.bench_of(Settings(), TINY, seeds), contender(Linear()), TINY)
        for seeds in ([0, 1], [0, 1], [2, 3])
    ]
    assert rows[0] == rows[1]
    assert rows[0][density.LIKELIHOOD]["values"] != rows[2][density.LIKELIHOOD]["values"]


def test_every_seed_is_asked_about_its_own_held_out_points():
    _, x1 = density.pairs(2, 16, density.bench_of(Settings(), TINY, [0, 1]).stream(TEST))
    assert not torch.equal(x1[:16], x1[16:])
