"""The benchmark of divergences against epsilon, held to closed forms in few dimensions."""

import math

import pytest
import torch

from benchmarks.accuracy import divergence
from benchmarks.accuracy._observed import oracle_of
from benchmarks.settings import Settings, interpolant_named
from interpolants import Constant, GaussianMixture, Linear, SDESampler, SpatiallyLinear, Trigonometric

CPU = torch.device("cpu")
TINY = divergence.Effort(steps=64, chain=32, points=16, probes=2, dim=4)
PATHS = ("linear", "trigonometric+brownian", "encoding-decoding", "variance-preserving")


class Fast(SpatiallyLinear):
    """The line, whose written derivative is 5 % too fast."""

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t

    def derivative(self, t, x0, x1):
        return 1.05 * (x1 - x0)


def study_of(effort=TINY, seeds=(0, 1)):
    return divergence.Study(effort, seeds, CPU)


def normal(mean, covariance):
    return torch.distributions.MultivariateNormal(mean, covariance)


def levels(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_divergence_is_that_of_torch():
    study = study_of()
    target = study.gaussian
    mean = torch.arange(4).double()[None] / 3
    factor = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = (factor @ factor.T + torch.eye(4))[None]
    found = divergence.divergence_of(target, mean, covariance)
    known = torch.distributions.kl_divergence(
        normal(target.means[0], target.covariances[0]), normal(mean[0], covariance[0])
    )
    torch.testing.assert_close(found, known[None])


def test_what_is_no_density_is_infinitely_far():
    study = study_of()
    bad = torch.stack([-torch.eye(4).double(), torch.full((4, 4), torch.nan).double(), torch.eye(4).double()])
    found = divergence.divergence_of(study.gaussian, torch.zeros(3, 4).double(), bad)
    assert found.isfinite().tolist() == [False, False, True]


@pytest.mark.parametrize("name", PATHS)
def test_the_exact_field_reaches_the_target_at_every_epsilon(name):
    study = study_of()
    found = divergence.divergences(study, interpolant_named(name), study.errors(0.0)[:1], (0.0, 0.3, 3.0))
    # Steps of fourth order; near t = 1 the variance-preserving path is less smooth.
    assert found.abs().max() < 1e-5


def test_a_wrong_derivative_shows_without_any_error_of_the_field():
    study = study_of()
    none = study.errors(0.0)[:1]
    right, wrong = (divergence.divergences(study, path, none, (0.0, 1.0)) for path in (Linear(), Fast()))
    assert (wrong > 1e3 * right.abs()).all()
    assert (wrong > 1e-4).all()
    steps = divergence.chain_divergences(study_of(divergence.Effort(8, 256, 8, 2, 4)), Fast(), none)
    assert (steps[0, :4] > 1e-4).all()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_moments_are_those_of_many_small_steps_of_the_mistaken_field(epsilon):
    # The rule of Runge against Euler steps extrapolated twice: written differently, on the same equations.
    study = study_of()
    path, error = Trigonometric(), study.errors()[0]
    field = oracle_of(path, study.source, study.gaussian)
    fine = divergence.affine_of(field, [k / 64 for k in range(65)])
    mean, covariance = divergence.final_moments(fine, error, levels(epsilon), 32)
    chains = []
    for steps in (64, 128, 256):
        affine = divergence.affine_of(field, [k / steps for k in range(steps)])
        chains.append(divergence.chain_moments(affine, error, levels(epsilon), steps))
    for k, known in enumerate((mean, covariance)):
        coarse, middle, last = (chain[k] for chain in chains)
        first, second = 2 * middle - coarse, 2 * last - middle
        # What is left is of third order in the steps.
        torch.testing.assert_close((4 * second - first) / 3, known, rtol=1e-5, atol=1e-5)


def test_the_moments_of_a_chain_are_those_of_its_samples():
    study, n, steps = study_of(), 40_000, 8
    error = study.errors()[0]
    field = oracle_of(Linear(), study.source, study.gaussian)
    affine = divergence.affine_of(field, [k / steps for k in range(steps)])
    mean, covariance = divergence.chain_moments(affine, error, levels(0.5), steps)
    draw = torch.Generator().manual_seed(0)
    x0 = study.source.sample(n, generator=draw)
    sampler = SDESampler(Constant(0.5), steps=steps, end_only=True)
    x1 = sampler.sample(divergence.Mistaken(field, error), x0, generator=draw).final
    spread = covariance[0].diagonal()
    # Six standard errors of Gaussian moments.
    assert ((x1.mean(0) - mean[0]).abs() < 6 * (spread / n).sqrt()).all()
    apart = ((spread[:, None] * spread + covariance[0] ** 2) / n).sqrt()
    assert ((x1.T.cov() - covariance[0]).abs() < 6 * apart).all()


def test_two_points_tell_the_exact_field():
    study = study_of()
    field = oracle_of(interpolant_named("linear+brownian"), study.source, study.gaussian)
    affine = divergence.affine_of(field, [0.3])
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name in ("velocity", "score"):
        shift, slope = getattr(affine, name)
        torch.testing.assert_close(shift[0] + slope[0] * x, getattr(field, name)(0.3, x))


def test_an_error_has_the_size_that_is_said_and_is_the_seeds_own():
    error = divergence.error_of(0, 64, CPU)
    x = torch.randn(4_000, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for part, size in ((error.velocity, divergence.VELOCITY_ERROR), (error.score, divergence.SCORE_ERROR)):
        # Over 64 coordinates and 64 x 64 entries the size of a draw varies by a tenth.
        assert divergence._affine(part, x).square().mean().sqrt() == pytest.approx(size, rel=0.25)
    assert not torch.equal(divergence.error_of(1, 64, CPU).velocity[0], error.velocity[0])
    assert torch.equal(divergence.error_of(0, 64, CPU).score[1], error.score[1])


def test_a_mistaken_field_answers_alike_together_and_one_by_one():
    study = study_of()
    exact = oracle_of(Linear(), study.source, study.modes)
    error = study.errors()[0]
    field = divergence.Mistaken(exact, error)
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answers = field.together(("velocity", "score"), 0.4, x)
    torch.testing.assert_close(answers["velocity"], field.velocity(0.4, x))
    torch.testing.assert_close(answers["score"], field.score(0.4, x))
    wrong = field.velocity(0.4, x) - exact.velocity(0.4, x)
    torch.testing.assert_close(wrong, error.velocity[0] + x @ error.velocity[1].T)
    wrong = field.score(0.4, x) - exact.score(0.4, x)
    torch.testing.assert_close(wrong, error.score[0] + x @ error.score[1].T)


def test_estimates_agree_with_the_closed_form_and_bounds_lie_above_it():
    effort = divergence.Effort(64, 64, 400, 8, 4)
    study = study_of(effort, seeds=(0,))
    path, error = Linear(), study.errors()[0]
    error = divergence.error_of(0, 4, CPU, 3.0)  # Large, so that it is told from chance.
    ode, sde = divergence.divergences(study, path, [error], (0.0, 1.0))[0].tolist()
    exact = oracle_of(path, study.source, study.gaussian)
    found = divergence.Estimates(study, exact, divergence.Mistaken(exact, error), 0)
    # The log of a ratio of densities with divergence k has a variance of about 2 k, or less than 3 k here.
    assert abs(found.flow() - ode) < 5 * math.sqrt(3 * ode / 400)
    assert found.girsanov(1.0) > sde
    assert found.evidence(1.0) > sde


def test_the_bound_of_a_wrong_path_is_not_zero_and_of_a_right_one_is():
    study = study_of()
    for path, sign in ((Linear(), 0), (Fast(), 1)):
        exact = oracle_of(path, study.source, study.gaussian)
        assert math.copysign(1, divergence.Estimates(study, exact, exact, 0).girsanov(1.0)) == 1
        assert (divergence.Estimates(study, exact, exact, 0).girsanov(1.0) > 1e-6) == bool(sign)


def test_some_noise_mends_a_mistaken_velocity_and_too_much_costs_the_steps():
    study = study_of(divergence.Effort(128, 64, 8, 2, 16))
    continuous = divergence.divergences(study, Linear(), study.errors(), divergence.EPSILONS).mean(0)
    assert continuous[divergence.EPSILONS.index(3.0)] < continuous[0] / 3
    chain = divergence.chain_divergences(study, Linear(), study.errors()).mean(0)
    assert 0 < int(chain.argmin()) < len(divergence.EPSILONS) - 1
    assert chain[-1] > 2 * chain.min()


def test_gaussians_are_as_described():
    study = study_of(divergence.Effort(8, 8, 8, 2, 16))
    assert study.source.is_standard_normal
    assert isinstance(study.modes, GaussianMixture)
    assert study.gaussian.covariances[0].diagonal()[[0, -1]].tolist() == [0.25, 2.0]
    assert study.modes.means.norm(dim=1).tolist() == [4, 4, 4]


@pytest.mark.slow
def test_a_run_has_every_table_with_every_path_and_loses_none(monkeypatch):
    tiny = divergence.Effort(steps=16, chain=8, points=4, probes=2, dim=3)
    monkeypatch.setattr(divergence, "Effort", lambda *_, **__: tiny)
    monkeypatch.setattr(divergence, "EPSILONS", (0.0, 1.0, 3.0))
    result = divergence.run(Settings(budget="smoke", interpolants=("linear", "encoding-decoding+zero")))
    names = [table.name for table in result.tables]
    assert names == [f"divergence_{n}" for n in ("gaussian", "chain", "bounds", "mixture")]
    for table in result.tables:
        good, bad = (row for row in table.rows if not row.label.endswith("exact field"))
        assert (good.label, bad.label) == ("linear", "encoding-decoding+zero")
        measured = [cell for cell in good.cells.values() if cell["kind"] == "measured"]
        assert all(cell["value"] is not None for cell in measured)
        assert next(iter(bad.cells.values()))["kind"] == "missing"
    assert result.tables[0].rows[0].cells["ODE"]["standard_error"] > 0
    assert [plot.name for plot in result.plots] == names[:2]
    assert float(result.tables[1].rows[1].cells["ODE"]["value"]) < 0.2  # The exact field.


def test_the_same_seed_gives_the_same_estimates_and_another_others():
    study = study_of()
    exact = oracle_of(Linear(), study.source, study.gaussian)
    field = divergence.Mistaken(exact, study.errors()[0])
    one, again, other = (divergence.Estimates(study, exact, field, seed) for seed in (0, 0, 1))
    assert one.evidence(1.0) == again.evidence(1.0) != other.evidence(1.0)
    assert one.girsanov(1.0) == again.girsanov(1.0) != other.girsanov(1.0)
