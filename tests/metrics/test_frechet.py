import math
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch

from interpolants.metrics import (
    FeatureStatistics,
    frechet_at_infinity,
    frechet_distance,
    frechet_floor,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def features(n, dim, seed):
    """Correlated features with some mean."""
    generator = seeded(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    shift = torch.randn(dim, generator=generator, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing + shift


def by_sqrtm(a, b):
    a, b = a.numpy(), b.numpy()
    c_a, c_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(c_a @ c_b)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * root.real)


# ---- FeatureStatistics


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [0, 3, 40, 7], [49, 1]])
def test_statistics_do_not_depend_on_the_batches(sizes):
    x = features(50, 3, 1)
    statistics = FeatureStatistics(3)
    for batch in torch.split(x, sizes):
        statistics.update(batch)
    assert statistics.count == 50
    # A few dozen roundings of 1e-16.
    np.testing.assert_allclose(statistics.mean, x.numpy().mean(0), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-12, atol=1e-13)


def test_statistics_of_parts_add_up_and_leave_the_parts_alone():
    x = features(60, 3, 2)
    a, b = FeatureStatistics.of(x[:13]), FeatureStatistics.of(x[13:])
    total = a + b
    assert (a.count, b.count, total.count) == (13, 47, 60)
    np.testing.assert_allclose(total.mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(total.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(a.covariance, np.cov(x[:13].numpy(), rowvar=False), rtol=1e-12, atol=1e-13)
    total.update(x)
    assert a.count == 13


def test_empty_statistics_add_nothing():
    x = features(9, 2, 3)
    total = FeatureStatistics(2) + FeatureStatistics.of(x)
    assert torch.equal(total.covariance, FeatureStatistics.of(x).covariance)


def test_features_a_million_deviations_from_the_origin_keep_their_covariance():
    spread = torch.randint(-8, 8, (1000, 2), generator=seeded(4)).double()
    statistics = FeatureStatistics(2)
    for batch in torch.split(spread + 4e6, 64):  # integers, so the shift is exact
        statistics.update(batch)
    # Means near 4e6 are rounded to 5e-10, sums of squares by subtraction would be off by about 1e-3.
    np.testing.assert_allclose(statistics.covariance, np.cov(spread.numpy(), rowvar=False), atol=1e-8)


def test_half_precision_features_are_summed_in_double():
    x = torch.full((5000, 1), 3.0, dtype=torch.float16)
    x[0] = 4.0
    statistics = FeatureStatistics.of(x)
    assert statistics.mean.item() == pytest.approx(3 + 1 / 5000, rel=1e-14)
    assert statistics.covariance.dtype == torch.float64


def test_statistics_do_not_hand_out_their_insides():
    statistics = FeatureStatistics.of(torch.tensor([[1.0], [3.0]], requires_grad=True))
    statistics.mean.zero_()
    statistics.covariance.zero_()
    assert (statistics.mean.item(), statistics.covariance.item()) == (2.0, 2.0)
    assert not statistics.mean.requires_grad


def test_statistics_survive_pickling():
    statistics = FeatureStatistics.of(features(9, 2, 5))
    again = pickle.loads(pickle.dumps(statistics))
    assert torch.equal(again.covariance, statistics.covariance)
    assert repr(again) == "FeatureStatistics(dim=2, count=9)"


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (torch.zeros(3, 3), ValueError, r"shape \(N, 2\), not \(3, 3\)"),
        (torch.zeros(2), ValueError, r"not \(2,\)"),
        (torch.tensor([[0.0, float("nan")]]), ValueError, "finite"),
        (torch.tensor([[0.0, float("inf")]]), ValueError, "finite"),
        (torch.zeros(3, 2, dtype=torch.long), TypeError, "floating-point tensor, not torch.int64"),
        ([[0.0, 1.0]], TypeError, "not list"),
    ],
    ids=["wide", "flat", "nan", "infinity", "integers", "list"],
)
def test_features_that_cannot_be_summed_are_refused(batch, error, message):
    statistics = FeatureStatistics(2)
    with pytest.raises(error, match=message):
        statistics.update(batch)
    assert statistics.count == 0


def test_statistics_of_too_few_examples_do_not_exist():
    statistics = FeatureStatistics(2)
    with pytest.raises(ValueError, match="at least 1 examples, not 0"):
        _ = statistics.mean
    statistics.update(torch.zeros(1, 2))
    assert statistics.mean.tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least 2 examples, not 1"):
        _ = statistics.covariance


