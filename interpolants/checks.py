"""The conformance check for a user's own interpolant."""

from __future__ import annotations

import copy
import math
import types
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from interpolants._tensors import Time
from interpolants.gammas import Gamma
from interpolants.interpolant import Interpolant, SpatiallyLinear

# Times of the finite differences: both ends come close, and none is within a step of a node of a grid of
# up to 10,000 equal steps, on which a path might be tabulated.
_TIMES = (
    *(0.0012837, 0.0128371, 0.1370628, 0.2931463, 0.4373541),
    *(0.5871372, 0.7233457, 0.8779619, 0.9871391, 0.9988465),
)
_STEP = 1e-5
# Values are compared to rounding, slopes to the error of central differences; a user's slip is larger.
_TOLERANCE = 1e-6
_SLOPE_TOLERANCE = 1e-4


class InterpolantError(ValueError):
    """Raised by :func:`check_interpolant`; its message names every promise that is broken.

    Attributes:
        broken: One line for each broken promise.
    """

    def __init__(self, name: str, broken: list[str]) -> None:
        self.broken = broken
        count = "1 promise" if len(broken) == 1 else f"{len(broken)} promises"
        super().__init__("\n".join([f"{name} breaks {count}:", *(f"  - {line}" for line in broken)]))


def check_interpolant(interpolant: Interpolant, *, shape: tuple[int, ...] | None = None) -> None:
    """Check that an interpolant keeps what losses, samplers and exact fields rely on.

    It starts and ends where it should; every derivative, written or automatic, agrees with finite
    differences; gamma is zero at both ends, never negative, and gamma gamma' is finite; shapes, dtypes
    and devices are kept; t may be a float, ``()`` or ``(B,)`` and x any shape ``(B, *D)``; it compiles
    into one graph and works under ``torch.func.vmap``. A path that only takes some shapes of x (such as
    points of the plane) is checked on the first it takes of (B, 2), (B, 3), (B, 16), (B, 3, 4, 4).

    Args:
        interpolant: The interpolant. If it is also an ``nn.Module`` its parameters are left as they are.
        shape: The shape of one example, such as ``(28, 28)``, for a path that takes none of those.

    Raises:
        TypeError: When it is no Interpolant.
        InterpolantError: When a promise is broken; the message names each one, with the numbers seen.

    Example:
        >>> from interpolants import Affine, Linear
        >>> check_interpolant(Linear())
        >>> check_interpolant(Affine(lambda t: 1 - t / 2, lambda t: t))
        Traceback (most recent call last):
        ...
        interpolants.checks.InterpolantError: Affine breaks 1 promise:
          - the path must end at x1: at t = 1 it is off by up to ... (alpha(1) = 0.5, beta(1) = 1)
    """
    if not isinstance(interpolant, Interpolant):
        kind = interpolant.__name__ if isinstance(interpolant, type) else type(interpolant).__name__
        hint = f"; make an instance: {kind}()" if isinstance(interpolant, type) else ""
        raise TypeError(f"check_interpolant needs an Interpolant; got {kind}{hint}")
    with warnings.catch_warnings():
        # Forward-mode differentiation and the compiler announce deprecations of torch's own.
        warnings.simplefilter("ignore", DeprecationWarning)
        broken = list(dict.fromkeys(_Check(interpolant, shape).broken()))
    if broken:
        raise InterpolantError(type(interpolant).__name__, broken)


