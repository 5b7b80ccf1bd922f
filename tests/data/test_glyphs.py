import math
import pickle
import sys
import time

import pytest
import torch
from scipy.ndimage import label as pieces

from interpolants.data import Digits, Glyphs, glyphs


def test_image_i_depends_on_the_seed_and_on_i_alone():
    together, labels = Glyphs(seed=3).batch(torch.arange(50))
    for some in ([7], [49, 0], [1, 2, 3, 4, 5, 6, 7], list(range(49, 10, -3))):
        images, found = Glyphs(seed=3).batch(torch.tensor(some))
        assert torch.equal(images, together[some])
        assert torch.equal(found, labels[some])
    assert not torch.equal(Glyphs(seed=4).batch(torch.arange(50))[0], together)


@pytest.mark.parametrize("size", [8, 28, 33])
def test_images_have_their_size_and_range_in_any_batch(size):
    images, _ = Glyphs(size=size).batch(torch.arange(23))
    assert images.shape == (23, *Glyphs(size=size).shape) == (23, 1, size, size)
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert images.max() <= 1
    assert torch.equal(Glyphs(size=size).batch(torch.tensor([22]))[0][0], images[22])


def test_labels_are_the_numbers_modulo_ten():
    index = torch.tensor([0, 9, 10, 123_456_789_012_345, 2**60 - 1])
    assert Glyphs().batch(index)[1].tolist() == [0, 9, 0, 5, (2**60 - 1) % 10]
    assert Glyphs().classes == 10


