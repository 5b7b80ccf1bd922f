"""A folder of checkpoints: the last few are kept, and the best."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from interpolants.training.checkpoint import (
    DamagedCheckpoint,
    load_checkpoint,
    read_metadata,
    remove_leftovers,
    save_checkpoint,
)

_NAME = re.compile(r"step-(\d+)\.safetensors")
_FIGURE = "figure"


class Checkpoints:
    """The checkpoints of one training, each in a file of its own named by its step.

    Args:
        folder: Where they are; made when the first is written.
        keep: How many of the last to keep, at least 1. The one with the lowest figure is kept too.

    Raises:
        ValueError: When ``keep`` is below 1.

    Example:
        >>> import tempfile, torch
        >>> checkpoints = Checkpoints(tempfile.mkdtemp(), keep=1)
        >>> for step, figure in ((10, 0.5), (20, 0.1), (30, 0.3)):
        ...     path = checkpoints.save(step, {"weight": torch.ones(2)}, {}, figure=figure)
        >>> [path.name for path in checkpoints.paths()]
        ['step-00000020.safetensors', 'step-00000030.safetensors']
        >>> checkpoints.best().name
        'step-00000020.safetensors'
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1; got {keep}")
        self.folder = Path(folder)
        self.keep = keep

    def paths(self) -> list[Path]:
        """Return the files, the oldest first."""
        if not self.folder.is_dir():
            return []
        found = [
            (int(match[1]), path)
            for path in self.folder.iterdir()
            if (match := _NAME.fullmatch(path.name)) and path.is_file()
        ]
        return [path for _, path in sorted(found)]

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is or would be."""
        return self.folder / f"step-{step:08d}.safetensors"

    def step(self, path: Path) -> int:
        """Return the step that a checkpoint is of."""
        match = _NAME.fullmatch(path.name)
        assert match is not None
        return int(match[1])

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        *,
        figure: float | None = None,
    ) -> Path:
        """Write a checkpoint, then remove those that need not be kept.

        Args:
            step: The step it is of.
            tensors: The tensors by name.
            metadata: Text by name.
            figure: How good it is, the lower the better; the best is never removed.

        Raises:
            OSError: When it cannot be written; those before are left as they are.
            ValueError: When the metadata uses a name that the format needs.
        """
        if _FIGURE in metadata:
            raise ValueError(f"the metadata {_FIGURE!r} is the format's own; choose another name")
        self.folder.mkdir(parents=True, exist_ok=True)
        # First of all: they may be what fills the disk.
        remove_leftovers(self.folder)
        if figure is not None:
            metadata = {**metadata, _FIGURE: repr(float(figure))}
        path = save_checkpoint(self.path(step), tensors, metadata)
        kept = {*self.paths()[-self.keep :], self.best(), path}
        for old in self.paths():
            if old not in kept:
                old.unlink(missing_ok=True)
        return path

    def best(self) -> Path | None:
        """Return the checkpoint with the lowest figure; None when none has one."""
        figures = {path: figure for path in self.paths() if (figure := figure_of(path)) is not None}
        return min(figures, key=figures.__getitem__) if figures else None

    def latest(self) -> tuple[dict[str, Tensor], dict[str, str], Path] | None:
        """Return the last whole checkpoint, and where it is; None when there is none.

        A damaged one is passed over with a warning that names it and the one used in its place.

        Raises:
            ValueError: When there are checkpoints and all are damaged.
        """
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                tensors, metadata = load_checkpoint(path)
            except DamagedCheckpoint as error:
                damaged.append(str(error))
                continue
            except FileNotFoundError:  # Removed meanwhile by the process that keeps only the last.
                continue
            if damaged:
                warnings.warn(f"{'; '.join(damaged)}: going on from {path}", stacklevel=2)
            return tensors, metadata, path
        if damaged:
            raise DamagedCheckpoint(
                f"none of the checkpoints in {self.folder} is whole: {'; '.join(damaged)}"
            )
        return None


def figure_of(path: Path) -> float | None:
    """Return how good a checkpoint was said to be; None when it was not, or is damaged."""
    try:
        figure = float(read_metadata(path).get(_FIGURE, "nan"))
    except (DamagedCheckpoint, FileNotFoundError, ValueError):
        return None
    return None if math.isnan(figure) else figure
