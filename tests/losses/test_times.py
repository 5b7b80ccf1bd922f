import math
import pickle
from dataclasses import FrozenInstanceError

import pytest
import scipy.integrate
import scipy.stats
import torch

from interpolants.losses.times import Beta, Importance, LogitNormal, Stratified, TimeLaw, Uniform


def logit_normal(mean, std):
    """Return the law of scipy with the same name: expit of a normal variable."""

    class Law(scipy.stats.rv_continuous):
        def _cdf(self, t):
            return scipy.stats.norm.cdf(scipy.special.logit(t), mean, std)

        def _pdf(self, t):
            return scipy.stats.norm.pdf(scipy.special.logit(t), mean, std) / (t * (1 - t))

    return Law(a=0, b=1)


LAWS = {
    "uniform": (Uniform(), scipy.stats.uniform()),
    "stratified": (Stratified(), scipy.stats.uniform()),
    "logit-normal": (LogitNormal(), logit_normal(0, 1)),
    "shifted": (LogitNormal(-0.7, 0.6), logit_normal(-0.7, 0.6)),
    "wide": (LogitNormal(0.4, 1.8), logit_normal(0.4, 1.8)),
    "beta-flat": (Beta(), scipy.stats.beta(1, 1)),
    "beta-ends": (Beta(0.5, 0.5), scipy.stats.beta(0.5, 0.5)),
    "beta-2-5": (Beta(2.0, 5.0), scipy.stats.beta(2, 5)),
    "importance": (Importance(Beta(0.5, 1.0)), scipy.stats.beta(0.5, 1)),
}
DTYPES = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


@pytest.fixture(params=LAWS)
def law(request):
    return LAWS[request.param][0]


def like(dtype=torch.float64):
    return torch.zeros(1, dtype=dtype)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_follow_their_law(name, dtype, generator):
    law, truth = LAWS[name]
    # Stratified times are independent only from one minibatch to the next: one time of each is taken.
    if name == "stratified":
        t = torch.stack([law.sample(4, like(dtype), generator=generator)[0] for _ in range(5000)])
    else:
        t = law.sample(20_000, like(dtype), generator=generator)
    # False alarms: 1e-7.
    assert scipy.stats.kstest(t.double().numpy(), truth.cdf).pvalue > 1e-7


@pytest.mark.parametrize("name", LAWS)
def test_density_is_that_of_scipy_and_integrates_to_one(name):
    law, truth = LAWS[name]
    t = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    # Two closed forms in double precision.
    torch.testing.assert_close(law.density(t), torch.from_numpy(truth.pdf(t.numpy())), rtol=1e-11, atol=0)
    assert law.density(t[3]).shape == ()
    assert law.density(t.float()).dtype == torch.float32

    def density(s):
        return law.density(torch.tensor(s, dtype=torch.float64)).item()

    # The halves apart: an integrable singularity may only stand at an end for the quadrature.
    halves = (scipy.integrate.quad(density, *half, limit=200)[0] for half in ((0, 0.5), (0.5, 1)))
    assert sum(halves) == pytest.approx(1, abs=1e-7)  # The quadrature's own goal is 1.5e-8 a half.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("law", [Uniform(), Stratified(), LogitNormal(0.0, 6.0), Beta(0.2, 0.2)])
def test_times_are_never_an_end(law, dtype, generator):
    # Four million draws: torch.rand gives an exact 0 once in 16 million, but these laws crowd the ends.
    t = law.sample(2**22, like(dtype), generator=generator)
    # Nor closer to one than the nearest number below 1 is: 1 / t stays far from overflow.
    assert t.min() >= torch.finfo(t.dtype).eps / 2
    assert t.max() < 1


def test_uniform_times_stay_inside_where_torch_rand_is_an_exact_zero():
    draws = torch.rand(2**22, generator=torch.Generator().manual_seed(1))
    assert (draws == 0).any()  # Such a seed takes one of four to find.
    t = Uniform().sample(2**22, like(torch.float32), generator=torch.Generator().manual_seed(1))
    assert t.min() > 0
    assert t.max() < 1


def test_times_keep_their_resolution_near_zero(generator):
    # Not rounded to the margin: the smallest of four million uniform draws is about 1 / 4 million.
    t = Uniform().sample(2**22, like(), generator=generator)
    assert t.min() < 1e-5
    assert t.max() > 1 - 1e-5


@pytest.mark.parametrize("data", DTYPES)
def test_times_of_half_precision_data_are_single(law, data, generator):
    t = law.sample(7, like(data), generator=generator)
    assert t.dtype == DTYPES[data]
    assert t.shape == (7,)