def test_distant_images_are_not_those_at_the_beginning():
    for distance in (2**20, 2**32, 2**53, 2**59):
        first = Glyphs().batch(torch.arange(20))[0]
        assert not torch.equal(Glyphs().batch(torch.arange(20) + 10 * (distance // 10))[0], first)


def test_no_two_of_many_images_are_alike():
    images = Glyphs(size=16).batch(torch.arange(5000))[0].flatten(1)
    assert len(torch.unique(images, dim=0)) == 5000


def test_random_numbers_are_uniform_and_uncorrelated():
    u = glyphs._uniform(0, torch.arange(20_000)).double()
    assert u.min() >= 0
    assert u.max() < 1
    # Five and a half standard errors of a mean, of a variance and of a correlation: once in 2e7 for each.
    assert (u.mean(0) - 1 / 2).abs().max() < 5.5 * math.sqrt(1 / 12 / 20_000)
    assert (u.var(0) - 1 / 12).abs().max() < 5.5 * math.sqrt(1 / 180 / 20_000)
    beside = torch.cat([u[:-1], u[1:]], dim=1)
    off_diagonal = torch.corrcoef(beside.T) - torch.eye(16)
    assert off_diagonal.abs().max() < 6.5 / math.sqrt(20_000)  # 120 of them


def test_splitmix_gives_the_published_numbers():
    # The first outputs of the reference implementation (Vigna's splitmix64.c) seeded with 1234567.
    import numpy as np

    golden = 0x9E3779B97F4A7C15
    inverse = pow(golden, -1, 2**64)
    counters = [(1234567 * inverse + k) % 2**64 for k in (1, 2, 3)]
    found = glyphs._splitmix64(np.array(counters, dtype=np.uint64)).tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_distance_grows_by_no_more_than_the_way():
    fields = glyphs._distance_fields()
    assert fields.shape == (70, 64, 64)
    # A cell is 2 / 64 heights of a digit wide; without care it would jump across an edge.
    for axis in (1, 2):
        assert fields.diff(dim=axis).abs().max() <= 2 / 64 + 1e-6
    assert (fields.flatten(1).min(1).values < -0.02).all()
    assert (fields[:, [0, -1]] > 0.4).all()


def test_digits_stay_inside_their_image():
    images = Glyphs().batch(torch.arange(3000))[0][:, 0]
    frame = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], dim=1)
    # A widened, sheared and shifted 4 may just reach it.
    assert (frame > -1).any(1).float().mean() < 0.01
    assert (images[:, 8:24, 8:24] > 0).flatten(1).any(1).all()


def test_edges_are_smooth_and_strokes_are_full():
    images = Glyphs(size=64).batch(torch.arange(500))[0]
    between = ((images > -1) & (images < 1)).float().mean((1, 2, 3))
    white = (images == 1).float().mean((1, 2, 3))
    assert (between > 0.01).all()
    assert (white > 0).all()
    assert white.mean() > between.mean() / 2


def test_a_digit_has_the_holes_of_its_shape():
    # Topology from another library, at a size that resolves the finest strokes. Only digits whose holes no
    # font of the family fills or adds to: 0 is dotted in the monospaced one.
    images, labels = Glyphs(size=96).batch(torch.arange(300))
    holes = {1: 0, 2: 0, 3: 0, 5: 0, 7: 0, 4: 1, 6: 1, 9: 1, 8: 2}
    for image, k in zip(images[:, 0], labels.tolist(), strict=True):
        if k in holes:
            assert pieces(image.numpy() <= 0)[1] - 1 == holes[k], k
            assert pieces(image.numpy() > 0, structure=torch.ones(3, 3).numpy())[1] == 1, k


def test_digits_are_upright_and_read_from_the_left():
    images, labels = Glyphs().batch(torch.arange(2000))
    ink = images[:, 0] + 1
    upper, lower = ink[:, :16].sum((1, 2)), ink[:, 16:].sum((1, 2))
    left, right = ink[:, :, :16].sum((1, 2)), ink[:, :, 16:].sum((1, 2))
    mean = {k: (upper - lower)[labels == k].mean() for k in range(10)}
    assert mean[7] > 0
    assert mean[9] > 0
    assert mean[6] < 0
    assert mean[2] < 0
    assert (right - left)[labels == 3].mean() > 0


def test_images_of_one_digit_differ_in_weight_slant_size_and_place():
    images = Glyphs().of_class(1).batch(torch.arange(2000))[0][:, 0] + 1
    ink = images.sum((1, 2))
    assert ink.std() / ink.mean() > 0.3
    grid = torch.arange(32.0) - 15.5
    x = (images * grid).sum((1, 2)) / ink
    y = (images * grid[:, None]).sum((1, 2)) / ink
    # The shift alone is uniform within 0.06 * 32 pixels: a deviation of 1.1.
    assert 0.9 < x.std() < 2
    assert 0.9 < y.std() < 2
    assert abs(x.mean()) < 1.5
    assert abs(y.mean()) < 1.5
    slant = (images * (grid - x[:, None])[:, None, :] * (grid[None, :] - y[:, None])[:, :, None]).sum((1, 2))
    assert 0.1 < (slant > 0).float().mean() < 0.9
    rows = (images > 0.5).any(2).sum(1).float()
    assert rows.min() < 18
    assert rows.max() > 22


def changed(column):
    """A seven with one of its random numbers at its least and at its largest, all others in the middle."""
    u = torch.full((2, 8), 0.5)
    u[:, column] = torch.tensor([0.0, 1.0])
    return (glyphs._drawn(torch.tensor([7, 7]), u, 64)[:, 0] + 1) / 2


def centre(images):
    ink = images.sum((1, 2))
    grid = torch.arange(64.0)
    return (images * grid).sum((1, 2)) / ink, (images * grid[:, None]).sum((1, 2)) / ink


def test_every_random_number_changes_what_it_should():
    (x, y), (right, level), (middle, down) = centre(changed(7)), centre(changed(3)), centre(changed(4))
    assert torch.allclose(right - x, 0.06 * 64 * torch.tensor([-1.0, 1.0]), atol=0.02)
    assert torch.allclose(down - y, 0.06 * 64 * torch.tensor([-1.0, 1.0]), atol=0.02)
    assert torch.allclose(level, y, atol=0.02)
    assert torch.allclose(middle, x, atol=0.02)
    small, large = changed(5).sum((1, 2)).sqrt()
    # Strokes grow with the height, so that area goes with its square.
    assert abs(large / small - 0.74 / 0.5) < 0.02
    fine, bold = changed(6).sum((1, 2))
    rows = (changed(6) > 0.5).any(2).sum(1)
    assert 1.3 < bold / fine < 3
    # A height of 0.62 * 64 pixels, and at either end 0.022 of it more or less.
    assert abs(int(rows[1] - rows[0]) - 4 * 0.022 * 40) < 2


def test_coverage_is_the_area_of_a_digit_whatever_the_size():
    small, large = (Glyphs(size=size).batch(torch.arange(200))[0].mean((1, 2, 3)) for size in (32, 128))
    # Half a gray level of 256 on average; fine strokes are where the two differ most.
    assert (small - large).abs().mean() < 1 / 128
    assert (small - large).abs().max() < 0.05


def test_sets_are_split_in_order():
    first, rest = Glyphs(seed=5).split(100)
    assert (len(first), len(rest)) == (100, 2**60 - 100)
    assert torch.equal(first.batch(torch.arange(100))[0], Glyphs(seed=5).batch(torch.arange(100))[0])
    assert torch.equal(rest.batch(torch.tensor([0]))[0], Glyphs(seed=5).batch(torch.tensor([100]))[0])
    assert not first.unlimited
    assert rest.unlimited
    with pytest.raises(IndexError, match="index must lie in 0 to 99; got 100"):
        first.batch(torch.tensor([3, 100]))
    with pytest.raises(IndexError, match="got -1"):
        first.batch(torch.tensor([-1]))
    assert len(Glyphs(items=range(10)).split(0.3)[0]) == 3


@pytest.mark.parametrize(
    "items", [range(100), range(7, 95), range(3, 100, 3), range(0, 100, 4), range(99, -1, -1), range(5, 6)]
)
def test_a_class_is_all_images_of_its_digit(items):
    images = Glyphs(items=items)
    for k in range(10):
        wanted = [number for number in items if number % 10 == k]
        if wanted:
            found = images.of_class(k)
            assert list(found.items) == wanted
            assert (found.batch(torch.arange(len(found)))[1] == k).all()
            assert (found.labels == k).all()
        else:
            with pytest.raises(ValueError, match=f"no image has the label {k}"):
                images.of_class(k)
    assert images.labels.tolist() == [number % 10 for number in items]
    with pytest.raises(ValueError, match="label 10"):
        images.of_class(10)


def test_a_class_of_an_unlimited_set_is_unlimited():
    found = Glyphs(seed=2).of_class(4)
    assert found.labels is None
    assert len(found) > 2**56
    assert torch.equal(found.batch(torch.tensor([3]))[0], Glyphs(seed=2).batch(torch.tensor([34]))[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 7}, ValueError, "size must be at least 8; got 7"),
        ({"items": 10}, TypeError, "items must be a range"),
        ({"items": range(0)}, ValueError, "at least one"),
        ({"items": range(-1, 5)}, ValueError, "numbers from 0"),
        ({"items": range(5, -3, -1)}, ValueError, "numbers from 0"),
    ],
)
def test_arguments_that_make_no_set_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Glyphs(**arguments)