class _Check:
    def __init__(self, interpolant: Interpolant, shape: tuple[int, ...] | None) -> None:
        self.shapes = ((2,), (3,), (16,), (3, 4, 4)) if shape is None else (shape,)
        self.learnable = isinstance(interpolant, torch.nn.Module)
        self.device = torch.device("cpu")
        if isinstance(interpolant, torch.nn.Module):
            # A copy in double precision, where finite differences are sharp; the original is left alone.
            copied = copy.deepcopy(interpolant).double()
            places = [tensor.device for tensor in (*copied.parameters(), *copied.buffers())]
            self.device = places[0] if places else self.device
            interpolant = copied
        self.mine = interpolant
        self.dtype = torch.float64

    def broken(self) -> Iterator[str]:
        try:
            self.shape = self._shape()
        except Exception as error:
            # Numbers, shape (B,), are not tried: what forgets to reshape t takes them, and B = D by chance.
            shape_it = " (t multiplies x as t.reshape(-1, *[1] * (x0.ndim - 1)))"
            hint = shape_it if "size of tensor" in str(error) else ""
            yield f"interpolate must take t of shape (B,) and x0, x1 of shape (B, *D): {_say(error)}{hint}"
            return
        for promise in (
            self._ends,
            self._weights,
            self._gamma,
            self._derivative,
            self._sample,
            self._times,
            self._shapes,
            self._dtypes,
            self._vmap,
            self._compile,
        ):
            try:
                yield from promise()
            except Exception as error:
                yield f"{promise.__name__.strip('_')}: {_say(error)}"

    def _shape(self) -> tuple[int, ...]:
        failures = []
        for shape in self.shapes:
            try:
                self.mine.interpolate(self._time(0.3, 5), *self._ends_of((5, *shape)))
            except Exception as error:
                failures.append(error)
            else:
                return (5, *shape)
        raise failures[0]

    def _ends_of(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
        x0, x1 = x.to(self.device, dtype or self.dtype)
        return x0, x1

    def _time(self, t: float, rows: int) -> Tensor:
        return torch.full((rows,), t, dtype=self.dtype, device=self.device)

    def _ends(self) -> Iterator[str]:
        x0, x1 = self._ends_of(self.shape)
        promised = self.mine.ends(x0, x1)
        for t, verb, name, end in ((0, "start", "x0", promised[0]), (1, "end", "x1", promised[1])):
            got = self.mine.interpolate(self._time(t, len(x0)), x0, x1)
            off = _worst(got, end)
            if not off <= _TOLERANCE:
                yield f"the path must {verb} at {name}: at t = {t} it is off by up to {off:.3g}{self._at(t)}"

    def _at(self, t: int) -> str:
        if not isinstance(self.mine, SpatiallyLinear):
            return ""
        time = self._time(t, 1)
        alpha, beta = (float(torch.as_tensor(f(time)).max()) for f in (self.mine.alpha, self.mine.beta))
        return f" (alpha({t}) = {alpha:.3g}, beta({t}) = {beta:.3g})"

    def _weights(self) -> Iterator[str]:
        mine = self.mine
        if isinstance(mine, SpatiallyLinear):
            yield from self._slope("alpha_derivative", mine.alpha_derivative, mine.alpha)
            yield from self._slope("beta_derivative", mine.beta_derivative, mine.beta)
            yield from self._slope(
                "half_alpha_squared_derivative", mine.half_alpha_squared_derivative, _half_square(mine.alpha)
            )
            yield from self._slope(
                "half_beta_squared_derivative", mine.half_beta_squared_derivative, _half_square(mine.beta)
            )
            for name in ("half_alpha_squared_derivative", "half_beta_squared_derivative"):
                for t, value in zip((0, 1), self._values(getattr(mine, name)), strict=True):
                    if not math.isfinite(value):
                        yield (
                            f"{name} must be finite at both ends: at t = {t} it is {value}; where the "
                            "weight's own derivative is infinite, write this product"
                        )

    def _gamma(self) -> Iterator[str]:
        gamma = self.mine.gamma
        if not isinstance(gamma, Gamma):
            yield f"gamma must be a Gamma, such as Brownian(); got {type(gamma).__name__}"
            return
        name = type(gamma).__name__
        times = self._grid(torch.linspace(0, 1, 101).tolist())
        values = gamma(times).detach()
        scale = float(values.abs().nan_to_num().max()) or 1.0
        for t, value, squared in zip((0, 1), self._values(gamma), self._values(gamma.squared), strict=True):
            if not (abs(value) <= _TOLERANCE * scale and abs(squared) <= _TOLERANCE * scale**2):
                yield (
                    f"gamma must be zero at both ends: {name} has gamma({t}) = {value:.3g} "
                    f"and gamma({t})^2 = {squared:.3g}"
                )
        if not bool((values >= -_TOLERANCE * scale).all()):
            worst = int(values.nan_to_num(nan=-torch.inf).argmin())
            yield (
                f"gamma must be non-negative: {name} has gamma({float(times[worst]):.3g}) = "
                f"{float(values[worst]):.3g}"
            )
        off = _worst(gamma.squared(times), values.square())
        if not off <= _TOLERANCE * scale**2:
            yield f"gamma.squared must be gamma^2: {name} differs by up to {off:.3g}"
        product = gamma.half_squared_derivative(times)
        if not bool(torch.isfinite(product).all()):
            worst = int((~torch.isfinite(product)).int().argmax())
            yield (
                f"gamma gamma' must be finite on [0, 1]: {name}.half_squared_derivative"
                f"({float(times[worst]):.3g}) = {float(product[worst])}"
            )
        yield from self._end_slopes(gamma, name, scale)
        yield from self._slope(f"{name}.derivative", gamma.derivative, gamma)
        yield from self._slope(
            f"{name}.half_squared_derivative", gamma.half_squared_derivative, lambda t: gamma.squared(t) / 2
        )

    def _end_slopes(self, gamma: Gamma, name: str, scale: float) -> Iterator[str]:
        # From inside: over a step h the difference of gamma^2 is off by h/2 times its second derivative.
        step = 1e-7
        inside = _detached(gamma.squared(self._grid([step, 1 - step])))
        ends = self._values(gamma.squared)
        products = self._values(gamma.half_squared_derivative)
        for t, sign, near, end, product in zip((0, 1), (1, -1), inside, ends, products, strict=True):
            expected = sign * (near - end) / (2 * step)
            if math.isfinite(product) and abs(product - expected) > 1e-3 * (scale**2 + abs(expected)):
                yield (
                    f"{name}.half_squared_derivative must be gamma gamma': at t = {t} it is {product:.6g}, "
                    f"finite differences of gamma^2 give {expected:.6g}"
                )

    def _derivative(self) -> Iterator[str]:
        x0, x1 = self._ends_of((len(_TIMES), *self.shape[1:]))
        mine = self.mine
        yield from self._slope(
            "derivative", lambda t: mine.derivative(t, x0, x1), lambda t: mine.interpolate(t, x0, x1)
        )

    def _sample(self) -> Iterator[str]:
        x0, x1 = self._ends_of((len(_TIMES), *self.shape[1:]))
        z = x1.flip(0)
        mine = self.mine
        yield from self._slope(
            "xt_dot of sample",
            lambda t: mine.sample(t, x0, x1, z).xt_dot,
            lambda t: mine.sample(t, x0, x1, z).xt,
        )
        times = self._grid(_TIMES)
        latent = mine.gamma(times).reshape(-1, *(1,) * (x0.ndim - 1)) * z
        expected = mine.interpolate(times, x0, x1) + latent
        off = _worst(mine.sample(times, x0, x1, z).xt, expected)
        if not off <= _TOLERANCE * max(1.0, float(expected.detach().abs().max())):
            yield f"xt of sample must be interpolate(t, x0, x1) + gamma(t) z: off by up to {off:.3g}"

    def _slope(
        self, name: str, derivative: Callable[[Tensor], Tensor], function: Callable[[Tensor], Tensor]
    ) -> Iterator[str]:
        """Yield a line when a derivative disagrees with central differences."""
        times = self._grid(_TIMES)
        with torch.no_grad():
            early, late = (self._tensor(function(times + sign * _STEP), times) for sign in (-1, 1))
            expected = (late - early) / (2 * _STEP)
        got = self._tensor(derivative(times), times).detach().broadcast_to(expected.shape)
        # Relative to the slope, with the error of central differences: step^2 times a third derivative.
        excess = (got - expected).abs() / (1 + expected.abs()) - _SLOPE_TOLERANCE
        if bool((~torch.isfinite(got)).any()) or float(excess.max()) > 0:
            worst = int(excess.nan_to_num(nan=torch.inf).flatten().argmax())
            row = worst // max(1, excess[0].numel())
            yield (
                f"{name} must be the time derivative: at t = {_TIMES[row]:.4g} it is "
                f"{float(got.flatten()[worst]):.6g}, finite differences give "
                f"{float(expected.flatten()[worst]):.6g}"
            )

    def _times(self) -> Iterator[str]:
        x0, x1 = self._ends_of(self.shape)
        z = x1.flip(0)
        rows = self.mine.sample(self._time(0.3, len(x0)), x0, x1, z)
        for kind, t in (("a float", 0.3), ("shape ()", self._time(0.3, 1)[0])):
            try:
                other = self.mine.sample(t, x0, x1, z)
            except Exception as error:
                yield f"t may be {kind}: {_say(error)}"
                continue
            off = max(_worst(rows.xt, other.xt), _worst(rows.xt_dot, other.xt_dot))
            if not off <= _TOLERANCE:
                yield f"t as {kind} must give what t of shape (B,) gives: off by up to {off:.3g}"

    def _shapes(self) -> Iterator[str]:
        # A path for points of the plane need not take images; one that takes images must keep them.
        shapes = {self.shape, (5, 2), (5, 3, 4, 4), (3, 3), (1, 2)} if self._takes_any() else {self.shape}
        for shape in sorted(shapes):
            x0, x1 = self._ends_of(shape)
            times = self._grid(torch.linspace(0.1, 0.9, len(x0)).tolist())
            sample = self.mine.sample(times, x0, x1, x1.flip(0))
            for name in ("xt", "xt_dot"):
                got = tuple(getattr(sample, name).shape)
                if got != shape:
                    yield f"{name} must keep the shape of x0: {shape} became {got}"
            for k in range(len(x0)):
                alone = self.mine.interpolate(sample.t[k : k + 1], x0[k : k + 1], x1[k : k + 1])
                together = self.mine.interpolate(sample.t, x0, x1)[k : k + 1]
                if not _worst(alone, together) <= _TOLERANCE:
                    yield f"each row must follow its own time: row {k} of x {shape} depends on the others"
                    break

    def _takes_any(self) -> bool:
        try:
            for shape in ((5, 3, 4, 4), (5, 2)):
                self.mine.interpolate(self._time(0.3, 5), *self._ends_of(shape))
        except Exception:
            return False
        return True

    def _dtypes(self) -> Iterator[str]:
        every = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        places = [(dtype, device) for device in devices for dtype in every]
        if self.learnable:  # Its parameters fix both.
            places = [(self.dtype, str(self.device))]
        for dtype, device in places:
            x0, x1 = (x.to(device) for x in self._ends_of(self.shape, dtype))
            for t in (0.3, torch.full((len(x0),), 0.3, device=device)):
                sample = self.mine.sample(t, x0, x1, x1.flip(0))
                for name in ("xt", "xt_dot"):
                    got = getattr(sample, name)
                    if got.dtype != dtype or got.device != x0.device:
                        yield (
                            f"{name} must keep dtype and device: {dtype} on {x0.device} "
                            f"became {got.dtype} on {got.device}"
                        )

    def _vmap(self) -> Iterator[str]:
        x0, x1 = self._ends_of((3, *self.shape))
        t = self._grid(torch.linspace(0.1, 0.9, 3 * self.shape[0]).tolist()).reshape(3, -1)
        z = x1.flip(0)

        def sample(t: Tensor, x0: Tensor, x1: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            drawn = self.mine.sample(t, x0, x1, z)
            return drawn.xt, drawn.xt_dot

        mapped = torch.func.vmap(sample)(t, x0, x1, z)
        looped = [torch.stack(part) for part in zip(*map(sample, t, x0, x1, z), strict=True)]
        off = max(_worst(got, want) for got, want in zip(mapped, looped, strict=True))
        if not off <= _TOLERANCE:
            yield f"torch.func.vmap must give what a loop gives: off by up to {off:.3g}"

    def _compile(self) -> Iterator[str]:
        x0, x1 = self._ends_of(self.shape)
        t, z = self._time(0.3, len(x0)), x1.flip(0)

        def sample(t: Tensor, x0: Tensor, x1: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            drawn = self.mine.sample(t, x0, x1, z)
            return drawn.xt, drawn.xt_dot

        # The back end that traces gradients but generates no code: what matters is that it is one graph.
        # A copy of the code object has a compile cache of its own, so many checks do not fill one.
        fresh = types.FunctionType(sample.__code__.replace(), globals(), closure=sample.__closure__)
        try:
            compiled = torch.compile(fresh, backend="aot_eager", fullgraph=True)(t, x0, x1, z)
        except Exception as error:
            yield f"torch.compile must make one graph of sample: {_say(error)}"
            return
        plain = sample(t, x0, x1, z)
        off = max(_worst(got, want) for got, want in zip(compiled, plain, strict=True))
        if not off <= _TOLERANCE:
            yield f"torch.compile must give what plain execution gives: off by up to {off:.3g}"

    def _tensor(self, value: Time, times: Tensor) -> Tensor:
        tensor = torch.as_tensor(value, dtype=self.dtype, device=self.device)
        return tensor.expand_as(times) if tensor.ndim == 0 else tensor

    def _values(self, function: Callable[[Tensor], Tensor]) -> list[float]:
        """Return what a function of time gives at t = 0 and t = 1."""
        ends = self._grid([0.0, 1.0])
        return _detached(self._tensor(function(ends), ends))

    def _grid(self, times: list[float] | tuple[float, ...]) -> Tensor:
        return torch.tensor(times, dtype=self.dtype, device=self.device)


def _half_square(weight: Callable[[Tensor], Time]) -> Callable[[Tensor], Tensor]:
    return lambda t: torch.as_tensor(weight(t)) ** 2 / 2


def _detached(values: Tensor) -> list[float]:
    return values.detach().double().cpu().tolist()


def _worst(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape:
        raise ValueError(f"expected shape {tuple(want.shape)}, got {tuple(got.shape)}")
    return float((got.detach().double() - want.detach().double()).abs().max())


def _say(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
