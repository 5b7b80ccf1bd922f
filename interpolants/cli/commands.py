"""What each command does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from interpolants.cli.runs import CHECKPOINT, Run, save_metrics
from interpolants.cli.usage import (
    UsageError,
    check_installed,
    check_run_folder,
    check_writable,
    explained,
    interrupts_noted,
)
from interpolants.config import IMAGE_PRESETS, PRESETS, Config, generator_of, imported_interpolant, sampler_of
from interpolants.training import NonFiniteLoss


@dataclass(frozen=True)
class _Training(Config):
    """What training commands share.

    Attributes:
        out: Folder to write into.
        overwrite: Replace the run that is there.
    """

    out: Path = Path("runs/train")
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Leave the values to :meth:`run`, whose refusal is one line where the parser's is a box."""

    def _prepared(self) -> Run:
        with explained():
            check_run_folder(self.out, self.overwrite)
            check_installed("safetensors", "matplotlib", "PIL")
            torch.set_num_threads(self.threads)
            return Run.prepared(self._plain())

    def _plain(self) -> Config:
        return Config(**{name: getattr(self, name) for name in Config.__dataclass_fields__})

    def _trained(self, run: Run) -> bool:
        diverged: NonFiniteLoss | None = None
        with interrupts_noted() as stop:
            try:
                finished = run.train(stop)
            except NonFiniteLoss as error:
                diverged, finished = error, False
            if run.steps_done == 0 and diverged is None:
                print("interrupted before the first step: nothing was learned or written", file=sys.stderr)
                return False
            checkpoint = run.save(self.out)
        if diverged is not None:
            raise UsageError(
                f"the training diverged: the loss of step {diverged.step} is not finite; try a smaller "
                f"--learning-rate. The checkpoint is in {self.out}"
            )
        if not finished:
            print(
                f"interrupted after {run.steps_done} steps; what was learned is in {checkpoint}",
                file=sys.stderr,
            )
        return finished

    def _check_converged(self, run: Run, generated: torch.Tensor) -> None:
        if not generated.isfinite().all():
            raise UsageError(
                f"the training diverged: points are carried to infinity (loss {run.losses[-1]:.3g}); try a "
                f"smaller --learning-rate. The checkpoint is in {self.out}"
            )

    def _measure(
        self,
        run: Run,
        generated: torch.Tensor,
        generator: torch.Generator,
        more: dict[str, Any] | None = None,
    ) -> None:
        self._check_converged(run, generated)
        metrics = {**run.metrics(generated, generator), **(more or {})}
        save_metrics(metrics, self.out)
        print(
            f"{metrics['steps']:,} steps in {metrics['seconds']:.0f} s, "
            f"{metrics['steps_per_second']:.0f} steps/s\n"
            f"Wasserstein-2 of {len(generated):,} generated points to fresh target points: "
            f"{metrics['wasserstein2']:.4f} (two fresh target sets: {metrics['wasserstein2_floor']:.4f})"
        )
        if "negative_log_likelihood" in metrics:
            nats = metrics["negative_log_likelihood"]
            floor = f" (entropy of the target: {nats['floor']:.4f})" if "floor" in nats else ""
            print(
                f"negative log-likelihood of {nats['points']:,} fresh target points: {nats['value']:.4f} "
                f"± {nats['standard_error']:.4f} nats{floor}"
            )


@dataclass(frozen=True)
class Train(_Training):
    """Train a network to carry one density into another: checkpoint, loss curve, figures.

    Example: interpolants train --p0 mine.png --p1 yours.png --out runs/mine

    SDEs and likelihoods: interpolants train sde-2d; images: interpolants train digits --help

    Attributes:
        preset: iadb-2d or sde-2d: what the defaults are.
        out: Folder to write into.
        overwrite: Replace the run that is there.
    """

    preset: Annotated[str, tyro.conf.Positional] = "iadb-2d"

    def run(self) -> int:
        """Run the command and return its exit code."""
        with explained():
            if self.preset not in PRESETS:
                raise ValueError(
                    f"unknown preset {self.preset!r}; known: {', '.join((*PRESETS, *IMAGE_PRESETS))}"
                )
        run = self._prepared()
        if not self._trained(run):
            return 130
        from interpolants.cli.pictures import draw_loss

        sampler = sampler_of(self, end_only=True)
        evaluation = generator_of(self, "evaluation")
        x0 = run.draw(run.p0, self.samples, evaluation)
        generated = sampler.sample(run.learned, x0).final
        if not self.learns_denoiser:
            self._measure(run, generated, evaluation)
            print(draw_loss(run, self.out / "loss.png"))
            return 0
        from interpolants.cli.diffusion import Diffusions

        self._check_converged(run, generated)
        print("sampling by ODE and SDEs, and integrating likelihoods ...", file=sys.stderr)
        diffusions = Diffusions(run)
        self._measure(run, generated, evaluation, diffusions.metrics())
        distances = {**diffusions.distances, "two fresh target sets": diffusions.floor}
        print("sliced Wasserstein-2 of 10,000 points to fresh target points:")
        for name, distance in distances.items():
            print(f"  {name:24}{distance:.4f}")
        for path in (*diffusions.draw(self.out), draw_loss(run, self.out / "loss.png")):
            print(path)
        return 0


