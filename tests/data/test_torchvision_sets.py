import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from interpolants.data import ImageSet, TensorImages, torchvision_set

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class InMemory:
    def __len__(self):
        return len(self.data)


class CIFAR10(InMemory):
    """As in torchvision: an array, a list of targets, and `train`."""

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
        if not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        part = slice(0, 4) if train else slice(4, 6)
        self.data, self.targets = PIXELS[part], [3, 1, 2, 0, 0, 1][part]


class MNIST(InMemory):
    """As in torchvision: tensors."""

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
        self.data, self.targets = torch.from_numpy(PIXELS[..., 0]), torch.arange(6)


class STL10(InMemory):
    """As in torchvision: channels first, `labels` and `split`."""

    def __init__(self, root, split="train", folds=None, download=False):
        self.data = PIXELS.transpose(0, 3, 1, 2)[:: 1 if split == "train" else 2]
        self.labels = np.arange(6)[:: 1 if split == "train" else 2]


class Pictures:
    """As the sets of files in torchvision: pictures one by one."""

    def __init__(self, root, split="train"):
        self._labels = [1, 0, 1] if split == "train" else [0]

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, number):
        return Image.new("RGB", (20, 30), (0, 0, 51 * number)), self._labels[number]


class CelebA(Pictures):
    """As in torchvision: several targets for each picture."""

    def __init__(self, root, split="train", download=False):
        super().__init__(root, split)
        self._labels = torch.zeros(3, 40, dtype=torch.int64)


@pytest.fixture(autouse=True)
def torchvision(monkeypatch):
    package, datasets = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    package.datasets = datasets
    for kind in (CIFAR10, MNIST, STL10, Pictures, CelebA):
        setattr(datasets, kind.__name__, kind)
    datasets.helper = lambda: None
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def test_arrays_are_taken_into_memory(tmp_path):
    images = torchvision_set("CIFAR10", tmp_path, download=True)
    assert isinstance(images, TensorImages)
    assert images.shape == (3, 8, 8)
    found, labels = images.batch(torch.arange(4))
    assert torch.allclose(found, torch.from_numpy(PIXELS[:4]).permute(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)
    assert labels.tolist() == [3, 1, 2, 0]


def test_the_part_is_chosen_by_either_of_torchvision_s_arguments(tmp_path):
    assert len(torchvision_set("CIFAR10", tmp_path, train=False, download=True)) == 2
    assert len(torchvision_set("STL10", tmp_path)) == 6
    assert torchvision_set("STL10", tmp_path, train=False).labels.tolist() == [0, 2, 4]
    assert len(torchvision_set("Pictures", tmp_path, train=False, size=4)) == 1


def test_all_orders_of_axes_are_known(tmp_path):
    gray = torchvision_set("mnist", tmp_path)
    assert gray.shape == (1, 8, 8)
    assert torch.equal(gray.images[:, 0], torch.from_numpy(PIXELS[..., 0]))
    assert torch.equal(torchvision_set("STL10", tmp_path).images[:, 1], torch.from_numpy(PIXELS[..., 1]))


def test_pictures_are_loaded_one_by_one(tmp_path):
    images = torchvision_set("Pictures", tmp_path, size=4)
    assert isinstance(images, ImageSet)
    assert images.shape == (3, 4, 4)
    assert images.classes == 2
    assert images.labels.tolist() == [1, 0, 1]
    assert len(images.of_class(1)) == 2
    found, labels = images.batch(torch.tensor([2, 1]))
    assert found.shape == (2, 3, 4, 4)
    assert torch.allclose(found[:, 2, 0, 0], torch.tensor([102, 51]) / 127.5 - 1)
    assert (found[:, :2] == -1).all()
    assert labels.tolist() == [1, 0]
    with pytest.raises(IndexError):
        images.batch(torch.tensor([-1]))
    gray = torchvision_set("Pictures", tmp_path, size=4, channels=1)
    assert gray.batch(torch.tensor([0]))[0].shape == (1, 1, 4, 4)


def test_several_targets_are_no_labels(tmp_path):
    images = torchvision_set("CelebA", tmp_path, size=4)
    assert images.classes is None
    assert images.labels is None
    found, labels = images.batch(torch.tensor([0]))
    assert found.shape == (1, 3, 4, 4)
    assert labels is None


def test_missing_files_are_torchvision_s_to_report(tmp_path):
    with pytest.raises(RuntimeError, match="download=True"):
        torchvision_set("CIFAR10", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CIFAR11", {}, "no data set 'CIFAR11'; it has CIFAR10, CelebA, MNIST, Pictures, STL10"),
        ("helper", {}, "no data set 'helper'"),
        ("Pictures", {}, "need a size"),
        ("Pictures", {"size": 0}, "size must be at least 1"),
        ("Pictures", {"size": 4, "channels": 2}, "channels must be 1"),
        ("MNIST", {"size": 4}, "keeps its size; got size=4"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        torchvision_set(name, tmp_path, **options)


def test_a_missing_torchvision_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        torchvision_set("MNIST", tmp_path)
