import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.accuracy import _losses_learning as learning
from benchmarks.accuracy import losses
from benchmarks.accuracy._losses_learning import Learned, Noise, Problem, Sizes
from benchmarks.accuracy._losses_variants import TOLD, VARIANTS, Told, Within, derived
from benchmarks.ensemble import BySeed, Ensemble, split
from benchmarks.record import Table, measured
from benchmarks.settings import Settings, interpolant_named
from benchmarks.timing import Timings
from interpolants import Brownian, GaussianMixture, Interpolant, Linear, MixtureOracle, SpatiallyLinear
from interpolants.gammas import Gamma
from interpolants.gammas import Quadratic as Parabola
from interpolants.losses import Quadratic, Regression, Stratified, Uniform

TINY = Sizes(8, 32, 8, 1, times=4, points=16, gradients=4, held_out=256, told=64, rounds=2)
BY_LABEL = {variant.label: variant for variant in VARIANTS}


class FivePercentOff(SpatiallyLinear):
    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t

    def derivative(self, t, x0, x1):
        return 1.05 * (x1 - x0)


class WrongWeights(FivePercentOff):
    derivative = SpatiallyLinear.derivative

    def alpha_derivative(self, t):
        return torch.full_like(t, -1.05)

    def beta_derivative(self, t):
        return torch.full_like(t, 1.05)


class NotLinear(Interpolant):
    def interpolate(self, t, x0, x1):
        t = t.reshape(-1, 1)
        return (1 - t) * x0 + t * x1 + (t * (1 - t)) * x0 * x1


class Broken(SpatiallyLinear):
    def alpha(self, t):
        raise RuntimeError("no such path")

    beta = alpha


