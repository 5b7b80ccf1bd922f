"""Where a training runs: the device, the processes, the precision. The only file that knows accelerate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

PRECISIONS = ("no", "bf16", "fp16")


class Engine(Protocol):
    """What a trainer asks of the place it runs in.

    Attributes:
        index: This process, from 0.
        count: How many processes there are.
        scaled: Whether the loss is scaled, and steps whose gradient overflows are skipped by the optimiser.
    """

    index: int
    count: int
    scaled: bool

    def prepare(
        self, objective: nn.Module, optimizers: Optimizers
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the objective as it is to be called, and the optimiser of its parameters."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the parameters."""

    def apart(self, objective: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which processes keep their gradients to themselves."""

    def clip(self, parameters: list[nn.Parameter], norm: float) -> Tensor:
        """Scale the gradients down to a norm at most ``norm`` and return what it was."""

    def skip(self) -> None:
        """Forget the gradients of a step that is not to be made."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a number over the processes."""

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in their order."""

    def agree(self, flag: bool) -> bool:
        """Return whether the flag is set on any process."""

    def shard(self, module: nn.Module) -> None:
        """Share out a module's parameters like those of the objective, to be called in full precision."""

    def state(self) -> dict[str, Any]:
        """Return what a later process needs in order to go on, as values for JSON."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""


class Alone:
    """One process, the network's own device, full precision: nothing for accelerate to do.

    It is what a :class:`~interpolants.Trainer` uses unless told otherwise.

    Example:
        >>> Alone().count
        1
    """

    index = 0
    count = 1
    scaled = False

    def prepare(
        self, objective: nn.Module, optimizers: Optimizers
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the objective as it is, and the optimiser of its parameters."""
        return objective, optimizers([p for p in objective.parameters() if p.requires_grad])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the parameters."""
        loss.backward()  # type: ignore[no-untyped-call]

    def apart(self, objective: nn.Module) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return nullcontext()

    def clip(self, parameters: list[nn.Parameter], norm: float) -> Tensor:
        """Scale the gradients down to a norm at most ``norm`` and return what it was."""
        return torch.nn.utils.clip_grad_norm_(parameters, norm)

    def skip(self) -> None:
        """Do nothing: the next step begins with gradients of zero."""

    def mean(self, value: Tensor) -> Tensor:
        """Return the number."""
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows

    def agree(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def shard(self, module: nn.Module) -> None:
        """Leave the module as it is."""

    def state(self) -> dict[str, Any]:
        """Return nothing: there is nothing to remember."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class Accelerated:
    """One or several processes on CPUs or GPUs, in full or mixed precision, through Hugging Face accelerate.

    Start several with ``accelerate launch`` or ``torchrun``; every process runs the same program. Gradients
    are averaged over the processes (DDP), or parameters, gradients and the optimiser's state are also shared
    out among them (FSDP) for networks that outgrow one device.

    Args:
        precision: ``"no"``, ``"bf16"`` or ``"fp16"`` (with a scaled loss): what matrix products and
            convolutions are computed in; parameters stay as they are. On CPUs bf16 is often many times
            slower.
        sharded: Whether to share out parameters: every element of a ``nn.ModuleList`` of the network that
            can be called becomes a unit, and the rest another.
        cpu: Whether to stay on the CPU although there is a GPU.

    Attributes:
        device: This process's device; the objective is moved there.
        index: This process, from 0.
        count: How many processes there are.
        scaled: Whether the precision is fp16.

    Raises:
        ImportError: When accelerate is missing.
        ValueError: When the precision is unknown, or fp16 is asked of a sharded network.

    Example:
        >>> Accelerated(cpu=True).count
        1
    """

    def __init__(self, *, precision: str = "no", sharded: bool = False, cpu: bool = False) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
        if sharded and precision == "fp16":
            raise ValueError("a sharded network trains in full precision or bf16, not in fp16")
        accelerate = _accelerate()
        # What accelerate warns of is said here too or not of use: threads are the caller's choice.
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
        self._accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=cpu)
        self._precision = precision
        self._sharded = sharded
        self.device: torch.device = self._accelerator.device
        self.index: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        # Flags travel between the hosts, so that no accelerator is waited for.
        self._hosts = torch.distributed.new_group(backend="gloo") if self.count > 1 else None
        self.scaled: bool = precision == "fp16"
        self._unscaled = False

    def prepare(
        self, objective: nn.Module, optimizers: Optimizers
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the objective as it is to be called, on its device, and the optimiser of its parameters."""
        if self._sharded and self.count > 1:
            objective.to(self.device)
            self._share_out(objective, low=self._precision == "bf16")
            if self._precision == "bf16":
                objective.forward = self._in_bf16(objective.forward)
            return objective, optimizers([p for p in objective.parameters() if p.requires_grad])
        optimizer = optimizers([p for p in objective.to(self.device).parameters() if p.requires_grad])
        prepared, scaled_optimizer = self._accelerator.prepare(objective, optimizer)
        return prepared, scaled_optimizer if self.scaled else optimizer

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled in fp16, to those of the parameters."""
        self._accelerator.backward(loss)

    def apart(self, objective: nn.Module) -> AbstractContextManager[Any]:
        """Return a context in which processes keep their gradients to themselves."""
        if self._sharded and self.count > 1:
            return _Unsynchronised(objective)
        return cast("AbstractContextManager[Any]", self._accelerator.no_sync(objective))

    def clip(self, parameters: list[nn.Parameter], norm: float) -> Tensor:
        """Scale the gradients down to a norm at most ``norm`` and return what it was."""
        self._accelerator.unscale_gradients()
        self._unscaled = self.scaled
        return whole(torch.nn.utils.clip_grad_norm_(parameters, norm))

    def skip(self) -> None:
        """Tell what scales the loss that this step is over, which it learns otherwise when it is made."""
        if self._unscaled:
            self._accelerator.scaler.update()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a number over the processes."""
        return cast("Tensor", self._accelerator.reduce(value, reduction="mean")) if self.count > 1 else value

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, in their order."""
        return cast("Tensor", self._accelerator.gather(rows)) if self.count > 1 else rows

    def agree(self, flag: bool) -> bool:
        """Return whether the flag is set on any process; all of them must ask."""
        if self._hosts is None:
            return flag
        flags = torch.tensor(int(flag))
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, group=self._hosts)
        return bool(flags)

    def shard(self, module: nn.Module) -> None:
        """Share out a module's parameters among the processes, if this engine does so."""
        if self._sharded and self.count > 1:
            self._share_out(module, low=False)

    def _share_out(self, module: nn.Module, *, low: bool) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        # Like DDP: otherwise processes with other seeds would each bring a part of another network.
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor.detach(), 0)
        # Times and points stay as they are, or the path would be rounded to 8 bits before it is learnt.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if low else None,
            reduce_dtype=torch.float32 if low else None,
            cast_forward_inputs=False,
        )
        mesh = init_device_mesh(self.device.type, (self.count,))
        for part in _units(module):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        fully_shard(module, mesh=mesh, mp_policy=policy)

    def _in_bf16(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return cast("Callable[..., Tensor]", torch.autocast(self.device.type, torch.bfloat16)(function))

    def state(self) -> dict[str, Any]:
        """Return the scale of the loss in fp16."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the scale of the loss."""
        if self._accelerator.scaler is not None and "scaler" in state:
            self._accelerator.scaler.load_state_dict(state["scaler"])


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor that may be shared out; then every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, shared out as another is."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


class _Unsynchronised:
    """A context in which a sharded module sums its gradients on each process."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._module.set_requires_gradient_sync(False)

    def __exit__(self, *_: object) -> None:
        self._module.set_requires_gradient_sync(True)


def _units(module: nn.Module) -> list[nn.Module]:
    """Return the callable elements of module lists, inner ones first."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    elements = [part for parts in lists for part in parts]
    callable_ones = [part for part in elements if type(part).forward is not nn.Module.forward]
    return callable_ones[::-1]


def _accelerate() -> Any:
    try:
        import accelerate
    except ImportError as error:
        raise ImportError('this needs accelerate: pip install "interpolants[train]"') from error
    return accelerate
