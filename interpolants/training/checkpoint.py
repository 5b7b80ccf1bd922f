"""Checkpoints: safetensors with text in the header; nothing in them is ever executed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from torch import Tensor

_FORMAT = "interpolants-2"
_CHUNK = 1 << 24
# The checksum is that of the file in which these zeros stand in its place.
_BLANK = b"0" * 64
# A quote within a text of the header has a backslash before it, so the field is found only where it is.
_FIELD = re.compile(rb'[{,]"checksum":"')
_PARTIAL = ".partial"


class DamagedCheckpoint(ValueError):
    """A file is no checkpoint of this library, or not what was written."""


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Path:
    """Write tensors and text to one file, whole or not at all, with a checksum of every byte.

    Args:
        path: Where to; an existing file is replaced only when the new one is complete and on the disk.
        tensors: The tensors by name.
        metadata: Text by name, such as a configuration as JSON.

    Returns:
        The path.

    Raises:
        ImportError: When safetensors is missing.
        OSError: When the file cannot be written, as on a full disk; an existing one is left as it is.
        ValueError: When the metadata uses a name that the format needs.

    Example:
        >>> import tempfile, torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> path = save_checkpoint(folder / "a.safetensors", {"weight": torch.ones(2)}, {"note": "ones"})
        >>> load_checkpoint(path)
        ({'weight': tensor([1., 1.])}, {'note': 'ones'})
    """
    torch_io = _safetensors()
    for name in ("format", "checksum"):
        if name in metadata:
            raise ValueError(f"the metadata {name!r} is the format's own; choose another name")
    path = Path(path)
    # A name of its own for each writer: numbers of processes repeat on other machines.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
    # Copies: parameters that share one buffer are saved as what they are.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header = {**metadata, "format": _FORMAT, "checksum": _BLANK.decode()}
    try:
        with partial.open("x+b") as file:
            _lock(file)
            file.write(torch_io.save(copies, metadata=header))
            digest, place = _checksum(file)
            assert place is not None
            file.seek(place)
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the text of a checkpoint, after its checksum was found right.

    Args:
        path: A file written by :func:`save_checkpoint`.

    Raises:
        FileNotFoundError: When there is no such file.
        ImportError: When safetensors is missing.
        ValueError: When the file is no checkpoint of this library, or is damaged
            (:class:`DamagedCheckpoint`).

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "b.safetensors"
        >>> _ = save_checkpoint(path, {"weight": torch.zeros(2)}, {"step": "10"})
        >>> tensors, text = load_checkpoint(path)
        >>> tensors["weight"], text["step"]
        (tensor([0., 0.]), '10')
    """
    _safetensors()
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    metadata = read_metadata(path)
    try:
        if not _is_whole(path):
            raise DamagedCheckpoint(f"{path} is damaged: its content does not have the checksum it was given")
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, metadata  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(f"{path} is not a checkpoint, or is damaged: {error}") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the text of a checkpoint without looking at its tensors.

    Args:
        path: A file written by :func:`save_checkpoint`.

    Raises:
        FileNotFoundError: When there is no such file.
        ImportError: When safetensors is missing.
        ValueError: When the file is no checkpoint of this library, or its header is damaged.
    """
    _safetensors()
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(f"{path} is not a checkpoint, or is damaged: {error}") from error
    if metadata.pop("format", None) != _FORMAT:
        raise DamagedCheckpoint(
            f"{path} is a safetensors file, but no checkpoint of this version of interpolants ({_FORMAT})"
        )
    metadata.pop("checksum", None)
    return metadata


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left half written in a folder; a living one holds a lock on its file."""
    for leftover in folder.glob(f".*.safetensors.*{_PARTIAL}"):
        with suppress(OSError), leftover.open("rb") as file:
            _lock(file)
            leftover.unlink()


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        digest, place = _checksum(file)
        file.seek(place or 0)
        return place is not None and file.read(len(_BLANK)) == digest


def _checksum(file: BinaryIO) -> tuple[bytes, int | None]:
    """Return the checksum a file should carry, and where in it the checksum stands."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    found = _FIELD.search(file.read(length))
    if found is None:
        return b"", None
    place = 8 + found.end()
    digest = hashlib.sha256()
    file.seek(0)
    digest.update(file.read(place))
    digest.update(_BLANK)
    file.seek(place + len(_BLANK))
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest().encode(), place


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed, or its process ends; OSError when another process has."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    """Have the folder itself on the disk: until then a new name may be lost with the power."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('checkpoints need safetensors: pip install "interpolants[train]"') from error
    return safetensors.torch
