"""The training towards images: the loop, and everything that happens between two steps."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from interpolants.cli.image_folder import Metrics, RunFolder, read_metrics
from interpolants.cli.image_runs import LAST_PICTURE, LOSS, METRICS, PICTURES, ImageRun
from interpolants.cli.image_samples import Drawing
from interpolants.cli.usage import Stop, UsageError, explained, warnings_noted
from interpolants.config import (
    ImageConfig,
    generator_of,
    image_optimizer_of,
    image_source_of,
    loss_of,
    sampler_of,
    schedule_of,
)
from interpolants.config.images import Split
from interpolants.data import ImageBatches
from interpolants.data.seeds import mixed
from interpolants.plotting import image_grid, loss_curve, save
from interpolants.training import Accelerated, Alone, Engine, NonFiniteLoss, Step, Trainer

_SHOWN = 64


def engine_of(config: ImageConfig, device: torch.device) -> Engine:
    """Return where a configuration runs: this process alone unless something else is asked for."""
    if several() or config.sharded or config.precision != "no":
        return Accelerated(precision=config.precision, sharded=config.sharded, cpu=device.type == "cpu")
    return Alone()


def several() -> bool:
    """Return whether a launcher has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Training:
    """A training that is ready to start or to go on.

    Args:
        run: The run.
        split: Its images.
        folder: Where it is written.
        engine: Where it runs.
        tensorboard: Whether to write for TensorBoard too.

    Raises:
        ValueError: When something in the configuration cannot be used.
    """

    def __init__(
        self, run: ImageRun, split: Split, folder: RunFolder, engine: Engine, *, tensorboard: bool
    ) -> None:
        config = run.config
        self.run, self.folder, self.engine = run, folder, engine
        self.first = engine.index == 0
        _seed_global_generators(mixed(config.seed, "global", engine.index))
        self.source = image_source_of(config, run.facts.shape)
        batches = ImageBatches(
            split.train,
            config.batch_size // config.accumulate,
            source=self.source,
            seed=config.seed,
            process=engine.index,
            processes=engine.count,
            workers=config.workers,
            device=run.device,
            labels=config.conditional,
            flip=config.flip,
        )
        self.trainer = Trainer(
            run.network,
            loss_of(config, run.interpolant),
            batches,
            steps=config.steps,
            optimizer=image_optimizer_of(config),
            generator=generator_of(config, "training", run.device),
            compile=config.compile,
            engine=engine,
            schedule=schedule_of(config),
            accumulate=config.accumulate,
            clip=config.clip or None,
            averages=config.averages,
            skip_non_finite=config.skip_non_finite,
        )
        run.field()
        self._sampler = sampler_of(config, end_only=True)
        self._split = split
        self._evaluate: Callable[[Any], float] | None = None
        self._writers = _writers() if tensorboard and self.first else None
        self._writer: Any = None

    def make(self, stop: Stop) -> bool:
        """Train; return False when asked to stop before the end, with everything learned in a checkpoint.

        Raises:
            UsageError: When the loss is not finite, or something cannot be written.
        """
        with explained():
            start = self.trainer.resume(self.folder.checkpoints)
        with self._writing("at the start"):
            metrics = Metrics(self.folder.path / METRICS, start) if self.first else None
        if self._writers is not None:
            self._writer = self._writers(str(self.folder.path / "tensorboard"), purge_step=start + 1)
        try:
            with warnings_noted():
                return self._made(start, stop, metrics)
        except NonFiniteLoss as error:
            raise UsageError(" ".join(str(error).split())) from error
        finally:
            if metrics is not None:
                metrics.close()
            if self._writer is not None:
                self._writer.close()

    def _made(self, start: int, stop: Stop, metrics: Metrics | None) -> bool:
        config, trainer = self.run.config, self.trainer
        clock = _Clock(start, metrics.seconds if metrics is not None else 0.0)
        stopped = False
        with _bar(trainer.steps, start, hidden=not self.first) as bar:
            for step in trainer:
                k = step.index
                last = k == trainer.steps
                figures: dict[str, Any] = {}
                if _due(k, config.evaluate_every, last):
                    with self._writing(f"at step {k}"):
                        figures["frechet"] = self._frechet()
                stopped = self.engine.agree(bool(stop))
                bar.update(1)
                with self._writing(f"at step {k}"):
                    if figures or k % config.log_every == 0 or last:
                        self._log(step, figures, clock, metrics, bar)
                    if _due(k, config.picture_every, last):
                        self._picture(self.folder.path / PICTURES / f"step-{k:08d}.png")
                    if k % config.checkpoint_every == 0 or last or stopped:
                        self._save(figures.get("frechet"))
                if stopped:
                    break
        return trainer.index == trainer.steps

    @contextmanager
    def _writing(self, when: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"cannot write into {self.folder.path} {when}: {error.strerror or error}; "
                "the checkpoints written before are whole"
            ) from error

    def _log(
        self, step: Step, more: dict[str, Any], clock: _Clock, metrics: Metrics | None, bar: tqdm[Any]
    ) -> None:
        if metrics is None:
            return
        loss = float(step.loss)
        seconds, rate = clock.read(step.index)
        figures = {
            "step": step.index,
            "loss": loss,
            "gradient_norm": None if step.gradient_norm is None else float(step.gradient_norm),
            "learning_rate": float(self.trainer.optimizer.param_groups[0]["lr"]),
            "images_per_second": rate * self.run.config.batch_size,
            "seconds": seconds,
            **more,
        }
        metrics.add(figures)
        bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        if self._writer is not None:
            for name, value in figures.items():
                if name != "step" and value is not None:
                    self._writer.add_scalar(name, value, step.index)

    def _save(self, figure: float | None) -> None:
        try:
            self.trainer.save(self.folder.checkpoints, figure=figure, metadata=self.run.metadata)
        except ValueError as error:
            raise UsageError(f"no checkpoint of step {self.trainer.index}: {error}") from error

    @property
    def _shown_network(self) -> nn.Module:
        return next(iter(self.trainer.averages.values()), self.trainer.network)

    def drawing(self, seed: int) -> Drawing:
        """Return how images are drawn from what is learned so far."""
        field = self.run.field(self._shown_network)
        return Drawing(field, self._sampler, self.run, source=self.source, seed=seed)

    def _picture(self, path: Path) -> None:
        if not self.first and not self.run.config.sharded:
            return
        with evaluating(self._shown_network):
            images = self.drawing(self.run.config.seed).batch(0, _SHOWN).images
        if self.first:
            path.parent.mkdir(exist_ok=True)
            image_grid(images, path)

    def _frechet(self) -> float | None:
        from interpolants.cli.image_quality import Frechet

        if not self.first and not self.run.config.sharded:
            return None
        if self._evaluate is None:
            self._evaluate = Frechet(self.run, self._split, self.folder.path)
        with evaluating(self._shown_network):
            return self._evaluate(self.drawing(self.run.config.seed))

    def draw(self) -> list[Path]:
        """Write the pictures of a finished training and return where they are."""
        with self._writing("after the last step"):
            return self._drawn()

    def _drawn(self) -> list[Path]:
        made = [self.folder.path / LAST_PICTURE]
        self._picture(made[0])
        lines = [line for line in read_metrics(self.folder.path / METRICS) if line["loss"] is not None]
        if lines and self.first:
            curve = loss_curve(
                [line["step"] for line in lines], [line["loss"] for line in lines], log_steps=True
            )
            made.append(save(curve, self.folder.path / LOSS))
        return made


