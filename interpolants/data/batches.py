"""Endless minibatches of images and their source points, the same whoever loads them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias, cast, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from interpolants._tensors import check_instance, kind
from interpolants.data.ahead import Ahead, Loaded, check_picklable
from interpolants.data.images import ImageSet
from interpolants.data.seeds import seeded

__all__ = ["ImageBatches", "mirrored", "noise"]

Draw: TypeAlias = Callable[[tuple[int, int, int, int], torch.Generator], Tensor]
Source: TypeAlias = Literal["normal", "uniform"] | ImageSet | Draw
Minibatch: TypeAlias = tuple[Tensor, Tensor, dict[str, Tensor]]


@final
class ImageBatches:
    """An endless series of minibatches ``(x0, x1, conditions)``, for training towards images.

    Minibatch k depends on the seed and on k alone. Images come in the order of a permutation, a new one for
    every epoch; a minibatch may reach over the end of an epoch, so that all have one size and no image
    is left out. Unlimited sets are taken in order. Iterating continues from the step that the series has
    reached, and all iterators of one series share that step.

    Several processes that train one network each load their part of the same minibatches: process k has
    rows k b to (k + 1) b - 1, where b is ``batch_size / processes``.

    With ``workers`` the minibatches are made ahead of time in processes of their own, one thread each, which
    stop when the iterator is closed or dropped. They are spawned: a forked one would inherit whatever lock
    another thread holds at that moment, as those of BLAS and CUDA do, and wait for it forever. So a script
    must start its work under ``if __name__ == "__main__":``, and ``images`` and ``source`` must be
    picklable. Warnings of the workers are repeated here, each once, and a worker that dies is a RuntimeError
    within seconds.

    Args:
        images: The images x1.
        batch_size: Pairs in a minibatch, over all processes together.
        source: Where x0 comes from: ``"normal"``, N(0, Id); ``"uniform"``, independent and uniform on
            [-sqrt(3), sqrt(3)], which has variance 1; images of another set, shuffled on their own; or
            a function of a shape ``(B, C, H, W)`` and a generator on the CPU, which must use no other
            randomness.
        seed: Which series.
        process: Which of the processes this one is, from 0.
        processes: How many there are.
        workers: How many processes load ahead; 0 loads here when a minibatch is asked for, which is right
            for sets in memory.
        device: Where the minibatches are wanted. All are drawn on the CPU, so that they are the same
            everywhere.
        labels: Whether the conditions hold ``"label"``, those of x1, for sets that have labels.
        flip: Whether to mirror images left to right, each with probability 1/2, both x1 and those of a
            source that is a set.

    Raises:
        TypeError: If an argument is of the wrong kind, or cannot be pickled for the workers.
        ValueError: If sizes or shapes do not fit, a set is empty, or the name of the source is another one.

    Example:
        >>> from interpolants.data import TensorImages
        >>> images = TensorImages(torch.zeros(6, 1, 4, 4), torch.arange(6))
        >>> batches = ImageBatches(images, 4, seed=1)
        >>> for step, (x0, x1, conditions) in zip(range(3), batches):
        ...     print(tuple(x0.shape), tuple(x1.shape), conditions["label"])
        (4, 1, 4, 4) (4, 1, 4, 4) tensor([2, 5, 3, 0])
        (4, 1, 4, 4) (4, 1, 4, 4) tensor([1, 4, 1, 5])
        (4, 1, 4, 4) (4, 1, 4, 4) tensor([2, 3, 4, 0])
        >>> batches.state_dict()
        {'step': 3}
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        source: Source = "normal",
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
        labels: bool = True,
        flip: bool = False,
    ) -> None:
        check_instance("images", images, ImageSet, "Digits()")
        _check_integers(
            batch_size=(batch_size, 1),
            seed=(seed, None),
            process=(process, 0),
            processes=(processes, 1),
            workers=(workers, 0),
        )
        if batch_size % processes:
            raise ValueError(
                f"batch_size must be a multiple of processes; got {batch_size} for {processes} processes"
            )
        if process >= processes:
            raise ValueError(f"process must be one of 0 to {processes - 1}; got {process}")
        _check_sets(images, source)
        local = batch_size // processes
        rows = range(process * local, (process + 1) * local)
        self._plan = _Plan(images, source, batch_size, rows, seed, labels, flip)
        if workers:
            check_picklable(images=images, source=source)
        self._workers = workers
        self._device = torch.device(device)
        self._step = 0
        self._ahead: Ahead | None = None
        self._warned: set[tuple[type[Warning], str]] = set()

    @property
    def batch_size(self) -> int:
        """Pairs in a minibatch, over all processes together."""
        return self._plan.batch_size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self._plan.images.shape

    def __iter__(self) -> Iterator[Minibatch]:
        try:
            while True:
                yield self._next()
        finally:
            self._stop()

    def state_dict(self) -> dict[str, int]:
        """Return the state, ``{"step": n}``: how many minibatches were handed out.

        Those that workers have made ahead do not count. The arguments are not part of the state.
        """
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue with the minibatch that follows ``state["step"]`` ones; running iterators do so too.

        Raises:
            TypeError: If the step is no whole number.
            ValueError: If there is no step in the state, or a negative one.
        """
        if "step" not in state:
            raise ValueError(f"the state must hold a step; got {dict(state)}")
        _check_integers(step=(state["step"], 0))
        self._stop()
        self._step = state["step"]

    def _next(self) -> Minibatch:
        try:
            loaded = self._loaded()
            for category, message in loaded.warnings:
                if (category, message) not in self._warned:
                    self._warned.add((category, message))
                    warnings.warn(message, category, stacklevel=3)
        except BaseException:
            self._stop()  # What was made ahead is a step further than this one.
            raise
        self._step += 1
        conditions = {} if loaded.labels is None else {"label": self._moved(loaded.labels)}
        return self._moved(loaded.x0), self._moved(loaded.x1), conditions

    def _loaded(self) -> Loaded:
        if not self._workers:
            return self._plan[self._step]
        if self._ahead is None:
            self._ahead = Ahead(self._plan, self._step, self._workers, pin=self._device.type == "cuda")
        return self._ahead.next()

    def _moved(self, x: Tensor) -> Tensor:
        if self._device.type != "cuda" or x.device.type != "cpu":
            return x.to(self._device)
        # Only from pinned memory is the copy made while the processor goes on.
        return (x if x.is_pinned() else x.pin_memory()).to(self._device, non_blocking=True)

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def noise(source: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return source points of a law with mean 0 and variance 1, ``"normal"`` or ``"uniform"``.

    Example:
        >>> x0 = noise("uniform", (1000,), torch.Generator().manual_seed(0))
        >>> bool(x0.abs().max() < 3**0.5)
        True
    """
    if source == "normal":
        return torch.randn(shape, generator=generator)
    reach = math.sqrt(3)
    return torch.empty(shape).uniform_(-reach, reach, generator=generator)


