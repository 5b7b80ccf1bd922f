"""Compiled functions of a field, kept for as long as the field lives."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from interpolants.fields import Field

Function = Callable[..., Any]

# By the identity of a field, which need not have a hash, and by what they are compiled for.
_GRAPHS: dict[int, OrderedDict[Hashable, Function]] = {}
# How many of a field are kept: those that were asked for last.
_KEPT = 8


def graph_of(field: Field, signature: Hashable, function: Function, device: torch.device) -> Function:
    """Return a function compiled into one graph, the same one for the same field and signature.

    It compiles when it is first called. The field must reach it as an argument: what it closed over would
    keep the field alive.

    Args:
        field: Whose function it is; the graph is dropped with it.
        signature: What tells its graphs apart, such as shapes.
        function: What is compiled unless the graph is there.
        device: Where it runs.
    """
    if id(field) not in _GRAPHS:
        _GRAPHS[id(field)] = OrderedDict()
        weakref.finalize(field, _GRAPHS.pop, id(field), None).atexit = False
    graphs = _GRAPHS[id(field)]
    if signature not in graphs:
        while len(graphs) >= _KEPT:
            graphs.popitem(last=False)
        graphs[signature] = _compiled(_with_its_own_code(function), device)
    graphs.move_to_end(signature)
    return graphs[signature]


def signature_of(conditions: Mapping[str, Any]) -> Hashable:
    """Return what tells conditions apart as far as a graph goes."""
    return tuple((name, _kind(value)) for name, value in conditions.items())


def _compiled(function: Function, device: torch.device) -> Function:
    # Calls between kernels from C++ took a quarter off the time of small networks; on CUDA that needs more of
    # an installation than compiling does.
    options: dict[str, Any] = {"cpp_wrapper": True} if device.type == "cpu" else {}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def _kind(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_kind, value))
    if isinstance(value, Mapping):
        return type(value), signature_of(value)
    # Numbers and words are constants of a graph.
    return type(value), value if isinstance(value, int | float | str) else None


def not_compiled() -> tuple[type[Exception], ...]:
    """Return what torch raises when no graph can be made."""
    known = torch._dynamo.exc
    return known.TorchDynamoException, known.FailOnRecompileLimitHit


def _with_its_own_code(function: Function) -> Function:
    """Return the same function anew: torch compiles the code of one only some eight times in a process."""
    assert isinstance(function, FunctionType)
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)