@dataclass(frozen=True)
class Demo(_Training):
    """Train IADB between two pictures and show it: animation, fields, random chain, figures.

    Example: interpolants demo --p0 mine.png --p1 yours.png --out runs/mine

    Attributes:
        out: Folder to write into.
        overwrite: Replace the run that is there.
    """

    out: Path = Path("runs/demo")

    def run(self) -> int:
        """Run the command and return its exit code."""
        run = self._prepared()
        if not self._trained(run):
            return 130
        from interpolants.cli.pictures import draw_all

        evaluation = generator_of(self, "evaluation")
        x0 = run.draw(run.p0, self.samples, evaluation)
        trajectory = sampler_of(self).sample(run.learned, x0)
        self._measure(run, trajectory.final, evaluation)
        for path in draw_all(run, trajectory, self.out):
            print(path)
        return 0


@dataclass(frozen=True)
class Sample:
    """Carry new points, or draw new images, with a trained network.

    Example: interpolants sample runs/demo/checkpoint.safetensors --n 10000

    Example: interpolants sample runs/digits --n 50000 --out digits.npz

    Attributes:
        checkpoint: The checkpoint, or the run folder it is in.
        n: How many points or images.
        method: euler, heun, midpoint, rk4, dopri5, ...; ddim for images.
        steps: Steps along the flow.
        reverse: From p1 to p0; points only.
        sde: Images by an SDE: epsilon as a number, gamma:C or alpha:C.
        label: Images of this class only.
        guidance: Scale of classifier-free guidance.
        weights: Of images: averaged, last, or the decay of an average.
        batch_size: Images to draw at once.
        seed: Fixes the starting points.
        device: auto, cpu, cuda, ...
        out: File for points (arrays x0 and x1) or images (images, labels), or
            a folder for images.
        overwrite: Replace what is there.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    # A launcher such as torchrun takes --n for a short form of its own options.
    n: Annotated[int, tyro.conf.arg(aliases=("--number",))] = 2_048
    method: str = "euler"
    steps: int = 128
    reverse: bool = False
    sde: str = ""
    label: int | None = None
    guidance: float = 1.0
    weights: str = "averaged"
    batch_size: int = 256
    seed: int = 0
    device: str = "auto"
    out: Path = Path("samples.npz")
    overwrite: bool = False

    def run(self) -> int:
        """Run the command and return its exit code."""
        from interpolants.cli.image_runs import is_image_run

        with explained():
            if not self.checkpoint.exists():
                raise ValueError(f"there is no checkpoint at {self.checkpoint}")
            for flag, number in (("--n", self.n), ("--steps", self.steps), ("--batch-size", self.batch_size)):
                if number < 1:
                    raise ValueError(f"{flag} must be at least 1; got {number}")
        return self._draw_images() if is_image_run(self.checkpoint) else self._carry_points()

    def _draw_images(self) -> int:
        from interpolants.cli.images import sample_images

        if self.reverse:
            raise UsageError("--reverse carries points back; images are only drawn")
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del settings["reverse"]
        return sample_images(settings.pop("checkpoint"), **settings)

    def _carry_points(self) -> int:
        import dataclasses
        import os

        import numpy as np

        for name in ("sde", "label", "guidance", "weights"):
            if getattr(self, name) != getattr(Sample, name):
                raise UsageError(f"--{name} is for runs towards images; {self.checkpoint} is none")
        path = self.checkpoint / CHECKPOINT if self.checkpoint.is_dir() else self.checkpoint
        out = self.out
        with explained():
            run = Run.loaded(path, self.device)
            if out.suffix != ".npz":
                raise ValueError(f"--out must end in .npz; got {out}")
            if out.exists() and not self.overwrite:
                raise ValueError(f"{out} exists already; name another file with --out, or add --overwrite")
            check_writable(out.absolute().parent)
            config = dataclasses.replace(
                run.config, seed=self.seed, method=self.method, sample_steps=self.steps
            )
            sampler = sampler_of(config, end_only=True)
        start = run.draw(run.p1 if self.reverse else run.p0, self.n, generator_of(config, "evaluation"))
        trajectory = sampler.sample(run.learned, start, reverse=self.reverse)
        ends = {"x0": start, "x1": trajectory.final}
        if self.reverse:
            ends = {"x0": trajectory.final, "x1": start}
        partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(file, x0=ends["x0"].cpu().numpy(), x1=ends["x1"].cpu().numpy())
        partial.replace(out)
        print(f"{self.n:,} points, {trajectory.evaluations} evaluations of the network: {out}")
        return 0


@dataclass(frozen=True)
class Check:
    """Check that your interpolant keeps the promises the library relies on.

    Example: interpolants check my_package.paths:Cubic

    Attributes:
        name: Class or instance, as package.module:Class; the current folder is searched too.
    """

    name: Annotated[str, tyro.conf.Positional]

    def run(self) -> int:
        """Run the command and return its exit code."""
        from interpolants.checks import InterpolantError, check_interpolant

        if ":" not in self.name:
            raise UsageError(f"name a class as package.module:Class; got {self.name}")
        with explained():
            interpolant = imported_interpolant(self.name)
        try:
            check_interpolant(interpolant)
        except InterpolantError as error:
            print(error)
            return 1
        print(f"{type(interpolant).__name__} keeps every promise")
        return 0