def test_statistics_of_other_features_are_not_added():
    with pytest.raises(ValueError, match="equally many features, not 2 and 3"):
        FeatureStatistics(2) + FeatureStatistics(3)
    with pytest.raises(TypeError):
        FeatureStatistics(2) + 1
    with pytest.raises(ValueError, match="dim must be at least 1"):
        FeatureStatistics(0)
    with pytest.raises(ValueError, match=r"shape \(N, d\), not \(4,\)"):
        FeatureStatistics.of(torch.zeros(4))


# ---- frechet_distance


def with_moments(mean, covariance):
    """Features whose sample mean and unbiased covariance are exactly these."""
    dim = len(mean)
    x = features(4 * dim, dim, 6)
    x = x - x.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return whitened @ torch.linalg.cholesky(covariance).T + mean


def test_commuting_gaussians_have_their_closed_form():
    rotation = torch.linalg.qr(features(4, 4, 7)).Q
    a, b = torch.tensor([1.0, 2, 3, 4]).double(), torch.tensor([5.0, 0.5, 2, 1]).double()
    x = with_moments(torch.zeros(4).double(), rotation @ a.square().diag() @ rotation.T)
    y = with_moments(torch.tensor([1.0, 0, -2, 0]).double(), rotation @ b.square().diag() @ rotation.T)
    expected = 5 + (a - b).square().sum().item()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_distance_agrees_with_scipys_matrix_root(dim):
    a, b = features(100, dim, 8), features(70, dim, 9)
    # sqrtm of a product that is not symmetric keeps about half of the digits.
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-7)


def test_distance_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = features(100, 12, 10), features(70, 12, 11)
    expected = fid._compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()).item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_distance_is_symmetric_and_zero_from_itself():
    a, b = features(100, 12, 12), features(70, 12, 13)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    # Rounding of a sum of the order of the trace.
    assert 0 <= frechet_distance(a, a) < 1e-12 * a.T.cov().trace()


def test_fewer_examples_than_features_give_the_distance():
    a, b = features(6, 40, 14), features(5, 40, 15)
    # The trace of the root is the nuclear norm of the product of the centred data matrices.
    x, y = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (a, b))
    expected = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum()
    expected -= 2 * torch.linalg.matrix_norm(x @ y.T, "nuc")
    # Roots of the eigenvalues that should be zero are some 1e-8 of the largest.
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)
    # The same roots, now of the whole value.
    assert 0 <= frechet_distance(a, a) < 1e-6 * a.T.cov().trace()


def test_constant_features_are_as_far_apart_as_their_means():
    assert frechet_distance(torch.zeros(3, 2), torch.tensor([[3.0, 4.0]] * 5)) == 25


def test_distance_does_not_see_a_rotation_and_scales_with_the_square():
    a, b = features(50, 5, 16), features(60, 5, 17)
    rotation = torch.linalg.qr(features(5, 5, 18)).Q
    expected = frechet_distance(a, b)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * expected, rel=1e-10)


def test_features_and_their_statistics_have_one_distance():
    a, b = features(50, 5, 19), features(60, 5, 20)
    expected = frechet_distance(a, b)
    assert frechet_distance(FeatureStatistics.of(a), b) == expected
    assert frechet_distance(a, FeatureStatistics.of(b)) == expected
    assert isinstance(frechet_distance(a.float(), b.float()), float)


