"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants.data.images import ImageSet, TensorImages

__all__ = ["Digits"]


@final
@dataclass(frozen=True)
class Digits(ImageSet):
    """The 1797 handwritten digits of 8 x 8 pixels that scikit-learn carries, white on black, with labels.

    The 17 gray levels span [-1, 1]. From the test set of "Optical Recognition of Handwritten Digits"
    (Alpaydin and Kaynak 1998, UCI machine learning repository).

    Raises:
        ImportError: If scikit-learn is missing.

    Example:
        >>> digits = Digits()
        >>> len(digits), digits.shape, digits.classes
        (1797, (1, 8, 8), 10)
        >>> images, labels = digits.batch(torch.arange(4))
        >>> images.shape, labels
        (torch.Size([4, 1, 8, 8]), tensor([0, 1, 2, 3]))
    """

    def __post_init__(self) -> None:
        _ = self._loaded

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        return 1, 8, 8

    @property
    @override
    def classes(self) -> int:
        return 10

    @property
    @override
    def labels(self) -> Tensor | None:
        return self._loaded.labels

    @override
    def __len__(self) -> int:
        return len(self._loaded)

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._loaded.batch(index)

    @cached_property
    def _loaded(self) -> TensorImages:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError('Digits needs scikit-learn: pip install "interpolants[data]"') from error
        found = load_digits()
        levels = torch.from_numpy(found.images).to(torch.float32)
        return TensorImages((levels / 8 - 1).unsqueeze(1), torch.from_numpy(found.target))
