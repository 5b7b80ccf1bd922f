"""What the commands do with images."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tqdm import tqdm

from interpolants.cli.image_folder import RunFolder, say
from interpolants.cli.image_quality import EXTRACTORS, REFERENCES, extractor_of, quality_of, real_sets
from interpolants.cli.image_runs import EVALUATION, Facts, ImageRun, is_image_run, run_folder_of
from interpolants.cli.image_samples import Drawing, Parts, check_out, sampler_named
from interpolants.cli.image_training import Training, engine_of, several
from interpolants.cli.usage import check_installed, check_writable, explained, stops_noted, write_text
from interpolants.config import ImageConfig, device_of, image_sets_of, image_source_of
from interpolants.training import Accelerated, Alone, Engine


@dataclass(frozen=True)
class TrainImages(ImageConfig):
    """Train a network to draw images; stop it at any moment and go on with --resume.

    Example: interpolants train digits --out runs/digits --resume

    Example: torchrun --nproc-per-node 2 -m interpolants train folder --data photos

    Attributes:
        out: Folder to write into.
        resume: Go on with the run that is there, if there is one.
        overwrite: Replace the run that is there.
        tensorboard: Write for TensorBoard too.
    """

    images: Annotated[str, tyro.conf.Positional] = "digits"
    out: Path = Path("runs/images")
    resume: bool = False
    overwrite: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Leave the values to :meth:`run`, whose refusal is one line where the parser's is a box."""

    def run(self, given: Sequence[str] = ()) -> int:
        """Run the command and return its exit code."""
        with stops_noted() as stop:
            training = self._prepared(given)
            finished = training.make(stop)
            if not finished:
                if training.first:
                    where = self.out
                    say(f"stopped after {training.trainer.index} steps; --resume goes on with {where}")
                return stop.exit_code
            made = training.draw()
        if training.first:
            print(f"{training.trainer.index:,} steps; checkpoints and figures are in {self.out}")
            for path in made:
                print(path)
        return 0

    def _prepared(self, given: Sequence[str]) -> Training:
        with explained():
            config = self._plain()
            check_installed("safetensors", "matplotlib", "PIL")
            torch.set_num_threads(config.threads)
            device = device_of(config)
            engine = engine_of(config, device)
            device = getattr(engine, "device", device)
            if config.batch_size % (config.accumulate * engine.count):
                raise ValueError(
                    f"--batch-size must be divisible by --accumulate times the {engine.count} processes; "
                    f"got {config.batch_size}"
                )
            split = image_sets_of(config)
            facts = Facts.of(split)
            run = ImageRun.made(config, facts, device)
            folder = RunFolder(self.out, config, facts)
            training = Training(run, split, folder, engine, tensorboard=self.tensorboard)
            # One process looks and writes; the others would find what it has written.
            if training.first:
                folder.check(resume=self.resume, overwrite=self.overwrite)
                folder.begin(device, given)
            engine.agree(False)
        for note in folder.notes:
            say(note)
        return training

    def _plain(self) -> ImageConfig:
        return ImageConfig(**{name: getattr(self, name) for name in ImageConfig.__dataclass_fields__})


