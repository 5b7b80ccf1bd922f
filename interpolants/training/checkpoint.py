"""Checkpoints: safetensors with the configuration in the header; nothing in them is ever executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from torch import Tensor

_FORMAT = "interpolants-1"


def save_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Path:
    """Write tensors and text to one file, whole or not at all.

    Args:
        path: Where to; an existing file is replaced only when the new one is complete.
        tensors: The tensors by name.
        metadata: Text by name, such as a configuration as JSON.

    Returns:
        The path.

    Raises:
        ImportError: When safetensors is missing.
        OSError: When the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> path = save_checkpoint(folder / "a.safetensors", {"weight": torch.ones(2)}, {"note": "ones"})
        >>> load_checkpoint(path)
        ({'weight': tensor([1., 1.])}, {'note': 'ones'})
    """
    torch_io = _safetensors()
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # Copies: parameters that share one buffer are saved as what they are.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        with partial.open("wb") as file:
            file.write(torch_io.save(copies, metadata={"format": _FORMAT, **metadata}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the text of a checkpoint.

    Args:
        path: A file written by :func:`save_checkpoint`.

    Raises:
        FileNotFoundError: When there is no such file.
        ImportError: When safetensors is missing.
        ValueError: When the file is no checkpoint of this library, or is damaged.
    """
    _safetensors()
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged: {error}") from error
    if metadata.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} is a safetensors file, but no checkpoint of interpolants ({_FORMAT})")
    return tensors, metadata


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('checkpoints need safetensors: pip install "interpolants[train]"') from error
    return safetensors.torch
