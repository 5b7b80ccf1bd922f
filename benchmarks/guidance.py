"""Guidance: what a class-conditional run makes of the same noise at several scales.

    interpolants train digits --out runs/digits
    python -m benchmarks.guidance --run runs/digits [--scales 0 1 1.5 2 3 5] [--samples 1080] [--save]

Scale 0 leaves the class out, 1 takes it as it was learnt, more exaggerates it (Ho and Salimans 2022,
arXiv 2207.12598). Noise and labels are the same at every scale; labels are as frequent as in the training.

``asked for`` is the share of images that a classifier, trained on the run's images, takes for the class asked
for. The Fréchet distance, precision and recall are those of its features, from sets of as many images as are
held out, and beside them what the held-out images get: guided images are surer of their class and less
diverse, so precision rises and recall falls.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.machine import save
from interpolants.cli.image_quality import classifier_of, real_images
from interpolants.cli.image_runs import ImageRun
from interpolants.cli.image_samples import Drawing
from interpolants.config import image_sets_of, image_source_of
from interpolants.config.images import Split
from interpolants.metrics import Classifier, Estimate, ImageQuality, image_quality
from interpolants.metrics.quality import Compared
from interpolants.plotting import style
from interpolants.samplers import ODESampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
PICTURES = Path(__file__).parents[1] / "docs" / "images"


class Level(NamedTuple):
    """What is made at one scale."""

    shown: Tensor  # (classes, across, C, H, W)
    recognised: Estimate
    quality: ImageQuality


def loaded(path: Path, device: str) -> tuple[ImageRun, Split]:
    """Return a run and its images.

    Raises:
        FileNotFoundError: When there is no run.
        ValueError: When the run has learnt no classes, or never without them, or has no held-out images.
    """
    run = ImageRun.loaded(path, torch.device(device))
    if not run.config.conditional or run.config.class_dropout == 0:
        raise ValueError("guidance needs a run that has learnt classes, with --class-dropout above 0")
    split = image_sets_of(run.config)
    if split.held_out is None:
        raise ValueError("the run has no held-out images to compare with")
    return run, split


def level(drawing: Drawing, samples: int, real: Tensor, kept: Tensor, classifier: Classifier) -> Level:
    """Return what a drawing makes, and how good it is beside held-out images."""
    batches = list(drawing.batches(samples, 360))
    images = torch.cat([batch.images for batch in batches]).clamp(-1, 1)
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    quality = image_quality(
        images.cpu(),
        real,
        kept,
        classifier,
        copy_quantile=max(0.01, 1 / (len(kept) + 1)),
        generator=torch.Generator().manual_seed(drawing.seed),
    )
    return Level(of_each_class(drawing), recognised(classifier, images, labels), quality)


def of_each_class(drawing: Drawing, count: int = 3) -> Tensor:
    """Return a few images of every class, from the same noise."""
    classes = range(drawing.run.facts.classes or 0)
    each = [dataclasses.replace(drawing, label=k).batch(0, count).images for k in classes]
    return torch.stack(each).cpu()


def recognised(classifier: Classifier, images: Tensor, labels: Tensor) -> Estimate:
    """Return the share of images that are taken for their label."""
    logits = torch.cat([classifier.logits(some) for some in images.to(classifier.scale.device).split(256)])
    share = float((logits.argmax(1).cpu() == labels.cpu()).double().mean())
    return Estimate(share, math.sqrt(share * (1 - share) / len(images)), len(images))


# ---------------------------------------------------------------------------------------------- what is shown


def table(levels: dict[float, Level], real: Estimate) -> str:
    """Return the measures of all scales, below those of held-out images."""
    floors = [real, *(measure.floor for measure in _measures(next(iter(levels.values())).quality))]
    rows = [("scale", ["asked for", "Fréchet", "precision", "recall"]), ("real, held out", floors)]
    for scale, made in levels.items():
        rows.append((f"{scale:g}", [made.recognised, *(m.generated for m in _measures(made.quality))]))
    return "\n".join(f"{name:16}" + "".join(f"{value!s:>18}" for value in values) for name, values in rows)


def _measures(quality: ImageQuality) -> tuple[Compared, Compared, Compared]:
    return quality.frechet, quality.precision, quality.recall


def picture(levels: dict[float, Level]) -> Figure:
    """Return the images, a line for each scale, columns for the classes, all from the same noise."""
    classes = len(next(iter(levels.values())).shown)
    sheet = torch.cat([_line(made.shown) for made in levels.values()])
    drawing, ((axes,),) = style.figure(size=(7.6, 6.4 * sheet.shape[0] / sheet.shape[1] + 0.4))
    axes.imshow(style.array(sheet), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    width, height = sheet.shape[1] / classes, sheet.shape[0] / len(levels)
    middles = [(k + 0.5) * height - 1.5 for k in range(len(levels))]
    axes.xaxis.tick_top()
    axes.set_xticks([(k + 0.5) * width - 2.5 for k in range(classes)], [str(k) for k in range(classes)])
    axes.set_yticks(middles, [f"{scale:g}" for scale in levels])
    axes.set_ylabel("scale of guidance", fontsize=style.FONT_SIZE)
    columns = {
        "asked for": [f"{made.recognised.value:.1%}" for made in levels.values()],
        "Fréchet": [f"{made.quality.frechet.generated.value:.2f}" for made in levels.values()],
    }
    text = {"fontsize": style.FONT_SIZE - 1, "color": style.INK, "ha": "right"}
    for k, (name, values) in enumerate(columns.items(), start=1):
        right = sheet.shape[1] + 28 * k
        axes.text(right, -2.5, name, va="bottom", **text)
        for middle, value in zip(middles, values, strict=True):
            axes.text(right, middle, value, va="center", **text)
    return drawing


def _line(shown: Tensor) -> Tensor:
    """Return the images of one scale side by side, with more white between classes than within one."""
    framed = nn.functional.pad(shown.mean(2), (0, 1, 0, 3), value=1.0)
    classes = [torch.cat(list(images), dim=1) for images in framed]
    return torch.cat([nn.functional.pad(images, (0, 3), value=1.0) for images in classes], dim=1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/digits"))
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--samples", type=int, default=1080, help="at each scale")
    parser.add_argument("--sample-steps", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/guidance"), help="where the picture goes")
    parser.add_argument("--save", action="store_true", help="keep figures and picture of this result")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.perf_counter()
    run, split = loaded(given.run, given.device)
    classifier = classifier_of(run, split, given.run if given.run.is_dir() else None)
    assert split.held_out is not None
    real = real_images(split.train, 10_000)
    kept, labels = split.held_out.batch(torch.arange(min(len(split.held_out), 10_000)))
    assert labels is not None
    sampler = ODESampler(run.config.method, steps=given.sample_steps, end_only=True)
    source = image_source_of(run.config, run.facts.shape)
    levels: dict[float, Level] = {}
    for scale in given.scales:
        drawing = Drawing(run.field(), sampler, run, source, given.seed, guidance=scale)
        levels[scale] = level(drawing, given.samples, real, kept, classifier)
        print(f"scale {scale:g}: {levels[scale].quality.frechet.generated}", flush=True)
    floor = recognised(classifier, kept, labels)
    print(table(levels, floor))
    best = min(levels, key=lambda scale: levels[scale].quality.frechet.generated.value)
    print(f"nearest to the images trained on: scale {best:g}")
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    given.out.mkdir(parents=True, exist_ok=True)
    print(style.save(picture(levels), given.out / "guidance.png"))
    if given.save:
        print(style.save(picture(levels), PICTURES / "guidance.png"))
        result = {
            "command": _command(given, run),
            "seconds": seconds,
            "training": json.loads(run.config.to_json()),
            "trained steps": run.step,
            "real": {"recognised": dataclasses.asdict(floor)},
            "scales": {
                f"{scale:g}": {
                    "recognised": dataclasses.asdict(made.recognised),
                    "quality": made.quality.to_dict(),
                }
                for scale, made in levels.items()
            },
        }
        print(save("guidance", result))


def _command(given: argparse.Namespace, run: ImageRun) -> str:
    # Where run and picture are is not a part of the result.
    scales = " ".join(f"{scale:g}" for scale in given.scales)
    return (
        f"python -m benchmarks.guidance --run runs/{run.config.images} --scales {scales} "
        f"--samples {given.samples} --sample-steps {given.sample_steps} --seed {given.seed}"
    )


if __name__ == "__main__":
    main()