class _Clock:
    """Time spent in training, over all starts, and the steps each second since it was last read."""

    def __init__(self, step: int, seconds: float) -> None:
        self._step, self._before = step, seconds
        self._start = self._last = time.perf_counter()

    def read(self, step: int) -> tuple[float, float]:
        now = time.perf_counter()
        rate = (step - self._step) / max(now - self._last, 1e-9)
        self._step, self._last = step, now
        return self._before + now - self._start, rate


class evaluating:  # noqa: N801 - it is used as a statement
    """A network, for a while without dropout and gradients."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._modes = {module: module.training for module in network.modules()}
        self._gradients = torch.no_grad()

    def __enter__(self) -> None:
        self._network.eval()
        self._gradients.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._gradients.__exit__(*error)
        for module, mode in self._modes.items():
            module.training = mode


def _seed_global_generators(seed: int) -> None:
    """Seed what dropout draws from, and what data sets of the user's own may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - it is there


def _due(step: int, every: int, last: bool) -> bool:
    return every > 0 and (step % every == 0 or last)


def _bar(steps: int, start: int, *, hidden: bool) -> tqdm[Any]:
    interval = 0.2 if sys.stderr.isatty() else 2.0
    return tqdm(
        total=steps,
        initial=start,
        desc="training",
        unit=" steps",
        mininterval=interval,
        maxinterval=5 * interval,
        disable=hidden,
    )


def _writers() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            '--tensorboard needs tensorboard: pip install "interpolants[tensorboard]"'
        ) from error
    return SummaryWriter