def test_sets_compare_and_pickle():
    assert Glyphs(1) == Glyphs(1) != Glyphs(2)
    assert repr(Glyphs(1, 16)) == "Glyphs(seed=1, size=16)"
    again = pickle.loads(pickle.dumps(Glyphs(1)))
    assert torch.equal(again.batch(torch.arange(3))[0], Glyphs(1).batch(torch.arange(3))[0])


@pytest.mark.parametrize("module", ["matplotlib", "PIL"])
def test_a_missing_package_is_named(monkeypatch, module):
    glyphs._distance_fields.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install \"interpolants\[plot\]\""):
        Glyphs()


def test_a_thousand_images_a_second_are_drawn_even_on_a_busy_machine():
    images = Glyphs()
    images.batch(torch.arange(128))
    fastest = min(_seconds(images, 128) for _ in range(5))
    assert 128 / fastest > 1000  # Some 25 000 on one core that is free


def _seconds(images, n):
    start = time.perf_counter()
    images.batch(torch.arange(n))
    return time.perf_counter() - start


def test_scikit_learn_reads_other_images_of_the_same_digits():
    from sklearn.linear_model import LogisticRegression

    images, labels = Glyphs(size=16).batch(torch.arange(1500))
    model = LogisticRegression(C=0.01, max_iter=300).fit(images[:1000].flatten(1), labels[:1000])
    # Nine in ten; with labels that belong to other images it would be one.
    assert model.score(images[1000:].flatten(1), labels[1000:]) > 0.7
    assert Digits().classes == Glyphs().classes
