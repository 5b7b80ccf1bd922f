"""The training loop, as a generator of steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from interpolants.losses import Draw, Loss

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

# Their update treats every element alike, so all parameters may be laid end to end in one.
_ELEMENTWISE = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)


@dataclass(frozen=True, eq=False)
class Step:
    """The figures of one training step.

    Attributes:
        index: How many steps have been made, from 1.
        loss: The loss of its minibatch before the step, a detached ``()`` tensor; ``float(step.loss)``
            waits for the device.
    """

    index: int
    loss: Tensor


class Trainer:
    """Trains a network: ``for step in trainer:`` makes one step at a time and yields its figures.

    Logging, evaluation and early stopping are the body of the loop. Iterating again after the end or a
    ``break`` continues from the step reached.

    Args:
        network: The network, called as ``network(t, x, **conditions)``; it is trained in place.
        loss: The objective, such as ``Regression(Linear())``.
        batches: Minibatches ``(x0, x1)`` or ``(x0, x1, conditions)`` with a mapping of conditions; begun
            again when they run out before the steps do.
        steps: How many steps to make.
        optimizer: Makes the optimiser from the parameters; Adam with learning rate 1e-3 by default, in
            one fused kernel.
        generator: Where times, latent noise and random couplings are drawn from.
        compile: Whether to compile the whole step, forward, backward and optimiser, into one graph (the
            optimiser stays outside unless it is one of torch's elementwise ones, such as Adam). It pays
            for small networks, whose time goes into launching operations; the first step takes seconds
            to tens of seconds and needs a C++ compiler. Parameters are then laid end to end in one
            buffer, which the network's own become views of. A last, smaller minibatch compiles anew.

    Raises:
        RuntimeError: At the first step, when it cannot be compiled, as with BatchNorm's batch counter.
        TypeError: When ``optimizer`` is an optimiser rather than what makes one.
        ValueError: When ``steps`` is negative, there is nothing to train, or the batches are empty.

    Example:
        >>> from interpolants import MLP, Linear, Regression
        >>> generator = torch.Generator().manual_seed(0)
        >>> network = MLP(dim=1, width=8, depth=1, generator=generator)
        >>> batches = [(torch.zeros(64, 1), torch.ones(64, 1))]
        >>> trainer = Trainer(network, Regression(Linear()), batches, steps=600, generator=generator)
        >>> losses = [float(step.loss) for step in trainer]
        >>> len(losses), losses[-1] < 0.1 * losses[0]
        (600, True)
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        batches: Iterable[tuple[Any, ...]],
        *,
        steps: int,
        optimizer: Optimizers | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,  # noqa: A002 - torch's own word
    ) -> None:
        if steps < 0:
            raise ValueError(f"steps must not be negative; got {steps}")
        self.network = network
        self.loss = loss
        self.steps = steps
        self.generator = generator
        self.index = 0
        self._batches = batches
        self._iterator: Iterator[tuple[Any, ...]] | None = None
        if isinstance(optimizer, torch.optim.Optimizer):
            name = type(optimizer).__name__
            raise TypeError(
                f"optimizer must make the optimiser from the parameters, such as "
                f"functools.partial(torch.optim.{name}, lr=1e-3); got one that is made already"
            )
        objective = _Objective(network, loss)
        if not any(p.requires_grad for p in objective.parameters()):
            raise ValueError("the network has no parameters to train")
        if optimizer is None:  # A fused kernel is the faster one by itself, but closed to the compiler.
            optimizer = partial(torch.optim.Adam, lr=1e-3, fused=not compile)
        self._step = (_compiled if compile else _eager)(objective, optimizer)

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self.index >= self.steps:
            raise StopIteration
        batch = self._next_batch()
        x0, x1 = batch[0], batch[1]
        conditions: Mapping[str, Any] = batch[2] if len(batch) > 2 else {}
        draw = self.loss.draw(x0, x1, generator=self.generator)
        loss = self._step(draw, conditions)
        self.index += 1
        return Step(self.index, loss)

    def _next_batch(self) -> tuple[Any, ...]:
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self._batches)
            for batch in self._iterator:
                return batch
            self._iterator = None
        raise ValueError("batches gave no minibatch: they are empty, or an iterator that has run out")


class _Objective(nn.Module):
    """The mean loss of given draws, with everything trainable as submodules: what the path learns too."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.path = nn.ModuleDict(loss.interpolant.modules_to_train())

    def forward(self, draw: Draw, conditions: Mapping[str, Any]) -> Tensor:
        return self.loss.evaluate(self.network, draw, **conditions).mean()


_StepFunction = Callable[[Draw, Mapping[str, Any]], Tensor]


def _eager(objective: _Objective, optimizers: Optimizers) -> _StepFunction:
    optimizer = optimizers([p for p in objective.parameters() if p.requires_grad])

    def step(draw: Draw, conditions: Mapping[str, Any]) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = objective(draw, conditions)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _compiled(objective: _Objective, optimizers: Optimizers) -> _StepFunction:
    named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    leaves = list(named.values())
    laid = _treats_alike(optimizers(leaves), leaves)
    if laid:
        leaves = [_laid_end_to_end(leaves)]
    optimizer = optimizers(leaves)
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    in_graph = type(optimizer) in _ELEMENTWISE
    for group in optimizer.param_groups:  # A hand-fused kernel is closed to the compiler, which fuses anyway.
        if group.get("fused"):
            group["fused"] = None
    # Without the wrappers for hooks and gradient modes, which would break the graph.
    optimizer_step = inspect.unwrap(type(optimizer).step)

    def value(leaves: list[Tensor], draw: Draw, conditions: Mapping[str, Any]) -> Tensor:
        parts = _parts(leaves[0], list(named.values())) if laid else leaves
        weights = dict(zip(named, parts, strict=True))
        return cast("Tensor", torch.func.functional_call(objective, weights, (draw, conditions)))

    @torch.compile(fullgraph=True, dynamic=False)
    def graph(draw: Draw, conditions: Mapping[str, Any]) -> Tensor:
        gradients, loss = torch.func.grad_and_value(value)(list(leaves), draw, conditions)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            assert leaf.grad is not None
            leaf.grad.copy_(gradient)
        if in_graph:
            optimizer_step(optimizer)
        return cast("Tensor", loss)

    def step(draw: Draw, conditions: Mapping[str, Any]) -> Tensor:
        with torch.no_grad():  # The gradient is taken inside the graph; none is recorded around it.
            try:
                loss: Tensor = graph(draw, conditions)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    f"this training step cannot be compiled into one graph ({reason}); use compile=False"
                ) from error
        if not in_graph:
            optimizer.step()
        return loss

    return step


def _treats_alike(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> bool:
    """Return whether the optimiser updates every element of every parameter by one rule of its own."""
    # A subclass may look at whole tensors, groups at single ones; both need the parameters as they are.
    return (
        type(optimizer) in _ELEMENTWISE
        and len(optimizer.param_groups[0]["params"]) == len(parameters)
        and len({(p.dtype, p.device) for p in parameters}) == 1
    )


def _laid_end_to_end(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Return one parameter with all elements, of which the given ones become views."""
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    for parameter, part in zip(parameters, _parts(flat.detach(), parameters), strict=True):
        parameter.data = part
    return flat


def _parts(flat: Tensor, like: list[nn.Parameter]) -> list[Tensor]:
    parts = torch.split(flat, [p.numel() for p in like])
    return [part.view(p.shape) for part, p in zip(parts, like, strict=True)]
