"""Bad input becomes one clear line and exit code 2, before anything is written."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm


class UsageError(Exception):
    """What the user gave cannot be used; the message is one line that says why."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors about the user's input into :class:`UsageError`, and warnings into printed notes."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except (ValueError, TypeError, OSError, ImportError) as error:
            raise UsageError(" ".join(str(error).split())) from error
    for note in noted:
        if issubclass(note.category, UserWarning):
            print(f"note: {note.message}", file=sys.stderr)


@contextmanager
def warnings_noted() -> Iterator[None]:
    """Print warnings as notes at once, beside a bar of progress, while something long is going on."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, UserWarning):
                tqdm.write(f"note: {message}", file=sys.stderr)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = note
        yield


def check_installed(*packages: str) -> None:
    """Raise ImportError when a package that the command line needs is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} must be installed: pip install "interpolants[cli]"')


def check_run_folder(folder: Path, overwrite: bool) -> None:
    """Raise unless a run may write into ``folder``; nothing is left behind.

    Raises:
        ValueError: When there is something in the way.
        OSError: When the folder cannot be written.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder} is there and is no folder; name a folder with --out")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds something that is no run; name another folder with --out")
        if not overwrite:
            raise ValueError(
                f"{folder} holds a run already; name another folder with --out, or add --overwrite"
            )
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    check_writable(existing)


def check_writable(folder: Path) -> None:
    """Raise PermissionError unless files can be made in an existing folder."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(f"cannot write into {folder}: {error.strerror}") from error


@contextmanager
def interrupts_noted() -> Iterator[threading.Event]:
    """Turn Ctrl-C, however often, into an event that the work looks at when it suits."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # Signals are the main thread's alone.
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked
    finally:
        # Once asked to stop the command is on its way out, and one more Ctrl-C must not trip it.
        signal.signal(signal.SIGINT, signal.SIG_IGN if asked.is_set() else before)


class Stop:
    """Whether the user or the system has asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """0 when the system stopped an orderly run, 130 after Ctrl-C."""
        return 130 if self.signal == signal.SIGINT else 0

    def note(self, number: int, _: object = None) -> None:
        """Remember the first signal."""
        self.signal = number if self.signal is None else self.signal


@contextmanager
def stops_noted() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM, however often, into a note that the work looks at when it suits."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Signals are the main thread's alone.
        return
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # Once asked to stop the command is on its way out, and one more signal must not trip it.
            signal.signal(number, signal.SIG_IGN if stop else handler)


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
