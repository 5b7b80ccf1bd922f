import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from interpolants.metrics import copies, density_coverage, nearest_distances, neighbours, precision_recall


def points(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(*values):
    return torch.tensor(values)[:, None]


@pytest.fixture(params=[1 << 21, 50, 1], ids=["one block", "blocks", "rows"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", request.param)


# ---- nearest_distances


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("k", [1, 3, 20])
def test_nearest_distances_are_those_of_a_tree(k):
    queries, references = points(33, 4, 1), 1e4 + points(20, 4, 2)
    queries = queries + 1e4
    expected = KDTree(references.numpy()).query(queries.numpy(), k=[k])[0][:, 0]
    # The points are rounded to 1e-12.
    np.testing.assert_allclose(nearest_distances(queries, references, k=k), expected, rtol=1e-9)


def test_a_copy_is_at_distance_zero():
    references = points(200, 30, 3).float() + 5
    assert nearest_distances(references[50:90], references).tolist() == [0.0] * 40


def test_images_of_any_float_type_have_nearest_distances():
    queries, references = points(5, 12, 4), points(7, 12, 5)
    expected = nearest_distances(queries, references)
    images = nearest_distances(queries.reshape(5, 3, 2, 2), references.reshape(7, 3, 2, 2))
    assert torch.equal(images, expected)
    # Half precision rounds each coordinate by at most 2**-11 of its size.
    torch.testing.assert_close(
        nearest_distances(queries.half(), references.half()), expected, rtol=3e-3, atol=0
    )


@pytest.mark.parametrize("k", [0, 4])
def test_there_is_no_neighbour_beyond_the_set(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and the number of references, 3, not {k}"):
        nearest_distances(torch.zeros(5, 2), torch.zeros(3, 2), k=k)


# ---- precision, recall, density, coverage


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("n", "m", "k"), [(60, 60, 5), (80, 50, 3), (40, 70, 1)])
def test_the_four_agree_with_prdc(n, m, k, capsys):
    prdc = pytest.importorskip("prdc")
    real, generated = points(n, 3, 6), 0.5 + 0.7 * points(m, 3, 7)
    expected = prdc.compute_prdc(real.numpy(), generated.numpy(), nearest_k=k)
    capsys.readouterr()
    found = (
        precision_recall(real, generated, k=k)._asdict() | density_coverage(real, generated, k=k)._asdict()
    )
    assert found == {name: pytest.approx(float(value), rel=1e-12) for name, value in expected.items()}
    assert len(set(expected.values())) == 4


def test_the_four_by_hand():
    real, generated = column(0.0, 1.0, 3.0, 7.0), column(0.5, 1.5, 20.0)
    # Real radii for k = 1: 1, 1, 2, 4. About 0.5 lie the balls of 0 and 1, about 1.5 those of 1 and 3.
    assert precision_recall(real, generated, k=1).precision == pytest.approx(2 / 3)
    assert density_coverage(real, generated, k=1) == (pytest.approx(4 / 3), 0.75)
    # Generated radii: 1, 1, 18.5; in a ball lie 0, 1 and, within 18.5 of 20, 3 and 7.
    assert precision_recall(real, generated, k=1).recall == 1.0
    # Real radii for k = 2: 3, 2, 3, 6. About 0.5 lie three of the balls, about 1.5 all four.
    assert density_coverage(real, generated, k=2).density == pytest.approx((3 + 4) / 6)


def test_a_point_on_a_sphere_is_outside():
    real, generated = column(0.0, 1.0, 2.0), column(3.0, 4.0, 5.0)
    assert precision_recall(real, generated, k=1) == (0, 0)
    assert density_coverage(real, generated, k=1) == (0, 0)


def test_rounding_does_not_move_a_point_off_its_sphere():
    # All points of a set have their k-th neighbour exactly on the sphere; density would be 1 + 1/k with them.
    x = points(500, 20, 8) + 3
    assert density_coverage(x, x.flip(0), k=5) == (1.0, 1.0)
    assert precision_recall(x, x.flip(0), k=5) == (1.0, 1.0)


def test_defaults_are_those_of_the_papers():
    real, generated = points(50, 2, 9), 1 + points(50, 2, 10)
    assert precision_recall(real, generated) == precision_recall(real, generated, k=3)
    assert density_coverage(real, generated) == density_coverage(real, generated, k=5)


def test_samples_of_one_law_have_the_values_of_theory():
    n, k = 1000, 5
    density, coverage = density_coverage(points(n, 8, 11), points(n, 8, 12), k=k)
    # Coverage of equal laws: all of the k nearest of 2n - 1 points are real with this probability.
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    # The balls overlap, so their shares scatter by less than 3 times those of n independent ones.
    assert abs(coverage - expected) < 5 * 3 * math.sqrt(expected * (1 - expected) / n)
    # A ball holds on average n * k / n points of the other set; the number is geometric-like, below 2 k in
    # deviation.
    assert abs(density - 1) < 5 * 2 * math.sqrt(k) / math.sqrt(n)


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_sets_without_neighbours_are_refused(metric):
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        metric(torch.zeros(5, 2), torch.zeros(5, 2), k=0)
    with pytest.raises(ValueError, match=r"real must hold at least k \+ 1 = 6 points, not 5"):
        metric(torch.zeros(5, 2), torch.zeros(9, 2), k=5)
    with pytest.raises(ValueError, match="generated must hold at least"):
        metric(torch.zeros(9, 2), torch.zeros(5, 2), k=5)
    with pytest.raises(ValueError, match="y must be finite"):
        metric(torch.zeros(9, 2), torch.full((9, 2), float("nan")), k=2)


# ---- copies


def test_copies_of_training_images_are_found():
    training, held_out = points(500, 6, 13), points(200, 6, 14)
    report = copies(training[:80], training, held_out)
    assert report.share == 1
    assert report.median_ratio == 0
    assert (report.n, report.training, report.held_out) == (80, 500, 200)
    half = copies(torch.cat((training[:80], 50 + held_out[:80])), training, held_out)
    assert half.share == 0.5
    # sqrt(0.25 / 160 + 0.01 * 0.99 / 200)
    assert half.standard_error == pytest.approx(math.sqrt(0.0015625 + 0.0000495), rel=1e-12)


@pytest.mark.parametrize("quantile", [0.01, 0.1])
def test_fresh_images_count_as_copies_as_often_as_expected(quantile):
    reports = [
        copies(points(300, 4, 3 * s), points(300, 4, 3 * s + 1), points(150, 4, 3 * s + 2), quantile=quantile)
        for s in range(1000, 1200)
    ]
    shares = np.array([report.share for report in reports])
    # 200 independent shares; six standard errors of their mean.
    assert abs(shares.mean() - quantile) < 6 * shares.std() / math.sqrt(200)
    errors = np.array([report.standard_error for report in reports])
    # The deviation of 200 shares, skewed for the smaller quantile, is known to about 10 %.
    assert np.sqrt((errors**2).mean()) == pytest.approx(shares.std(), rel=0.5)
    ratios = np.array([report.median_ratio for report in reports])
    assert abs(ratios.mean() - 1) < 6 * ratios.std() / math.sqrt(200)


def test_the_threshold_is_the_fair_quantile_of_held_out_distances():
    training, held_out = column(0.0), column(*map(float, range(1, 100)))
    report = copies(column(1.0, 2.0, 3.0, 400.0), training, held_out, quantile=0.025)
    # Of 99 distances 1 to 99 a new one is below the place 0.025 * 100.
    assert report.threshold == pytest.approx(2.5, rel=1e-12)
    assert (report.share, report.expected) == (0.5, 0.025)
    assert report.median_ratio == pytest.approx(2.5 / 50, rel=1e-12)


def test_duplicates_among_real_images_are_expected_among_generated_ones():
    training = points(300, 4, 15)
    held_out = torch.cat((training[:30], points(70, 4, 16)))
    report = copies(training[100:200], training, held_out)
    assert report.threshold == 0
    assert report.share == 1
    assert report.expected == 0.3


def test_a_held_out_set_of_duplicates_gives_no_finite_ratio():
    x = points(200, 4, 17)
    assert copies(x[:5], x, x).median_ratio == 1
    assert copies(x[:5] + 1, x, x).median_ratio == math.inf


def test_the_report_reads_as_a_sentence():
    training, held_out = points(100, 3, 18), points(100, 3, 19)
    text = str(copies(training[:50], training, held_out))
    assert text.startswith("100.00% ± ")
    assert "of 50 within" in text
    assert "100 training images, where 1.00% of fresh images are" in text


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1, float("nan")])
def test_a_quantile_is_a_share(quantile):
    with pytest.raises(ValueError, match="quantile must be above 0 and below 1"):
        copies(torch.zeros(9, 2), torch.zeros(9, 2), torch.zeros(999, 2), quantile=quantile)


def test_a_quantile_needs_held_out_images():
    x = points(99, 2, 20)
    assert copies(x, x, x + 1).held_out == 99
    with pytest.raises(ValueError, match=r"0.01 quantile needs at least 99 held-out examples, not 98"):
        copies(x, x, x[:98])
