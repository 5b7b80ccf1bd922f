"""Images drawn from a run: the same whoever draws them, and written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from interpolants.cli.image_runs import ImageRun
from interpolants.data import ImageSet
from interpolants.data.batches import mirrored, noise
from interpolants.data.seeds import mixed, seeded
from interpolants.fields import Field, Guided
from interpolants.samplers import (
    DDIMSampler,
    ODESampler,
    ProportionalToAlpha,
    ProportionalToGamma,
    SDESampler,
    Trajectory,
)

# What a folder of samples holds
_SAMPLES = re.compile(r"\d{6,}\.png|labels\.csv")
# Whoever names one of these wants no folder of that name.
_NO_FOLDERS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".npy", ".zip", ".csv", ".pt", ".safetensors")


class Sampler(Protocol):
    """What carries points along a field."""

    def sample(
        self, field: Field, x: Tensor, *, generator: torch.Generator | None = None, **conditions: Any
    ) -> Trajectory:
        """Return the trajectories that start in ``x``."""


class Drawn(NamedTuple):
    """Images in about [-1, 1], and their labels where the run has learned them."""

    images: Tensor
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Drawing:
    """How images are drawn, in batches of which each depends on the seed and its number alone.

    Attributes:
        field: What carries them.
        sampler: How.
        run: The run.
        source: Where they start: a name or a set of images.
        seed: Which series.
        label: The class of all of them; None draws classes as often as the training has them.
        guidance: The scale of classifier-free guidance; 1 for none.
    """

    field: Field
    sampler: Sampler
    run: ImageRun
    source: str | ImageSet
    seed: int
    label: int | None = None
    guidance: float = 1.0

    def batch(self, number: int, size: int) -> Drawn:
        """Return one batch."""
        labels = self._labels(number, size)
        field, conditions = self.field, {}
        if labels is not None:
            conditions["label"] = labels.to(self.run.device)
            if self.guidance != 1:
                field = Guided(field, field, self.guidance, null={"label": None})
        noise = torch.Generator(self.run.device).manual_seed(mixed(self.seed, "sample noise", number))
        x0 = self._start(number, size).to(self.run.device)
        with torch.no_grad():
            return Drawn(self.sampler.sample(field, x0, generator=noise, **conditions).final, labels)

    def batches(self, n: int, size: int) -> Iterator[Drawn]:
        """Return ``n`` images in batches."""
        for number, count in enumerate(_sizes(n, size)):
            yield self.batch(number, count)

    def labels(self, n: int, size: int) -> Tensor | None:
        """Return the labels alone of ``n`` images."""
        found = [self._labels(number, count) for number, count in enumerate(_sizes(n, size))]
        return None if found[0] is None else torch.cat(cast("list[Tensor]", found))

    def _start(self, number: int, size: int) -> Tensor:
        generator = seeded(self.seed, "sample source", number)
        if not isinstance(self.source, ImageSet):
            return noise(self.source, (size, *self.run.facts.shape), generator)
        images, _ = self.source.batch(torch.randint(len(self.source), (size,), generator=generator))
        return mirrored(images, torch.rand(size, generator=generator)) if self.run.config.flip else images

    def _labels(self, number: int, size: int) -> Tensor | None:
        facts = self.run.facts
        if not self.run.config.conditional:
            return None
        if self.label is not None:
            return torch.full((size,), self.label)
        assert facts.classes is not None
        weights = torch.tensor(facts.counts or (1,) * facts.classes, dtype=torch.float64)
        generator = seeded(self.seed, "sample labels", number)
        return torch.multinomial(weights, size, replacement=True, generator=generator)


def sampler_named(method: str, steps: int, sde: str = "") -> Sampler:
    """Return the sampler of a method; with a diffusion it is an SDE's.

    Args:
        method: A method of the ODE, ddim, or with a diffusion a method of the SDE.
        steps: The number of steps.
        sde: A number, gamma:C or alpha:C; nothing for the ODE.

    Raises:
        ValueError: When a name is unknown or a number out of range.
    """
    if not sde:
        if method == "ddim":
            return DDIMSampler(steps=steps, end_only=True)
        return ODESampler(method, steps=steps, end_only=True)
    kind, colon, number = sde.rpartition(":")
    factors = {"": float, "gamma": ProportionalToGamma, "alpha": ProportionalToAlpha}
    try:
        factor = float(number)
    except ValueError:
        factor = float("nan")
    if kind not in factors or (colon and not kind) or factor != factor:
        raise ValueError(f"--sde must be a number, gamma:C or alpha:C; got {sde!r}")
    return SDESampler(cast("Any", factors[kind](factor)), method, steps=steps, end_only=True)


def bytes_of(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return images as they are written: from 0 to 255, shape ``(N, H, W, C)``.

    Raises:
        ValueError: When one is not finite.
    """
    if not images.isfinite().all():
        raise ValueError("the network carries points to infinity: the training has diverged")
    levels = images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


