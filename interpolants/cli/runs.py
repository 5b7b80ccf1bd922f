"""One run of the two-dimensional system: prepared, trained, saved, measured."""

from __future__ import annotations

import json
import platform
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import interpolants
from interpolants.checks import check_interpolant
from interpolants.cli.usage import write_text
from interpolants.config import (
    Config,
    density_of,
    device_of,
    field_of,
    generator_of,
    interpolant_of,
    learning_rate_at,
    loss_of,
    network_of,
    optimizer_of,
    sampler_of,
)
from interpolants.data import Density, KnownDensity, RandomPairs
from interpolants.fields import LearnedField
from interpolants.interpolant import Interpolant
from interpolants.losses import Loss
from interpolants.metrics import sliced_wasserstein2, wasserstein2
from interpolants.training import Trainer, load_checkpoint, save_checkpoint

CHECKPOINT = "checkpoint.safetensors"

# Everything a run writes, so that --overwrite removes nothing else.
FILES = (
    CHECKPOINT,
    "config.json",
    "metrics.json",
    "animation.gif",
    "panel.png",
    "field.png",
    "chain.png",
    "loss.png",
)
# What a run with a denoiser writes beside some of these.
DIFFUSION_FILES = ("clouds.png", "log_density.png", "flow_1d.png")


