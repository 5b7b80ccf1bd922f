"""Sets of images: what every one of them answers, a part of one, and one that lies in memory."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import check_instance, kind
from interpolants.data.seeds import seeded

__all__ = ["ImageSet", "TensorImages"]

_UNLIMITED = 2**40


class ImageSet(abc.ABC):
    """A set of images of one shape, numbered from 0, with or without labels.

    A new set says its ``shape``, its length and its ``batch``; one that has labels says ``classes`` too, and
    ``labels`` where they are known without loading an image. Sets that hold little are pickled cheaply, and
    are read by other processes that way.

    Example:
        >>> class Grays(ImageSet):
        ...     shape = (1, 2, 2)
        ...     def __len__(self):
        ...         return 3
        ...     def batch(self, index):
        ...         return (index - 1.0).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), None
        >>> part, rest = Grays().split(1)
        >>> len(part), len(rest), rest.shape
        (1, 2, (1, 2, 2))
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many images there are; see ``unlimited``."""

    @abc.abstractmethod
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images of these numbers.

        Args:
            index: Numbers from 0 to ``len(self) - 1``, int64, shape ``(B,)``.

        Returns:
            The images, float32 in [-1, 1], shape ``(B, C, H, W)``, and their labels, int64, shape ``(B,)``,
            or None where there are none.

        Raises:
            IndexError: If a number lies outside.
        """

    @property
    def classes(self) -> int | None:
        """How many classes the labels tell apart, 0 to ``classes - 1``; None without labels."""
        return None

    @property
    def labels(self) -> Tensor | None:
        """The labels of all images, int64, shape ``(N,)``; None if there are none or only loading tells."""
        return None

    @property
    def unlimited(self) -> bool:
        """Whether there are too many images to shuffle, at least 2**40; those are computed, not stored."""
        return len(self) >= _UNLIMITED

    def split(self, part: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Return two sets that share no image and together are this one, drawn at random.

        Args:
            part: The size of the first: a count of images, or a fraction between 0 and 1.
            seed: Which split; the same seed always gives the same.

        Raises:
            TypeError: If ``part`` is no number.
            ValueError: If it would leave one of the two empty, or the set is unlimited.

        Example:
            >>> train, held_out = TensorImages(torch.zeros(10, 1, 2, 2)).split(0.8)
            >>> len(train), len(held_out)
            (8, 2)
        """
        if self.unlimited:
            raise ValueError("an unlimited set cannot be split by shuffling it")
        count = part_size(part, len(self))
        order = torch.randperm(len(self), generator=seeded(seed, "split"))
        return _Part(self, order[:count].sort().values), _Part(self, order[count:].sort().values)

    def of_class(self, k: int) -> ImageSet:
        """Return the images with label ``k``.

        Raises:
            ValueError: If there are no labels, they are not known without loading, or none is ``k``.

        Example:
            >>> images = TensorImages(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]))
            >>> len(images.of_class(0))
            2
        """
        if self.classes is None:
            raise ValueError("this set has no labels")
        if self.labels is None:
            raise ValueError("the labels of this set are not known without loading its images")
        (index,) = (self.labels == k).nonzero(as_tuple=True)
        if len(index) == 0:
            raise ValueError(f"no image has the label {k!r}; they are 0 to {int(self.labels.max())}")
        return _Part(self, index.cpu())


@final
@dataclass(frozen=True, eq=False)
class TensorImages(ImageSet):
    """Images that lie in a tensor.

    Args:
        images: Shape ``(N, C, H, W)``; floating point in [-1, 1], or uint8 from 0 to 255, which is kept so
            and takes a quarter of the memory.
        labels: Classes of the images, whole numbers from 0, shape ``(N,)``.

    Raises:
        TypeError: If ``images`` is neither floating point nor uint8, or ``labels`` are not whole numbers.
        ValueError: If shapes do not fit, there is no image, or a value lies outside its range.

    Example:
        >>> images = TensorImages(torch.tensor([0, 255]).to(torch.uint8).reshape(2, 1, 1, 1))
        >>> images.batch(torch.tensor([1, 0, 1]))[0].flatten()
        tensor([ 1., -1.,  1.])
    """

    images: Tensor = field(repr=False)
    labels: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_instance("images", self.images, Tensor, "torch.zeros(10, 1, 8, 8)")
        if self.images.ndim != 4 or self.images.numel() == 0:
            raise ValueError(
                f"images must have shape (N, C, H, W), none of them 0; got {tuple(self.images.shape)}"
            )
        images = self.images.detach()
        if images.dtype != torch.uint8:
            images = _checked_floats(images)
        object.__setattr__(self, "images", images)
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, len(images)).to(images.device))

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    @cached_property
    @override
    def classes(self) -> int | None:
        return None if self.labels is None else int(self.labels.max()) + 1

    @override
    def __len__(self) -> int:
        return len(self.images)

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        index = index.to(self.images.device)
        images = self.images.index_select(0, index)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).div_(127.5).sub_(1)
        return images, None if self.labels is None else self.labels.index_select(0, index)


@final
@dataclass(frozen=True, eq=False)
class _Part(ImageSet):
    """Some images of another set, in the order of ``index``."""

    whole: ImageSet
    index: Tensor = field(repr=False)

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        return self.whole.shape

    @property
    @override
    def classes(self) -> int | None:
        return self.whole.classes

    @cached_property
    @override
    def labels(self) -> Tensor | None:
        labels = self.whole.labels
        return None if labels is None else labels[self.index.to(labels.device)]

    @override
    def __len__(self) -> int:
        return len(self.index)

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.whole.batch(self.index.index_select(0, index.to(self.index.device)))


def part_size(part: float, whole: int) -> int:
    """Return how many images a part of a set has that is given as a count or as a fraction.

    Raises:
        TypeError: If ``part`` is no number.
        ValueError: If the part or the rest would be empty.
    """
    if isinstance(part, bool) or not isinstance(part, (int, float)):
        raise TypeError(f"part must be a count of images or a fraction; got {kind(part)}")
    if isinstance(part, float) and not 0 < part < 1:
        raise ValueError(f"a fraction must lie between 0 and 1, and a count be an int; got {part}")
    count = part if isinstance(part, int) else round(part * whole)
    if not 0 < count < whole:
        raise ValueError(f"both parts must hold an image; got {count} of {whole} for the first")
    return count


def check_index(index: Tensor, size: int) -> None:
    """Raise IndexError unless all numbers are those of a set's images."""
    outside = index[(index < 0) | (index >= size)]
    if len(outside):
        raise IndexError(f"index must lie in 0 to {size - 1}; got {int(outside[0])}")


def _checked_floats(images: Tensor) -> Tensor:
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [-1, 1] or uint8; got {images.dtype}")
    low, high = (bound.item() for bound in torch.aminmax(images))
    if not (low >= -1 and high <= 1):  # Written so that NaN fails too.
        raise ValueError(f"images must lie in [-1, 1]; they span [{low:g}, {high:g}]")
    return images.to(torch.float32)


def _checked_labels(labels: Tensor, n: int) -> Tensor:
    check_instance("labels", labels, Tensor, "torch.zeros(10, dtype=torch.int64)")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be whole numbers; got {labels.dtype}")
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), one for each image; got {tuple(labels.shape)}")
    if labels.min() < 0:
        raise ValueError(f"labels must be 0 or larger; got {int(labels.min())}")
    return labels.detach().to(torch.int64)
