import gc
import math
import weakref

import pytest
import torch
from torch import nn

from interpolants import LearnedField, Linear, ODESampler
from interpolants.samplers import graphs
from interpolants.samplers.likelihood import (
    Exact,
    log_likelihood,
    sample_with_log_prob,
    standard_normal_log_prob,
)

# Its steps are the same whatever the errors, and few.
CHEAP = ODESampler("midpoint", steps=3)


class Net(nn.Module):
    """A smooth network of points of any shape whose Jacobian is far from diagonal."""

    def __init__(self, dim, dtype=torch.float64):
        super().__init__()
        weight = torch.randn(dim, dim, dtype=dtype, generator=torch.Generator().manual_seed(3))
        self.weight = nn.Parameter(weight / math.sqrt(dim))

    def forward(self, t, x, scale=1.0):
        rows = torch.tanh(x.flatten(1) @ self.weight + t[:, None]) @ self.weight.T.roll(1, 0)
        return (scale * rows).reshape(x.shape)


def learned(dim, dtype=torch.float64):
    return LearnedField(Linear(), velocity=Net(dim, dtype))


def points(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture
def quick(monkeypatch):
    """Graphs that are traced and differentiated as always, but run without a C++ compiler."""
    compile_with = torch.compile

    def compile_quickly(function, options=None, **given):
        return compile_with(function, backend="aot_eager", **given)

    monkeypatch.setattr(torch, "compile", compile_quickly)


def both(field, x, *, carried=log_likelihood, sampler=CHEAP, chunk=None, **conditions):
    return [
        carried(
            field,
            x,
            standard_normal_log_prob,
            sampler=sampler,
            divergence=Exact(chunk, compile=in_graph),
            **conditions,
        )
        for in_graph in (True, False)
    ]


def assert_alike(graph, plain, atol=1e-12):
    # By default rounding: sums taken in another order.
    for name in ("value", "x0", "x1"):
        torch.testing.assert_close(getattr(graph, name), getattr(plain, name), rtol=0, atol=atol)
    assert graph.evaluations == plain.evaluations
    assert not graph.standard_error.any()


def test_a_compiled_likelihood_is_the_plain_one():
    # Without a product of matrices, for every kernel is a call of the C++ compiler.
    field = LearnedField(Linear(), velocity=lambda t, x: torch.tanh(x + 2 * x.flip(1) + t[:, None]))
    # In single precision, with steps that follow from errors: a hundred roundings.
    graph, plain = both(field, points(8, 6, dtype=torch.float32), sampler=ODESampler("dopri5"))
    assert_alike(graph, plain, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (4, 1, 3, 2), (4, 1), (4,)])
@pytest.mark.parametrize("carried", [log_likelihood, sample_with_log_prob])
@pytest.mark.usefixtures("quick")
def test_points_of_any_shape_give_what_they_give_without_a_graph(shape, carried):
    if len(shape) == 1:
        field = LearnedField(Linear(), velocity=lambda t, x: torch.sin(2 * x + t))
    else:
        field = learned(math.prod(shape[1:]))
    assert_alike(*both(field, points(*shape), carried=carried))


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.usefixtures("quick")
def test_chunks_do_not_change_the_answer_of_a_graph(chunk):
    assert_alike(*both(learned(6), points(4, 6), chunk=chunk))


@pytest.mark.usefixtures("quick")
def test_half_precision_is_integrated_in_single_by_a_graph():
    x = points(4, 6, dtype=torch.bfloat16)
    # A graph rounds to bfloat16 at other places: some roundings, 0.4 % each, of values near 1.
    assert_alike(*both(learned(6, torch.bfloat16), x), atol=0.2)


@pytest.mark.usefixtures("quick")
def test_a_graph_follows_the_weights_and_is_made_once():
    field, x = learned(6), points(4, 6)
    # Another batch, other weights and times: were anything of them part of the graph, it would be made anew.
    # So it would for the last directions, fewer than the four before them.
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        first, _ = both(field, x, chunk=4)
        field.networks["velocity"].weight.mul_(1.5)
        second, plain = both(field, x, chunk=4)
        assert_alike(second, plain)
        sampler = ODESampler("dopri5", times=(0.1, 0.9))
        assert_alike(*both(field, x.flip(1), sampler=sampler, chunk=4), atol=1e-10)
    assert not torch.equal(first.value, second.value)
    assert len(graphs._GRAPHS[id(field)]) == 1