def test_sets_without_a_distance_are_refused():
    with pytest.raises(ValueError, match="equally many features, not 2 and 3"):
        frechet_distance(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="at least 2 examples, not 1"):
        frechet_distance(torch.zeros(4, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"shape \(N, d\), not \(4, 2, 2\)"):
        frechet_distance(torch.zeros(4, 2, 2), torch.zeros(4, 2, 2))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(torch.full((4, 2), float("nan")), torch.zeros(4, 2))
    with pytest.raises(TypeError, match="b must be FeatureStatistics or a tensor, not list"):
        frechet_distance(torch.zeros(4, 2), [0.0])


# ---- floors


def test_the_floor_of_features_on_a_line_has_its_closed_form():
    n, m, repeats = 40, 20, 400
    x = features(4000, 1, 21)
    floor = frechet_floor(x, n, m, repeats=repeats, generator=seeded(1))
    # On a line: (m1 - m2)^2 + (s1 - s2)^2, with Var m = s^2 / n and Var s = s^2 / 2n to leading order.
    expected = 1.5 * x.var().item() * (1 / n + 1 / m)
    # The next order is 1/n of this; 5 standard errors beside it.
    assert abs(floor.value - expected) < 5 * floor.standard_error + expected / 20
    assert (floor.n, floor.repeats) == (n, repeats)
    # A sum of squares of two normal numbers, weighted 2 to 1, scatters by sqrt(10) / 3 of its mean.
    assert floor.standard_error == pytest.approx(math.sqrt(10) / 3 * expected / math.sqrt(repeats), rel=0.4)


def test_the_floor_takes_disjoint_sets():
    x = features(40, 3, 22)
    total = FeatureStatistics.of(x)
    floor = frechet_floor(x, 20, repeats=1, generator=seeded(2))
    order = torch.randperm(40, generator=seeded(2))
    halves = x[order[:20]], x[order[20:]]
    assert floor.value == pytest.approx(by_sqrtm(*halves), rel=1e-7)
    assert floor.standard_error is None
    assert total.count == 40


def test_floors_of_sets_that_do_not_exist_are_refused():
    x = torch.zeros(10, 2)
    with pytest.raises(ValueError, match="two disjoint sets of 6 and 5 need 11 real examples, not 10"):
        frechet_floor(x, 6, 5)
    with pytest.raises(ValueError, match="two disjoint sets of 6 and 6"):
        frechet_floor(x, 6)
    for n, m, repeats in ((1, 5, 1), (5, 1, 1), (5, 5, 0)):
        with pytest.raises(ValueError, match="at least 2 and repeats at least 1"):
            frechet_floor(x, n, m, repeats=repeats)


# ---- frechet_at_infinity


def test_the_value_at_infinity_is_the_distance_of_the_laws():
    dim, n = 6, 1000
    reference = torch.randn(200_000, dim, generator=seeded(3), dtype=torch.float64)
    values, errors, raw = [], [], []
    for seed in range(24):
        x = 1.5 * torch.randn(n, dim, generator=seeded(100 + seed), dtype=torch.float64)
        estimate = frechet_at_infinity(x, FeatureStatistics.of(reference), generator=seeded(seed))
        values.append(estimate.value)
        errors.append(estimate.standard_error)
        raw.append(frechet_distance(x, reference))
    values, truth = np.array(values), dim * 0.25
    # Six standard errors of a mean of 24, and the share of the bias that is not linear: below 1e-3.
    assert abs(values.mean() - truth) < 6 * values.std() / math.sqrt(24) + 1e-3
    assert np.mean(errors) < 3 * values.std()
    assert estimate.n == n
    assert estimate.repeats == 15
    assert np.mean(raw) > values.mean()


def test_sizes_go_from_a_tenth_to_all_with_every_set_that_fits(monkeypatch):
    from interpolants.metrics import frechet

    def counted(some, reference):
        sizes.append(len(some))
        return 2.0 + 30 / len(some)

    sizes = []
    monkeypatch.setattr(frechet, "frechet_distance", counted)
    estimate = frechet_at_infinity(torch.zeros(100, 2), torch.zeros(9, 2), sizes=4, generator=seeded())
    assert sizes == [10] * 10 + [40] * 2 + [70, 100]
    # Rounding in double precision.
    assert estimate.value == pytest.approx(2, rel=1e-12)
    assert estimate.standard_error == pytest.approx(0, abs=1e-12)


def test_the_line_at_zero_is_numpys():
    from interpolants.metrics import frechet

    x, y = torch.tensor([1.0, 2, 3, 5, 8]), torch.tensor([2.0, 1, 4, 4, 9])
    coefficients, covariance = np.polyfit(x.numpy(), y.numpy(), 1, cov=True)
    value, error = frechet._line_at_zero(x, y)
    assert value == pytest.approx(coefficients[1], rel=1e-10)
    assert error == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-10)


def test_extrapolation_needs_examples_and_sizes():
    with pytest.raises(ValueError, match="20 examples and 3 sizes or more, not 19 and 15"):
        frechet_at_infinity(torch.zeros(19, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match="not 30 and 2"):
        frechet_at_infinity(torch.zeros(30, 2), torch.zeros(9, 2), sizes=2)
    with pytest.raises(TypeError, match="reference must be"):
        frechet_at_infinity(torch.zeros(30, 2), 3)