class Parts:
    """A folder of batches beside the file or folder that they become.

    Args:
        out: What is to be written, a .npz file or a folder.
        n: How many images.
        size: How many in a batch.
    """

    def __init__(self, out: Path, n: int, size: int) -> None:
        self.out, self._sizes = out, _sizes(n, size)
        self.folder = out.absolute().with_name(f".{out.name}.parts")
        self._as_file = out.suffix == ".npz"
        self._size = size

    def begin(self) -> None:
        """Make the folder, empty."""
        self.remove()
        self.folder.mkdir(parents=True)

    def remove(self) -> None:
        """Remove what is left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, drawing: Drawing, index: int, count: int) -> Iterator[int]:
        """Draw and write every batch of one of several processes; give the size of each."""
        for number in range(index, len(self._sizes), count):
            levels = bytes_of(drawing.batch(number, self._sizes[number]).images)
            if self._as_file:
                np.save(self._part(number), levels)
            else:
                self._write_pictures(levels, number * self._size)
            yield len(levels)

    def finish(self, labels: Tensor | None) -> None:
        """Put the parts together, and the whole in its place."""
        if not self._as_file:
            if labels is not None:
                rows = "".join(f"{k:06d}.png,{label}\n" for k, label in enumerate(labels.tolist()))
                (self.folder / "labels.csv").write_text("file,label\n" + rows)
            if self.out.is_dir():
                shutil.rmtree(self.out)
            self.folder.replace(self.out)
            return
        partial = self.folder / "whole"
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with archive.open("images.npy", "w", force_zip64=True) as file:
                self._join(cast("BinaryIO", file))
            if labels is not None:
                with archive.open("labels.npy", "w") as file:
                    np.lib.format.write_array(file, labels.numpy())
        partial.replace(self.out)
        self.remove()

    def _join(self, file: BinaryIO) -> None:
        shape = np.load(self._part(0), mmap_mode="r").shape
        header = {"descr": "|u1", "fortran_order": False, "shape": (sum(self._sizes), *shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for number in range(len(self._sizes)):
            file.write(np.load(self._part(number)).tobytes())

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npy"

    def _write_pictures(self, levels: np.ndarray[Any, np.dtype[np.uint8]], first: int) -> None:
        from PIL import Image

        for k, picture in enumerate(levels):
            Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(
                self.folder / f"{first + k:06d}.png"
            )


def check_out(out: Path, overwrite: bool) -> None:
    """Raise unless images can be written there.

    Raises:
        ValueError: When something is in the way, or it is neither folder nor archive.
    """
    if out.suffix.lower() in _NO_FOLDERS:
        raise ValueError(f"--out must be a folder or end in .npz; got {out}")
    if os.path.lexists(out):
        if not overwrite:
            raise ValueError(f"{out} exists already; name another one with --out, or add --overwrite")
        if out.is_dir() and not all(_SAMPLES.fullmatch(path.name) for path in out.iterdir()):
            raise ValueError(
                f"{out} holds something that is no folder of samples; name another one with --out"
            )
        if out.is_dir() != (out.suffix != ".npz"):
            raise ValueError(f"{out} is of another kind; name another one with --out")


def _sizes(n: int, size: int) -> list[int]:
    return [size] * (n // size) + [n % size] * (n % size > 0)
