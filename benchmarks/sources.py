"""Other sources than Gaussian noise: how good the images are that one small network makes of each.

    python -m benchmarks.sources [--steps 600] [--seed 0] [--images digits] [--out runs/sources] [--save]

The paper of IADB (Heitz, Belcour and Chambon 2023, arXiv 2305.03486) notes that the source need not be
Gaussian, and that other sources gave images of significantly lower quality. Here the same network learns for
the same number of steps to carry

- Gaussian noise, uniform noise and images of another set to the images;
- Gaussian noise and the images of one class to those of another class;

each with independent pairs and with pairs of optimal transport in the minibatch, and each without latent
noise, as IADB does, and with it. Without, there is only the ODE (``ODE, no latent``); with it, by a second
head for the denoiser, the SDE beside the ODE. All take equally many steps, finer towards both ends, where the
fields change fastest.

Quality is the Fréchet distance of the features of a classifier trained on the images, beside what held-out
real images get at the same numbers, with precision and recall. A source image is used once. The standard
errors are those of drawing other images from the same network; another ``--seed`` trains others. The energy
is the mean squared speed of the ODE: what optimal transport is to lower. Of one class few images are held
out, so that what they get is uncertain.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.machine import save
from interpolants import LearnedField, ODESampler, ProportionalToGamma, SDESampler
from interpolants.config import (
    ImageConfig,
    generator_of,
    image_network_of,
    image_optimizer_of,
    image_sets_of,
    interpolant_of,
    loss_of,
    schedule_of,
)
from interpolants.data import Digits, Glyphs, ImageBatches, ImageSet
from interpolants.metrics import Classifier, ImageQuality, image_quality, path_energy, train_classifier
from interpolants.plotting import style
from interpolants.training import Trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FROM, TO = 3, 8
PICTURES = Path(__file__).parents[1] / "docs" / "images"
COUPLINGS = ("independent", "optimal-transport")
MEASURES = ("frechet", "precision", "recall", "coverage")
PLAIN, ODE, SDE = "ODE, no latent", "ODE", "SDE"
GAUSSIAN = "Gaussian noise"
# Standard errors between two distances that are called different.
CLEAR = 3.0


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be carried where.

    Attributes:
        source: What the source is called.
        target: What the target is called.
        draws: The source, as training batches know it.
        starts: Source points to begin with, shape ``(N, C, H, W)``.
        train: The images to train on.
        real: Those images, or as many as are compared with.
        held_out: Images kept from the training.
    """

    source: str
    target: str
    draws: Any
    starts: Tensor
    train: ImageSet
    real: Tensor
    held_out: Tensor


class Made(NamedTuple):
    """What one sampler has made of a task's starting points."""

    task: Task
    coupling: str
    sampler: str
    images: Tensor
    quality: ImageQuality
    energy: float | None


# ---------------------------------------------------------------------------------------------- the tasks


def tasks(images: str, draws: int, seed: int) -> list[Task]:
    """Return the tasks, with enough starting points for so many draws of as many as are held out."""
    train, held_out = image_sets_of(ImageConfig(images=images, size=8, conditional=False))
    other = {"digits": "glyphs", "glyphs": "digits"}[images]
    some = _without_labels(train, 5_000)
    rest = _without_labels(held_out, len(held_out))
    n = draws * len(rest)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *train.shape, generator=generator)
    even = torch.empty(noise.shape).uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)
    foreign: ImageSet = Glyphs(seed=1, size=8) if other == "glyphs" else Digits()
    found = [
        Task(name, images, source, starts, train, some, rest)
        for name, source, starts in (
            (GAUSSIAN, "normal", noise),
            ("uniform noise", "uniform", even),
            (other, foreign, _last(foreign, n)),
        )
    ]
    learnt, kept = train.of_class(TO), _without_labels(held_out.of_class(TO), len(held_out))
    few = _without_labels(learnt, 1_000)
    for_one = (f"{TO}s", learnt, few, kept)
    ours = train.of_class(FROM)
    starts = torch.cat([_without_labels(held_out.of_class(FROM), len(held_out)), _last(ours, n)])
    n = draws * len(kept)
    found.append(Task(GAUSSIAN, for_one[0], "normal", noise[:n], *for_one[1:]))
    found.append(Task(f"{FROM}s", for_one[0], ours, starts[:n], *for_one[1:]))
    return found


