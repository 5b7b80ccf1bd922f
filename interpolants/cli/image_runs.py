"""One run towards images: its parts, what its data are like, and what its folder holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpolants.checks import check_interpolant
from interpolants.config import ImageConfig, image_field_of, image_network_of, interpolant_of
from interpolants.config.images import Split
from interpolants.fields import LearnedField
from interpolants.interpolant import Interpolant
from interpolants.training import Checkpoints, load_checkpoint
from interpolants.training.checkpoint import read_metadata

CONFIG = "config.json"
RUN = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
PICTURES = "samples"
LAST_PICTURE = "samples.png"
LOSS = "loss.png"
EVALUATION = "evaluation.json"
CLASSIFIER = "classifier.safetensors"


@dataclass(frozen=True)
class Facts:
    """What a run needs to know of its data once they are out of reach.

    Attributes:
        shape: Channels, height and width.
        images: How many there are to train on.
        classes: How many classes their labels tell apart; None without.
        counts: How many images each class has; None where only loading tells.
    """

    shape: tuple[int, int, int]
    images: int
    classes: int | None
    counts: tuple[int, ...] | None

    @classmethod
    def of(cls, split: Split) -> Facts:
        """Return the facts of the images to train on."""
        train = split.train
        counts = None
        if train.labels is not None and train.classes is not None:
            counts = tuple(torch.bincount(train.labels.cpu(), minlength=train.classes).tolist())
        return cls(train.shape, len(train), train.classes, counts)

    def to_json(self) -> str:
        """Return the facts as JSON text; :meth:`from_json` reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Return the facts that :meth:`to_json` wrote."""
        values = json.loads(text)
        counts = values["counts"]
        return cls(
            tuple(values["shape"]),
            values["images"],
            values["classes"],
            None if counts is None else tuple(counts),
        )


@dataclass(eq=False)
class ImageRun:
    """A run whose names have become objects."""

    config: ImageConfig
    facts: Facts
    interpolant: Interpolant
    network: nn.Module
    device: torch.device
    step: int = 0

    @classmethod
    def made(cls, config: ImageConfig, facts: Facts, device: torch.device) -> ImageRun:
        """Return a run that has not begun.

        Raises:
            ValueError: When something in the configuration cannot be used.
        """
        interpolant = interpolant_of(config)
        if ":" in config.interpolant:
            check_interpolant(interpolant)
        network = image_network_of(config, facts.shape, facts.classes).to(device)
        for module in interpolant.modules_to_train().values():
            module.to(device)
        return cls(config, facts, interpolant, network, device)

    @classmethod
    def loaded(cls, path: Path, device: torch.device, weights: str = "averaged") -> ImageRun:
        """Return the run of a folder, as far as it got, or of one of its checkpoints.

        Args:
            path: The folder or the file.
            device: Where to put it.
            weights: ``averaged``, ``last``, or the decay of one of the averages.

        Raises:
            FileNotFoundError: When there is no checkpoint.
            ValueError: When it is none of this command's, or has no such weights.
        """
        tensors, metadata = _checkpoint_at(path)
        if "facts" not in metadata:
            raise ValueError(f"{path} is no checkpoint of a run towards images")
        config = ImageConfig.from_json(metadata["config"])
        run = cls.made(config, Facts.from_json(metadata["facts"]), torch.device("cpu"))
        prefix = _prefix(config, weights)
        _load(run.network, prefix, tensors)
        for name, module in run.interpolant.modules_to_train().items():
            _load(module, f"objective/path.{name}.", tensors)
            module.to(device)
        run.network.to(device).eval().requires_grad_(False)
        run.device = device
        run.step = json.loads(metadata["training"])["step"]
        return run

    def field(self, network: nn.Module | None = None) -> LearnedField:
        """Return the field of the run's network, or of an average of it."""
        return image_field_of(self.config, self.interpolant, self.network if network is None else network)

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into every checkpoint beside the state of the training."""
        return {"config": self.config.to_json(), "facts": self.facts.to_json()}


def is_image_run(path: Path) -> bool:
    """Return whether a folder or a checkpoint is of a run towards images."""
    try:
        text = (path / CONFIG).read_text() if path.is_dir() else read_metadata(path).get("config", "")
        return "images" in json.loads(text)
    except (OSError, ValueError, TypeError):
        return False


def run_folder_of(path: Path) -> Path | None:
    """Return the folder of a run, given that folder or one of its checkpoints; None if it is elsewhere."""
    if path.is_dir():
        return path
    checkpoints = path.absolute().parent
    folder = checkpoints.parent
    return folder if checkpoints.name == CHECKPOINTS and (folder / CONFIG).is_file() else None


def processor_of(device: torch.device) -> str:
    """Return what a device is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _checkpoint_at(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_dir():
        return load_checkpoint(path)
    found = Checkpoints(path / CHECKPOINTS).latest()
    if found is None:
        raise FileNotFoundError(f"{path} holds no checkpoint yet")
    return found[0], found[1]


def _prefix(config: ImageConfig, weights: str) -> str:
    if weights == "last" or (weights == "averaged" and not config.averages):
        return "objective/network."
    if weights == "averaged":
        return f"average/{config.averages[0]!r}/"
    try:
        decay = float(weights)
    except ValueError:
        decay = -1.0
    if decay not in config.averages:
        known = ", ".join(("averaged", "last", *map(str, config.averages)))
        raise ValueError(f"unknown weights {weights!r}; this run has {known}")
    return f"average/{decay!r}/"


def _load(module: nn.Module, prefix: str, tensors: Mapping[str, Any]) -> None:
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit its own configuration: {error}") from error
