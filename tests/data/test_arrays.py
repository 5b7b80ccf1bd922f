import pickle

import numpy as np
import pytest
import torch

from interpolants.data import load_npz
from interpolants.data.arrays import of_arrays


def saved(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_all_orders_of_axes_are_read(tmp_path):
    x = pixels(5, 3, 6, 8)
    index = torch.arange(5)
    wanted = torch.from_numpy(x) / 127.5 - 1
    for array in (x, x.transpose(0, 2, 3, 1)):
        images = load_npz(saved(tmp_path, images=array))
        assert images.shape == (3, 6, 8)
        assert torch.allclose(images.batch(index)[0], wanted, atol=1e-6)
    images = load_npz(saved(tmp_path, images=x[:, 0]))
    assert images.shape == (1, 6, 8)
    assert torch.allclose(images.batch(index)[0], wanted[:, :1], atol=1e-6)
    assert images.batch(index)[1] is None


def test_bytes_stay_bytes(tmp_path):
    assert load_npz(saved(tmp_path, images=pixels(5, 6, 8))).images.dtype == torch.uint8


def test_labels_and_names_are_read(tmp_path):
    for labels in (np.array([3, 0, 1]), np.array([[3], [0], [1]], dtype=np.uint8)):
        path = saved(tmp_path, x=pixels(3, 8, 8), y=labels, other=np.zeros(3))
        images = load_npz(path, images="x", labels="y")
        assert images.labels.tolist() == [3, 0, 1]
        assert images.labels.dtype == torch.int64
        assert images.classes == 4
        assert load_npz(path, images="x").labels is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floating_point_images_are_read(tmp_path, dtype):
    x = np.linspace(-1, 1, 3 * 64).reshape(3, 8, 8).astype(dtype)
    images = load_npz(saved(tmp_path, images=x))
    assert torch.allclose(images.images[:, 0], torch.from_numpy(x.astype(np.float32)), atol=1e-7)


@pytest.mark.parametrize(("span", "low", "high"), [((0, 1), -1, 1), ((-2, 2), 0, 0.5), ((0, 2), -1, 0)])
def test_a_span_says_what_is_black_and_white(tmp_path, span, low, high):
    x = np.linspace(0, 1, 64).reshape(1, 8, 8)
    images = load_npz(saved(tmp_path, images=x), span=span)
    assert images.images.flatten()[[0, -1]].tolist() == [low, high]
    assert torch.allclose(images.images.flatten(), torch.linspace(low, high, 64), atol=1e-6)


def test_white_survives_rounding():
    for white in np.random.default_rng(0).uniform(0.1, 10, 200):
        x = np.array([[[-0.3, white]]])
        assert of_arrays(x, span=(-0.3, float(white))).images.flatten().tolist() == [-1, 1]


def test_bytes_may_have_a_span_too():
    images = of_arrays(np.array([[[0, 1]]], dtype=np.uint8), span=(0, 1))
    assert images.images.flatten().tolist() == [-1, 1]
    assert of_arrays(np.array([[[0, 1]]], dtype=np.uint8), span=(0, 255)).images.dtype == torch.uint8


def test_the_set_does_not_share_the_array():
    x = np.zeros((1, 8, 8), dtype=np.uint8)
    images = of_arrays(x)
    x[:] = 255
    assert (images.images == 0).all()


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"pictures": pixels(3, 8, 8)}, ValueError, "has no array 'images', only pictures"),
        ({"images": pixels(3, 8)}, ValueError, r"shape \(N, H, W\), .*; got \(3, 8\)"),
        ({"images": pixels(3, 8, 8, 9)}, ValueError, "1 to 4 channels, not both; got"),
        ({"images": pixels(3, 3, 8, 3)}, ValueError, "1 to 4 channels, not both; got"),
        ({"images": pixels(0, 8, 8)}, ValueError, "none of them 0"),
        ({"images": np.zeros((3, 8, 8), dtype=np.int64)}, TypeError, "uint8 or floating point; got int64"),
        ({"images": np.full((3, 8, 8), 0.5)}, ValueError, r"span=\(0, 1\) or span=\(-1, 1\)"),
        ({"images": np.full((3, 8, 8), 100.0)}, ValueError, r"lie in \[-1, 1\]; they span \[100, 100\]"),
        ({"images": np.full((3, 8, 8), np.nan)}, ValueError, r"lie in \[-1, 1\]"),
        ({"images": pixels(3, 8, 8), "labels": np.zeros(3)}, TypeError, "labels must be whole numbers"),
        (
            {"images": pixels(3, 8, 8), "labels": np.zeros(2, dtype=int)},
            ValueError,
            r"labels must have shape",
        ),
        ({"images": pixels(3, 8, 8), "labels": np.full(3, -1)}, ValueError, "0 or larger"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, error, message):
    with pytest.raises(error, match=rf"set\.npz.*{message}"):
        load_npz(saved(tmp_path, **arrays))


def test_a_span_of_nothing_is_refused():
    for span in ((1, 0), (0, 0), (0, float("nan"))):
        with pytest.raises(ValueError, match="span must be"):
            of_arrays(np.zeros((1, 8, 8)), span=span)


class Dangerous:
    ran = False

    def __reduce__(self):
        return (setattr, (Dangerous, "ran", True))


def test_nothing_in_a_file_is_executed(tmp_path):
    path = saved(tmp_path, images=np.array([Dangerous()], dtype=object))
    with pytest.raises(ValueError, match=r"set\.npz is not an \.npz file of plain arrays"):
        load_npz(path)
    assert not Dangerous.ran
    pickle.loads(pickle.dumps(Dangerous()))
    assert Dangerous.ran  # So it would have been seen.


@pytest.mark.parametrize("kind", ["text", "empty", "array", "cut", "pickle"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, kind):
    path = saved(tmp_path, images=pixels(3, 8, 8))
    content = {
        "text": b"no arrays",
        "empty": b"",
        "cut": path.read_bytes()[:100],
        "pickle": pickle.dumps([1]),
    }
    if kind == "array":
        with path.open("wb") as file:
            np.save(file, pixels(3, 8, 8))
    else:
        path.write_bytes(content[kind])
    with pytest.raises(ValueError, match=r"set\.npz is not an \.npz file of plain arrays"):
        load_npz(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        load_npz(tmp_path / "nowhere.npz")
