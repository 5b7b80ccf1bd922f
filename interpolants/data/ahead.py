"""Minibatches that other processes make ahead of time."""

from __future__ import annotations

import io
import os
import pickle
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import resource_tracker
from multiprocessing.util import Finalize
from typing import Any, NamedTuple, cast, final

from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

__all__ = ["Ahead", "Loaded", "check_picklable"]

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Loaded(NamedTuple):
    """A minibatch, and what was warned of while it was made."""

    x0: Tensor
    x1: Tensor
    labels: Tensor | None
    warnings: list[tuple[type[Warning], str]]


@final
class Ahead:
    """Minibatches that workers make ahead, from one step on, in order.

    The workers do not hear the signals that ask to stop, which reach whole groups of processes: who is asked
    may want minibatches still. They end when the process they work for closes them or ends.

    Args:
        plan: What makes the minibatch of any step.
        step: The first.
        workers: How many processes.
        pin: Whether to put the minibatches into pinned memory.
    """

    def __init__(self, plan: Dataset[Loaded], step: int, workers: int, *, pin: bool) -> None:
        loader = DataLoader(
            _Recorded(plan),
            batch_size=None,
            sampler=count(step),
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_begin,
            multiprocessing_context="spawn",
            pin_memory=pin,
            # Its own, so that starting the workers does not draw from the global one.
            generator=Generator().manual_seed(0),
        )
        with _stops_blocked():
            self._iterator: Any = iter(loader)
        # At the end of this process they are closed before multiprocessing waits for them.
        self._closed = Finalize(self, _close, args=(self._iterator,), exitpriority=10)

    def next(self) -> Loaded:
        """Return the next minibatch.

        Raises:
            RuntimeError: If a worker has died.
        """
        try:
            return cast("Loaded", next(self._iterator))
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
        """End the workers."""
        # Dropping the iterator would do, but the traceback of an error may hold on to it.
        self._closed()


def check_picklable(**values: object) -> None:
    """Raise TypeError unless each value can be sent to workers."""
    for name, value in values.items():
        try:
            _WithoutTensors(io.BytesIO()).dump(value)
        except Exception as error:  # Whatever the object's own way to fail is.
            raise TypeError(f"{name} must be picklable to be sent to workers: {error}") from error


class _WithoutTensors(pickle.Pickler):
    """Pickles all but the tensors, which always can be and may be large."""

    @override
    def reducer_override(self, value: object) -> Any:
        return (int, ()) if isinstance(value, Tensor) else NotImplemented


@dataclass(frozen=True)
class _Recorded(Dataset[Loaded]):
    """A plan as the workers follow it: warnings are sent along, since nobody would hear them there."""

    plan: Dataset[Loaded]

    def __getitem__(self, step: int) -> Loaded:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = self.plan[step]
        return loaded._replace(warnings=[(warning.category, str(warning.message)) for warning in caught])


@contextmanager
def _stops_blocked() -> Iterator[None]:
    """Block the signals that ask to stop; a process started in here does not hear them while it starts."""
    if not hasattr(signal, "pthread_sigmask"):  # As on Windows
        yield
        return
    resource_tracker.ensure_running()  # Starting it would unblock them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(_: int) -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    # Let this worker end without taking the interpreter apart, when its threads may still be sending.
    Finalize(None, os._exit, args=(0,), exitpriority=-1000)  # After all others


def _close(iterator: Any) -> None:
    workers = iterator._workers
    with suppress(
        RuntimeError
    ):  # One died while it was told to stop, which harms nobody; torch says so once.
        iterator._shutdown_workers()
    for worker in workers:  # What torch ends by SIGTERM they do not hear.
        worker.kill()
        worker.join()


def _as_it_is(loaded: Any) -> Any:
    return loaded
