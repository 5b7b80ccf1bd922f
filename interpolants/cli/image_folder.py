"""The folder of a run towards images: whenever the run is stopped, it can be continued."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import interpolants
from interpolants.cli.image_runs import (
    CHECKPOINTS,
    CLASSIFIER,
    CONFIG,
    EVALUATION,
    LAST_PICTURE,
    LOSS,
    METRICS,
    PICTURES,
    RUN,
    Facts,
    processor_of,
)
from interpolants.cli.runs import DIFFUSION_FILES, FILES
from interpolants.cli.usage import check_run_folder, check_writable, write_text
from interpolants.config import ImageConfig
from interpolants.training import Checkpoints, DamagedCheckpoint
from interpolants.training.checkpoint import read_metadata

_FOLDERS = (CHECKPOINTS, PICTURES, "tensorboard")
_FILES = (RUN, METRICS, LAST_PICTURE, LOSS, EVALUATION, CLASSIFIER)


class RunFolder:
    """Where a run is written, by one process.

    Args:
        path: The folder.
        config: The run's configuration.
        facts: What its images are like.
    """

    def __init__(self, path: Path, config: ImageConfig, facts: Facts) -> None:
        self.path = path
        self.config = config
        self.facts = facts
        self.checkpoints = Checkpoints(path / CHECKPOINTS, keep=config.keep)
        self.notes: list[str] = []
        self._anew = True

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Look whether the run may begin or go on; nothing is written.

        Args:
            resume: Whether to continue a run that is there.
            overwrite: Whether to replace a run that is there.

        Raises:
            ValueError: When there is something in the way, or another run to continue.
            OSError: When the folder cannot be written.
        """
        if resume and overwrite:
            raise ValueError("--resume goes on with a run and --overwrite replaces it; give one of them")
        if resume and self.path.is_dir() and self._is_ours():
            check_writable(self.path)
            self._anew = not self._can_go_on()
        else:
            check_run_folder(self.path, overwrite)

    def begin(self, device: torch.device, given: Sequence[str]) -> None:
        """Make the folder ready; after this a run that is stopped at any moment can be continued.

        Raises:
            OSError: When it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob(".*.partial"):  # Of a process that was killed while it wrote.
            leftover.unlink(missing_ok=True)
        if self._anew:
            self._clear()
        write_text(self.path / CONFIG, self.config.to_json())
        starts = [] if self._anew else _read_starts(self.path / RUN)
        starts.append(_start(self.facts, device, given))
        write_text(self.path / RUN, json.dumps({"starts": starts}, indent=2) + "\n")

    def _is_ours(self) -> bool:
        """Return whether nothing in the folder speaks against a run that had hardly begun."""
        names = {path.name for path in self.path.iterdir() if not path.name.endswith(".partial")}
        return CONFIG in names or names <= {*_FILES, *_FOLDERS}

    def _can_go_on(self) -> bool:
        """Return whether there is a checkpoint to go on from.

        Raises:
            ValueError: When the run that is there is another one.
        """
        config = self._config_there()
        if config is not None and (differences := config.differences(self.config)):
            raise ValueError(f"{self.path} holds another run: {'; '.join(differences)}")
        try:
            found = self.checkpoints.latest()
        except DamagedCheckpoint as error:
            self.notes.append(f"{error}; beginning anew")
            return False
        if config is None or found is None:
            return False
        made = json.loads(found[1]["training"])["step"]
        if made > self.config.steps:
            raise ValueError(
                f"{self.path} has made {made:,} steps already; --steps must be at least as many, "
                f"got {self.config.steps:,}"
            )
        facts = Facts.from_json(found[1]["facts"])
        if facts != self.facts:
            raise ValueError(
                f"the images are no longer those of {self.path}: {facts.images:,} of shape {facts.shape} "
                f"then, {self.facts.images:,} of shape {self.facts.shape} now, or other labels"
            )
        return True

    def _config_there(self) -> ImageConfig | None:
        try:
            text = (self.path / CONFIG).read_text()
            json.loads(text)
        except (OSError, ValueError):
            # Torn by something other than this command, which replaces it in one go.
            for path in reversed(self.checkpoints.paths()):
                try:
                    return ImageConfig.from_json(read_metadata(path)["config"])
                except (DamagedCheckpoint, KeyError):
                    continue
            return None
        try:
            return ImageConfig.from_json(text)
        except ValueError as error:
            raise ValueError(f"{self.path} holds a run of another kind or version: {error}") from error

    def _clear(self) -> None:
        # Checkpoints first: one without the rest would be continued.
        for name in _FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in {*_FILES, *FILES, *DIFFUSION_FILES} - {CONFIG}:
            (self.path / name).unlink(missing_ok=True)


class Metrics:
    """The figures of a training, a JSON object in each line of a file.

    Args:
        path: The file.
        step: The step that the training goes on from; later lines, and a torn one, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        self.seconds: float = kept[-1]["seconds"] if kept else 0.0
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def add(self, figures: dict[str, Any]) -> None:
        """Write one line, so that it is in the file when this returns."""
        self._file.write(json.dumps({name: _plain(value) for name, value in figures.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file of metrics; none when there is no file."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _plain(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_starts(path: Path) -> list[Any]:
    try:
        return list(json.loads(path.read_text())["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _start(facts: Facts, device: torch.device, given: Sequence[str]) -> dict[str, Any]:
    return {
        "command": shlex.join(["interpolants", *given]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": str(device),
        "processor": processor_of(device),
        "processes": _processes(),
        "versions": _versions(),
        "images": facts.images,
        "shape": list(facts.shape),
    }


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "interpolants": interpolants.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in ("numpy", "accelerate"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def say(text: str) -> None:
    """Print a note beside the work."""
    print(f"note: {text}", file=sys.stderr)
