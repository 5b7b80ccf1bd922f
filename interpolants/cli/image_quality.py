"""How good the images of a run are, beside real ones."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from interpolants.cli.image_folder import say
from interpolants.cli.image_runs import CLASSIFIER, ImageRun
from interpolants.cli.image_samples import Drawing
from interpolants.config.images import Split
from interpolants.data import ImageSet
from interpolants.data.seeds import seeded
from interpolants.metrics import (
    Classifier,
    FeatureStatistics,
    ImageQuality,
    copies,
    feature_batches,
    frechet_distance,
    image_quality,
    inception,
    train_classifier,
)
from interpolants.training import DamagedCheckpoint, load_checkpoint, save_checkpoint

EXTRACTORS = ("classifier", "inception")
REFERENCES = ("train", "test")
# Of the images that the classifier is trained on, so that it takes a minute and not an hour.
_TAUGHT = 10_000
_COMPARED = 1_000
_BATCH = 256
_NEIGHBOUR = 5


class Frechet:
    """The Fréchet distance of a few images, to follow a training by.

    Args:
        run: The run.
        split: Its images.
        folder: Where the classifier is kept.
    """

    def __init__(self, run: ImageRun, split: Split, folder: Path) -> None:
        self._extractor = classifier_of(run, split, folder)
        features = feature_batches(self._extractor, torch.split(real_images(split.train, _TAUGHT), _BATCH))
        self._real = _statistics(features)

    def __call__(self, drawing: Drawing) -> float:
        """Return the distance of images that are drawn."""
        images = (drawn.images.cpu().clamp(-1, 1) for drawn in drawing.batches(_COMPARED, _BATCH))
        try:
            return frechet_distance(_statistics(feature_batches(self._extractor, images)), self._real)
        except ValueError:  # Points that are carried to infinity are no reason to stop a training.
            return math.nan


def real_sets(split: Split, label: int | None, *, n: int, real: int) -> Split:
    """Return the real images that ``n`` drawn ones are compared with: of one class, if they are.

    Args:
        split: All of them.
        label: The class of the drawn images; None for every class.
        n: How many are drawn.
        real: How many real images are looked at at most.

    Raises:
        ValueError: When there are too few.
    """
    if split.held_out is None:
        raise ValueError("this run held no images out (--held-out 0): there is nothing to compare with")
    train, held_out = split.train, split.held_out
    if label is not None:
        train, held_out = train.of_class(label), held_out.of_class(label)
    counts = n, min(len(train), real), min(len(held_out), real)
    if min(counts) <= _NEIGHBOUR:
        raise ValueError(
            f"more than {_NEIGHBOUR} images must be drawn, trained on and held out; got "
            f"{counts[0]:,}, {counts[1]:,} and {counts[2]:,}"
        )
    return Split(train, held_out)


def quality_of(
    drawing: Drawing,
    split: Split,
    extractor: Callable[[Tensor], Tensor],
    *,
    n: int,
    real: int,
    reference: str,
    batch_size: int,
    tick: Callable[[int], object],
) -> ImageQuality:
    """Return how good ``n`` images that are drawn are.

    Args:
        drawing: What draws them.
        split: The real images, from :func:`real_sets`.
        extractor: From images to features.
        n: How many to draw.
        real: How many real images to compare with at most.
        reference: ``train`` measures distances to the images trained on, with those held out in the place of
            the drawn ones as the floor; ``test`` the other way round. Copies are of images trained on always.
        batch_size: How many to draw at once.
        tick: Called with the size of every batch that is drawn.
    """
    assert split.held_out is not None
    train, held_out = real_images(split.train, real), real_images(split.held_out, real)
    parts = []
    for drawn in drawing.batches(n, batch_size):
        parts.append(drawn.images.cpu().clamp(-1, 1))
        tick(len(drawn.images))
    generated = torch.cat(parts)
    ends = (train, held_out) if reference == "train" else (held_out, train)
    generator = seeded(drawing.seed, "evaluation")
    quality = image_quality(
        generated,
        *ends,
        extractor,
        k=_NEIGHBOUR,
        copy_quantile=_quantile(ends[1]),
        generator=generator,
    )
    if reference == "train":
        return quality
    copied = copies(generated, train, held_out, quantile=_quantile(held_out))
    return dataclasses.replace(quality, copies=copied)


def extractor_of(name: str, run: ImageRun, split: Split, folder: Path | None) -> nn.Module:
    """Return what makes features of images.

    Raises:
        ImportError: When a package that inception needs is missing.
        FileNotFoundError: When its weights are.
    """
    if name == "inception":
        return inception(device=run.device)
    return classifier_of(run, split, folder)


def classifier_of(run: ImageRun, split: Split, folder: Path | None) -> Classifier:
    """Return the classifier of a data set: one for all its runs, kept in the run's folder."""
    path = None if folder is None else folder / CLASSIFIER
    if path is not None and (kept := _kept(path, run)) is not None:
        return kept.to(run.device)
    index = _spread(split.train, _TAUGHT)
    say(f"training a classifier on {len(index):,} images, by whose features they are compared ...")
    images, labels = split.train.batch(index)
    if labels is not None and bool((labels == labels[0]).all()):
        labels = None  # One class teaches nothing.
    # A seed of its own, or runs with different seeds could not be compared.
    classifier = train_classifier(images.cpu(), labels, seed=0)
    if path is not None and os.access(path.parent, os.W_OK):
        save_checkpoint(path, classifier.state_dict(), {"facts": _known_by(run, classifier.classes)})
    return classifier.to(run.device)


def real_images(images: ImageSet, n: int) -> Tensor:
    """Return at most ``n`` images of a set, the same ones always."""
    index = _spread(images, n)
    return torch.cat([images.batch(part)[0].cpu() for part in torch.split(index, _BATCH)])


def _spread(images: ImageSet, n: int) -> Tensor:
    if images.unlimited:
        return torch.arange(n)
    if len(images) <= n:
        return torch.arange(len(images))
    # Folders are in the order of their classes, so the first n would miss some.
    return torch.randperm(len(images), generator=seeded(0, "real images"))[:n].sort().values


def _kept(path: Path, run: ImageRun) -> Classifier | None:
    try:
        tensors, metadata = load_checkpoint(path)
    except (FileNotFoundError, DamagedCheckpoint):
        return None
    classes = len(tensors["head.bias"])
    if metadata.get("facts") != _known_by(run, classes):
        return None
    classifier = Classifier(run.facts.shape, classes)
    classifier.load_state_dict(tensors)
    return classifier.requires_grad_(False)


def _known_by(run: ImageRun, classes: int) -> str:
    return json.dumps({"facts": run.facts.to_json(), "classes": classes})


def _statistics(batches: object) -> FeatureStatistics:
    found: FeatureStatistics | None = None
    for features in batches:  # type: ignore[attr-defined]
        found = FeatureStatistics(features.shape[1]) if found is None else found
        found.update(features)
    assert found is not None
    return found


def _quantile(held_out: Tensor) -> float:
    """Return 1 %, or with few held-out images the least they can tell."""
    return max(0.01, 1 / (len(held_out) + 1))
