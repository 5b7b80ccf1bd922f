import gc
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from interpolants import (
    MLP,
    Affine,
    Field,
    FieldUnavailable,
    Guided,
    Heads,
    LearnedField,
    Linear,
    ODESampler,
    Parabolic,
    ProportionalToGamma,
    SDESampler,
    Trigonometric,
)
from interpolants.gammas import Brownian, Quadratic
from interpolants.samplers import graphs

UNEVEN = [0.05, 0.1, 0.3, 0.5, 0.65, 0.9]


@pytest.fixture
def counter(monkeypatch):
    """Graphs are made as ever and counted, but run without being translated, which takes seconds each."""
    counter = CompileCounter()
    monkeypatch.setattr(
        graphs,
        "_compiled",
        lambda function, device: torch.compile(function, backend=counter, fullgraph=True, dynamic=False),
    )
    return counter


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr("interpolants.samplers.captured._STEPS", 2)


class Net(nn.Module):
    """A network whose answer depends on every argument."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        weight = torch.tensor([[0.3, -0.5], [0.8, 0.1]], dtype=dtype)
        self.weight = nn.Parameter(weight)

    def forward(self, t, x, *, label=None, scale=1.0):
        shift = 0.0 if label is None else label[:, None].to(x.dtype)
        return scale * torch.tanh(x @ self.weight + shift) * (1 + t[:, None])


class Plain(Field):
    def __init__(self, velocity, score=lambda t, x: -x):
        self.functions = velocity, score

    def velocity(self, t, x, **conditions):
        return self.functions[0](t, x, **conditions)

    def score(self, t, x, **conditions):
        return self.functions[1](t, x, **conditions)

    denoiser = x0 = x1 = score


def points(dtype=torch.float64, n=4):
    return torch.randn(n, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))


def both(make, field, x=None, **given):
    """The trajectory with a graph, and the one without."""
    x = points() if x is None else x

    def run(compiled):
        randomness = {"generator": torch.Generator().manual_seed(5)} if make.func is SDESampler else {}
        return make(compile=compiled).sample(field, x, **{**randomness, **given})

    return run(True), run(False)


def check(pair, tolerance=1e-12):
    graph, plain = pair
    # Roundings of some steps.
    torch.testing.assert_close(graph.x, plain.x, rtol=tolerance, atol=tolerance)
    assert torch.equal(graph.t, plain.t)
    assert graph.evaluations == plain.evaluations
    assert graph.x.dtype == plain.x.dtype
    assert not graph.x.requires_grad


# --------------------------------------------------------------------------- graphs that are translated


def test_a_translated_graph_serves_other_grids_directions_and_weights():
    network = MLP(2, width=4, depth=1)
    field = LearnedField(Linear(), velocity=network)
    x = points(torch.float32)
    for rest, reverse in (({"steps": 5}, False), ({"times": UNEVEN}, True), ({"steps": 2}, False)):
        # Roundings of single precision.
        check(both(partial(ODESampler, **rest), field, x, reverse=reverse), 1e-5)
    (graph,) = graphs._GRAPHS[id(field)].values()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    field.networks["velocity"].layers[0].bias = nn.Parameter(torch.ones(4))
    check(both(partial(ODESampler, steps=5, end_only=True), field, x), 1e-5)
    assert list(graphs._GRAPHS[id(field)].values()) == [graph]


def test_a_translated_graph_carries_diffusions_of_derived_fields():
    network = Heads(MLP(2, width=4, depth=1, out_dim=4), ("velocity", "denoiser"))
    field = LearnedField(Linear(Brownian()), velocity=network, denoiser=network)
    x = points(torch.float32)
    # Roundings of single precision.
    check(both(partial(SDESampler, 0.5, "heun", times=UNEVEN), field, x), 1e-5)


# --------------------------------------------------------------------------------- the same answers


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "heun3", "rk4"])
def test_flows_are_the_same_for_every_number_of_steps(method, counter):
    field = LearnedField(Linear(), velocity=Net())
    for steps in (1, 2, 5):
        for given in ({}, {"reverse": True}):
            check(both(partial(ODESampler, method, steps=steps, end_only=steps == 2), field, **given))
    check(both(partial(ODESampler, method, times=UNEVEN), field, reverse=True))
    # One of a single step, one of two.
    assert counter.frame_count == 2


@pytest.mark.parametrize(
    ("method", "epsilon"),
    [("euler", 0.0), ("euler", lambda t: 1 - t), ("heun", Parabolic(2.0))],
    ids=["0", "1 - t", "2 t (1 - t)"],
)
def test_diffusions_are_the_same_for_every_number_of_steps(method, epsilon, counter):
    field = LearnedField(Linear(Brownian()), velocity=Net(), denoiser=Net())
    for rest in ({"steps": 2}, {"steps": 3, "end_only": True}, {"times": UNEVEN}):
        for given in ({}, {"reverse": True}, {"seeds": [4, 1, 2, 3], "generator": None}):
            check(both(partial(SDESampler, epsilon, method, **rest), field, **given))
    assert counter.frame_count == 1


LEARNED = {
    "velocity from x1": LearnedField(Trigonometric(), x1=Net()),
    "velocity from the denoiser": LearnedField(Linear(Brownian()), denoiser=Net(), gaussian_source=True),
    "velocity from both ends": LearnedField(Affine(lambda t: 1 - t**2, lambda t: t), x0=Net(), x1=Net()),
}


@pytest.mark.parametrize("name", LEARNED)
def test_derived_velocities_are_the_same(name, counter):
    for reverse in (False, True):
        check(both(partial(ODESampler, "heun", times=UNEVEN), LEARNED[name], reverse=reverse))


@pytest.mark.parametrize("epsilon", [0.5, ProportionalToGamma(2.0)])
def test_scores_of_one_network_are_the_same(epsilon, counter):
    # At the ends the networks are asked elsewhere.
    field = LearnedField(Linear(Quadratic()), denoiser=Net(), gaussian_source=True)
    for reverse in (False, True):
        check(both(partial(SDESampler, epsilon, steps=5), field, reverse=reverse), 1e-10)


def test_a_score_counts_for_nothing_where_there_is_no_diffusion(counter):
    # It is infinite at the ends, where the parabola is 0.
    field = Plain(lambda t, x: torch.sin(x), lambda t, x: -x / (torch.as_tensor(t) * (1 - t)))
    for reverse in (False, True):
        graph, plain = both(partial(SDESampler, Parabolic(), steps=4), field, reverse=reverse)
        check((graph, plain))
        assert graph.x.isfinite().all()


def test_without_a_diffusion_no_score_is_needed(counter):
    check(both(partial(SDESampler, 0.0, steps=3), LearnedField(Linear(), velocity=Net())))


SCALES = {"number": 2.0, "one": 1.0, "in an interval": lambda t: 3.0 if 0.2 < t < 0.6 else 1.0}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("make", [partial(ODESampler, "heun"), partial(SDESampler, 0.5)], ids=["ODE", "SDE"])
def test_guidance_is_the_same(scale, make, counter):
    path = Linear(Brownian())
    label = torch.tensor([0.0, 1.0, 2.0, 3.0])
    towards = LearnedField(path, velocity=Net(), denoiser=Net())
    away = LearnedField(path, velocity=Net(), score=Net())
    field = Guided(towards, away, SCALES[scale], null={"label": torch.zeros(4)})
    check(both(partial(make, steps=5), field, label=label), 1e-10)


@pytest.mark.parametrize(
    ("dtype", "shape"), [(torch.float16, (5,)), (torch.bfloat16, (3, 1, 4, 2)), (torch.float32, (0, 2))]
)
def test_every_precision_and_shape_is_carried(dtype, shape, counter):
    def network(t, x):
        assert t.dtype == x.dtype == dtype
        assert t.shape == x.shape[:1]
        return 0.1 * x

    field = LearnedField(Linear(Brownian()), velocity=network, score=lambda t, x: -x)
    x = torch.ones(shape, dtype=dtype)
    # Roundings of the points that networks are given.
    eps = 8 * torch.finfo(dtype).eps
    check(both(partial(ODESampler, steps=3), field, x), eps)
    check(both(partial(SDESampler, 0.5, steps=3), field, x), eps)


def test_conditions_reach_the_network(counter):
    field = LearnedField(Linear(), velocity=Net())
    label = torch.tensor([0.0, 1.0, 2.0, 3.0])
    for scale in (0.5, 2.0):
        for shift in (label, label.flip(0)):
            check(both(partial(ODESampler, steps=3), field, label=shift, scale=scale))
    # A number is part of a graph, a tensor is given to it.
    assert counter.frame_count == 2


@pytest.mark.parametrize("given", [{}, {"generator": 7}, {"seeds": [1, 2, 3, 4]}])
def test_as_much_is_drawn_as_without_a_graph(given, counter):
    field, ends = LearnedField(Linear(), velocity=Net(), score=Net()), []
    for compiled in (True, False):
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(7)
        randomness = {"generator": generator} if "generator" in given else given
        sampler = SDESampler(0.5, steps=5, compile=compiled)
        path = sampler.sample(field, points(), **randomness).x
        ends.append((path, torch.rand(1), torch.rand(1, generator=generator)))
    (path, here, there), (expected, *after) = ends
    torch.testing.assert_close(path, expected, rtol=1e-12, atol=1e-12)
    assert [here, there] == after


def test_the_start_is_left_as_it_was_and_no_gradient_recorded(counter):
    x = points().requires_grad_()
    before = x.detach().clone()
    path = ODESampler(steps=3, compile=True).sample(LearnedField(Linear(), velocity=Net()), x).x
    assert not path.requires_grad
    assert torch.equal(x, before)
    assert torch.equal(path[0], before)


# --------------------------------------------------------------------------------- when a graph is made


def sample(field, x=None, **rest):
    return ODESampler(steps=4, compile=True).sample(field, points() if x is None else x, **rest)


def test_a_graph_is_made_for_a_field_a_shape_and_a_precision_once(counter):
    field = LearnedField(Linear(), velocity=MLP(2, width=4))
    counts = []
    for x in (points(torch.float32), points(torch.float32, n=5), points(torch.float32)):
        sample(field, x)
        counts.append(counter.frame_count)
    field.networks["velocity"].double()
    sample(field)
    sample(LearnedField(Linear(), velocity=MLP(2, width=4).double()))
    # Neither a history nor another layout of the points asks for another.
    sample(field, points().requires_grad_())
    sample(field, points().mT.contiguous().mT)
    assert [*counts, counter.frame_count] == [1, 2, 2, 4]


def test_weights_that_are_trained_further_are_those_of_the_graph(counter):
    network = Net()
    field = LearnedField(Linear(), velocity=network)
    before = sample(field).final
    with torch.no_grad():
        network.weight.mul_(2)
    inside, expected = sample(field).final, ODESampler(steps=4).sample(field, points()).final
    network.weight = nn.Parameter(torch.zeros_like(network.weight))
    after = sample(field).final
    assert not torch.equal(inside, before)
    torch.testing.assert_close(inside, expected, rtol=1e-12, atol=0)
    assert torch.equal(after, points())
    assert counter.frame_count == 1


def test_a_path_that_is_trained_is_followed(counter):
    class Curved(nn.Module, Trigonometric.__mro__[1]):
        def __init__(self):
            super().__init__()
            self.power = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

        def alpha(self, t):
            return 1 - t**self.power

        def beta(self, t):
            return t**self.power

    path = Curved()
    field = LearnedField(path, x1=Net())
    for power in (1.5, 2.5):
        with torch.no_grad():
            path.power.fill_(power)
        check(both(partial(ODESampler, times=UNEVEN), field), 1e-10)
    assert counter.frame_count == 1


class Moody(nn.Module):
    def forward(self, t, x):
        return x if self.training else -x


def test_training_and_evaluation_are_told_apart(counter):
    network = Moody()
    field = LearnedField(Linear(), velocity=network)
    found = []
    for training in (True, False, True):
        network.train(training)
        found.append(bool(sample(field).final.norm() > points().norm()))
    assert found == [True, False, True]


def test_graphs_go_with_their_field(counter):
    field = LearnedField(Linear(), velocity=Net())
    sample(field)
    key, gone = id(field), weakref.ref(field)
    assert key in graphs._GRAPHS
    del field
    gc.collect()
    assert gone() is None
    assert key not in graphs._GRAPHS


def test_only_so_many_graphs_of_a_field_are_kept(counter, monkeypatch):
    monkeypatch.setattr(graphs, "_KEPT", 2)
    field = LearnedField(Linear(), velocity=Net())
    counts = []
    for n in (1, 2, 1, 3, 1, 2):
        sample(field, points(n=n + 1))
        counts.append(counter.frame_count)
        assert len(graphs._GRAPHS[id(field)]) <= 2
    # That of two, asked for longest ago, made room for that of three.
    assert counts == [1, 2, 2, 3, 3, 4]


# ----------------------------------------------------------------------------------------------- errors


def test_a_field_that_cannot_be_compiled_says_what_to_do(counter):
    field = Plain(lambda t, x: x if x.sum() > 0 else -x)
    with pytest.raises(RuntimeError, match=r"this Plain cannot be compiled.*use compile=False"):
        sample(field)


class OwnDrift(Plain):
    def drift(self, t, x, epsilon, **rest):
        return -x


def test_a_drift_of_the_users_is_not_passed_over(counter):
    field = OwnDrift(lambda t, x: x)
    with pytest.raises(RuntimeError, match=r"a drift of its own.*use compile=False"):
        SDESampler(0.5, steps=2, compile=True).sample(field, points())
    with pytest.raises(RuntimeError, match="a drift of its own"):
        SDESampler(0.0, steps=2, compile=True).sample(field, points())
    check(both(partial(ODESampler, steps=2), field))


def test_mistakes_of_a_field_are_reported_as_without_a_graph(counter):
    with pytest.raises(ValueError, match=r"in the shape of x, \(4, 2\); got \(4, 1\)"):
        sample(Plain(lambda t, x: x[:, :1]))
    with pytest.raises(ValueError, match=r"must return the shape of x"):
        sample(LearnedField(Linear(), velocity=lambda t, x: x[:, :1]))
    with pytest.raises(FieldUnavailable, match="the score cannot be derived"):
        SDESampler(0.5, compile=True).sample(LearnedField(Linear(), velocity=Net()), points())
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        sample(LearnedField(Linear(), velocity=Net()), colour=1)
    with pytest.raises(TypeError, match="must be a Field"):
        sample(Net())


@pytest.mark.parametrize("method", ["dopri5", "explicit_adams", "implicit_adams", "scipy_solver"])
def test_only_explicit_steps_of_a_grid_are_compiled(method):
    with pytest.raises(ValueError, match=f"needs euler, midpoint, heun2, heun3, rk4, heun.*got {method}"):
        ODESampler(method, compile=True)


def test_what_a_graph_cannot_do_is_refused():
    with pytest.raises(ValueError, match="without options; got rk4"):
        ODESampler("rk4", compile=True, options={"perturb": True})
    with pytest.raises(ValueError, match="needs euler or heun; got srk"):
        SDESampler(0.5, "srk", compile=True)
    for make in (ODESampler, partial(SDESampler, 0.5)):
        with pytest.raises(ValueError, match="records no gradients"):
            make(compile=True, differentiable=True)


def test_conditions_of_several_numbers_have_graphs_of_their_own(counter):
    field = Plain(lambda t, x, *, size: size[0] * x)
    for k in range(10):  # One more than the eight that torch makes of one function.
        found = sample(field, size=(float(k), 1)).final
        torch.testing.assert_close(
            found, ODESampler(steps=4).sample(field, points(), size=(float(k), 1)).final
        )


def test_more_graphs_than_torch_makes_are_refused_in_one_line(counter):
    class Scaled:
        factor = 1.0

        def __call__(self, t, x):
            return self.factor * x

    network = Scaled()
    field = Plain(network)

    def sample_all():
        for k in range(12):
            network.factor = 1.0 + k
            sample(field)

    with pytest.raises(RuntimeError, match=r"^the steps of this Plain cannot be compiled.*use compile=False"):
        sample_all()


def test_a_guided_field_is_asked_at_the_times_themselves():
    conditional, unconditional = Plain(lambda t, x: -3 * x), Plain(lambda t, x: x)
    guided = Guided(conditional, unconditional, lambda t: 4.0 if 0.2 <= t <= 0.8 else 1.0)
    start = points(torch.float32)
    # Explicit Euler by hand: the scale is 4 at 0.2, 0.3, ..., 0.8, where the slope is x - 4 * 4 x.
    factor = 1.0
    for k in range(10):
        factor *= 1 + 0.1 * (1 - 4 * 4 if 2 <= k <= 8 else -3)
    found = ODESampler(steps=10).sample(guided, start).final
    torch.testing.assert_close(found, factor * start, rtol=1e-4, atol=1e-6)
