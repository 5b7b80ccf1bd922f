"""The benchmark of exact fields, held to closed forms and to paths that are wrong on purpose."""

import math

import pytest
import torch

from benchmarks.accuracy import exact
from benchmarks.accuracy._observed import Observed, add_row, oracle_of, truth_of
from benchmarks.record import Table, plain
from benchmarks.settings import Settings, interpolant_named
from interpolants import (
    Constant,
    Interpolant,
    Linear,
    Mirror,
    MixtureOracle,
    ODESampler,
    SineSquared,
    SpatiallyLinear,
    Trigonometric,
    VariancePreserving,
)

NAMES = ("linear", "trigonometric+brownian", "encoding-decoding", "variance-preserving+quadratic")
TINY = exact.Effort(ode=10, density=5, variance=100, sde=50, evaluations=(32, 128), reference=64)


class Fast(SpatiallyLinear):
    """The line, whose written derivative is 5 % too fast."""

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t

    def derivative(self, t, x0, x1):
        return 1.05 * (x1 - x0)


class Cubed(Interpolant):
    """A path that says nothing of its weights."""

    def interpolate(self, t, x0, x1):
        share = t.reshape(-1, 1) ** 3
        return (1 - share) * x0 + share * x1


class Bent(Interpolant):
    """Not linear in its ends."""

    def interpolate(self, t, x0, x1):
        share = t.reshape(-1, 1)
        return (1 - share) * x0 + share * x1 + share * (1 - share) * x0 * x1


def study_of(dim=2, effort=TINY, seeds=(0, 1)):
    return exact.Study(*exact.mixtures(dim, torch.device("cpu")), effort, seeds)


@pytest.fixture(scope="module")
def both():
    """The field of the line, and of the line that is 5 % too fast."""
    study = study_of()
    return study, study.field(Linear()), study.field(Fast())


# ---- what a path's samples show


@pytest.mark.parametrize("name", NAMES)
def test_the_observed_field_is_the_oracle_of_the_path(name):
    study, path = study_of(), interpolant_named(name)
    x = study.points(study.target, 20, purpose=9)
    for t in (0.07, 0.5, 0.91):
        seen = study.field(path).together(("velocity", "score"), t, x)
        known = MixtureOracle(path, study.source, study.target).together(("velocity", "score"), t, x)
        for key in known:  # The same operations but for the derivatives, equal to rounding.
            torch.testing.assert_close(seen[key], known[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*NAMES, "linear+brownian"])
def test_the_observed_field_is_finite_at_the_ends(name):
    study = study_of()
    x = study.points(study.target, 20, purpose=9)
    for t in (0.0, 1.0):
        answers = study.field(interpolant_named(name)).together(("velocity", "score"), t, x)
        assert all(answer.isfinite().all() for answer in answers.values())


def test_a_path_that_is_no_linear_class_has_an_observed_field():
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    seen = Observed(Cubed(), 3)
    torch.testing.assert_close(seen.beta(t), t**3)
    torch.testing.assert_close(seen.beta_derivative(t), 3 * t**2)
    torch.testing.assert_close(seen.alpha_derivative(t), -3 * t**2)


def test_latent_noise_is_observed():
    t = torch.tensor([0.25, 0.7], dtype=torch.float64)
    seen = Observed(Linear(SineSquared()), 2).gamma
    sine = torch.sin(math.pi * t)
    torch.testing.assert_close(seen.squared(t), sine**4)
    # Half the derivative of sin^4.
    torch.testing.assert_close(
        seen.half_squared_derivative(t), 2 * math.pi * sine**3 * torch.cos(math.pi * t)
    )


def test_paths_of_another_form_are_refused():
    with pytest.raises(ValueError, match="exact fields need a path"):
        Observed(Bent(), 2)
    with pytest.raises(ValueError, match="does not begin in the source"):
        Observed(Mirror(SineSquared()), 2)


