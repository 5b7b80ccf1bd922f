"""The pictures below a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants.data.images import ImageSet, check_index
from interpolants.data.pictures import check_form, read_picture

__all__ = ["ImageFolder"]

_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".avif")
)
_NAMED = 5  # How many broken files a message names


@final
@dataclass(frozen=True, eq=False)
class ImageFolder(ImageSet):
    """Every picture below a folder: its middle square, resized by Lanczos' filter.

    If pictures lie in subfolders, those right below ``path`` are the classes, numbered in the order of their
    names. Hidden files are passed over. A moving picture counts with its first one, 16 bits are rounded to 8,
    transparent means white, and pictures are turned as their camera says.

    A picture that cannot be read is reported by a warning, once, and replaced by the next one of its
    class that can. So is one with more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.

    Args:
        path: The folder.
        size: Height and width of the images in pixels.
        channels: 3 for colour, 1 for gray.
        labelled: Whether subfolders are classes.

    Raises:
        FileNotFoundError: If there is no such folder.
        ImportError: If pillow is missing.
        NotADirectoryError: If ``path`` is a file.
        ValueError: If there is no picture, some lie in subfolders and some do not, or ``size`` or
            ``channels`` is no such number.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (20, 30), "white").save(folder / name / "1.png")
        >>> images = ImageFolder(folder, size=16)
        >>> images.class_names, images.labels
        (('cat', 'dog'), tensor([0, 1]))
        >>> images.batch(torch.tensor([1]))[0].shape
        torch.Size([1, 3, 16, 16])
    """

    path: str | os.PathLike[str]
    size: int
    channels: int = 3
    labelled: bool = field(default=True, kw_only=True)
    _files: tuple[str, ...] = field(init=False, repr=False)
    _broken: dict[int, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        _check_pillow()
        check_form(self.size, self.channels)
        _check_folder(self.path)
        # Without the folder in front: there may be millions, and workers are sent them all.
        object.__setattr__(self, "_files", tuple(sorted(_pictures_below(os.fspath(self.path)))))
        if not self._files:
            raise ValueError(f"there is no picture below {self.path}: none of {', '.join(sorted(_SUFFIXES))}")
        _ = self.labels

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, those of the subfolders; empty without classes."""
        return tuple(sorted({_top(file) for file in self._files})) if self._in_classes() else ()

    @property
    @override
    def classes(self) -> int | None:
        return len(self.class_names) or None

    @cached_property
    def labels(self) -> Tensor | None:
        """The number of the subfolder of each image, int64, shape ``(N,)``; None without classes."""
        if not self.class_names:
            return None
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return torch.tensor([numbers[_top(file)] for file in self._files])

    @override
    def __len__(self) -> int:
        return len(self._files)

    @override
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images of these numbers, as every set does.

        Raises:
            IndexError: If a number lies outside.
            ValueError: If no picture of the whole folder can be read.
        """
        check_index(index, len(self))
        index = index.cpu()
        found = list(map(self._readable, index.tolist()))
        images = torch.stack([pixels for pixels, _ in found]).to(torch.float32).div_(127.5).sub_(1)
        if self.labels is None:
            return images, None
        return images, self.labels[torch.tensor([number for _, number in found])]

    def _in_classes(self) -> bool:
        outside = [file for file in self._files if os.sep not in file]
        if not self.labelled or len(outside) == len(self._files):
            return False
        if outside:
            raise ValueError(
                f"either all pictures or none must lie in subfolders, the classes; {outside[0]} lies in "
                f"{self.path} itself: move it, or pass labelled=False"
            )
        return True

    def _readable(self, number: int) -> tuple[Tensor, int]:
        """Return the picture of this number, or else the next that can be read, and its number."""
        for candidate in self._candidates(number):
            if candidate not in self._broken:
                try:
                    return self._read(candidate), candidate
                except Exception as error:  # Broken files make pillow raise almost anything.
                    self._report(candidate, error)
        some = "; ".join(list(self._broken.values())[:_NAMED])
        raise ValueError(f"none of the {len(self)} pictures below {self.path} can be read: {some}")

    def _candidates(self, number: int) -> Iterator[int]:
        """Yield a picture's number, then those that follow in its class, then all others."""
        yield number
        n = len(self)
        for alike in (True, False):
            following = ((number + k) % n for k in range(1, n))
            yield from (other for other in following if self._alike(number, other) is alike)

    def _alike(self, number: int, other: int) -> bool:
        return self.labels is None or bool(self.labels[number] == self.labels[other])

    def _read(self, number: int) -> Tensor:
        return read_picture(Path(self.path) / self._files[number], self.size, self.channels)

    def _report(self, number: int, error: Exception) -> None:
        message = f"{Path(self.path) / self._files[number]} cannot be read: {error or type(error).__name__}"
        self._broken[number] = message
        warnings.warn(f"{message}; another picture takes its place", UserWarning, stacklevel=4)


def _top(file: str) -> str:
    return file.partition(os.sep)[0]


def _check_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError('ImageFolder needs pillow: pip install "interpolants[data]"') from error


def _check_folder(path: str | os.PathLike[str]) -> None:
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no folder {path}")
    if not Path(path).is_dir():
        raise NotADirectoryError(f"path must be a folder of pictures; {path} is a file")


def _pictures_below(top: str) -> Iterator[str]:
    """Yield the pictures' names below a folder, links followed, but none in circles."""
    seen = set()
    for folder, below, files in os.walk(top, followlinks=True):
        if os.path.realpath(folder) in seen:
            below.clear()
            continue
        seen.add(os.path.realpath(folder))
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES:
                yield os.path.relpath(os.path.join(folder, name), top)  # noqa: PTH118 - strings, for speed
