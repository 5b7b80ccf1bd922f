import json
import math

import pytest
import torch

from interpolants.metrics import (
    copies,
    density_coverage,
    extract,
    frechet_distance,
    image_quality,
    precision_recall,
    sliced_wasserstein2,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, seed, *, size=2):
    return torch.randn(n, 1, size, size, generator=seeded(seed))


def features(x):
    return torch.cat((x.flatten(1), x.flatten(1).tanh()), dim=1)


def measured(generated, reference, held_out, **options):
    return image_quality(generated, reference, held_out, features, generator=seeded(), **options)


COMPARED = ["frechet", "precision", "recall", "density", "coverage", "sliced_wasserstein2"]


@pytest.fixture(scope="module")
def fresh():
    """More generated images than held-out ones, of the same law."""
    return measured(images(420, 1), images(500, 2), images(100, 3), draws=3)


def test_generated_and_real_images_are_compared_at_equal_sizes(fresh):
    for name in COMPARED:
        compared = getattr(fresh, name)
        assert (compared.generated.n, compared.floor.n) == (100, 100)
    assert fresh.frechet.reference == fresh.sliced_wasserstein2.reference == 500
    assert fresh.precision.reference == fresh.coverage.reference == 100
    assert (fresh.frechet.generated.repeats, fresh.frechet.floor.repeats) == (3, 1)
    assert (fresh.frechet_all.generated.n, fresh.frechet_all.floor) == (420, None)


def test_values_are_those_of_the_measures():
    generated, reference, held_out = images(100, 4), images(100, 5), images(100, 6)
    quality = measured(generated + 0.5, reference, held_out, k=3, copy_quantile=0.2)
    f, r, h = (extract(features, x) for x in (generated + 0.5, reference, held_out))
    # Sums of the same numbers in another order.
    for ours, theirs in ((f, "generated"), (h, "floor")):
        expected = {
            "frechet_all": frechet_distance(ours, r),
            "frechet": frechet_distance(ours, r),
            **precision_recall(r, ours, k=3)._asdict(),
            **density_coverage(r, ours, k=3)._asdict(),
        }
        found = {name: getattr(getattr(quality, name), theirs).value for name in expected}
        assert found == pytest.approx(expected, rel=1e-9)
    assert quality.copies == copies(generated + 0.5, reference, held_out, quantile=0.2)


def test_sliced_distances_are_of_pixels_along_the_same_directions():
    generated, reference = images(100, 7), images(120, 8)
    quality = measured(generated, reference, generated, projections=2)
    # Two sets of the same images differ by their directions alone.
    sliced = quality.sliced_wasserstein2
    assert sliced.generated.value == pytest.approx(sliced.floor.value, rel=1e-12)
    many = measured(3 * generated, reference, generated, projections=2000).sliced_wasserstein2
    expected = sliced_wasserstein2(3 * generated, reference, projections=2000, generator=seeded(9))
    # Squares over 2000 directions scatter by less than themselves.
    assert many.generated.value == pytest.approx(expected, rel=5 * 0.5 / math.sqrt(2000) * math.sqrt(2))


def test_fresh_images_are_at_the_floor(fresh):
    for name in ("frechet", "sliced_wasserstein2"):
        compared = getattr(fresh, name)
        error = math.hypot(compared.generated.standard_error, compared.floor.standard_error)
        # An error from three sets is rough; twice five of them.
        assert abs(compared.generated.value - compared.floor.value) < 10 * error
        assert compared.floor.value > 0
    for name in ("precision", "recall", "density", "coverage"):
        compared = getattr(fresh, name)
        # Shares of 100, or for density counts of 5 with heavy tails.
        assert abs(compared.generated.value - compared.floor.value) < 0.4
    assert fresh.copies.share < 0.1


def test_bad_images_are_off_the_floor_and_copies_are_named():
    reference, held_out = images(300, 10), images(150, 11)
    bad = measured(images(150, 12) + 3, reference, held_out)
    assert bad.frechet.generated.value > 20 * bad.frechet.floor.value
    assert bad.sliced_wasserstein2.generated.value > 5 * bad.sliced_wasserstein2.floor.value
    assert bad.precision.generated.value < 0.1 < bad.precision.floor.value
    copied = measured(reference, reference, held_out)
    assert copied.copies.share == 1
    assert copied.frechet_all.generated.value == pytest.approx(0, abs=1e-9)


def test_few_generated_images_are_compared_with_as_many_real_ones():
    quality = measured(images(60, 13), images(500, 14), images(200, 15))
    assert quality.frechet.generated.n == quality.frechet.floor.n == 60
    assert quality.frechet_all.floor == quality.frechet.floor
    assert (quality.frechet.generated.repeats, quality.frechet.floor.repeats) == (1, 3)


def test_a_small_reference_bounds_the_neighbours():
    quality = measured(images(150, 16), images(40, 17), images(120, 18))
    assert (quality.frechet.generated.n, quality.frechet.reference) == (120, 40)
    assert (quality.recall.generated.n, quality.recall.floor.n, quality.recall.reference) == (40, 40, 40)


def test_errors_are_known_where_sets_are_independent(fresh):
    assert fresh.precision.generated.standard_error > 0
    # One held-out set against three reference sets.
    assert fresh.precision.floor.standard_error is None
    assert fresh.precision.floor.repeats == 3
    assert fresh.frechet.floor.standard_error > 0
    assert fresh.frechet_all.generated.standard_error > 0


def test_quality_repeats_with_its_seed_and_leaves_the_global_state_alone():
    sets = images(150, 19), images(150, 20), images(100, 21)
    state = torch.get_rng_state()
    first, again = measured(*sets), measured(*sets)
    other = image_quality(*sets, features, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first != other


def test_quality_goes_to_json_and_to_a_table(fresh):
    again = json.loads(json.dumps(fresh.to_dict()))
    assert again["frechet"]["floor"]["value"] == fresh.frechet.floor.value
    assert again["frechet_all"]["floor"] is None
    assert again["copies"]["training"] == 500
    lines = str(fresh).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("measure", "Fréchet, all", "Fréchet", "precision", "recall", "density", "coverage"),
        *("sliced W2, pixels", "copies"),
    ]
    assert lines[0].split() == ["measure", "better", "generated", "real", "n", "reference"]
    cells = lines[2].split()
    assert cells[:2] == ["Fréchet", "lower"]
    assert cells[-2:] == ["100", "500"]
    assert str(fresh.frechet.floor) in lines[2]
    assert lines[1].split()[-3:] == ["-", "420", "500"]
    assert lines[-1].split()[-3:] == ["0.01", "420", "500"]


def test_sets_that_are_too_small_are_named():
    x = images(120, 22)
    for i, name in enumerate(("generated", "reference", "held_out")):
        sets = [x, x, x]
        sets[i] = x[:5]
        with pytest.raises(ValueError, match=f"{name} must hold more than k = 5 images, not 5"):
            measured(*sets)
    with pytest.raises(ValueError, match="needs at least 99 held-out examples, not 50"):
        measured(x, x, x[:50])
    with pytest.raises(ValueError, match="at_most must be at least 1"):
        measured(x, x, x, draws=0)


def test_images_that_cannot_be_compared_are_refused():
    x = images(120, 23)
    with pytest.raises(ValueError, match="one shape"):
        measured(images(120, 24, size=3), x, x)
    with pytest.raises(ValueError, match="finite"):
        measured(x * float("nan"), x, x)
