"""The weights of a path as its own samples show them, so that exact fields share its faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.record import OURS, Cell, Table, missing
from interpolants import Gamma, GaussianMixture, Interpolant, MixtureOracle, SpatiallyLinear

NEAR = 1e-9
"""How near to an end the path is asked: nearer, derivatives may be infinite, and this is below all errors."""


class Observed(SpatiallyLinear):
    r"""A path :math:`\alpha x_0 + \beta x_1 + \gamma z` known by nothing but its samples.

    :meth:`Interpolant.sample`, which training learns from, is asked for unit ends and unit noise. A
    derivative that is wrong there makes the exact field wrong, as it would make a trained one, whatever the
    path says of its weights elsewhere.

    Args:
        path: Any interpolant of this form.
        dim: The dimension that it is asked in.
        differentiated: Whether to find the derivatives from the weights, by differences, in place of those
            that the samples come with.

    Raises:
        ValueError: When it is not of this form, or does not begin in the source.

    Example:
        >>> from interpolants import Linear
        >>> Observed(Linear(), 2).beta(torch.tensor(0.25, dtype=torch.float64))
        tensor(0.2500, dtype=torch.float64)
    """

    def __init__(self, path: Interpolant, dim: int, *, differentiated: bool = False) -> None:
        self.observer = _Differentiated(path, dim) if differentiated else _Observer(path, dim)
        self.kinks = path.kinks
        super().__init__(_ObservedGamma(self.observer))
        self._check(dim)

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return self.observer(t)[0][0]

    @override
    def beta(self, t: Tensor) -> Tensor:
        return self.observer(t)[0][1]

    @override
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return self.observer(t)[1][0]

    @override
    def beta_derivative(self, t: Tensor) -> Tensor:
        return self.observer(t)[1][1]

    def _check(self, dim: int) -> None:
        draw = torch.Generator().manual_seed(0)
        ends = [torch.randn(8, dim, dtype=torch.float64, generator=draw) for _ in range(3)]
        t = torch.rand(8, dtype=torch.float64, generator=draw)
        weights = self.observer(t)[0].unsqueeze(-1)
        found = self.observer.path.sample(t, *ends).xt
        if not torch.allclose(sum(w * end for w, end in zip(weights, ends, strict=True)), found, rtol=1e-6):
            raise ValueError("exact fields need a path alpha(t) x0 + beta(t) x1 + gamma(t) z; it is another")
        alpha, beta, gamma = self.observer(torch.zeros((), dtype=torch.float64))[0].tolist()
        # The root of NEAR, and a few times that for a steep latent noise.
        if max(abs(alpha - 1), abs(beta), abs(gamma)) > 1e-3:
            raise ValueError("the path does not begin in the source")


class _ObservedGamma(Gamma):
    def __init__(self, observer: _Observer) -> None:
        self.observer = observer

    @override
    def squared(self, t: Tensor) -> Tensor:
        return self.observer(t)[0][2].square()

    @override
    def half_squared_derivative(self, t: Tensor) -> Tensor:
        weights, rates = self.observer(t)
        return weights[2] * rates[2]

    @property
    @override
    def vanishes(self) -> bool:
        return self.observer.path.gamma.vanishes


class _Observer:
    """Asks a path for alpha, beta, gamma, shape (3, *T), and their derivatives; keeps the last answer."""

    def __init__(self, path: Interpolant, dim: int) -> None:
        self.path = path
        self.dim = dim
        self.kept: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # An oracle asks for all weights of one time, the same tensor, one by one.
        if self.kept is None or self.kept[0] is not t:
            self.kept = (t, self.asked(t.clamp(NEAR, 1 - NEAR)))
        return self.kept[1]

    @torch.no_grad()
    def asked(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and derivatives at times inside (0, 1)."""
        times = t.double().reshape(-1)
        units = torch.eye(3, dtype=times.dtype, device=times.device).repeat_interleave(len(times), dim=1)
        x0, x1, z = (unit.unsqueeze(1).repeat(1, self.dim) for unit in units)
        sample = self.path.sample(times.repeat(3), x0, x1, z)
        xt, xt_dot = (part[:, 0].reshape(3, *t.shape).to(t.dtype) for part in (sample.xt, sample.xt_dot))
        return xt, xt_dot


class _Differentiated(_Observer):
    @override
    def asked(self, t: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.minimum(t, 1 - t).clamp(max=2e-3) / 4
        near, far = (super(_Differentiated, self).asked(t + k * h)[0] for k in (1, 2))
        back, rear = (super(_Differentiated, self).asked(t - k * h)[0] for k in (1, 2))
        return super().asked(t)[0], (8 * (near - back) - (far - rear)) / (12 * h)


def oracle_of(path: Interpolant, source: GaussianMixture, target: GaussianMixture) -> MixtureOracle:
    """Return the exact field of a path as its samples show it."""
    return MixtureOracle(Observed(path, source.dim), source, target)


def truth_of(field: MixtureOracle) -> MixtureOracle:
    """Return the field that a path's weights call for: itself, unless its derivatives are wrong."""
    seen = field.interpolant
    assert isinstance(seen, Observed)
    right = Observed(seen.observer.path, seen.observer.dim, differentiated=True)
    # Irregular, so that no kink is met, and far from the ends, where differences are exact to 1e-9.
    t = torch.linspace(0.0512, 0.9487, 46, dtype=torch.float64)
    if torch.allclose(seen.observer(t)[1], right.observer(t)[1], rtol=1e-5, atol=1e-5):
        return field
    return MixtureOracle(right, field.source, field.target)


def add_row(table: Table, label: str, cells: Callable[[], Mapping[str, Cell]], kind: str = OURS) -> None:
    """Add a row; one that fails says why in place of its numbers, and the other rows are not lost."""
    try:
        table.add(label, cells(), kind)
    except Exception as error:  # A path of the user's may raise anything.
        table.add(label, because(table.columns, error), kind)


def because(columns: Sequence[str], error: Exception) -> dict[str, Cell]:
    """Return cells that say why there are no numbers: the reason in the first."""
    why = str(error).partition(":")[0] or type(error).__name__
    return {column: missing(why if k == 0 else "likewise") for k, column in enumerate(columns)}
