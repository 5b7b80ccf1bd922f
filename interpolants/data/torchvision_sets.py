"""The data sets of torchvision, by name."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from interpolants.data.arrays import of_arrays
from interpolants.data.images import ImageSet, check_index
from interpolants.data.pictures import check_form, square

__all__ = ["torchvision_set"]


def torchvision_set(
    name: str,
    root: str | os.PathLike[str],
    train: bool = True,
    download: bool = False,
    *,
    size: int | None = None,
    channels: int = 3,
) -> ImageSet:
    """Return a data set of torchvision.

    Those that torchvision holds in memory, such as MNIST and CIFAR10, are held so here too, as they are. The
    pictures of others, such as CelebA, are loaded when they are asked for: their middle square, resized.

    Args:
        name: Its name in ``torchvision.datasets``, in any case.
        root: The folder of its files.
        train: Whether to take the training part, or else the test part.
        download: Whether to load missing files from the network.
        size: Height and width of images that are loaded one by one.
        channels: 3 for colour, 1 for gray, of images that are loaded one by one.

    Raises:
        ImportError: If torchvision is missing.
        RuntimeError: If files are missing and ``download`` is False.
        ValueError: If there is no data set of that name, ``size`` is missing where it is needed, or is given
            where it cannot be followed.

    Example:
        >>> images = torchvision_set("mnist", "data", download=True)  # doctest: +SKIP
        >>> images.shape, images.classes  # doctest: +SKIP
        ((1, 28, 28), 10)
    """
    dataset = _made(_class(_datasets(), name), os.fspath(root), train, download)
    data = getattr(dataset, "data", None)
    if isinstance(data, (np.ndarray, Tensor)):
        if size is not None:
            raise ValueError(f"{name} lies in memory and keeps its size; got size={size}")
        return of_arrays(np.asarray(data), _targets(dataset))
    if size is None:
        raise ValueError(f"{name} is loaded picture by picture: its images need a size")
    return _Pictures(dataset, size, channels)


@final
@dataclass(frozen=True, eq=False)
class _Pictures(ImageSet):
    """The pictures of a data set whose items are pairs of a picture and a target."""

    dataset: Any = field(repr=False)
    size: int
    channels: int

    def __post_init__(self) -> None:
        check_form(self.size, self.channels)

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    @property
    @override
    def classes(self) -> int | None:
        labels = self.labels
        return None if labels is None else int(labels.max()) + 1

    @property
    @override
    def labels(self) -> Tensor | None:
        targets = _targets(self.dataset)
        return None if targets is None else torch.from_numpy(targets)

    @override
    def __len__(self) -> int:
        return len(self.dataset)

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        check_index(index, len(self))
        pictures = (self.dataset[number][0] for number in index.tolist())
        images = torch.stack([square(picture, self.size, self.channels) for picture in pictures])
        labels = self.labels
        return images.to(torch.float32).div_(127.5).sub_(1), None if labels is None else labels[index.cpu()]


def _datasets() -> ModuleType:
    try:
        return importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise ImportError(
            "torchvision_set needs torchvision, in the version that belongs to your torch: "
            "pip install torchvision"
        ) from error


def _class(datasets: ModuleType, name: str) -> Callable[..., Any]:
    known = {found: kind for found, kind in vars(datasets).items() if inspect.isclass(kind)}
    for found, kind in known.items():
        if found.lower() == name.lower():
            return kind
    raise ValueError(f"torchvision has no data set {name!r}; it has {', '.join(sorted(known))}")


def _made(kind: Callable[..., Any], root: str, train: bool, download: bool) -> Any:
    """Return the data set, whichever way it asks for its part."""
    takes = inspect.signature(kind).parameters
    options: dict[str, Any] = {"download": download} if "download" in takes else {}
    if "train" in takes:
        options["train"] = train
    elif "split" in takes:
        options["split"] = "train" if train else "test"
    return kind(root, **options)


def _targets(dataset: Any) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """Return the class of each item, or None where there is none or an item has several targets."""
    for name in ("targets", "labels", "_labels"):
        targets = np.asarray(getattr(dataset, name, []))
        if targets.shape == (len(dataset),) and targets.dtype.kind in "iu" and targets.min() >= 0:
            return targets.astype(np.int64)
    return None