def mirrored(images: Tensor, coins: Tensor) -> Tensor:
    """Return images, shape ``(B, C, H, W)``, mirrored left to right where a coin, ``(B,)``, is below 1/2.

    Example:
        >>> mirrored(torch.tensor([0.0, 1.0]).expand(2, 1, 1, 2), torch.tensor([0.2, 0.8])).flatten()
        tensor([1., 0., 0., 1.])
    """
    turned = (coins < 0.5).to(images.device)
    return torch.where(turned.reshape(-1, 1, 1, 1), images.flip(-1), images)


class _Plan(Dataset[Loaded]):
    """What makes this process's rows of any minibatch: a pure function of the number of the step."""

    def __init__(
        self,
        images: ImageSet,
        source: Source,
        batch_size: int,
        rows: range,
        seed: int,
        labels: bool,
        flip: bool,
    ) -> None:
        self.images = images
        self.source = source
        self.batch_size = batch_size
        self.rows = rows
        self.seed = seed
        self.labels = labels
        self.flip = flip
        self._target_order = _Order(images, seed, "target order")
        self._source_order = _Order(source, seed, "source order") if isinstance(source, ImageSet) else None

    def __getitem__(self, step: int) -> Loaded:
        x1, labels = self._images(self.images, self._target_order, step)
        return Loaded(self._source(step), x1, labels if self.labels else None, [])

    def _source(self, step: int) -> Tensor:
        if self._source_order is not None:
            return self._images(cast("ImageSet", self.source), self._source_order, step)[0]
        shape = (self.batch_size, *self.images.shape)
        generator = seeded(self.seed, "source", step)
        if isinstance(self.source, str):
            return self._local(noise(self.source, shape, generator))
        return self._local(_checked_draw(cast("Draw", self.source)(shape, generator), shape))

    def _images(self, images: ImageSet, order: _Order, step: int) -> tuple[Tensor, Tensor | None]:
        first = step * self.batch_size
        x, labels = images.batch(order.between(first + self.rows.start, first + self.rows.stop))
        wanted = (len(self.rows), *images.shape)
        if x.shape != wanted or x.dtype != torch.float32:
            raise ValueError(
                f"a set must give float32 images of shape {wanted}; got {x.dtype}, {tuple(x.shape)}"
            )
        if self.flip:
            coins = torch.rand(self.batch_size, generator=seeded(self.seed, order.purpose, "flip", step))
            x = mirrored(x, self._local(coins))
        return x, labels

    def _local(self, whole: Tensor) -> Tensor:
        return whole[self.rows.start : self.rows.stop]


