"""The training loop, as a generator of steps."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from interpolants._tensors import check_instance
from interpolants.losses import Draw, Loss
from interpolants.training.averages import Average
from interpolants.training.checkpoints import Checkpoints, figure_of
from interpolants.training.engine import Alone, Engine, Optimizers
from interpolants.training.feed import Batch, Feed
from interpolants.training.finite import FiniteGuard, NonFiniteLoss, statistics
from interpolants.training.randomness import global_states, restore_global_states
from interpolants.training.state import (
    buffer_names,
    check_finite,
    module_state,
    optimizer_state,
    restore_module,
    restore_optimizer,
    restore_settings,
    settings,
    to_json,
    under,
)
from interpolants.training.steps import CompiledStep, EagerStep, Objective, Part, StepMaker


@dataclass(frozen=True, eq=False)
class Step:
    """The figures of one training step.

    Attributes:
        index: How many steps have been made, from 1.
        loss: The loss of its minibatch before the step, a detached ``()`` tensor, the mean over all
            processes; ``float(step.loss)`` waits for the device.
        gradient_norm: The norm of the gradient before clipping, ``()``; None without clipping.
        skipped: Whether the weights were left as they were, since the loss was not finite.
    """

    index: int
    loss: Tensor
    gradient_norm: Tensor | None = None
    skipped: bool = False


class Trainer:
    """Trains a network: ``for step in trainer:`` makes one step at a time and yields its figures.

    Logging, evaluation and early stopping are the body of the loop. Iterating again after the end or a
    ``break`` continues from the step reached. :meth:`save` and :meth:`resume` carry a training over the
    end of its process: on a CPU, in one process, the weights are then bit for bit those of a training that
    was never stopped.

    Args:
        network: The network, called as ``network(t, x, **conditions)``; it is trained in place.
        loss: The objective, such as ``Regression(Linear())``.
        batches: Minibatches ``(x0, x1)`` or ``(x0, x1, conditions)`` with a mapping of conditions; begun
            again when they run out before the steps do. With several processes, each gives its own rows, as
            many as the others. With ``state_dict`` and ``load_state_dict`` they are continued where they
            stopped, from a state that JSON can hold, else by going through those already taken; a loader
            that shuffles finds its order again.
        steps: How many steps to make.
        optimizer: Makes the optimiser from the parameters; Adam with learning rate 1e-3 by default, in
            one fused kernel.
        generator: Where times, latent noise and random couplings are drawn from; with several processes, in
            the same state on all.
        compile: Whether to compile the whole step, forward, backward and optimiser, into one graph (the
            optimiser stays outside unless it is one of torch's elementwise ones, such as Adam). It pays
            for small networks, whose time goes into launching operations; the first step takes seconds
            to tens of seconds and needs a C++ compiler. Parameters are then laid end to end in one
            buffer, which the network's own become views of. A last, smaller minibatch compiles anew. With an
            ``engine``, forward and backward are compiled, and the optimiser is its own fused kernel.
        engine: Where to run: :class:`~interpolants.Accelerated` for several processes, several
            devices or mixed precision; by default this process alone, on the network's own device.
        schedule: The factor of the learning rate as a function of the number of steps made, such as
            :class:`~interpolants.training.WarmUp`.
        accumulate: Minibatches in a step, whose gradients are averaged.
        clip: The largest norm of the gradient; longer ones are scaled down to it.
        averages: Decays of exponential moving averages of the network's weights (not of what a path learns),
            found in :attr:`averages` by decay.
        skip_non_finite: How many steps with a loss (or clipped gradient) that is not finite may be skipped in
            all before the training stops; on an accelerator that costs a wait in every step.

    Attributes:
        index: How many steps have been made.
        averages: The averaged networks by decay, each called like the network.
        optimizer: The optimiser.

    Raises:
        NonFiniteLoss: From a step, when the loss is not finite: with the step, the statistics of its
            minibatch and the last checkpoint. On a GPU it may come one step late.
        RuntimeError: At the first step, when it cannot be compiled, as with BatchNorm's batch counter.
        TypeError: When ``optimizer`` is an optimiser rather than what makes one, ``network`` or ``loss`` is
            of another kind, or a minibatch is none.
        ValueError: When a number is out of range, there is nothing to train, or the batches are empty.

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
        engine: Engine | None = None,
        schedule: Callable[[int], float] | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        averages: Sequence[float] = (),
        skip_non_finite: int = 0,
    ) -> None:
        _check(steps=steps, accumulate=accumulate, clip=clip, skip_non_finite=skip_non_finite)
        check_instance("network", network, nn.Module, "MLP(dim=2)")
        check_instance("loss", loss, Loss, "Regression(Linear())")
        self.network = network
        self.loss = loss
        self.steps = steps
        self.generator = generator
        self.index = 0
        self._feed = Feed(batches, generator)
        self._engine = Alone() if engine is None else engine
        self._accumulate = accumulate
        if isinstance(optimizer, torch.optim.Optimizer):
            name = type(optimizer).__name__
            raise TypeError(
                f"optimizer must make the optimiser from the parameters, such as "
                f"functools.partial(torch.optim.{name}, lr=1e-3); got one that is made already"
            )
        self._objective = objective = Objective(network, loss)
        if not any(p.requires_grad for p in objective.parameters()):
            raise ValueError("the network has no parameters to train")
        whole_step = compile and isinstance(self._engine, Alone)
        if whole_step and skip_non_finite:
            raise ValueError("a step compiled into one graph cannot be skipped; use compile=False")
        if optimizer is None:  # A fused kernel is the faster one by itself, but closed to the compiler.
            optimizer = partial(torch.optim.Adam, lr=1e-3, fused=not whole_step)
        # Copies, so before the network is compiled or shared out.
        self.averages = {decay: Average(network, decay) for decay in averages}
        self._step: StepMaker
        if whole_step:
            self._step = CompiledStep(
                objective,
                optimizer if schedule is None else _with_tensor_rates(optimizer),
                accumulate=accumulate,
                clip=clip,
            )
        else:
            self._step = EagerStep(
                objective, optimizer, self._engine, accumulate=accumulate, clip=clip, compile=compile
            )
        for average in self.averages.values():
            average.to(next(objective.parameters()).device)
            self._engine.shard(average.module)
        self.optimizer = self._step.optimizer
        self._schedule = schedule
        self._rates = [] if schedule is None else [float(g["lr"]) for g in self.optimizer.param_groups]
        self._made_with = settings(self.optimizer)
        self._guard = FiniteGuard(skip_non_finite, self._explained)
        self._last_checkpoint: Path | None = None

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self.index >= self.steps:
            self._guard.settle()
            raise StopIteration
        self._set_rates()
        accepted = True
        draws: list[Draw] = []

        def accept(loss: Tensor, norm: Tensor | None) -> bool:
            nonlocal accepted
            accepted = self._guard.accept(self.index + 1, loss, norm, draws)
            return accepted

        loss, norm = self._step(self._parts(draws), accept)
        self.index += 1
        if accepted:
            for average in self.averages.values():
                average.update_parameters(self._objective.network)
        return Step(self.index, loss, norm, not accepted)

    def save(
        self,
        checkpoints: Checkpoints,
        *,
        figure: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        """Write everything that is needed to go on from here; with several processes, all of them must ask.

        Args:
            checkpoints: Where to.
            figure: How good the network is, the lower the better: the best checkpoint is kept.
            metadata: More text to write with it, such as the configuration.

        Returns:
            The file.

        Raises:
            NonFiniteLoss: When the loss of the last step was not finite.
            OSError: When it cannot be written; the checkpoints before are left as they are.
            TypeError: When the state of the batches or the optimiser has parts that JSON cannot hold.
            ValueError: When a weight is not finite: such a state is not written. When ``metadata`` has a name
                that the format needs.
        """
        self._guard.settle()
        tensors, text = self.state()
        path = checkpoints.path(self.index)
        failure: Exception | None = None
        if self._engine.index == 0:
            try:
                self._write(checkpoints, tensors, text, figure, metadata or {})
            except Exception as error:  # The others wait to hear of it, whatever it is.
                failure = error
        if self._engine.agree(failure is not None):
            raise failure or OSError(f"process 0 could not write {path}, and says why")
        self._last_checkpoint = path
        return path

    def _write(
        self,
        checkpoints: Checkpoints,
        tensors: Mapping[str, Tensor],
        text: str,
        figure: float | None,
        metadata: Mapping[str, str],
    ) -> None:
        if "training" in metadata:
            raise ValueError("the metadata 'training' is the trainer's own; choose another name")
        buffers = buffer_names("objective", self._objective)
        for decay, average in self.averages.items():
            buffers |= buffer_names(f"average/{decay!r}", average.module)
        check_finite(tensors, buffers)
        path = checkpoints.path(self.index)
        if figure is None and path == self._last_checkpoint:  # Written anew, and as good as it was.
            figure = figure_of(path)
        checkpoints.save(self.index, tensors, {**metadata, "training": text}, figure=figure)

    def resume(self, checkpoints: Checkpoints) -> int:
        """Go on from the last whole checkpoint, if there is one, and return the step reached.

        A damaged checkpoint is passed over with a warning that names it and the one used in its place.

        Args:
            checkpoints: Where :meth:`save` wrote them.

        Raises:
            ValueError: When they are of another network or optimiser, or all are damaged, or the processes
                find different ones.
        """
        found = checkpoints.latest()
        step = -1 if found is None else checkpoints.step(found[2])
        steps = self._engine.gather(torch.tensor([step], device=self._device)).tolist()
        if min(steps) < max(steps):
            raise ValueError(
                f"the processes found checkpoints of different steps, {steps} (-1 for none): "
                f"{checkpoints.folder} must be a folder that all of them see"
            )
        if found is None:
            return self.index
        tensors, metadata, path = found
        if "training" not in metadata:
            raise ValueError(f"{path} holds no state of a training")
        self.restore(tensors, metadata["training"])
        self._last_checkpoint = path
        return self.index

    def state(self) -> tuple[dict[str, Tensor], str]:
        """Return everything that is needed to go on from here: tensors by name, and the rest as JSON.

        Weights are under ``objective/network.``, averages under ``average/DECAY/``.
        """
        tensors = module_state("objective", self._objective)
        for decay, average in self.averages.items():
            tensors |= module_state(f"average/{decay!r}", average.module)
        of_optimizer, rest = optimizer_state(self.optimizer)
        tensors |= of_optimizer
        if (
            self._schedule is not None
        ):  # It sets the rates anew, and a training without it has those it was given.
            for group in rest["groups"]:
                group.pop("lr")
        tensors |= self._of_all("random", global_states(self._device))
        if self.generator is not None:
            tensors["random/generator"] = self.generator.get_state()
        beginning, generator = self._feed.beginning()
        tensors |= self._of_all("beginning", beginning)
        if generator is not None:
            tensors["beginning/generator"] = generator
        values = {
            "step": self.index,
            "skipped": self._guard.skipped,
            "decays": list(self.averages),
            "updates": [average.updates for average in self.averages.values()],
            **self._feed.state(),
            "processes": self._engine.count,
            "engine": self._engine.state(),
            "optimizer": rest,
            "made_with": self._made_with,
        }
        return {name: value.cpu() for name, value in tensors.items()}, to_json(values)

    def restore(self, tensors: Mapping[str, Tensor], text: str) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            ValueError: When it is of another network or optimiser.
        """
        values = json.loads(text)
        # What is not in checkpoints written before it was kept.
        values.setdefault("decays", list(self.averages))
        values.setdefault("taken", values["step"] * self._accumulate)
        values.setdefault("begun", 0)
        values.setdefault("made_with", values["optimizer"]["groups"])
        restore_module("objective", self._objective, tensors)
        self._restore_averages(tensors, dict(zip(values["decays"], values["updates"], strict=False)))
        restore_optimizer(self.optimizer, tensors, values["optimizer"])
        restore_settings(self.optimizer, self._made_with, values["made_with"], values["optimizer"]["groups"])
        self.index = values["step"]
        self._guard.skipped = values["skipped"]
        self._engine.restore(values["engine"])
        same = values["processes"] == self._engine.count
        beginning = self._own("beginning", tensors) if same else {}
        self._feed.restore(values, beginning, tensors.get("beginning/generator"))
        if self.generator is not None and "random/generator" in tensors:
            self.generator.set_state(tensors["random/generator"])
        if same:
            restore_global_states(self._own("random", tensors), self._device)
        else:
            warnings.warn(
                f"the checkpoint was written by {values['processes']} processes and there are "
                f"{self._engine.count}: what draws from the global generators, such as dropout, goes on with "
                "other numbers",
                stacklevel=3,
            )

    @property
    def _device(self) -> torch.device:
        return next(self._objective.parameters()).device

    def _parts(self, draws: list[Draw]) -> Iterator[Part]:
        while True:
            batch = _checked(self._feed.take())
            conditions: Mapping[str, Any] = batch[2] if len(batch) > 2 else {}
            draw = self.loss.draw(batch[0], batch[1], generator=self.generator, shard=self._engine)
            draws.append(draw)
            yield Part(draw, conditions)

    def _set_rates(self) -> None:
        if self._schedule is None:
            return
        factor = self._schedule(self.index)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(factor * rate)
            else:
                group["lr"] = factor * rate

    def _explained(self, step: int, draws: Sequence[Draw], norm: Tensor | None) -> NonFiniteLoss:
        return NonFiniteLoss(step, statistics(self._objective, draws, norm), self._last_checkpoint)

    def _restore_averages(self, tensors: Mapping[str, Tensor], updates: Mapping[float, int]) -> None:
        for decay, average in self.averages.items():
            average.updates = 0
            if decay in updates:
                restore_module(f"average/{decay!r}", average.module, tensors)
                average.updates = updates[decay]
                average.n_averaged.fill_(average.updates)
            else:  # It begins now.
                average.update_parameters(self._objective.network)

    def _of_all(self, prefix: str, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one row for each process of each state."""
        rows = {name: state.unsqueeze(0).to(self._device) for name, state in states.items()}
        return {f"{prefix}/{name}": self._engine.gather(row) for name, row in rows.items()}

    def _own(self, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's rows of what :meth:`_of_all` returned."""
        rows = under(prefix, tensors)
        return {name: row[self._engine.index].clone() for name, row in rows.items() if name != "generator"}


def _with_tensor_rates(optimizers: Optimizers) -> Optimizers:
    """Return optimisers whose learning rates are tensors: a number would be compiled into the graph."""

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = optimizers(parameters)
        for group in optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
        return optimizer

    return make


def _checked(batch: Any) -> Batch:
    """Return a minibatch that has the parts of one."""
    parts = isinstance(batch, tuple | list) and len(batch) in (2, 3)
    if not parts or (len(batch) == 3 and not isinstance(batch[2], Mapping)):
        found = type(batch).__name__
        if isinstance(batch, tuple | list):
            found += f" of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
        raise TypeError(
            "batches must give (x0, x1) or (x0, x1, conditions), with a mapping of conditions such as "
            f"{{'label': labels}}; got a {found}"
        )
    return cast("Batch", batch)


def _check(*, steps: int, accumulate: int, clip: float | None, skip_non_finite: int) -> None:
    if steps < 0:
        raise ValueError(f"steps must not be negative; got {steps}")
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1; got {accumulate}")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be positive; got {clip}")
    if skip_non_finite < 0:
        raise ValueError(f"skip_non_finite must not be negative; got {skip_non_finite}")
