import math

import pytest
import torch

from interpolants.samplers.brownian import Fresh, Seeded, Steps, seeded_increments

# W, and H = (the mean of the path) - W/2, over a step of length 1: variances of 1 and 1/12, uncorrelated.
LAW = torch.tensor([[1.0, 0.0], [0.0, 1 / 12]], dtype=torch.float64)
COUNTS = [1, 2, 3, 4, 6, 7, 8, 12, 40, 64]


def state(shape=(5, 2), dtype=torch.float64):
    return torch.zeros(shape, dtype=dtype)


def both(seeds, steps, dim):
    """W and H of each seed, in double precision, shape (B, 2, steps, dim)."""
    return torch.stack(seeded_increments(seeds, steps, dim), dim=1).double()


def within_standard_errors(measured, expected, variance, n):
    """Return whether all lie within six standard errors, passed by chance once in 5e8 for each."""
    return ((measured - expected).abs() < 6 * (variance / n) ** 0.5).all()


# ---------------------------------------------------------------------------------- the law of a seed's path


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 8])
def test_increments_and_areas_have_their_joint_law(steps):
    # The whole covariance over all steps: no step knows of another.
    n = 40_000
    path = both(range(n), steps, 1).flatten(1)
    expected = torch.kron(LAW, torch.eye(steps, dtype=torch.float64))
    variances = expected.diagonal()
    # Of a product of two Gaussians; twice that on the diagonal. At most 272 numbers: one in 2e6 by chance.
    products = variances.outer(variances) * (1 + torch.eye(2 * steps, dtype=torch.float64))
    assert within_standard_errors(path.mT @ path / n, expected, products, n)
    assert within_standard_errors(path.mean(0), 0.0, variances, n)


def test_increments_and_areas_are_gaussian():
    path = both(range(4_000), 8, 1)
    for values, variance in zip(path.unbind(1), (1, 1 / 12), strict=True):
        standard = values.flatten().sort().values / variance**0.5
        n = len(standard)
        expected = torch.distributions.Normal(0, 1).cdf(standard)
        distance = (expected - (torch.arange(n, dtype=torch.float64) + 0.5) / n).abs().max() + 0.5 / n
        # Kolmogorov's bound, 2 exp(-2 n d^2), is 1e-7 here.
        assert distance < math.sqrt(math.log(2e7) / (2 * n))


def test_different_elements_and_seeds_are_independent():
    path = both(range(20_000), 4, 3)
    n = 20_000
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert within_standard_errors(
            (path[..., a] * path[..., b]).sum((0, 2)) / (4 * n), 0.0, LAW.diag() ** 2, 4 * n
        )
    for apart in (1, 2, 7, 256):
        products = path[apart:] * path[:-apart]
        m = products[:, 0].numel()
        assert within_standard_errors(products.sum((0, 2, 3)) / m, 0.0, LAW.diag() ** 2, m)


@pytest.mark.parametrize("steps", [1, 2, 5, 64])
def test_a_path_is_not_what_torch_draws_from_the_same_seed(steps):
    # Starting points drawn from a generator of that seed would tell where its path goes.
    n = 2_000
    path = both(range(n), steps, 2)
    drawn = torch.stack(
        [torch.randn(64, generator=torch.Generator().manual_seed(s)) for s in range(n)]
    ).double()
    for part, variance in zip(path.unbind(1), LAW.diag(), strict=True):
        correlations = part.flatten(1).mT @ drawn / n / variance**0.5
        # 64 times 128 of these twice: 6.5 standard errors, passed by one in 1e10, are passed by chance
        # once in 7e5 for the longest.
        assert correlations.abs().max() < 6.5 / n**0.5


def test_no_two_seeds_share_a_stream():
    # torch keeps 32 bits of a seed; these differ in the low ones, in the high ones or in both.
    high = [k * 2**32 for k in range(2, 1_000)]
    seeds = [*range(1_000), *(2**32 + k for k in range(1_000)), *high, 2**62, 2**63]
    # Three elements: two single-precision draws are equal by chance once in a million, and here are 4.5
    # million pairs.
    increments, _ = seeded_increments(seeds, 1, 3)
    assert len({tuple(row) for row in increments[:, 0].tolist()}) == len(seeds)