class _Order:
    """The order in which the images of a set are taken, epoch after epoch."""

    def __init__(self, images: ImageSet, seed: int, purpose: str) -> None:
        self.purpose = purpose
        self._size = len(images)
        self._seed = seed
        self._shuffled = not images.unlimited
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def between(self, start: int, stop: int) -> Tensor:
        """Return the numbers of the images at places ``start`` to ``stop - 1``, counted over all epochs."""
        if not self._shuffled:
            return torch.arange(start, stop)
        parts = []
        while start < stop:
            epoch, first = divmod(start, self._size)
            last = min(self._size, first + stop - start)
            parts.append(self._of_epoch(epoch)[first:last])
            start += last - first
        return torch.cat(parts)

    def _of_epoch(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = seeded(self._seed, self.purpose, epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self._size, generator=generator)
        return self._permutation


def _check_integers(**values: tuple[object, int | None]) -> None:
    for name, (value, least) in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number; got {kind(value)}")
        if least is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")


def _check_sets(images: ImageSet, source: object) -> None:
    if len(images) == 0:
        raise ValueError("images must hold at least one image")
    if not isinstance(source, ImageSet):
        if isinstance(source, str) and source not in ("normal", "uniform"):
            raise ValueError(f'source must be "normal", "uniform", an ImageSet or a function; got {source!r}')
        if not isinstance(source, str) and (not callable(source) or isinstance(source, type)):
            raise TypeError(
                f'source must be "normal", "uniform", an ImageSet or a function; got {kind(source)}'
            )
        return
    if len(source) == 0:
        raise ValueError("source must hold at least one image")
    if source.shape != images.shape:
        raise ValueError(f"source must have images of shape {images.shape}; got {source.shape}")
    if source.unlimited and source == images:
        raise ValueError(
            "source must be another unlimited set than images, which gives x0 = x1: change its seed"
        )


def _checked_draw(x0: Tensor, shape: tuple[int, ...]) -> Tensor:
    check_instance("what source returns", x0, Tensor, "torch.randn(shape, generator=generator)")
    if x0.shape != shape:
        raise ValueError(f"source must return a tensor of shape {shape}; got {tuple(x0.shape)}")
    return x0.to(torch.float32)
