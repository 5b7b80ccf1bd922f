"""Endless minibatches of images and their source points, the same whoever loads them."""

from __future__ import annotations

import io
import math
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from multiprocessing.util import Finalize
from typing import Any, Literal, NamedTuple, TypeAlias, cast, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from interpolants._tensors import check_instance, kind
from interpolants.data.images import ImageSet
from interpolants.data.seeds import seeded

__all__ = ["ImageBatches"]

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
            _check_picklable(images=images, source=source)
        self._workers = workers
        self._device = torch.device(device)
        self._step = 0
        self._ahead: _Ahead | None = None
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

    def _loaded(self) -> _Loaded:
        if not self._workers:
            return self._plan[self._step]
        if self._ahead is None:
            self._ahead = _Ahead(self._plan, self._step, self._workers, pin=self._device.type == "cuda")
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


class _Loaded(NamedTuple):
    x0: Tensor
    x1: Tensor
    labels: Tensor | None
    warnings: list[tuple[type[Warning], str]]


class _Plan(Dataset[_Loaded]):
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

    def __getitem__(self, step: int) -> _Loaded:
        x1, labels = self._images(self.images, self._target_order, step)
        return _Loaded(self._source(step), x1, labels if self.labels else None, [])

    def _source(self, step: int) -> Tensor:
        if self._source_order is not None:
            return self._images(cast("ImageSet", self.source), self._source_order, step)[0]
        shape = (self.batch_size, *self.images.shape)
        generator = seeded(self.seed, "source", step)
        if self.source == "normal":
            return self._local(torch.randn(shape, generator=generator))
        if self.source == "uniform":
            reach = math.sqrt(3)
            return self._local(torch.empty(shape).uniform_(-reach, reach, generator=generator))
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
            mirrored = self._local(coins < 0.5).to(x.device)
            x = torch.where(mirrored.reshape(-1, 1, 1, 1), x.flip(-1), x)
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


@dataclass(frozen=True)
class _Recorded(Dataset[_Loaded]):
    """A plan as the workers follow it: warnings are sent along, since nobody would hear them there."""

    plan: _Plan

    def __getitem__(self, step: int) -> _Loaded:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = self.plan[step]
        return loaded._replace(warnings=[(warning.category, str(warning.message)) for warning in caught])


class _Ahead:
    """Minibatches that workers make ahead, from one step on, in order."""

    def __init__(self, plan: _Plan, step: int, workers: int, *, pin: bool) -> None:
        loader = DataLoader(
            _Recorded(plan),
            batch_size=None,
            sampler=count(step),
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_end_at_once,
            multiprocessing_context="spawn",
            pin_memory=pin,
            # Its own, so that starting the workers does not draw from the global one.
            generator=torch.Generator().manual_seed(0),
        )
        self._iterator: Any = iter(loader)

    def next(self) -> _Loaded:
        try:
            return cast("_Loaded", next(self._iterator))
        except (RuntimeError, OSError, EOFError) as error:
            # The loader looks after its workers every few seconds, but one that dies while its tensors are on
            # their way shows as a connection that breaks.
            dead = self._dead()
            if not dead:
                raise
            raise RuntimeError(f"a worker that loads minibatches has died: {'; '.join(dead)}") from error

    def _dead(self) -> list[str]:
        workers = self._iterator._workers
        for worker in workers:
            worker.join(0.1)  # One that is dying may not have ended yet.
        return [f"pid {w.pid}, exit code {w.exitcode}" for w in workers if w.exitcode is not None]

    def close(self) -> None:
        # Dropping the iterator would do, but the traceback of an error may hold on to it.
        workers = self._iterator._workers
        try:
            self._iterator._shutdown_workers()
        except RuntimeError:  # One died while it was told to stop, which harms nobody; torch says so once.
            for worker in workers:
                worker.terminate()
                worker.join()


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _end_at_once(_: int) -> None:
    """Let this worker end without taking the interpreter apart, when its threads may still be sending."""
    Finalize(None, os._exit, args=(0,), exitpriority=-1000)  # After all others


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


class _WithoutTensors(pickle.Pickler):
    """Pickles all but the tensors, which always can be and may be large."""

    @override
    def reducer_override(self, value: object) -> Any:
        return (int, ()) if isinstance(value, Tensor) else NotImplemented


def _check_picklable(**values: object) -> None:
    for name, value in values.items():
        try:
            _WithoutTensors(io.BytesIO()).dump(value)
        except Exception as error:  # Whatever the object's own way to fail is.
            raise TypeError(f"{name} must be picklable to be sent to workers: {error}") from error


def _checked_draw(x0: Tensor, shape: tuple[int, ...]) -> Tensor:
    check_instance("what source returns", x0, Tensor, "torch.randn(shape, generator=generator)")
    if x0.shape != shape:
        raise ValueError(f"source must return a tensor of shape {shape}; got {tuple(x0.shape)}")
    return x0.to(torch.float32)
