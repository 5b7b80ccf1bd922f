r"""Time laws: at which times of (0, 1) the network is trained.

All laws draw from the open interval: a time derivative may be infinite at an end.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import uniform


class TimeLaw(abc.ABC):
    """A density of times on (0, 1).

    Another law than the uniform one weights the objective towards the times it prefers; wrap it in
    :class:`~interpolants.Importance` to keep the uniform objective and only change the variance.
    """

    @abc.abstractmethod
    def sample(self, n: int, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``n`` times on the device of ``like``, at least in single precision, shape ``(n,)``."""

    @abc.abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """Return the density of the law at ``t``, same shape; it integrates to 1."""

    def weight(self, t: Tensor) -> Tensor | None:
        """Return what each example's loss is multiplied by, shape ``(B,)``; None for 1."""
        return None


@final
@dataclass(frozen=True)
class Uniform(TimeLaw):
    """Independent uniform times.

    Example:
        >>> Uniform().sample(3, torch.zeros(1), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """

    @override
    def sample(self, n: int, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return uniform(n, like, generator)

    @override
    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@final
@dataclass(frozen=True)
class Stratified(TimeLaw):
    """One uniform time in each of ``n`` equal intervals, in random order.

    Each time is uniform, so the mean is the same; the variance of the minibatch is lower.

    Example:
        >>> t = Stratified().sample(4, torch.zeros(1), generator=torch.Generator().manual_seed(0))
        >>> (t.sort().values * 4).long()
        tensor([0, 1, 2, 3])
    """

    @override
    def sample(self, n: int, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        offsets = uniform(n, like, generator)
        device = like.device if generator is None else generator.device
        strata = torch.randperm(n, device=device, generator=generator).to(like.device)
        return _inside((strata + offsets) / n)

    @override
    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@final
@dataclass(frozen=True)
class LogitNormal(TimeLaw):
    r"""Times :math:`t = 1/(1 + e^{-(m + s\xi)})` with :math:`\xi \sim N(0, 1)`: fewer near the ends.

    Esser et al. 2024 (arXiv 2403.03206), Section 3.1.

    Args:
        mean: The mean m of the logit; positive prefers the target's end.
        std: The standard deviation s of the logit, positive.

    Raises:
        ValueError: When ``mean`` is not finite or ``std`` not positive and finite.

    Example:
        >>> LogitNormal().density(torch.tensor(0.5))
        tensor(1.5958)
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(
                f"LogitNormal needs a finite mean and a positive std; got {self.mean} and {self.std}"
            )

    @override
    def sample(self, n: int, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return _inside(torch.sigmoid(self.mean + self.std * torch.special.ndtri(uniform(n, like, generator))))

    @override
    def density(self, t: Tensor) -> Tensor:
        scaled = (torch.logit(t) - self.mean) / self.std
        return torch.exp(-scaled.square() / 2) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))


@final
@dataclass(frozen=True)
class Beta(TimeLaw):
    r"""Times from the Beta law, with density proportional to :math:`t^{a-1}(1-t)^{b-1}`.

    Args:
        a: Above 1 thins the source's end, below 1 crowds it; positive.
        b: The same for the target's end; positive.

    Raises:
        ValueError: When ``a`` or ``b`` is not positive and finite.

    Example:
        >>> Beta(2.0, 2.0).density(torch.tensor(0.5))
        tensor(1.5000)
    """

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.a < math.inf and 0 < self.b < math.inf):
            raise ValueError(f"Beta needs positive finite a and b; got {self.a} and {self.b}")

    @override
    def sample(self, n: int, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        device = like.device if generator is None else generator.device
        dtype = torch.promote_types(like.dtype, torch.float32)
        shape = torch.tensor([self.a, self.b], dtype=dtype, device=device).expand(n, 2)
        # What torch.distributions.Dirichlet calls, which takes no generator.
        return _inside(torch._sample_dirichlet(shape, generator=generator)[:, 0].to(like.device))

    @override
    def density(self, t: Tensor) -> Tensor:
        log_norm = math.lgamma(self.a + self.b) - math.lgamma(self.a) - math.lgamma(self.b)
        return torch.exp(log_norm + (self.a - 1) * torch.log(t) + (self.b - 1) * torch.log1p(-t))


@final
@dataclass(frozen=True)
class Importance(TimeLaw):
    """The uniform objective, estimated with times from another law and weights one over its density.

    The variance is finite only where the law does not starve a time that matters: a Beta law with both
    arguments at most 1 never does, a logit-normal law does at both ends.

    Args:
        law: Where the times are drawn from.

    Example:
        >>> Importance(Beta(0.5, 0.5)).weight(torch.tensor([0.5]))
        tensor([1.5708])
    """

    law: TimeLaw

    @override
    def sample(self, n: int, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return self.law.sample(n, like, generator=generator)

    @override
    def density(self, t: Tensor) -> Tensor:
        return self.law.density(t)

    @override
    def weight(self, t: Tensor) -> Tensor:
        return 1 / self.law.density(t)


def _inside(t: Tensor) -> Tensor:
    margin = torch.finfo(t.dtype).eps / 2
    return t.clamp(margin, 1 - margin)