def sample_images(
    path: Path,
    *,
    n: int,
    method: str,
    steps: int,
    sde: str,
    label: int | None,
    guidance: float,
    weights: str,
    batch_size: int,
    seed: int,
    device: str,
    out: Path,
    overwrite: bool,
) -> int:
    """Draw images from a run and write them; every process draws its share of the batches."""
    with explained():
        check_installed("PIL")
        place, engine = placed(device)
        run = ImageRun.loaded(path, place, weights)
        drawing = drawing_of(run, method, steps, sde, label=label, guidance=guidance, seed=seed)
        first = engine.index == 0
        if first:
            check_out(out, overwrite)
            check_writable(out.absolute().parent)
        engine.agree(False)
    parts = Parts(out, n, batch_size)
    with progress(n, "sampling", hidden=not first) as bar, explained():
        if first:
            parts.begin()
        engine.agree(False)
        try:
            for count in parts.write(drawing, engine.index, engine.count):
                bar.update(count * engine.count)
            engine.agree(False)
            if first:
                parts.finish(drawing.labels(n, batch_size))
        except BaseException:
            parts.remove()
            raise
    if first:
        print(f"{n:,} images from the {weights} weights of step {run.step:,}: {out}")
    return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure how good the images of a run are, beside what real images get.

    Example: interpolants evaluate runs/digits --n 10000

    Attributes:
        run_folder: The run folder, or one of its checkpoints.
        n: Images to draw.
        reference: Compare with the images trained on, or those held out: train or test.
        real: Real images to compare with at most.
        extractor: classifier, trained on the same images, or inception.
        weights: averaged, last, or the decay of an average.
        label: Draw images of this class only, and compare with those.
        guidance: Scale of classifier-free guidance.
        method: euler, heun, rk4, dopri5, ddim, ...; the run's own by default.
        sde: Sample an SDE: epsilon as a number, gamma:C or alpha:C.
        steps: Steps along the flow; 0 for the run's own.
        batch_size: Images to draw at once.
        seed: Fixes every random number.
        device: auto, cpu, cuda, ...
        out: File for the figures, ending in .json; evaluation.json in the run
            folder by default.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    n: int = 10_000
    reference: str = "train"
    real: int = 10_000
    extractor: str = "classifier"
    weights: str = "averaged"
    label: int | None = None
    guidance: float = 1.0
    method: str = ""
    sde: str = ""
    steps: int = 0
    batch_size: int = 256
    seed: int = 0
    device: str = "auto"
    out: Path | None = None

    def run(self) -> int:
        """Run the command and return its exit code."""
        with explained():
            self._check()
            place = device_of(ImageConfig(device=self.device))
            run = ImageRun.loaded(self.run_folder, place, self.weights)
            method, steps = self.method or run.config.method, self.steps or run.config.sample_steps
            drawing = drawing_of(
                run, method, steps, self.sde, label=self.label, guidance=self.guidance, seed=self.seed
            )
            split = image_sets_of(run.config)
            compared = real_sets(split, self.label, n=self.n, real=self.real)
            folder = run_folder_of(self.run_folder)
            out = self.out or (folder or Path()) / EVALUATION
            check_writable(out.absolute().parent)
            extractor = extractor_of(self.extractor, run, split, folder)
        with progress(self.n, "sampling") as bar, explained():
            quality = quality_of(
                drawing,
                compared,
                extractor,
                n=self.n,
                real=self.real,
                reference=self.reference,
                batch_size=self.batch_size,
                tick=bar.update,
            )
        asked = {
            "step": run.step,
            "weights": self.weights,
            "method": method,
            "sde": self.sde,
            "steps": steps,
            "label": self.label,
            "guidance": self.guidance,
            "seed": self.seed,
            "reference": self.reference,
            "extractor": self.extractor,
        }
        with explained():
            write_text(out, json.dumps({**asked, **quality.to_dict()}, indent=2) + "\n")
        print(f"{self.n:,} images from the {self.weights} weights of step {run.step:,}; real: the floor")
        print(quality.table())
        print(out)
        return 0

    def _check(self) -> None:
        if several():
            raise ValueError("evaluate runs in one process: start it without a launcher")
        for flag, number in (("--n", self.n), ("--real", self.real), ("--batch-size", self.batch_size)):
            if number < 1:
                raise ValueError(f"{flag} must be at least 1; got {number}")
        if self.out is not None and (self.out.suffix != ".json" or self.out.is_dir()):
            raise ValueError(f"--out must be a file that ends in .json; got {self.out}")
        if self.steps < 0:
            raise ValueError(f"--steps must not be negative; got {self.steps}")
        for kind, name, known in (
            ("reference", self.reference, REFERENCES),
            ("extractor", self.extractor, EXTRACTORS),
        ):
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}")
        if not self.run_folder.exists():
            raise ValueError(f"there is no run at {self.run_folder}")
        if not is_image_run(self.run_folder):
            raise ValueError(f"{self.run_folder} is no run towards images; evaluate measures those only")


def placed(device: str) -> tuple[torch.device, Engine]:
    """Return the device of this process, and where it stands among the others.

    Raises:
        ValueError: When there is no such device here.
    """
    place = device_of(ImageConfig(device=device))
    if not several():
        return place, Alone()
    engine = Accelerated(cpu=place.type == "cpu")
    return engine.device, engine


def drawing_of(
    run: ImageRun, method: str, steps: int, sde: str, *, label: int | None, guidance: float, seed: int
) -> Drawing:
    """Return how images are drawn from a trained run.

    Raises:
        ValueError: When something cannot be had from this run.
    """
    config, classes = run.config, run.facts.classes
    # As in the training, and the same whatever the number of processes: it decides how sums are rounded.
    torch.set_num_threads(config.threads)
    if not math.isfinite(guidance):
        raise ValueError(f"--guidance must be finite; got {guidance}")
    if label is not None or guidance != 1:
        if not config.conditional:
            raise ValueError("--label and --guidance need a run trained with --conditional")
        assert classes is not None
        if label is not None and not 0 <= label < classes:
            raise ValueError(f"--label must be one of 0 to {classes - 1}; got {label}")
        if guidance != 1 and config.class_dropout == 0:
            raise ValueError("--guidance needs a run trained with --class-dropout above 0")
    sampler = sampler_named(method, steps, sde)
    field = run.field()
    if sde or method == "ddim":
        # These suit some paths only, which is better known before the work than after.
        given = {"label": torch.zeros(1, dtype=torch.int64, device=run.device)} if config.conditional else {}
        start = torch.zeros(1, *run.facts.shape, device=run.device)
        noise = torch.Generator(run.device).manual_seed(0)
        sampler_named(method, 1, sde).sample(field, start, generator=noise, **given)
    source = image_source_of(config, run.facts.shape)
    return Drawing(field, sampler, run, source=source, seed=seed, label=label, guidance=guidance)


def progress(n: int, what: str, *, hidden: bool = False) -> tqdm[Any]:
    """Return a bar for images."""
    interval = 0.2 if sys.stderr.isatty() else 2.0
    return tqdm(total=n, desc=what, unit=" images", mininterval=interval, disable=hidden)
