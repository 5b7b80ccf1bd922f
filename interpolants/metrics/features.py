"""From images to features: a classifier trained on the data itself, and Inception where it is at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, silu

from interpolants._tensors import kind

__all__ = ["Classifier", "extract", "feature_batches", "inception", "train_classifier"]

Extractor = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) to features (N, d) or (N, d, h, w)."""

_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_INCEPTION}"


class Classifier(nn.Module):
    """A small convolutional classifier; called on images, it returns their features.

    Convolutions halve the image until it is at most 4 pixels wide; the averages of the last channels are the
    features, and the logits are linear in them. Nothing depends on the batch or on the mode. Untrained it is
    an extractor of random features.

    Args:
        shape: Shape of an image, ``(C, H, W)``.
        classes: The number of classes, at least 1.
        width: Channels of the first convolution; each block that halves doubles them, up to ``features``.
        features: The number of features; ``width`` and it must be multiples of 8.
        generator: Source of the initial weights, on the CPU.

    Raises:
        ValueError: If a size is out of range.

    Example:
        >>> classifier = Classifier((1, 8, 8), classes=10, generator=torch.Generator().manual_seed(0))
        >>> images = torch.zeros(5, 1, 8, 8)
        >>> classifier(images).shape, classifier.logits(images).shape
        (torch.Size([5, 64]), torch.Size([5, 10]))
    """

    scale: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 16,
        features: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1 or classes < 1:
            raise ValueError(
                f"shape must be (C, H, W) of positive sizes and classes at least 1, not {shape} and {classes}"
            )
        if min(width, features) < 8 or width % 8 or features % 8:
            raise ValueError(f"width and features must be multiples of 8, not {width} and {features}")
        self.shape = tuple(shape)
        self.classes = classes
        # The largest maps take most of the time: beyond 16 pixels the first convolution halves them.
        first = 2 if max(shape[1:]) > 16 else 1
        halvings = max(0, math.ceil(math.log2(max(shape[1:]) / (4 * first))))
        channels = [min(width * 2**i, features) for i in range(halvings)] + [features]
        self.stem = _conv(shape[0], channels[0], generator, stride=first)
        self.blocks = nn.ModuleList(
            _Block(a, b, stride=2 if i else 1, generator=generator)
            for i, (a, b) in enumerate(zip(channels[:1] + channels[:-1], channels, strict=True))
        )
        self.head = _linear(features, classes, generator)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return :meth:`features`, so that the classifier itself serves as an extractor."""
        return self.features(x)

    def features(self, x: Tensor) -> Tensor:
        """Return the features, shape ``(N, d)``, whose mean variance over the training images is 1."""
        return self.scale * self._averages(x)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits, shape ``(N, classes)``."""
        logits: Tensor = self.head(self._averages(x))
        return logits

    def _averages(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1:] != self.shape:
            raise ValueError(
                f"images must have shape (N, {', '.join(map(str, self.shape))}), not {tuple(x.shape)}"
            )
        x = self.stem(x.to(self.scale.dtype))
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3))


