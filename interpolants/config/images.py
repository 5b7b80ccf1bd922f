"""Runs towards images: digits, glyphs, folders and files of images."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from interpolants.config.shared import COUPLINGS, LEARNED, LOSSES, OWN, flag, generator_of, named
from interpolants.data import Digits, Glyphs, ImageSet
from interpolants.data.arrays import load_npz
from interpolants.data.folders import ImageFolder
from interpolants.data.torchvision_sets import torchvision_set
from interpolants.fields import LearnedField
from interpolants.interpolant import Interpolant, SpatiallyLinear
from interpolants.networks import Heads, Transformer, UNet
from interpolants.training import WarmUp

IMAGE_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        "images": "digits",
        "conditional": True,
        "blocks": 1,
        "steps": 3_000,
        "decay": "cosine",
        "averages": (0.995,),
        "checkpoint_every": 500,
        "picture_every": 500,
    },
    "glyphs": {
        "images": "glyphs",
        "size": 32,
        "width": 64,
        "multipliers": (1, 2, 2),
        "attention": (4,),
        "held_out": 2_000,
        "steps": 20_000,
    },
    "folder": {
        "images": "folder",
        "size": 64,
        "channels": 3,
        "width": 96,
        "multipliers": (1, 2, 2, 3),
        "attention": (8,),
        "held_out": 1_000,
        "steps": 200_000,
        "learning_rate": 2e-4,
        "warm_up": 1_000,
        "averages": (0.9999,),
        "flip": True,
        "workers": 4,
        "checkpoint_every": 5_000,
        "picture_every": 5_000,
    },
    "npz": {
        "images": "npz",
        "size": 0,
        "channels": 0,
        "width": 64,
        "multipliers": (1, 2, 2),
        "attention": (4,),
        "held_out": 1_000,
        "steps": 50_000,
    },
    "torchvision": {
        "images": "torchvision",
        "size": 0,
        "channels": 0,
        "width": 128,
        "multipliers": (1, 2, 2, 2),
        "attention": (2,),
        "dropout": 0.1,
        "held_out": 0,
        "steps": 200_000,
        "learning_rate": 2e-4,
        "warm_up": 1_000,
        "averages": (0.9999,),
        "checkpoint_every": 5_000,
        "picture_every": 5_000,
    },
}
"""What each kind of images changes of the defaults."""

# These may change when a run is continued: they decide how far it goes and what it shows, not what it learns.
MAY_CHANGE = frozenset({
    "steps", "device", "threads", "workers", "method", "sample_steps",
    "log_every", "picture_every", "checkpoint_every", "keep", "evaluate_every",
})  # fmt: skip

_DECAYS = ("none", "cosine")
_PRECISIONS = ("no", "bf16", "fp16")
_DRAWN = ("normal", "uniform")

_NETWORKS = ("unet", "transformer")
# Where the glyphs that are trained on end and those held out begin.
_GLYPHS = 2**61


@dataclass(frozen=True)
class ImageConfig:
    """Everything a run towards images depends on.

    Attributes:
        images: digits, glyphs, folder, npz or torchvision.
        data: Folder, file, or torchvision set and its folder: CIFAR10:PATH.
        size: Height and width in pixels; 0 as they are.
        channels: 1 for gray, 3 for colour; 0 as they are.
        flip: Mirror images at random.
        held_out: Images kept from training, to evaluate with.
        source: normal, uniform, or images: digits, glyphs, glyphs:3,
            folder:PATH, npz:FILE.
        interpolant: linear (IADB), trigonometric, encoding-decoding,
            variance-preserving, or yours as package.module:Class.
        gamma: zero, brownian, brownian:A, quadratic or sine-squared.
        loss: regression or quadratic.
        antithetic: Use each example with z and -z.
        learn: velocity, or both: denoiser too; needs a gamma.
        inverse_variance: Weigh the velocity by c / (c + gamma'^2); 0 for not.
        coupling: independent or optimal-transport.
        conditional: Learn the classes, to sample one by its label.
        class_dropout: How often no class is shown, for guidance.
        network: unet, transformer, or a size: S/2, B/2, L/2, XL/2.
        width: Channels of the first level, or of a token.
        multipliers: Channels of each level, in widths.
        blocks: Blocks of a level, or of the transformer.
        attention: Strides with attention, out of 1, 2, 4, ...
        heads: Attention heads.
        patch: Side of the transformer's patches.
        dropout: Probability of dropout in the U-Net.
        steps: Training steps.
        batch_size: Images in a step, over all processes.
        accumulate: Parts a step is computed in, to save memory.
        learning_rate: Adam's, after the warm-up.
        warm_up: Steps of the warm-up.
        decay: none, or cosine down to 0.
        weight_decay: AdamW's.
        clip: Largest norm of the gradient; 0 for any.
        averages: Decays of the averages of the weights.
        skip_non_finite: Steps that may be skipped for a loss that is not finite.
        precision: no (full), bf16 or fp16.
        sharded: Share out the weights among the processes.
        compile: Compile the training step; needs a C++ compiler.
        workers: Processes that load images ahead.
        seed: Fixes every random number.
        device: auto, cpu, cuda, ...
        threads: CPU threads; small networks are fastest with one.
        log_every: Steps from line to line of metrics.jsonl.
        checkpoint_every: Steps from checkpoint to checkpoint.
        keep: Checkpoints to keep.
        picture_every: Steps from picture to picture; 0 for none.
        evaluate_every: Steps from Fréchet distance to distance; 0 for none.
        method: Of the pictures: euler, heun, rk4, dopri5, ...
        sample_steps: Steps along the flow, of the pictures.

    Raises:
        ValueError: When a value is out of range; the message says what must hold.

    Example:
        >>> ImageConfig().images, ImageConfig().interpolant
        ('digits', 'linear')
    """

    images: str = "digits"
    data: str = ""
    size: int = 8
    channels: int = 1
    flip: bool = False
    held_out: int = 360
    source: str = "normal"
    interpolant: str = "linear"
    gamma: str = OWN
    loss: str = "regression"
    antithetic: bool = False
    learn: str = "velocity"
    inverse_variance: float = 0.0
    coupling: str = "independent"
    conditional: bool = False
    class_dropout: float = 0.1
    network: str = "unet"
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    heads: int = 4
    patch: int = 2
    dropout: float = 0.0
    steps: int = 10_000
    batch_size: int = 128
    accumulate: int = 1
    learning_rate: float = 1e-3
    warm_up: int = 200
    decay: str = "none"
    weight_decay: float = 0.0
    clip: float = 1.0
    averages: tuple[float, ...] = (0.999,)
    skip_non_finite: int = 0
    precision: str = "no"
    sharded: bool = False
    compile: bool = False
    workers: int = 0
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    log_every: int = 50
    checkpoint_every: int = 1_000
    keep: int = 3
    picture_every: int = 1_000
    evaluate_every: int = 0
    method: str = "euler"
    sample_steps: int = 64

    def __post_init__(self) -> None:
        named("kind of images", self.images, IMAGE_PRESETS)
        self._check_numbers()
        for kind, name, known in (
            ("loss", self.loss, LOSSES),
            ("coupling", self.coupling, COUPLINGS),
            ("--learn value", self.learn, dict.fromkeys(LEARNED)),
            ("decay", self.decay, dict.fromkeys(_DECAYS)),
            ("precision", self.precision, dict.fromkeys(_PRECISIONS)),
        ):
            named(kind, name, known)
        if "/" not in self.network:
            named("network", self.network, dict.fromkeys(_NETWORKS), ", S/2, B/2, L/2, XL/2")
        _check_source(self.source)
        if self.images in ("folder", "npz", "torchvision") and not self.data:
            what = {"folder": "the folder", "npz": "the file", "torchvision": "the set, such as CIFAR10,"}
            raise ValueError(f"name {what[self.images]} with --data")
        if self.images in ("digits", "glyphs") and self.data:
            raise ValueError(f"{self.images} need no --data; got {self.data}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"--batch-size must be divisible by --accumulate; got {self.batch_size} and {self.accumulate}"
            )

    def _check_numbers(self) -> None:
        for name in (
            "width", "blocks", "heads", "patch", "steps", "batch_size", "accumulate", "log_every",
            "checkpoint_every", "keep", "sample_steps", "threads",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} must be at least 1; got {getattr(self, name)}")
        for name in (
            "size", "channels", "held_out", "warm_up", "skip_non_finite", "workers", "picture_every",
            "evaluate_every", "inverse_variance", "weight_decay", "clip",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{flag(name)} must not be negative; got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be positive; got {self.learning_rate}")
        for decay in self.averages:
            if not 0 <= decay < 1:
                raise ValueError(f"--averages must lie in [0, 1); got {decay}")
        if len(set(self.averages)) < len(self.averages):
            raise ValueError(f"--averages must be different; got {' '.join(map(str, self.averages))}")
        if not 0 <= self.seed < 2**48:
            raise ValueError(f"--seed must lie in [0, 2^48); got {self.seed}")

    @property
    def learns_denoiser(self) -> bool:
        """Whether the network has a second head, for the denoiser."""
        return self.learn == "both"

    def to_json(self) -> str:
        """Return the configuration as JSON text; :meth:`from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ImageConfig:
        """Return the configuration that :meth:`to_json` wrote.

        Raises:
            ValueError: When the text is no such configuration.

        Example:
            >>> ImageConfig.from_json(ImageConfig(averages=()).to_json()) == ImageConfig(averages=())
            True
        """
        try:
            values = json.loads(text)
            return cls(**{name: _hashable(value) for name, value in values.items()})
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a configuration of this version: {error}") from error

    def differences(self, other: ImageConfig) -> list[str]:
        """Return in words what keeps ``other`` from going on with a run of this configuration.

        Example:
            >>> ImageConfig(seed=1, steps=10).differences(ImageConfig(seed=2, steps=20))
            ['--seed was 1 and is 2']
        """
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return [
            f"{flag(name)} was {_shown(mine)} and is {_shown(its)}"
            for name, mine, its in pairs
            if mine != its and name not in MAY_CHANGE
        ]


class Split(NamedTuple):
    """The images to train on, and those kept from it; None where there are none."""

    train: ImageSet
    held_out: ImageSet | None


def image_sets_of(config: ImageConfig) -> Split:
    """Return the images of a configuration, those to train on and those held out.

    Raises:
        ImportError: When a package is missing.
        OSError: When they cannot be read.
        ValueError: When they are none, or too few to hold any out.

    Example:
        >>> train, held_out = image_sets_of(ImageConfig())
        >>> len(train), len(held_out)
        (1437, 360)
    """
    if config.images == "torchvision":
        return _torchvision_sets(config)
    if config.images == "glyphs":
        size = config.size or 32
        rest = Glyphs(size=size, items=range(_GLYPHS, _GLYPHS + config.held_out)) if config.held_out else None
        return _checked(config, Split(Glyphs(size=size, items=range(_GLYPHS)), rest))
    images = _set_of(config.images, config.data, config.size, config.channels)
    if config.held_out == 0:
        return _checked(config, Split(images, None))
    if 2 * config.held_out > len(images):
        raise ValueError(
            f"--held-out must be at most half of the {len(images):,} images; got {config.held_out:,}"
        )
    # One split for all runs, so that their evaluations can be compared.
    return _checked(config, Split(*images.split(len(images) - config.held_out, seed=0)))


def image_source_of(config: ImageConfig, shape: tuple[int, int, int]) -> Any:
    """Return where x0 comes from: a name that :class:`ImageBatches` knows, or a set of images.

    Raises:
        ImportError: When a package is missing.
        OSError: When the images cannot be read.
        ValueError: When there is no such class, or the images have another shape.
    """
    if config.source in _DRAWN:
        return config.source
    kind, _, rest = config.source.partition(":")
    path = rest if kind in ("folder", "npz") else ""
    # Other glyphs than the targets: with one seed x0 and x1 would be the same.
    images = Glyphs(seed=1, size=shape[1]) if kind == "glyphs" else _set_of(kind, path, shape[1], shape[0])
    if rest and not path:
        images = images.of_class(int(rest))
    if images.shape != shape:
        raise ValueError(f"--source {config.source} has images of shape {images.shape}, not {shape}")
    return images


def image_network_of(config: ImageConfig, shape: tuple[int, int, int], classes: int | None) -> nn.Module:
    """Return the network of a configuration, its weights drawn from the seed.

    Args:
        config: The configuration.
        shape: Channels, height and width of the images.
        classes: How many classes there are, where they are learned.

    Raises:
        ValueError: When sizes do not fit.
    """
    channels, height, width = shape
    options: dict[str, Any] = {
        "classes": classes if config.conditional else None,
        "class_dropout": config.class_dropout,
        "generator": generator_of(config, "network"),
    }
    if config.learns_denoiser:
        options["out_channels"] = 2 * channels
    network: nn.Module
    if config.network == "unet":
        network = UNet(
            channels,
            width=config.width,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention=config.attention,
            heads=config.heads,
            dropout=config.dropout,
            **options,
        )
        if not config.sharded:  # Which parameters in another order cannot be.
            # A fifth faster on CPUs, and what tensor cores want.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        stride = 2 ** (len(config.multipliers) - 1)
        if height % stride or width % stride:
            raise ValueError(
                f"--multipliers of {len(config.multipliers)} levels need images divisible by {stride}; "
                f"these are {height} x {width}"
            )
    elif config.network == "transformer":
        network = Transformer(
            channels,
            (height, width),
            patch=config.patch,
            width=config.width,
            depth=config.blocks,
            heads=config.heads,
            **options,
        )
    else:
        network = Transformer.named(config.network, channels, (height, width), **options)
    return Heads(network, ("velocity", "denoiser")) if config.learns_denoiser else network


def image_field_of(config: ImageConfig, interpolant: Interpolant, network: nn.Module) -> LearnedField:
    """Return the field of a network.

    Without latent noise it has a score too, where the source is Gaussian whatever x1 is.
    """
    gaussian = config.source == "normal" and config.coupling == "independent"
    return LearnedField(
        interpolant,
        velocity=network,
        denoiser=network if config.learns_denoiser else None,
        gaussian_source=gaussian and isinstance(interpolant, SpatiallyLinear) and _uses_source(interpolant),
    )


def image_optimizer_of(config: ImageConfig) -> Callable[..., torch.optim.Optimizer]:
    """Return what makes the optimiser from the parameters: AdamW in one fused kernel."""
    return partial(torch.optim.AdamW, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def schedule_of(config: ImageConfig) -> WarmUp | None:
    """Return the course of the learning rate; None when it stays the same.

    Raises:
        ValueError: When a decay leaves no step after the warm-up.
    """
    if config.decay == "cosine" and config.steps <= config.warm_up:
        raise ValueError(
            f"--decay cosine needs more --steps than those of --warm-up, {config.warm_up:,}; "
            f"got {config.steps:,}"
        )
    if config.decay == "none" and config.warm_up == 0:
        return None
    return WarmUp(config.warm_up, steps=config.steps if config.decay == "cosine" else None)


def _uses_source(interpolant: SpatiallyLinear) -> bool:
    times = torch.linspace(0.05, 0.45, 9, dtype=torch.float64)
    return bool((interpolant.alpha(times) != 0).any())


def _set_of(kind: str, path: str, size: int, channels: int) -> ImageSet:
    if kind == "digits":
        return Digits()
    if kind == "folder":
        return ImageFolder(path, size, channels=channels)
    return load_npz(path)


def _torchvision_sets(config: ImageConfig) -> Split:
    name, _, root = config.data.partition(":")
    parts = []
    for train in (True, False):
        try:
            parts.append(
                torchvision_set(
                    name, root or "data", train, size=config.size or None, channels=config.channels or 3
                )
            )
        except RuntimeError as error:  # As torchvision calls it when the files are not there.
            raise ValueError(f"--data {config.data}: {error}") from error
    return _checked(config, Split(*parts))


def _checked(config: ImageConfig, split: Split) -> Split:
    channels, height, width = split.train.shape
    if config.channels not in (0, channels):
        raise ValueError(
            f"--channels is {config.channels} but the images have {channels}; name their number, or 0"
        )
    if config.size and (height, width) != (config.size, config.size):
        raise ValueError(
            f"--size is {config.size} but the images are {height} x {width}; name their size, or 0"
        )
    if config.conditional and split.train.classes is None:
        raise ValueError("--conditional needs images with classes; these have none")
    # If none can be read it is better known now than in the first step.
    split.train.batch(torch.zeros(1, dtype=torch.int64))
    return split


def _check_source(name: str) -> None:
    kind, colon, rest = name.partition(":")
    if name in _DRAWN or name in ("digits", "glyphs"):
        return
    if kind in ("digits", "glyphs") and colon and rest.isdecimal():
        return
    if kind in ("folder", "npz") and rest:
        return
    known = ", ".join((*_DRAWN, "digits", "glyphs", "digits:K", "glyphs:K", "folder:PATH", "npz:FILE"))
    raise ValueError(f"unknown source {name!r}; known: {known}")


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return (" ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "nothing"