@dataclass(eq=False)
class Run:
    """A run that is ready to start: every name has become an object."""

    config: Config
    p0: Density | KnownDensity
    p1: Density | KnownDensity
    interpolant: Interpolant
    loss: Loss
    network: nn.Module
    device: torch.device
    losses: list[float] = field(default_factory=list)
    loss_every: int = 1
    steps_done: int = 0
    seconds: float = 0.0

    @classmethod
    def prepared(cls, config: Config) -> Run:
        """Return the run of a configuration.

        Raises:
            ValueError: When something in the configuration cannot be used.
            OSError: When a picture cannot be read.
        """
        p0, p1 = density_of(config.p0, shipped="p0"), density_of(config.p1, shipped="p1")
        interpolant = interpolant_of(config)
        if ":" in config.interpolant:
            check_interpolant(interpolant)
        device = device_of(config)
        sampler_of(config)
        network = network_of(config).to(device)
        for module in interpolant.modules_to_train().values():
            module.to(device)
        return cls(config, p0, p1, interpolant, loss_of(config, interpolant), network, device)

    @classmethod
    def loaded(cls, path: Path, device: str) -> Run:
        """Return the run of a checkpoint, trained as far as it was.

        Raises:
            FileNotFoundError: When there is no checkpoint.
            ValueError: When it is none of this command's, or is damaged.
        """
        tensors, metadata = load_checkpoint(path)
        if "config" not in metadata:
            raise ValueError(f"{path} holds no configuration, so it is not a checkpoint of this command")
        config = Config.from_json(metadata["config"])
        where = device_of(Config(device=device))
        ends: list[Density | KnownDensity] = []
        for name, given in (("p0", config.p0), ("p1", config.p1)):
            if given in KnownDensity.names():
                ends.append(KnownDensity(given))
            elif name in tensors:
                ends.append(Density(tensors.pop(name), name))
            else:
                raise ValueError(f"{path} holds no densities, so it is not a checkpoint of this command")
        p0, p1 = ends
        interpolant = interpolant_of(config)
        run = cls(config, p0, p1, interpolant, loss_of(config, interpolant), network_of(config), where)
        try:
            run.trained.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit its own configuration: {error}") from error
        run.trained.to(where)
        return run

    @property
    def trained(self) -> nn.ModuleDict:
        """Everything that training changes."""
        return nn.ModuleDict({"network": self.network, **self.interpolant.modules_to_train()})

    @property
    def learned(self) -> LearnedField:
        """The field of the network."""
        return field_of(self.config, self.interpolant, self.network)

    def draw(self, density: Density | KnownDensity, n: int, generator: torch.Generator) -> Tensor:
        """Return ``n`` points of a density on the run's device."""
        return density.sample(n, generator=generator).to(self.device)

    def train(self, stop: threading.Event) -> bool:
        """Train with a progress bar; return False when told to stop, keeping what was learned."""
        config = self.config
        data = generator_of(config, "data")
        training = generator_of(config, "training", self.device)
        batches = RandomPairs(
            self.draw(self.p0, config.points, data),
            self.draw(self.p1, config.points, data),
            config.batch_size,
            generator=training,
        )
        # A number in the optimiser where it stays the same: a tensor there costs every step a little.
        rate = torch.tensor(config.learning_rate) if config.schedule != "constant" else None
        trainer = Trainer(
            self.network,
            self.loss,
            batches,
            steps=config.steps,
            optimizer=optimizer_of(config, rate),
            generator=training,
            compile=config.compile,
        )
        self.loss_every = max(1, config.steps // 4096)
        kept: list[Tensor] = []
        started = time.perf_counter()
        try:
            self._make_steps(trainer, kept, stop, rate)
        finally:
            self.seconds = time.perf_counter() - started
            self.losses = torch.stack(kept).tolist() if kept else []
            self.steps_done = trainer.index
        return trainer.index == config.steps

    def _make_steps(
        self, trainer: Trainer, kept: list[Tensor], stop: threading.Event, rate: Tensor | None
    ) -> None:
        interval = 0.2 if sys.stderr.isatty() else 2.0
        shown = 0
        with tqdm(
            total=trainer.steps,
            desc="training",
            unit=" steps",
            mininterval=interval,
            maxinterval=5 * interval,
        ) as bar:
            if rate is not None:
                rate.fill_(learning_rate_at(self.config, 0))
            for step in trainer:
                if rate is not None:
                    rate.fill_(learning_rate_at(self.config, step.index))
                if step.index % self.loss_every == 0:
                    kept.append(step.loss)
                if step.index - shown >= 64 or step.index == trainer.steps:
                    bar.set_postfix_str(f"loss {float(step.loss):.4f}", refresh=False)
                    bar.update(step.index - shown)
                    shown = step.index
                if stop.is_set():
                    break

    def save(self, folder: Path) -> Path:
        """Write checkpoint and configuration, and return where the checkpoint is."""
        folder.mkdir(parents=True, exist_ok=True)
        ends = {"p0": self.p0, "p1": self.p1}
        densities = {name: end.values for name, end in ends.items() if isinstance(end, Density)}
        metadata = {
            "config": self.config.to_json(),
            "interpolants": interpolants.__version__,
            "steps": str(self.steps_done),
        }
        # The checkpoint first: an older one is replaced only by a whole one.
        path = save_checkpoint(folder / CHECKPOINT, {**self.trained.state_dict(), **densities}, metadata)
        write_text(folder / "config.json", self.config.to_json())
        for name in (*FILES[2:], *DIFFUSION_FILES):
            (folder / name).unlink(missing_ok=True)
        return path

    def metrics(self, generated: Tensor, generator: torch.Generator) -> dict[str, Any]:
        """Return how far the generated points are from the target, beside how far fresh target points are."""
        fresh, other = (self.p1.sample(len(generated), generator=generator) for _ in range(2))
        directions = [torch.Generator().manual_seed(0) for _ in range(2)]
        points = generated.cpu()
        return {
            "wasserstein2": wasserstein2(points, fresh),
            "wasserstein2_floor": wasserstein2(other, fresh),
            "sliced_wasserstein2": sliced_wasserstein2(points, fresh, generator=directions[0]),
            "sliced_wasserstein2_floor": sliced_wasserstein2(other, fresh, generator=directions[1]),
            "loss": sum(self.losses[-64:]) / max(1, len(self.losses[-64:])),
            "steps": self.steps_done,
            "steps_per_second": self.steps_done / self.seconds,
            "seconds": self.seconds,
            "device": _device_name(self.device),
            "versions": {
                "interpolants": interpolants.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }


def save_metrics(metrics: dict[str, Any], folder: Path) -> Path:
    """Write ``metrics.json``."""
    return write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