def test_differences_tell_a_wrong_derivative_and_leave_a_right_one(both):
    study, right, wrong = both
    assert truth_of(right) is right
    x = study.points(study.target, 20, purpose=9)
    mended = truth_of(wrong)
    # The line's own field; the differences are of fourth order.
    torch.testing.assert_close(mended.velocity(0.4, x), right.velocity(0.4, x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(wrong.velocity(0.4, x), 1.05 * right.velocity(0.4, x))


@pytest.mark.parametrize(
    "path", [Trigonometric(), VariancePreserving(), interpolant_named("encoding-decoding")]
)
def test_differences_leave_the_families_alone(path):
    field = oracle_of(path, *exact.mixtures(2, torch.device("cpu")))
    assert truth_of(field) is field


def test_a_row_that_fails_says_why_and_the_others_stay():
    table = Table("t", "t", ["first", "second"])

    def fails():
        raise RuntimeError("no luck: details")

    add_row(table, "bad", fails)
    add_row(table, "good", lambda: {"first": plain(1)})
    assert table.rows[0].cells["first"] == {"kind": "missing", "why": "no luck"}
    assert set(table.rows[0].cells) == {"first", "second"}
    assert table.rows[1].cells["first"]["value"] == 1


# ---- the mixtures and their moments


@pytest.mark.parametrize("dim", [2, 16])
def test_moments_are_those_of_samples(dim):
    n = 40_000
    for mixture in exact.mixtures(dim, torch.device("cpu")):
        x = mixture.sample(n, generator=torch.Generator().manual_seed(1))
        mean, covariance = exact.moments(mixture)
        # Six standard errors of each mean; of a product of coordinates the spread is below 6 here.
        assert ((x.mean(0) - mean).abs() < 6 * (covariance.diagonal() / n).sqrt()).all()
        assert ((x.T.cov() - covariance).abs() < 6 * 6 / math.sqrt(n)).all()
    assert exact.mixtures(dim, torch.device("cpu"))[0].means.sum(0).abs().max() < 1e-12


def test_distance_is_unbiased_and_its_error_is_right():
    # Vectors about a mean of length 0.5 in 20 dimensions, whose noise alone would have length 1.4.
    draw = torch.Generator().manual_seed(0)
    truth = torch.zeros(20, dtype=torch.float64)
    truth[3] = 0.5
    cells = [
        exact.distance(truth + torch.randn(10, 20, dtype=torch.float64, generator=draw) * 0.3)
        for _ in range(400)
    ]
    found = torch.tensor([cell["value"] for cell in cells])
    errors = torch.tensor([cell["standard_error"] for cell in cells])
    # The root of an unbiased square is biased in second order: by 0.02 here.
    assert abs(float(found.square().mean()) - 0.25) < 5 * float(found.square().std()) / 20
    assert 0.8 < float(errors.mean() / found.std()) < 1.25


def test_distance_of_nothing_is_nothing_within_its_error():
    noise = torch.randn(10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    cell = exact.distance(noise)
    assert cell["value"] < 5 * cell["standard_error"]
    assert exact.distance(torch.zeros(10, 6, dtype=torch.float64))["value"] == 0


def test_relative_moments_are_one_for_points_twice_as_far():
    study = study_of(effort=exact.Effort(1, 1, 1, 20_000))
    mean, covariance = exact.moments(study.target)
    x = study.points(study.target, 20_000, purpose=0)
    cell = exact.distance(exact.relative_moments(mean + 2 * (x - mean), study.target, exact=True))
    assert abs(cell["value"] - 3) < 6 * cell["standard_error"]  # Four times the covariance, less itself.
    shifted = exact.distance(
        exact.relative_moments(
            x + covariance.trace().sqrt() * torch.eye(2).double()[0], study.target, exact=True
        )
    )
    apart = covariance.trace() / torch.linalg.matrix_norm(covariance)
    assert abs(shifted["value"] - math.sqrt(1 + float(apart) ** 2)) < 6 * shifted["standard_error"]


def test_a_variance_one_fifth_too_large_reads_so():
    study = study_of()
    mean, _ = exact.moments(study.target)
    x = study.points(study.target, 20_000, purpose=0)
    cell = exact.variance_error(study, mean + math.sqrt(1.2) * (x - mean))
    assert abs(cell["value"] - 0.2) < 6 * cell["standard_error"] < 0.1


# ---- the tables


def test_the_flow_of_a_right_path_reaches_the_target_and_of_a_wrong_one_does_not(both):
    study, right, wrong = both
    assert exact.density_error(study, right)["value"] < 1e-7
    assert exact.density_error(study, wrong)["value"] > 0.02
    table, _ = exact.truth(
        study_of(effort=exact.Effort(1, 1, 50, 0)), {"line": Linear(), "fast": Fast(), "bent": Bent()}
    )
    by_label = {row.label: row.cells for row in table.rows}
    assert by_label["line"]["verdict"]["value"] == "right"
    assert by_label["fast"]["verdict"]["value"] == "WRONG"
    assert "exact fields need" in next(iter(by_label["bent"].values()))["why"]
    assert table.rows[-1].kind == "floor"


@pytest.mark.parametrize(("density", "variance", "verdict"), [(1e-5, 0.04, True), (1e-5, 0.06, False)])
def test_five_standard_errors_are_wrong(density, variance, verdict):
    assert exact._right({"value": density}, {"value": variance, "standard_error": 0.01}) is verdict


def test_a_density_off_by_a_hundredth_is_wrong_and_one_not_measured_is_not():
    near = {"value": 0.0, "standard_error": 0.01}
    assert not exact._right({"value": 0.01}, near)
    assert not exact._right({"value": None}, near)
    assert exact._right({"kind": "missing", "why": ""}, near)


def test_errors_of_the_ode_fall_with_the_order_of_the_method_and_those_of_a_wrong_path_do_not():
    study = study_of(effort=exact.Effort(5, 0, 1, 0, (64, 256)))
    curves = exact.strong_errors(study, study.field(Trigonometric()))
    for method, order in (("euler", 1), ("heun", 2), ("rk4", 4)):
        coarse, fine = (cell["value"] for cell in curves[method].values())
        # Four times the evaluations; near a boundary between modes they are still few.
        assert order - 0.5 < math.log(coarse / fine, 4) < order + 1
    assert [cell["value"] for cell in curves["dopri5"].values()][-1] < 1e-5
    stuck = exact.strong_errors(study, study.field(Fast()))
    assert stuck["rk4"][64]["value"] > 0.01
    assert stuck["rk4"][256]["value"] > 0.5 * stuck["rk4"][64]["value"]


def test_evaluations_are_counted_as_the_sampler_counts_them():
    study = study_of(effort=exact.Effort(2, 0, 1, 0, (32,)))
    curves = exact.strong_errors(study, study.field(Linear()))
    assert all(list(curves[method]) == [32] for method in exact.ODE_STAGES)
    x0 = study.points(study.source, 2, purpose=0)
    one = ODESampler("dopri5", 1, rtol=1e-3, atol=1e-3).sample(study.field(Linear()), x0)
    assert next(iter(curves["dopri5"])) == one.evaluations


def test_weak_errors_of_the_sde_fall_and_a_wrong_path_stays_off():
    study = study_of(effort=exact.Effort(1, 0, 1, 100, sde_evaluations=(16, 128), reference=128))
    curves, last = exact.weak_errors(study, study.field(Trigonometric()), Constant(0.5))
    assert curves["euler"][16]["value"] > 2 * curves["euler"][128]["value"]
    assert curves["srk"][128]["value"] < 0.005
    assert last["value"] < 5 * last["standard_error"]
    curves, _ = exact.weak_errors(study, study.field(Fast()), Constant(0.5))
    off = curves["srk"][128]
    assert off["value"] > 5 * off["standard_error"]
    assert off["value"] > 0.01


def test_the_same_seeds_give_the_same_points_and_others_others():
    first, again, other = (
        study_of(seeds=seeds).points(study_of().source, 3, 0) for seeds in ((0,), (0,), (1,))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, study_of(seeds=(0,)).points(study_of().source, 3, 1))


@pytest.mark.slow
def test_a_run_has_every_table_with_every_path(monkeypatch):
    monkeypatch.setattr(exact, "REFERENCE", 1e-4)
    monkeypatch.setattr(exact, "DENSITY", 1e-4)
    monkeypatch.setattr(
        exact, "SMOKE", {2: exact.Effort(5, 2, 20, 10, reference=8, sde_evaluations=(32, 128))}
    )
    result = exact.run(Settings(budget="smoke", interpolants=("linear", "linear+brownian")))
    names = [table.name for table in result.tables]
    assert names == ["exact_truth_d2", "exact_ode_d2", "exact_sde_constant_d2", "exact_sde_gamma_d2"]
    for table in result.tables:
        assert {"linear", "linear+brownian"} <= {row.label for row in table.rows}
    gamma = result.tables[-1].rows
    assert "no latent noise" in next(iter(gamma[0].cells.values()))["why"]
    assert gamma[1].cells["euler, 32"]["standard_error"] > 0
    assert {plot.name for plot in result.plots} >= {"exact_ode_rk4_d2", "exact_sde_constant_d2"}