@pytest.mark.parametrize("steps", COUNTS)
def test_twice_the_steps_refine_the_same_path(steps):
    seeds, dim = [0, 1, 17, 2**40], 3
    coarse, fine = (dict(zip("WH", both(seeds, n, dim).unbind(1), strict=True)) for n in (steps, 2 * steps))
    left, right = ({name: part[:, k::2] for name, part in fine.items()} for k in (0, 1))
    # Half a step as a step of its own has unit variance again: over a time of 2, the increments add up to
    # sqrt(2) times the coarse one. U = W/2 + H is the mean of the path, whose right half begins at W_l.
    whole = (left["W"] + right["W"]) / 2**0.5
    mean = (left["W"] / 2 + left["H"] + left["W"] + right["W"] / 2 + right["H"]) / 2 / 2**0.5
    # Single precision: sums and differences of numbers of up to 5, eight levels deep.
    torch.testing.assert_close(whole, coarse["W"], rtol=0, atol=1e-5)
    torch.testing.assert_close(mean, coarse["W"] / 2 + coarse["H"], rtol=0, atol=1e-5)


def test_a_path_depends_on_its_seed_alone():
    whole = both(range(10), 12, 2)
    assert torch.equal(both([3], 12, 2)[0], whole[3])
    assert torch.equal(both([9, 3], 12, 2), whole[[9, 3]])
    assert torch.equal(both(range(10), 12, 2), whole)


def test_default_dtypes_and_the_global_generator_play_no_part():
    expected = both(range(3), 24, 2)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        again = both(range(3), 24, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again, expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_seeds_have_no_paths():
    increments, areas = seeded_increments([], 6, 2)
    assert increments.shape == areas.shape == (0, 6, 2)


# ----------------------------------------------------------------------------- what torchsde takes for a path


def path_of(kind, like, steps=6):
    if kind == "seeded":
        return Seeded(like, list(range(len(like))), steps)
    return Fresh(like, torch.Generator().manual_seed(0)) if kind == "fresh" else Steps(like)


@pytest.mark.parametrize("kind", ["seeded", "fresh", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_says_what_its_increments_are(kind, dtype):
    like = state((4, 3), dtype)
    path = path_of(kind, like)
    assert (path.shape, path.dtype, path.device) == (like.shape, dtype, like.device)
    assert path.step == -1
    assert "(4, 3)" in repr(path)
    increment, area = path(torch.tensor(2.0), torch.tensor(3.0), return_U=True)
    assert path.step == 2
    for part in (increment, area):
        assert (part.shape, part.dtype, part.device) == (like.shape, dtype, like.device)
    assert path(torch.tensor(3.0), torch.tensor(4.0)).shape == (4, 3)
    assert path.step == 3


def test_without_noise_nothing_moves():
    increment, area = Steps(state())(torch.tensor(0.0), return_U=True)
    assert not increment.any()
    assert not area.any()


def test_a_seeds_path_is_handed_out_step_by_step():
    path = path_of("seeded", state())
    increments, areas = seeded_increments(range(5), 6, 2)
    for step in (0, 1, 5, 1):
        increment, mean = path(torch.tensor(float(step)), return_U=True)
        assert torch.equal(increment, increments[:, step].double())
        assert torch.equal(mean, increments[:, step].double() / 2 + areas[:, step].double())
        assert torch.equal(path(torch.tensor(float(step))), increment)


def test_fresh_increments_have_their_law():
    path, n = path_of("fresh", state((100_000, 1))), 100_000
    drawn = [torch.stack(path(torch.tensor(float(k)), return_U=True)) for k in range(3)]
    # W and U: the mean of a path has variance 1/3, and covariance 1/2 with its end.
    expected = torch.tensor([[1.0, 0.5], [0.5, 1 / 3]], dtype=torch.float64)
    several = torch.cat([one.squeeze(-1) for one in drawn])
    covariance = torch.block_diag(expected, expected, expected)
    variances = covariance.diagonal().outer(covariance.diagonal()) + covariance**2
    # 36 numbers.
    assert within_standard_errors(several @ several.mT / n, covariance, variances, n)


def test_fresh_increments_come_from_their_generator():
    def drawn(generator):
        path = Fresh(state(), generator)
        return torch.stack([path(torch.tensor(float(k))) for k in range(3)])

    before = torch.get_rng_state()
    first = drawn(torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn(torch.Generator().manual_seed(3)), first)
    assert not torch.equal(drawn(torch.Generator().manual_seed(4)), first)
    torch.manual_seed(3)
    assert torch.equal(drawn(None), first)
