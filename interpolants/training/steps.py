"""One training step: gradients of some minibatches, then the optimiser; eager, or one compiled graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from interpolants.losses import Draw, Loss
from interpolants.training.engine import Engine, Optimizers

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


class Part(NamedTuple):
    """One minibatch with its randomness, and the conditions of its rows."""

    draw: Draw
    conditions: Mapping[str, Any]


# Given the loss and the norm of the gradient, whether the weights may be changed.
Accept = Callable[[Tensor, Tensor | None], bool]


class StepMaker(Protocol):
    """Makes one step of an optimiser."""

    optimizer: torch.optim.Optimizer

    def __call__(self, parts: Iterator[Part], accept: Accept) -> tuple[Tensor, Tensor | None]:
        """Make a step and return the loss and, when it is clipped, the norm of the gradient."""


class Objective(nn.Module):
    """The mean loss of given draws, with everything trainable as submodules: what the path learns too."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.path = nn.ModuleDict(loss.interpolant.modules_to_train())

    def forward(self, draw: Draw, conditions: Mapping[str, Any]) -> Tensor:
        """Return the mean loss, shape ``()``."""
        return self.loss.mean(self.network, draw, **conditions)


class EagerStep:
    """The plain loop: forward and backward for each minibatch, then the optimiser."""

    def __init__(
        self,
        objective: Objective,
        optimizers: Optimizers,
        engine: Engine,
        *,
        accumulate: int,
        clip: float | None,
        compile: bool,  # noqa: A002 - torch's own word
    ) -> None:
        self._call, self.optimizer = engine.prepare(objective, optimizers)
        self._synchronised = self._call
        if compile:
            self._call = cast("nn.Module", torch.compile(self._call))
        self._parameters = [p for p in objective.parameters() if p.requires_grad]
        self._engine = engine
        self._accumulate = accumulate
        self._clip = clip

    def __call__(self, parts: Iterator[Part], accept: Accept) -> tuple[Tensor, Tensor | None]:
        """Make a step and return the loss and, when it is clipped, the norm of the gradient."""
        self.optimizer.zero_grad()
        if self._accumulate == 1:
            loss = self._gradient(next(parts))
        else:
            with self._engine.apart(self._synchronised):
                losses = [self._gradient(next(parts)) for _ in range(self._accumulate - 1)]
            loss = torch.stack([*losses, self._gradient(next(parts))]).sum()
        loss = self._engine.mean(loss)
        norm = None if self._clip is None else self._engine.clip(self._parameters, self._clip)
        # A scaled gradient overflows now and then; what scales it skips those steps by itself.
        if accept(loss, None if self._engine.scaled else norm):
            self.optimizer.step()
        else:
            self._engine.skip()
        return loss, norm

    def _gradient(self, part: Part) -> Tensor:
        loss: Tensor = self._call(*part)
        if self._accumulate > 1:
            loss = loss / self._accumulate
        self._engine.backward(loss)
        return loss.detach()


class CompiledStep:
    """Forward, backward and optimiser in one graph, on parameters laid end to end."""

    def __init__(
        self, objective: Objective, optimizers: Optimizers, *, accumulate: int, clip: float | None
    ) -> None:
        named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        leaves = list(named.values())
        laid = _treats_alike(optimizers(leaves), leaves)
        if laid:
            leaves = [_laid_end_to_end(leaves)]
        self.optimizer = optimizer = optimizers(leaves)
        self._accumulate = accumulate
        for leaf in leaves:
            leaf.grad = torch.zeros_like(leaf)
        in_graph = type(optimizer) in _ELEMENTWISE
        for group in optimizer.param_groups:
            # A hand-fused kernel is closed to the compiler, which fuses anyway.
            if group.get("fused"):
                group["fused"] = None
        # Without the wrappers for hooks and gradient modes, which would break the graph.
        optimizer_step = inspect.unwrap(type(optimizer).step)

        def value(leaves: list[Tensor], part: Part) -> Tensor:
            parts = _parts(leaves[0], list(named.values())) if laid else leaves
            weights = dict(zip(named, parts, strict=True))
            loss = cast("Tensor", torch.func.functional_call(objective, weights, tuple(part)))
            return loss if accumulate == 1 else loss / accumulate

        def graph(part: Part, first: bool, last: bool) -> tuple[Tensor, Tensor | None]:
            gradients, loss = torch.func.grad_and_value(value)(list(leaves), part)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                assert leaf.grad is not None
                leaf.grad.copy_(gradient if first else leaf.grad + gradient)
            norm = None
            if last and clip is not None:
                norm = torch.nn.utils.clip_grad_norm_(leaves, clip)
            if last and in_graph:
                optimizer_step(optimizer)
            return cast("Tensor", loss), norm

        self._graph = torch.compile(_with_its_own_code(graph), fullgraph=True, dynamic=False)
        self._in_graph = in_graph

    def __call__(self, parts: Iterator[Part], accept: Accept) -> tuple[Tensor, Tensor | None]:
        """Make a step and return the loss and, when it is clipped, the norm of the gradient."""
        last = self._accumulate - 1
        with torch.no_grad():  # The gradient is taken inside the graph; none is recorded around it.
            try:
                made = [self._graph(next(parts), k == 0, k == last) for k in range(self._accumulate)]
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    f"this training step cannot be compiled into one graph ({reason}); use compile=False"
                ) from error
        loss = made[0][0] if last == 0 else torch.stack([loss for loss, _ in made]).sum()
        norm = made[-1][1]
        if accept(loss, norm) and not self._in_graph:
            self.optimizer.step()
        return loss, norm


def _with_its_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function anew: torch compiles the code of one only some eight times in a process."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)


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
