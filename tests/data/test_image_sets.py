import pickle
import sys

import numpy as np
import pytest
import torch

from interpolants.data import Digits, ImageSet, TensorImages


def numbered(n=10, labels=None):
    """Images of one pixel whose value tells their number."""
    values = torch.arange(n).to(torch.uint8).reshape(n, 1, 1, 1)
    return TensorImages(values, labels)


def numbers(images, index=None):
    """The numbers of images of one pixel."""
    index = torch.arange(len(images)) if index is None else index
    return ((images.batch(index)[0].flatten() + 1) * 127.5).round().long()


# ---- images in a tensor


def test_floating_point_images_are_taken_as_they_are():
    x = 2 * torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) - 1
    images = TensorImages(x, torch.tensor([0, 4, 1, 1, 0]))
    found, labels = images.batch(torch.tensor([3, 1]))
    assert torch.equal(found, x[[3, 1]])
    assert labels.tolist() == [1, 4]
    assert labels.dtype == torch.int64
    assert (len(images), images.shape, images.classes) == (5, (3, 4, 6), 5)
    assert not images.unlimited


def test_bytes_span_minus_one_to_one():
    images = TensorImages(torch.arange(256).to(torch.uint8).reshape(256, 1, 1, 1))
    found, labels = images.batch(torch.arange(256))
    # Rounding of single precision, here and there.
    assert torch.allclose(found.flatten(), torch.linspace(-1, 1, 256), rtol=0, atol=2e-7)
    assert found.dtype == torch.float32
    assert (found.min(), found.max()) == (-1, 1)
    assert labels is None
    assert images.classes is None
    assert images.images.dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floating_types_become_single_precision(dtype):
    found, _ = TensorImages(torch.full((1, 1, 1, 1), 0.5, dtype=dtype)).batch(torch.tensor([0]))
    assert found.dtype == torch.float32
    assert found.item() == 0.5


def test_taking_images_leaves_the_set_alone():
    x = torch.zeros(2, 1, 2, 2)
    images = TensorImages(x)
    images.batch(torch.tensor([0]))[0].fill_(1)
    assert (x == 0).all()
    assert (images.batch(torch.tensor([0]))[0] == 0).all()


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        ([[0.0]], None, TypeError, "images must be a Tensor"),
        (torch.zeros(3, 4, 4), None, ValueError, r"shape \(N, C, H, W\), none of them 0; got \(3, 4, 4\)"),
        (torch.zeros(0, 1, 4, 4), None, ValueError, "none of them 0"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), None, TypeError, "floating point in .* or uint8"),
        (torch.full((1, 1, 2, 2), 1.01), None, ValueError, r"lie in \[-1, 1\]; they span \[1.01, 1.01\]"),
        (torch.full((1, 1, 2, 2), -1.01), None, ValueError, r"lie in \[-1, 1\]"),
        (torch.full((1, 1, 2, 2), float("nan")), None, ValueError, r"lie in \[-1, 1\]"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([0]), ValueError, r"labels must have shape \(2,\)"),
        (torch.zeros(2, 1, 2, 2), torch.zeros(2), TypeError, "labels must be whole numbers"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([True, False]), TypeError, "labels must be whole numbers"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([0, -1]), ValueError, "labels must be 0 or larger; got -1"),
        (torch.zeros(2, 1, 2, 2), [0, 1], TypeError, "labels must be a Tensor"),
    ],
)
def test_what_is_no_set_of_images_is_refused(images, labels, error, message):
    with pytest.raises(error, match=message):
        TensorImages(images, labels)


@pytest.mark.parametrize("index", [[-1], [1797], [0, 2000]])
def test_a_number_outside_is_refused(index):
    for images in (numbered(), numbered().split(5)[0], Digits(), Digits().split(5)[0]):
        with pytest.raises(IndexError):
            images.batch(torch.tensor(index))


# ---- parts


@pytest.mark.parametrize(("part", "count"), [(3, 3), (0.3, 3), (0.25, 2), (9, 9), (0.95, 9)])
def test_a_split_gives_two_disjoint_sets_that_are_the_whole(part, count):
    if part == 0.95:  # 9.5 rounds to the even 10, which leaves nothing.
        with pytest.raises(ValueError, match="both parts must hold an image; got 10 of 10"):
            numbered().split(part)
        return
    first, rest = numbered().split(part)
    assert (len(first), len(rest)) == (count, 10 - count)
    assert sorted(numbers(first).tolist() + numbers(rest).tolist()) == list(range(10))


def test_a_split_depends_on_its_seed_alone():
    one, again, other = (numbers(numbered(100).split(50, seed)[0]).tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other
    # In order, the first half would be no random one.
    assert one != list(range(50))


def test_a_split_is_drawn_uniformly():
    counts = torch.zeros(10)
    for seed in range(400):
        counts[numbers(numbered().split(5, seed)[0])] += 1
    # Binomial with 400 trials of 1/2: six standard deviations are 60, chance 2e-9 for each of ten.
    assert (counts - 200).abs().max() < 60


def test_parts_keep_labels_classes_and_shape():
    images = numbered(10, torch.arange(10) % 3)
    first, rest = images.split(4)
    assert first.shape == rest.shape == (1, 1, 1)
    assert first.classes == 3
    index = torch.tensor([2, 0])
    assert torch.equal(first.batch(index)[1], numbers(first, index) % 3)
    assert torch.equal(first.labels, numbers(first) % 3)
    assert numbered().split(4)[0].labels is None


def test_a_class_is_all_images_with_its_label():
    images = numbered(10, torch.arange(10) % 3)
    assert numbers(images.of_class(1)).tolist() == [1, 4, 7]
    assert images.of_class(1).classes == 3
    part, _ = images.split(6)
    assert set(numbers(part.of_class(0)).tolist()) == {k for k in numbers(part).tolist() if k % 3 == 0}
    with pytest.raises(ValueError, match="no image has the label 3; they are 0 to 2"):
        images.of_class(3)
    with pytest.raises(ValueError, match="this set has no labels"):
        numbered().of_class(0)


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (0, ValueError),
        (10, ValueError),
        (-1, ValueError),
        (1.0, ValueError),
        (0.0, ValueError),
        (2.5, ValueError),
        (0.01, ValueError),
        (float("nan"), ValueError),
        (True, TypeError),
        ("3", TypeError),
    ],
)
def test_a_split_that_is_none_is_refused(part, error):
    with pytest.raises(error):
        numbered().split(part)


class Endless(ImageSet):
    shape = (1, 1, 1)

    def __len__(self):
        return 2**40

    def batch(self, index):
        return torch.zeros(len(index), 1, 1, 1), None


def test_an_unlimited_set_is_not_shuffled():
    assert Endless().unlimited
    with pytest.raises(ValueError, match="unlimited"):
        Endless().split(3)


def test_a_set_must_say_what_it_holds():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (ImageSet,), {"__len__": lambda self: 3})()


# ---- the digits


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = Digits().batch(torch.arange(1797))
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert np.array_equal((images[:, 0].numpy() + 1) * 8, found.images)
    assert np.array_equal(labels, found.target)
    assert torch.equal(Digits().labels, labels)
    assert (images.min(), images.max()) == (-1, 1)


def test_digits_compare_print_and_pickle():
    assert Digits() == Digits()
    assert repr(Digits()) == "Digits()"
    again = pickle.loads(pickle.dumps(Digits()))
    assert torch.equal(again.batch(torch.arange(3))[0], Digits().batch(torch.arange(3))[0])


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"Digits needs scikit-learn: pip install \"interpolants\[data\]\""):
        Digits()