def _without_labels(images: ImageSet, at_most: int) -> Tensor:
    return images.batch(torch.arange(min(len(images), at_most)))[0]


def _last(images: ImageSet, n: int) -> Tensor:
    """Return the last images of a set, which an unlimited one never comes to in training."""
    return images.batch(torch.arange(max(0, len(images) - n), len(images)))[0]


# ---------------------------------------------------------------------------------------------- one training


def configured(steps: int, seed: int, coupling: str, *, latent: bool) -> ImageConfig:
    """Return the settings of a training, the same for all sources."""
    return ImageConfig(
        conditional=False,
        gamma="brownian" if latent else "zero",
        learn="both" if latent else "velocity",
        inverse_variance=1.0 if latent else 0.0,
        coupling=coupling,
        width=16,
        blocks=1,
        steps=steps,
        batch_size=64,
        learning_rate=2e-3,
        warm_up=min(50, steps // 2),
        decay="cosine",
        averages=(0.99,),
        seed=seed,
    )


def trained(config: ImageConfig, task: Task) -> LearnedField:
    """Return the field that a network has learnt, with the average of its weights."""
    interpolant = interpolant_of(config)
    trainer = Trainer(
        image_network_of(config, task.train.shape, None),
        loss_of(config, interpolant),
        ImageBatches(task.train, config.batch_size, source=task.draws, seed=config.seed, labels=False),
        steps=config.steps,
        optimizer=image_optimizer_of(config),
        generator=generator_of(config, "training"),
        schedule=schedule_of(config),
        clip=config.clip or None,
        averages=config.averages,
    )
    for _ in trainer:
        pass
    network = trainer.averages[config.averages[0]].eval()
    return LearnedField(interpolant, velocity=network, denoiser=network if config.learns_denoiser else None)


def samplers(steps: int, *, latent: bool) -> dict[str, ODESampler | SDESampler]:
    # With these times a Brownian gamma is smooth in the number of the step.
    times = [math.sin(math.pi * k / (2 * steps)) ** 2 for k in range(steps)] + [1.0]
    if not latent:
        return {PLAIN: ODESampler(times=times)}
    return {ODE: ODESampler(times=times), SDE: SDESampler(ProportionalToGamma(1.0), times=times)}


def made_by(task: Task, config: ImageConfig, classifier: Classifier, sample_steps: int) -> Iterator[Made]:
    """Train once, and yield what every sampler makes of it."""
    field = trained(config, task)
    for name, sampler in samplers(sample_steps, latent=config.learns_denoiser).items():
        generator = generator_of(config, "diffusions")
        path = sampler.sample(field, task.starts, generator=generator)
        images = path.final.clamp(-1, 1)
        quality = image_quality(
            images,
            task.real,
            task.held_out,
            classifier,
            copy_quantile=max(0.01, 1 / (len(task.held_out) + 1)),
            generator=generator_of(config, "evaluation"),
        )
        energy = None if name == SDE else path_energy(path.x, path.t)
        yield Made(task, config.coupling, name, images, quality, energy)


# ---------------------------------------------------------------------------------------------- conclusions


class Comparison(NamedTuple):
    """A source beside Gaussian noise, everything else alike."""

    source: str
    target: str
    coupling: str
    sampler: str
    difference: float
    standard_error: float

    @property
    def verdict(self) -> str:
        """Whether images are worse, better or equal."""
        if abs(self.difference) <= CLEAR * self.standard_error:
            return "equal"
        return "worse" if self.difference > 0 else "better"


def comparisons(rows: Sequence[Made]) -> list[Comparison]:
    """Return every source beside Gaussian noise, by Fréchet distance."""
    bases = {(m.task.target, m.coupling, m.sampler): m for m in rows if m.task.source == GAUSSIAN}
    found = []
    for made in rows:
        base = bases[made.task.target, made.coupling, made.sampler]
        if made is base:
            continue
        ours, theirs = made.quality.frechet.generated, base.quality.frechet.generated
        error = math.hypot(ours.standard_error or 0.0, theirs.standard_error or 0.0)
        key = (made.task.source, made.task.target, made.coupling, made.sampler)
        found.append(Comparison(*key, ours.value - theirs.value, error))
    return found


def conclusions(found: Sequence[Comparison]) -> list[str]:
    """Return, for each source, what the comparisons say of the remark in the paper."""
    pairs = dict.fromkeys((c.source, c.target) for c in found)
    return [_conclusion([c for c in found if (c.source, c.target) == pair]) for pair in pairs]


def _conclusion(found: Sequence[Comparison]) -> str:
    (papers,) = [c for c in found if (c.sampler, c.coupling) == (PLAIN, COUPLINGS[0])]
    others = [c for c in found if c is not papers]
    answer = "confirmed" if papers.verdict == "worse" else "refuted"
    count = {verdict: sum(c.verdict == verdict for c in others) for verdict in ("worse", "equal", "better")}
    ways = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    low, high = (pick(others, key=lambda c: c.difference) for pick in (min, max))
    return (
        f"{papers.source} to {papers.target}: lower quality than from {GAUSSIAN} is {answer} as the "
        f"paper has it, {_way(papers)}: Fréchet distance {_signed(papers)}. In the other ways: {ways}, from "
        f"{_signed(low)} ({_way(low)}) to {_signed(high)} ({_way(high)})"
    )


def _signed(c: Comparison) -> str:
    return f"{c.difference:+.2f} ± {c.standard_error:.2f}"


def _way(made: Comparison | Made) -> str:
    return f"{made.sampler}, {made.coupling}"


# ---------------------------------------------------------------------------------------------- what is shown


def table(rows: Sequence[Made]) -> str:
    """Return the measures of all rows, those of real images above each target."""
    lines = [
        f"{'source':16}{'pairs':19}{'sampler':16}{'Fréchet':>16}{'precision':>16}{'recall':>16}{'energy':>8}"
    ]
    target = ""
    for made in rows:
        quality = made.quality
        measures = (quality.frechet, quality.precision, quality.recall)
        if made.task.target != target:
            target = made.task.target
            floors = "".join(f"{measure.floor!s:>16}" for measure in measures)
            lines += [f"to {target}", f"{'real, held out':51}{floors}"]
        values = "".join(f"{measure.generated!s:>16}" for measure in measures)
        energy = "-" if made.energy is None else f"{made.energy:.1f}"
        lines.append(f"{made.task.source:16}{made.coupling:19}{made.sampler:16}{values}{energy:>8}")
    return "\n".join(lines)


def picture(rows: Sequence[Made], across: int = 10) -> Figure:
    """Return a panel for each task and coupling: source images, and below what becomes of them."""
    every = list(dict.fromkeys(made.task for made in rows))
    drawing, panels = style.figure(len(every), len(COUPLINGS), size=(3.6, 1.12))
    for task, line in zip(every, panels, strict=True):
        for coupling, axes in zip(COUPLINGS, line, strict=True):
            shown = [made for made in rows if made.task is task and made.coupling == coupling]
            _panel(axes, task, shown, across, named=axes is line[0])
        line[0].set_ylabel(f"{task.source}\nto {task.target}", fontsize=style.FONT_SIZE)
    for coupling, axes in zip(COUPLINGS, panels[0], strict=True):
        axes.set_title(f"{coupling} pairs", fontsize=style.FONT_SIZE)
        axes.text(1.01, 0.875, "Fréchet", transform=axes.transAxes, **_SMALL)
    return drawing


_SMALL: dict[str, Any] = {"fontsize": style.FONT_SIZE - 1, "color": style.INK, "va": "center"}


def _panel(axes: Axes, task: Task, shown: Sequence[Made], across: int, *, named: bool) -> None:
    lines = {"source": task.starts[:across], **{made.sampler: made.images[:across] for made in shown}}
    sheet = torch.cat([_strip(images) for images in lines.values()])
    axes.imshow(style.array(sheet), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    height = len(sheet) / len(lines)
    middles = [(k + 0.5) * height - 1.5 for k in range(len(lines))]
    axes.set_xticks([])
    axes.set_yticks(middles if named else [], list(lines) if named else [])
    for middle, made in zip(middles[1:], shown, strict=True):
        distance = f"{made.quality.frechet.generated.value:.1f}"
        axes.text(sheet.shape[1] + 1, middle, distance, **_SMALL)


def _strip(images: Tensor) -> Tensor:
    """Return the images side by side, two pixels of white to the right of each and below."""
    framed = torch.nn.functional.pad(images.clamp(-1, 1), (0, 2, 0, 2), value=1.0)
    return torch.cat(list(framed.mean(1)), dim=1)


def figures_of(rows: Sequence[Made]) -> list[dict[str, Any]]:
    return [
        {
            "source": made.task.source,
            "target": made.task.target,
            "pairs": made.coupling,
            "sampler": made.sampler,
            "images": len(made.images),
            "energy": made.energy,
            **{name: dataclasses.asdict(getattr(made.quality, name)) for name in MEASURES},
        }
        for made in rows
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="of each of the twenty trainings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", choices=("digits", "glyphs"), default="digits", help="of 8 x 8 pixels")
    parser.add_argument("--sample-steps", type=int, default=48)
    parser.add_argument("--draws", type=int, default=5, help="of as many images as are held out")
    parser.add_argument("--out", type=Path, default=Path("runs/sources"), help="where the picture goes")
    parser.add_argument("--save", action="store_true", help="keep figures and picture of this result")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.perf_counter()
    train = image_sets_of(ImageConfig(images=given.images, size=8)).train
    images, labels = train.batch(torch.arange(min(len(train), 5_000)))
    classifier = train_classifier(images, labels, seed=0)
    rows: list[Made] = []
    for task in tasks(given.images, given.draws, given.seed):
        for latent, coupling in itertools.product((False, True), COUPLINGS):
            config = configured(given.steps, given.seed, coupling, latent=latent)
            for made in made_by(task, config, classifier, given.sample_steps):
                rows.append(made)
                distance = made.quality.frechet.generated
                print(f"{task.source} to {task.target}, {_way(made)}: {distance}", flush=True)
    print(table(rows))
    found = comparisons(rows)
    said = conclusions(found)
    print(*said, sep="\n")
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    given.out.mkdir(parents=True, exist_ok=True)
    print(style.save(picture(rows), given.out / "sources.png"))
    if given.save:
        print(style.save(picture(rows), PICTURES / "sources.png"))
        result = {
            "command": f"python -m benchmarks.sources {_options(given)}",
            "seconds": seconds,
            "training": json.loads(config.to_json()),
            "rows": figures_of(rows),
            "comparisons": [{**c._asdict(), "verdict": c.verdict} for c in found],
            "conclusions": said,
        }
        print(save("sources", result))


def _options(given: argparse.Namespace) -> str:
    # Where the picture went is not a part of the result.
    names = ("steps", "seed", "images", "sample_steps", "draws")
    return " ".join(f"--{name.replace('_', '-')} {getattr(given, name)}" for name in names)


if __name__ == "__main__":
    main()