class Constant(nn.Module):
    """Answers (1, 0) everywhere, so that the gradient is known by hand."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, t, x):
        return self.weight.expand_as(x)


def problem(path=Linear(), seeds=(0, 1, 2), **sizes):  # noqa: B008
    return Problem(path, list(seeds), replace(TINY, **sizes))


def standard_errors(values, expected):
    return ((values.mean() - expected) / (values.std() / math.sqrt(len(values)))).item()


def test_the_coordinates_of_both_ends_have_about_variance_one():
    for mixture, variance in ((problem().source, 1 / 2 + 0.25), (problem().target, 1.3**2 / 2 + 0.0625)):
        x = mixture.sample(20_000, generator=torch.Generator().manual_seed(0))
        # Five standard errors of a variance, of which a Gaussian's is the largest here.
        assert (x.var(dim=0) - variance).abs().max() < 5 * variance * math.sqrt(2 / 20_000)
        assert x.mean(dim=0).abs().max() < 5 * math.sqrt(variance / 20_000)


@pytest.mark.parametrize("path", [Linear(), FivePercentOff(), WrongWeights()], ids=lambda p: type(p).__name__)
def test_the_truth_follows_from_the_values_of_a_path_alone(path):
    it = problem(path)
    truth = it.truth()
    right = MixtureOracle(Linear(), it.source, it.target)
    assert torch.allclose(truth.velocity, right.velocity(truth.t, truth.x), atol=1e-4)
    assert truth.t.reshape(3, 4, 16).unique().tolist() == [0.125, 0.375, 0.625, 0.875]
    assert not torch.equal(*split(truth.x, 3)[:2])


def test_the_truth_believes_no_derivative_of_the_latent_noise():
    class Wrong(Gamma):
        def squared(self, t):
            return t * (1 - t)

        def derivative(self, t):
            return torch.full_like(t, 7.0)

        def half_squared_derivative(self, t):
            return torch.full_like(t, 7.0)

    it = problem(Linear(Wrong()))
    truth = it.truth()
    right = MixtureOracle(Linear(Brownian()), it.source, it.target)
    assert torch.allclose(truth.velocity, right.velocity(truth.t, truth.x), atol=1e-4)


def test_a_velocity_five_percent_too_large_has_a_quarter_of_a_percent_of_error():
    it = problem()
    truth = it.truth()
    right = MixtureOracle(Linear(), it.source, it.target)
    for scale in (1.05, 1.0, 0.0):
        wrong, length = learning.errors(lambda t, x, scale=scale: scale * right.velocity(t, x), truth, 3)
        assert wrong.tolist() == pytest.approx([(scale - 1) ** 2] * 3, abs=1e-6)
        assert length.tolist() == pytest.approx([scale] * 3, abs=1e-5)


def test_errors_are_each_seed_s_own():
    truth = problem(points=8).truth()
    scales = torch.tensor([0.0, 1.0, 2.0]).repeat_interleave(len(truth.t) // 3)[:, None]
    wrong, length = learning.errors(lambda t, x: scales * truth.velocity, truth, 3)
    assert wrong.tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert length.tolist() == pytest.approx([0.0, 1.0, 2.0])


@pytest.mark.parametrize("antithetic", [False, True])
def test_an_ensemble_s_loss_is_the_sum_of_its_members_losses(antithetic):
    it = problem(Linear(Brownian()))
    ensemble = it.ensemble()
    network = BySeed(ensemble) if antithetic else ensemble
    loss = BY_LABEL["antithetic" if antithetic else "regression"].loss(it.path, 3)
    draw = loss.draw(*it.draw(5, it.generator(0)), generator=it.generator(1))
    together = loss.evaluate(network, draw).mean()
    plain, apart = Regression(it.path, antithetic=antithetic), 0.0
    for k in range(3):
        rows = slice(5 * k, 5 * k + 5)
        apart += plain.evaluate(
            ensemble.member(it.network, k), type(draw)(*(part[rows] for part in draw))
        ).mean()
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)


def test_strata_are_of_each_seed():
    t = Within(Stratified(), 3).sample(12, torch.zeros(1), generator=torch.Generator().manual_seed(0))
    assert (t.reshape(3, 4).sort(dim=1).values * 4).long().tolist() == [[0, 1, 2, 3]] * 3
    law = Within(BY_LABEL["importance: Beta(1/2, 1/2)"].times, 3)
    assert law.weight(torch.tensor([0.5])).item() == pytest.approx(math.pi / 2)
    assert law.density(torch.tensor([0.5])).item() == pytest.approx(2 / math.pi)


def test_the_noise_of_a_constant_s_gradient_is_that_worked_out_by_hand():
    it = problem(Linear(Parabola()), seeds=range(12), gradients=60)
    ensemble = Ensemble(Constant, it.seeds)
    ends = 2 * (0.75 + 1.3**2 / 2 + 0.0625)  # The variance of x1 - x0, both coordinates.
    latent = 2 / 3  # E gamma'^2 of the parabola, both coordinates.
    # The gradient of |w - y|^2 is 2 (w - y), and w = (1, 0), E y = 0; the weight's square averages to pi^2/8.
    expected = {
        "regression": 4 * (ends + latent) / 32,
        "quadratic": 4 * (ends + latent) / 32,
        "antithetic": 4 * ends / 32,
        "antithetic, half the pairs": 4 * ends / 16,
        "stratified times": 4 * (ends + latent) / 32,
        "importance: Beta(1/2, 1/2)": 4 * (math.pi**2 / 8 * (1 + ends) + LATENT_WEIGHTED - 1) / 32,
    }
    for label, variance in expected.items():
        found = learning.noise(it, BY_LABEL[label], ensemble)
        assert abs(standard_errors(found.variance, variance)) < 7, label
        # With 11 degrees of freedom Student's t exceeds 7 once in 40,000; 12 checks of fixed seeds.
        assert abs(standard_errors(found.squared_mean, 4.0)) < 7, label
        assert torch.equal(found.relative, found.variance / found.squared_mean)


def test_the_squared_mean_has_no_bias_from_the_noise():
    it = problem(seeds=range(60), gradients=2)
    ensemble = Ensemble(Constant, it.seeds)
    with torch.no_grad():
        for weight in ensemble.parameters():
            weight.zero_()
    found = learning.noise(it, VARIANTS[0], ensemble)
    assert abs(standard_errors(found.squared_mean, 0.0)) < 5


# E over uniform times of gamma'^2 pi sqrt(t (1 - t)) for both coordinates, by Beta integrals.
LATENT_WEIGHTED = 2 * math.pi * (math.pi / 8 - 4 * 3 * math.pi / 128)


def test_regression_and_quadratic_have_the_same_gradient_on_every_minibatch():
    it = problem(Linear(Brownian()))
    plain, quadratic = (learning.noise(it, VARIANTS[k], it.ensemble()) for k in (0, 1))
    assert plain.variance.tolist() == pytest.approx(quadratic.variance.tolist(), rel=1e-4)
    assert plain.squared_mean.tolist() == pytest.approx(quadratic.squared_mean.tolist(), rel=1e-3)


def test_the_quadratic_loss_of_the_exact_field_is_minus_its_size_only_on_a_right_path():
    for path, value in ((Linear(), -1.0), (FivePercentOff(), -1.1), (WrongWeights(), -1.1)):
        it = problem(path, seeds=range(8), held_out=2048)
        found = learning.values(it, Quadratic(path, times=Within(Stratified(), 8))).mean
        assert abs(standard_errors(found, value)) < 6  # Once in 2,000 with 7 degrees of freedom; fixed seeds.
        assert (abs(standard_errors(found, -1.0)) > 6) == (value != -1.0)


@pytest.mark.parametrize("antithetic", [False, True])
def test_regression_s_value_is_the_quadratic_one_and_the_size_of_its_target(antithetic):
    it = problem(Linear(Parabola()), seeds=range(8), held_out=1024, times=32, points=64)
    kinds = [
        kind(it.path, times=Within(Uniform(), 8), antithetic=antithetic) for kind in (Regression, Quadratic)
    ]
    regression, quadratic = (learning.values(it, kind).mean for kind in kinds)
    size = it.truth().velocity.square().sum(1).mean()
    target = 2 * (0.75 + 1.3**2 / 2 + 0.0625) + 2 / 3
    # The same draws, so only |target|^2 and |b|^2 are uncertain: one percent at 8,192 points.
    assert (regression - quadratic).mean().item() == pytest.approx(target / size.item(), rel=0.06)


def test_the_spread_is_smaller_with_antithetic_pairs():
    it = problem(Linear(Parabola()), held_out=2048)
    alone, pairs = (learning.values(it, Quadratic(it.path, antithetic=a)).spread for a in (False, True))
    assert (pairs < alone).all()


def test_networks_that_are_told_the_velocity_learn_it_best():
    it = problem(Linear(Brownian()), steps=60, width=32, batch=64, told=512)
    truth = it.truth()
    told, plain = (learning.learn(it, variant, truth) for variant in (TOLD, VARIANTS[0]))
    assert (told.curve[-1] < plain.curve[-1]).all()
    assert (told.curve[-1] < told.curve[0]).all()


def test_what_is_told_is_exact():
    it = problem(Linear(Brownian()))
    sample = Told().sample(torch.zeros(3 * 32), *next(it.told()))
    exact = it.oracle.velocity(sample.t, sample.xt)
    assert torch.allclose(sample.xt_dot, exact, atol=1e-5)
    assert len(sample.t.unique()) > 50
    assert torch.equal(Told().interpolate(sample.t, sample.x0, sample.x1), sample.xt)


def test_the_velocity_follows_from_either_end_without_latent_noise():
    it = problem()
    oracle, truth = it.oracle, it.truth()
    for name in ("x0", "x1"):
        velocity = derived(it.path, name, getattr(oracle, name))
        assert torch.allclose(velocity(truth.t, truth.x), truth.velocity, atol=1e-3)


def test_what_a_path_does_not_have_is_named():
    why = {v.label: (v.why_not(Linear()), v.why_not(Linear(Brownian()))) for v in VARIANTS}
    assert why.pop("x0 in place of the velocity") == ("", "the velocity takes two networks")
    assert why.pop("x1 in place of the velocity") == ("", "the velocity takes two networks")
    for label, (bare, noisy) in why.items():
        assert noisy == ""
        assert bare == ("no latent noise" if "antithetic" in label or "inverse" in label else "")


def test_variants_know_their_cost_and_their_objective():
    cost = {variant.label: variant.evaluations for variant in VARIANTS}
    assert {label for label, c in cost.items() if c == 2} == {"antithetic"}
    assert set(cost.values()) == {1.0, 2.0}
    other = {variant.label for variant in VARIANTS if not variant.uniform}
    assert other == {
        "inverse-variance weight",
        "Beta(2, 2) times",
        "logit-normal times",
        "x0 in place of the velocity",
        "x1 in place of the velocity",
    }
    assert next(problem().pairs(BY_LABEL["antithetic, half the pairs"], 0))[0].shape == (3 * 16, 2)


def power_law(exponent, scale=1.0, steps=(10, 20, 40)):
    errors = torch.tensor([[scale * s**-exponent] * 4 for s in steps]) * torch.linspace(0.9, 1.1, 4)
    return Learned(list(steps), errors, errors[-1], torch.ones(4), nn.Identity())


def test_a_curve_is_read_between_its_points():
    for step in (5.0, 10.0, 13.0, 28.0, 40.0):
        expected = step**-0.5 * torch.linspace(0.9, 1.1, 4)
        assert power_law(0.5).at(step).tolist() == pytest.approx(expected.tolist())
    assert learning.marked(100)[-1] == 100
    assert len(learning.marked(1024)) == 11


def test_ratios_are_taken_after_as_many_steps_evaluations_and_seconds():
    known = {"regression": power_law(0.5), "antithetic": power_law(0.5, scale=0.5)}
    times = Timings({"regression": [1.0, 1.0], "antithetic": [4.0, 4.0]}, "regression")
    cells = losses.error_cells(BY_LABEL["antithetic"], known, times, problem().truth())
    assert cells["equal steps"]["value"] == pytest.approx(0.5)
    assert cells["equal evaluations"]["value"] == pytest.approx(0.5 * 2**0.5)
    assert cells["equal seconds"]["value"] == pytest.approx(0.5 * 4**0.5)
    assert cells["error [%]"]["value"] == pytest.approx(100 * 0.5 * 40**-0.5)
    assert cells["equal seconds"]["standard_error"] == pytest.approx(0.0, abs=1e-6)
    # Where the variant is the quicker one, nobody is read beyond the end of his curve.
    quick = Timings({"regression": [4.0, 4.0], "antithetic": [1.0, 1.0]}, "antithetic")
    cells = losses.error_cells(BY_LABEL["antithetic"], known, quick, problem().truth())
    assert cells["equal seconds"]["value"] == pytest.approx(0.5 / 4**0.5)


def test_the_clock_s_noise_is_part_of_the_error_over_seeds():
    known = {"regression": power_law(0.5), "antithetic": power_law(0.5)}
    rounds = {"regression": [1.0] * 8, "antithetic": [1.0, 2.0, 1.0, 4.0] * 2}
    cells = losses.error_cells(
        BY_LABEL["antithetic"], known, Timings(rounds, "regression"), problem().truth()
    )
    assert cells["equal seconds"]["values"] == pytest.approx([1.0, 2**0.5, 1.0, 2.0])
    assert cells["equal steps"]["values"] == pytest.approx([1.0] * 4)
    again = losses.error_cells(
        BY_LABEL["regression"], known, Timings(rounds, "regression"), problem().truth()
    )
    assert again["equal seconds"]["values"] == again["equal evaluations"]["values"] == [1.0] * 4


def test_noise_of_another_objective_is_compared_beside_its_mean_only():
    base = Noise(torch.full((2,), 4.0), torch.full((2,), 2.0))
    mine = Noise(torch.full((2,), 1.0), torch.full((2,), 0.25))
    other, same = BY_LABEL["Beta(2, 2) times"], BY_LABEL["antithetic"]
    cells = losses.noise_cells(other, (mine, mine), (base, base))
    assert cells[losses.UNTRAINED]["value"] == pytest.approx(4.0)
    assert cells[losses.UNTRAINED_RATIO]["value"] == pytest.approx(2.0)
    assert cells[losses.TRAINED_RATIO]["why"] == "another objective"
    cells = losses.noise_cells(same, (mine, mine), (base, base))
    assert cells[losses.UNTRAINED_RATIO]["value"] == cells[losses.TRAINED_RATIO]["value"] == 0.25
    lost = Noise(mine.variance, torch.tensor([1.0, -1.0]))
    for cell in losses.UNTRAINED, losses.UNTRAINED_RATIO:
        assert "lost" in losses.noise_cells(other, (lost, mine), (base, base))[cell]["why"]


def recommended(**ratios):
    table = Table("error", "", [losses.EQUAL_EVALUATIONS, losses.EQUAL_SECONDS])
    for label, values in ratios.items():
        table.add(f"mine: {label}", {losses.EQUAL_SECONDS: measured(values)})
    return losses.recommendation(table, "mine")


def test_only_what_is_clearly_better_is_recommended():
    clear, unclear = [0.70, 0.72, 0.71, 0.73], [0.3, 1.2, 0.4, 0.5]
    assert "for the same seconds, antithetic has 0.7" in recommended(antithetic=clear, stratified=unclear)
    assert "nothing is clearly better" in recommended(stratified=unclear, quadratic=clear).split(";")[0]
    assert "nothing is clearly better" in recommended(antithetic=clear[:3]).split(";")[0]


@pytest.fixture(scope="module")
def result():
    report = losses.Report(TINY, 2)
    for name in ("linear+brownian", "linear"):
        report.add(name, Problem(interpolant_named(name), [3, 4], TINY))
    return report


def test_every_way_to_train_has_a_row_with_its_error(result):
    for name in ("linear+brownian", "linear"):
        rows = {row.label: row.cells for row in result.error.rows if row.label.startswith(f"{name}: ")}
        assert len(rows) == len(VARIANTS) + 2
        for variant in VARIANTS:
            cell = rows[f"{name}: {variant.label}"]["error [%]"]
            why = variant.why_not(interpolant_named(name))
            assert cell.get("why", "") == why
            assert why or (cell["seeds"] == 2 and cell["standard_error"] > 0)
    assert [plot.name for plot in result.plots] == ["seconds-linear-brownian", "seconds-linear"]
    assert {series.label for series in result.plots[0].series} < set(BY_LABEL)


def test_the_same_seeds_give_the_same_numbers_and_others_others(result):
    again, other = (losses.Report(TINY, 2) for _ in range(2))
    again.add("linear", Problem(Linear(), [3, 4], TINY))
    other.add("linear", Problem(Linear(), [5, 6], TINY))
    mine, same, others = (numbers(report, "linear: ") for report in (result, again, other))
    assert mine == same
    assert {what for what in mine if mine[what] == others.get(what)} == {
        what for what in mine if set(mine[what]) == {1.0}
    }


def numbers(report, start):
    """Return what hangs on no clock."""
    return {
        (table.name, row.label, column): cell["values"]
        for table in report.tables
        for row in table.rows
        for column, cell in row.cells.items()
        if row.label.startswith(start) and "values" in cell and column != "equal seconds"
    }


def test_one_path_that_fails_leaves_the_others_rows():
    report = losses.Report(TINY, 2)
    report.add("curved", Problem(NotLinear(), [0, 1], TINY))
    report.add("broken", Problem(Broken(), [0, 1], TINY))
    report.add("wrong", Problem(FivePercentOff(), [0, 1], TINY))
    error, noise, value = ({row.label: row.cells for row in table.rows} for table in report.tables)
    assert "spatially linear" in error["curved: regression"]["error [%]"]["why"]
    assert noise["curved: regression"][losses.TRAINED_RATIO]["value"] == 1.0
    assert "no such path" in error["broken: regression"]["error [%]"]["why"]
    assert "no such path" in noise["broken: regression"][losses.UNTRAINED]["why"]
    assert "no such path" in value["broken: quadratic"]["value"]["why"]
    assert error["wrong: regression"]["error [%]"]["value"] > 0
    assert value["wrong: quadratic"]["value"]["value"] < -1


def test_a_run_asks_for_the_paths_of_its_settings(monkeypatch):
    asked = []
    monkeypatch.setattr(losses.Report, "add", lambda self, name, problem: asked.append((name, problem.seeds)))
    found = losses.run(Settings(budget="smoke", seeds=3, first_seed=5))
    assert asked == [(name, [5, 6, 7]) for name in losses.PATHS]
    assert [table.name for table in found.tables] == ["error", "noise", "value"]
    losses.run(Settings(budget="smoke", interpolants=("trigonometric",)))
    assert asked[-1] == ("trigonometric", [0, 1])


def test_a_ring_is_a_mixture_of_equal_parts():
    ring = learning.ring(8, 1.3, 0.25)
    assert isinstance(ring, GaussianMixture)
    assert ring.means.norm(dim=1).tolist() == pytest.approx([1.3] * 8)
    assert ring.weights.tolist() == pytest.approx([1 / 8] * 8)