class _Block(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, a: int, b: int, *, stride: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.first = _conv(a, b, generator, stride=stride)
        self.second = _conv(b, b, generator)
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for _ in range(2))
        self.shortcut = _conv(a, b, generator, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = silu(self.norms[0](self.first(x)))
        return silu(self.shortcut(x) + self.norms[1](self.second(hidden)))


def train_classifier(
    images: Tensor,
    labels: Tensor | None = None,
    *,
    seed: int,
    steps: int = 400,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    width: int = 16,
    features: int = 64,
    device: torch.device | str | None = None,
) -> Classifier:
    """Return a classifier trained on the images, to serve as extractor of features for this data set.

    Without labels it learns by how much an image is turned: by 0, 90, 180 or 270 degrees, or by 0 or 180
    where images are not square. These features suit images that have an upright; for others pass labels, or
    take an untrained :class:`Classifier`. Adam with a learning rate that falls as a cosine; a single seed
    decides weights and batches, so that one machine gives one answer. Values of a metric can only be
    compared under one extractor: keep it (``state_dict``) beside the values.

    Args:
        images: Shape ``(N, C, H, W)``, floating point, best within [-1, 1].
        labels: Classes counted from 0, integers of shape ``(N,)``, or None.
        seed: The seed of everything random.
        steps: Steps of the optimizer, at least 1.
        batch_size: Images in a step, at least 1.
        learning_rate: The highest learning rate.
        width: As for :class:`Classifier`.
        features: As for :class:`Classifier`.
        device: Where to train; by default where the images are.

    Returns:
        The classifier, on ``device``, with gradients switched off, scaled so that its features have a mean
        variance of 1 over the images.

    Raises:
        TypeError: If images or labels are of the wrong dtype.
        ValueError: If a shape or a number is out of range or an image is not finite.

    Source:
        Rotations: Gidaris et al., section 2 (2018), arXiv 1803.07728.

    Example:
        >>> images = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> labels = (images.mean(dim=(1, 2, 3)) > 0).long()
        >>> classifier = train_classifier(images, labels, seed=0, steps=2)
        >>> round(classifier(images).var(dim=0).mean().item(), 3)
        1.0
    """
    _check_training(images, labels, steps, batch_size)
    images = images.detach().to(device or images.device, torch.float32)
    if labels is None:
        images, labels = _turned(images)
    labels = labels.to(images.device, torch.long)
    generator = torch.Generator().manual_seed(seed)
    classifier = Classifier(
        cast("tuple[int, int, int]", tuple(images.shape[1:])),
        int(labels.max()) + 1,
        width=width,
        features=features,
        generator=generator,
    ).to(images.device)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for chosen in _orders(len(images), batch_size, steps, generator):
        here = chosen.to(images.device)
        optimizer.zero_grad()
        with torch.enable_grad():
            cross_entropy(classifier.logits(images[here]), labels[here]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    classifier.requires_grad_(False)
    variance = extract(classifier, images).var(dim=0).mean()
    if variance > 0:
        classifier.scale.copy_(variance.rsqrt())
    return classifier


def extract(
    extractor: Extractor,
    images: Tensor | Iterable[Tensor],
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the features of images.

    Args:
        extractor: From images, shape ``(N, C, H, W)``, to features, shape ``(N, d)``, or ``(N, d, h, w)``,
            which are averaged over the last two. A module is called in evaluation mode without gradients.
        images: All images in a tensor, or an iterable of batches.
        batch_size: How many images of a tensor to pass at once; batches are passed as they come.
        device: Where to put the images before the call; by default where the module is, if it is one.

    Returns:
        Features in float64, shape ``(N, d)``, on the device where the extractor returned them.

    Raises:
        TypeError: If the extractor or a batch is of the wrong kind, as where a loader gives pairs.
        ValueError: If there are no images, or if the features have another shape or hold a NaN.

    Example:
        >>> extract(lambda x: x.flatten(1), torch.ones(3, 1, 2, 2)).shape
        torch.Size([3, 4])
    """
    batches = list(feature_batches(extractor, images, batch_size=batch_size, device=device))
    if not batches:
        raise ValueError("images must hold at least one image")
    return torch.cat(batches)


def feature_batches(
    extractor: Extractor,
    images: Tensor | Iterable[Tensor],
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> Iterator[Tensor]:
    """Yield the features batch by batch, for sets whose features do not fit in memory.

    Errors are those of :func:`extract`.

    Args:
        extractor: From images to features, as for :func:`extract`.
        images: A tensor of images, or batches of them one after the other.
        batch_size: How many images of a tensor the extractor sees at once.
        device: Where the extractor is, as for :func:`extract`.

    Example:
        >>> from interpolants.metrics import FeatureStatistics
        >>> statistics = FeatureStatistics(4)
        >>> for features in feature_batches(lambda x: x.flatten(1), torch.ones(3, 1, 2, 2), batch_size=2):
        ...     statistics.update(features)
        >>> statistics
        FeatureStatistics(dim=4, count=3)
    """
    if not callable(extractor):
        raise TypeError(f"extractor must be a function or a module, not {kind(extractor)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    home = _device_of(extractor) if device is None else torch.device(device)
    batches = torch.split(images, batch_size) if isinstance(images, Tensor) else images
    for batch in batches:
        if not isinstance(batch, Tensor):
            raise TypeError(
                f"images must be a tensor or give tensors, not {kind(batch)}; of a loader of pairs take "
                "(batch[0] for batch in loader)"
            )
        if len(batch):
            yield _features_of(extractor, batch if home is None else batch.to(home))


def inception(
    *, weights: str | Path | None = None, features: int = 2048, device: torch.device | str = "cpu"
) -> nn.Module:
    """Return the Inception network on whose features FID is defined, as an extractor.

    It takes images of 1 or 3 channels in [-1, 1], rounds them to 8 bits as a file would, and resizes them as
    the original FID does, by torchmetrics on the weights of torch-fidelity. Nothing is downloaded.

    Args:
        weights: The file of the weights; by default where torch keeps what it has downloaded.
        features: Which layer: 64, 192, 768 or 2048. FID takes 2048.
        device: Where to put the network.

    Returns:
        A module from images, shape ``(N, C, H, W)``, to features, shape ``(N, features)``.

    Raises:
        ImportError: If torchmetrics, torch-fidelity or torchvision is missing.
        FileNotFoundError: If the file of the weights is missing.
        ValueError: If there is no such layer.

    Example:
        >>> inception(features=100)
        Traceback (most recent call last):
        ...
        ValueError: features must be 64, 192, 768 or 2048, not 100
    """
    if features not in (64, 192, 768, 2048):
        raise ValueError(f"features must be 64, 192, 768 or 2048, not {features}")
    network = _inception_class()
    path = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION if weights is None else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"inception needs the file {path}, which is not there; fetch it from {_INCEPTION_URL} or pass "
            "weights"
        )
    made = network("inception-v3-compat", [str(features)], str(path), antialias=False)
    return _EightBit(made).to(device)


class _EightBit(nn.Module):
    """Shows images in [-1, 1] to a network that takes three channels of bytes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"images must have shape (N, 1 or 3, H, W), not {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"images must be floating point within [-1, 1], not {x.dtype}")
        # NaN would silently become a byte.
        if not x.isfinite().all():
            raise ValueError("images must be finite; they hold a NaN or an infinity")
        pixels = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features: Tensor = self.network(pixels.expand(-1, 3, -1, -1))
        return features


def _inception_class() -> Callable[..., nn.Module]:
    try:
        # torchmetrics imports without torch-fidelity and fails only later, so ask for it by name.
        import torch_fidelity  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        from torchmetrics.image.fid import NoTrainInceptionV3  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            "inception needs torchmetrics, torch-fidelity and torchvision: "
            "pip install torchmetrics torch-fidelity torchvision"
        ) from error
    return cast("Callable[..., nn.Module]", NoTrainInceptionV3)


def _features_of(extractor: Extractor, batch: Tensor) -> Tensor:
    modules = list(extractor.modules()) if isinstance(extractor, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            features: Any = extractor(batch)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    if not isinstance(features, Tensor):
        raise TypeError(f"extractor must return one tensor of features, not {kind(features)}")
    return _checked(features, len(batch))


def _checked(features: Tensor, n: int) -> Tensor:
    if features.ndim not in (2, 4) or len(features) != n or features.numel() == 0:
        raise ValueError(
            f"extractor must return features of shape (N, d) or (N, d, h, w) with N = {n}, "
            f"not {tuple(features.shape)}"
        )
    features = features.double()
    if features.ndim == 4:
        features = features.mean(dim=(2, 3))
    if not features.isfinite().all():
        raise ValueError("features must be finite; the extractor returned a NaN or an infinity")
    return features


def _device_of(extractor: Extractor) -> torch.device | None:
    if not isinstance(extractor, nn.Module):
        return None
    first = next(iter([*extractor.parameters(), *extractor.buffers()]), None)
    return None if first is None else first.device


def _turned(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return every image turned by each angle, and the number of its angle."""
    quarters = (0, 1, 2, 3) if images.shape[2] == images.shape[3] else (0, 2)
    turned = torch.cat([images.rot90(quarter, (2, 3)) for quarter in quarters])
    return turned, torch.arange(len(quarters)).repeat_interleave(len(images))


def _orders(n: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of ``steps`` batches; all images are seen once before any is seen again."""
    size = min(batch_size, n)
    batches: list[Tensor] = []
    for _ in range(steps):
        if not batches:
            batches = list(torch.split(torch.randperm(n, generator=generator), size))[: n // size]
        yield batches.pop()


def _check_training(images: Tensor, labels: Tensor | None, steps: int, batch_size: int) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point, not {images.dtype}")
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"images must have shape (N, C, H, W) with N at least 2, not {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError("images must be finite; they hold a NaN or an infinity")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, not {steps} and {batch_size}")
    if labels is None:
        return
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, not {labels.dtype}")
    if labels.shape != images.shape[:1] or labels.min() < 0:
        raise ValueError(
            f"labels must be classes from 0 on, shape ({len(images)},), not shape {tuple(labels.shape)} "
            f"from {int(labels.min()) if labels.numel() else 'nothing'}"
        )


def _conv(a: int, b: int, generator: torch.Generator | None, *, size: int = 3, stride: int = 1) -> nn.Module:
    # skip_init leaves the global generator alone.
    layer = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, a, b, size, stride=stride, padding=size // 2
    )
    return _drawn(layer, a * size * size, generator)


def _linear(a: int, b: int, generator: torch.Generator | None) -> nn.Module:
    layer = nn.utils.skip_init(nn.Linear, a, b)  # type: ignore[no-untyped-call]
    return _drawn(layer, a, generator)


def _drawn(layer: nn.Module, fan_in: int, generator: torch.Generator | None) -> nn.Module:
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name == "bias":
                parameter.zero_()
            else:
                parameter.normal_(0, math.sqrt(2 / fan_in), generator=generator)
    return layer
