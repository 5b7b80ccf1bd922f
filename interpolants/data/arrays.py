"""Images out of arrays, in whatever order their axes are."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interpolants.data.images import TensorImages

__all__ = ["load_npz", "of_arrays"]

_CHANNELS = (1, 2, 3, 4)


def load_npz(
    path: str | os.PathLike[str],
    *,
    images: str = "images",
    labels: str = "labels",
    span: tuple[float, float] | None = None,
) -> TensorImages:
    """Read a set of images from a ``.npz`` file of arrays, as ``numpy.savez`` writes them.

    Args:
        path: The file. Nothing in it is executed.
        images: The name of the images: uint8 or floating point, shape ``(N, H, W)``, ``(N, H, W, C)`` or
            ``(N, C, H, W)``, with at most four channels.
        labels: The name of the labels: whole numbers from 0, shape ``(N,)`` or ``(N, 1)``. Without such an
            array the images have no labels.
        span: Which values are black and white; (0, 255) for uint8 and (-1, 1) for floating point if None.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If an array is of another kind.
        ValueError: If the file is no archive of arrays or holds no images, or an array has another shape or
            values outside its span.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "set.npz"
        >>> np.savez(path, images=np.zeros((5, 16, 8, 3), dtype=np.uint8), labels=np.arange(5))
        >>> images = load_npz(path)
        >>> len(images), images.shape, images.classes
        (5, (3, 16, 8), 5)
    """
    path = Path(path)
    arrays = _read(path, images, labels)
    if images not in arrays:
        raise ValueError(f"{path} has no array {images!r}, only {', '.join(arrays['']) or 'none at all'}")
    try:
        return of_arrays(arrays[images], arrays.get(labels), span)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def of_arrays(
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any] | None = None,
    span: tuple[float, float] | None = None,
) -> TensorImages:
    """Return a set of images made of arrays, as :func:`load_npz` describes them.

    Raises:
        TypeError: If an array is of another kind.
        ValueError: If an array has another shape or values outside its span.

    Example:
        >>> of_arrays(np.zeros((5, 8, 8))).shape
        Traceback (most recent call last):
            ...
        ValueError: images of floating point all lie in [0, 1]: say which values are black and white, ...
        >>> of_arrays(np.zeros((5, 8, 8)), span=(0, 1)).shape
        (1, 8, 8)
    """
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"images must be uint8 or floating point; got {images.dtype}")
    pixels = _channels_first(images)
    if pixels.dtype == np.uint8 and span in (None, (0, 255)):
        return TensorImages(_tensor(pixels), _labels(labels))
    return TensorImages(_spread(_tensor(pixels).to(torch.float32), span), _labels(labels))


def _read(path: Path, *names: str) -> dict[str, Any]:
    """Return the arrays of these names that a file has, and under "" the names of all."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    # Asked here, since numpy proposes to load what is none as a pickle.
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file of plain arrays, as numpy.savez writes them")
    try:
        # Opened here, since numpy leaves a broken file open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            return {"": archive.files} | {name: archive[name] for name in names if name in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays: {error}") from error


def _channels_first(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise ValueError(
            f"images must have shape (N, H, W), (N, H, W, C) or (N, C, H, W); got {images.shape}"
        )
    first, last = (images.shape[axis] in _CHANNELS for axis in (1, 3))
    if first == last:
        raise ValueError(
            f"the second or the last axis must be that of 1 to 4 channels, not both; got {images.shape}"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _spread(pixels: Tensor, span: tuple[float, float] | None) -> Tensor:
    """Return floating-point pixels with black at -1 and white at 1."""
    if span is None:
        if pixels.numel() and pixels.min() >= 0 and pixels.max() <= 1:
            raise ValueError(
                "images of floating point all lie in [0, 1]: say which values are black and white, "
                "span=(0, 1) or span=(-1, 1), or store them as uint8"
            )
        return pixels
    black, white = span
    if not black < white:
        raise ValueError(f"span must be what is black and what is white, the larger; got {span}")
    # Rounding may carry white itself beyond 1, but nothing else by so much.
    spread = (pixels - black) * (2 / (white - black)) - 1
    return torch.where((spread.abs() - 1).abs() < 1e-6, spread.sign(), spread)


def _labels(labels: np.ndarray[Any, Any] | None) -> Tensor | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be whole numbers; got {labels.dtype}")
    return _tensor(labels.reshape(len(labels)) if labels.shape == (len(labels), 1) else labels).to(
        torch.int64
    )


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    # A copy, in the byte order of this machine: the array may be read-only, and belongs to its owner.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