def test_times_are_reproducible_from_a_generator(law):
    before = torch.get_rng_state()
    first, again, other = (
        law.sample(64, like(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_stratified_puts_one_time_in_each_stratum(n, generator):
    for _ in range(20):
        t = Stratified().sample(n, like(), generator=generator)
        assert (t * n).floor().long().sort().values.tolist() == list(range(n))


def test_stratified_times_come_in_random_order(generator):
    # Each of the 24 orders of four strata is as likely; chi-square with 23 degrees, false alarms 1e-7.
    orders = [
        tuple(Stratified().sample(4, like(), generator=generator).argsort().tolist()) for _ in range(4800)
    ]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-7


def test_stratified_lowers_the_variance_of_the_mean_by_the_square_of_the_batch(generator):
    n, repeats = 16, 4000
    means = {
        law: torch.stack([law.sample(n, like(), generator=generator).mean() for _ in range(repeats)])
        for law in (Uniform(), Stratified())
    }
    for law, variance in ((Uniform(), 1 / (12 * n)), (Stratified(), 1 / (12 * n**3))):
        values = means[law]
        # Five standard errors of a mean and of a variance (nearly Gaussian means): 6e-7 each.
        assert abs(values.mean().item() - 0.5) < 5 * math.sqrt(variance / repeats)
        assert values.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / repeats))


@pytest.mark.parametrize("law", [Uniform(), Beta(0.5, 0.5), Beta(0.7, 1.0), LogitNormal(0.0, 1.5)])
def test_importance_weights_give_the_uniform_average(law, generator):
    importance = Importance(law)
    t = importance.sample(100_000, like(), generator=generator)
    assert torch.equal(t, law.sample(100_000, like(), generator=torch.Generator().manual_seed(0)))
    # Integrals over [0, 1]: 1/12 and 1/30. Both vanish at the ends, which a logit-normal law starves.
    for values, integral in (((t * (1 - t)).square(), 1 / 30), (t**2 * (1 - t), 1 / 12)):
        estimates = importance.weight(t) * values
        error = estimates.std().item() / math.sqrt(len(t))
        assert abs(estimates.mean().item() - integral) < 5 * error  # False alarms: 6e-7.


def test_importance_weight_is_one_over_the_density():
    # The arcsine law at 1/4: density 1 / (pi sqrt(3) / 4).
    t = torch.tensor([0.25], dtype=torch.float64)
    assert Importance(Beta(0.5, 0.5)).weight(t).item() == pytest.approx(math.pi * math.sqrt(3) / 4, rel=1e-13)
    assert Importance(Beta(0.5, 0.5)).density(t).item() == pytest.approx(
        4 / (math.pi * math.sqrt(3)), rel=1e-13
    )


def test_other_laws_weight_nothing():
    t = torch.tensor([0.25])
    for law in (Uniform(), Stratified(), LogitNormal(), Beta(2.0, 2.0)):
        assert law.weight(t) is None


def test_parameters_are_told_apart():
    # Above 1 thins: Beta(3, 1) has density 3 t^2. A positive mean prefers the target.
    half = torch.tensor(0.5, dtype=torch.float64)
    assert Beta(3.0, 1.0).density(half).item() == pytest.approx(0.75, rel=1e-14)
    assert LogitNormal(1.0).density(torch.tensor(0.8)) > LogitNormal(1.0).density(torch.tensor(0.2))


@pytest.mark.parametrize(
    "parameters", [(math.nan, 1), (math.inf, 1), (0, 0), (0, -1), (0, math.inf), (0, math.nan)]
)
def test_logit_normal_refuses_bad_parameters(parameters):
    with pytest.raises(ValueError, match="LogitNormal needs a finite mean and a positive std; got"):
        LogitNormal(*parameters)


@pytest.mark.parametrize(
    "parameters", [(0, 1), (1, 0), (-1, 1), (1, math.inf), (math.inf, 1), (math.nan, 1), (1, math.nan)]
)
def test_beta_refuses_bad_parameters(parameters):
    with pytest.raises(ValueError, match="Beta needs positive finite a and b; got"):
        Beta(*parameters)


def test_laws_are_frozen_values():
    for make in (Uniform, Stratified, LogitNormal, Beta, lambda: Importance(Beta(0.5, 0.5))):
        assert make() == make()
        assert hash(make()) == hash(make())
        assert pickle.loads(pickle.dumps(make())) == make()
    assert Beta(1.0, 2.0) != Beta(2.0, 1.0)
    assert repr(LogitNormal(0.5)) == "LogitNormal(mean=0.5, std=1.0)"
    with pytest.raises(FrozenInstanceError):
        Beta().a = 2.0


def test_a_law_without_a_density_cannot_be_built():
    class Empty(TimeLaw):
        def sample(self, n, like, *, generator=None):
            return torch.rand(n, generator=generator)

    with pytest.raises(TypeError, match="density"):
        Empty()