@pytest.mark.usefixtures("quick")
def test_conditions_reach_a_graph():
    field, x = learned(6), points(4, 6)
    for scale in (1.0, 0.5, *(torch.full((4, 1), value, dtype=torch.float64) for value in (0.5, 2.0))):
        assert_alike(*both(field, x, scale=scale))
    # Numbers are part of a graph; tensors are given to it.
    assert len(graphs._GRAPHS[id(field)]) == 3


@pytest.mark.usefixtures("quick")
def test_graphs_are_few_and_go_with_their_field(monkeypatch):
    monkeypatch.setattr(graphs, "_KEPT", 2)
    field = learned(2)
    network = weakref.ref(field.networks["velocity"])
    for scale in range(3):
        assert_alike(*both(field, points(2, 2), scale=float(scale)))
    key = id(field)
    assert len(graphs._GRAPHS[key]) == 2
    del field
    gc.collect()
    assert network() is None
    assert key not in graphs._GRAPHS


@pytest.mark.usefixtures("quick")
def test_gradients_of_a_graph_are_the_plain_ones():
    field, x = learned(5), points(3, 5).requires_grad_()
    sampler = ODESampler("rk4", steps=2, differentiable=True)
    gradients = [
        torch.autograd.grad(
            (likelihood.value * torch.arange(1, 4)).sum(), (x, field.networks["velocity"].weight)
        )
        for likelihood in both(field, x, sampler=sampler, chunk=2)
    ]
    for found, expected in zip(*gradients, strict=True):
        # To rounding.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    for plain in both(field, x):
        assert not plain.value.requires_grad


@pytest.mark.parametrize(
    ("velocity", "error", "message"),
    [
        (lambda t, x: x.detach().sin(), ValueError, "depends on x but records no gradient"),
        (torch.no_grad()(lambda t, x: x.sin()), ValueError, "depends on x but records no gradient"),
        (lambda t, x: x[:, :1], ValueError, r"shape of x, \(4, 6\); got \(4, 1\)"),
        (
            lambda t, x: x if x.sum().item() > 0 else -x,
            RuntimeError,
            r"^the divergence of this field cannot be compiled .*use compile=False$",
        ),
    ],
    ids=["detached", "without gradients", "wrong shape", "looks at values"],
)
@pytest.mark.usefixtures("quick")
def test_fields_that_no_graph_can_be_made_of_are_refused(velocity, error, message):
    with pytest.raises(error, match=message):
        both(LearnedField(Linear(), velocity=velocity), points(4, 6))


@pytest.mark.usefixtures("quick")
def test_a_field_that_ignores_the_points_has_no_divergence_in_a_graph():
    graph, _ = both(LearnedField(Linear(), velocity=lambda t, x: torch.ones_like(x)), points(4, 6))
    # To rounding.
    torch.testing.assert_close(graph.value, standard_normal_log_prob(points(4, 6) - 1), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("quick")
def test_a_graph_is_asked_only_in_the_unit_interval():
    def velocity(t, x):
        return torch.where((t < 0) | (t > 1), 1e3, 1e-5 * torch.cos(3 * t))[:, None] * x

    # The guess of a first step is some hundreds here; what it found out there would shorten the step.
    field = LearnedField(Linear(), velocity=velocity)
    assert_alike(*both(field, points(4, 2), sampler=ODESampler("dopri5")))


def test_exact_divergences_compare_by_whether_they_are_compiled():
    assert Exact(compile=True) == Exact(None, True) != Exact()
    assert repr(Exact(compile=True)) == "Exact(chunk=None, compile=True)"


@pytest.mark.usefixtures("quick")
def test_a_field_that_stops_recording_gradients_is_refused_after_a_good_call():
    def velocity(t, x, *, seen=True):
        return (x if seen else x.detach()).sin()

    field = LearnedField(Linear(), velocity=velocity)
    both(field, points(3, 2), seen=True)
    with pytest.raises(ValueError, match="records no gradient"):
        both(field, points(3, 2), seen=False)


@pytest.mark.usefixtures("quick")
def test_a_mistake_of_the_fields_own_says_so_after_a_good_call():
    def velocity(t, x, *, label="good"):
        if label == "bad":
            raise KeyError("unknown label")
        return x.sin()

    field = LearnedField(Linear(), velocity=velocity)
    both(field, points(3, 2), label="good")
    with pytest.raises(KeyError, match="unknown label"):
        both(field, points(3, 2), label="bad")


def test_what_is_no_fault_of_the_compiler_is_passed_on(monkeypatch):
    def full(*arguments):
        raise MemoryError("full")

    monkeypatch.setattr("interpolants.samplers.compiled.graph_of", lambda *arguments: full)
    with pytest.raises(MemoryError, match="full"):
        both(learned(2), points(3, 2))
