import itertools
import math
import pickle

import pytest
import torch

from interpolants.couplings import Coupling, Independent, OptimalTransport
from interpolants.families import Linear
from interpolants.losses import Regression


class Shuffled(Coupling):
    """A user's random coupling: all its randomness comes from the generator."""

    def source_index(self, x0, x1, *, generator=None):
        return torch.randperm(len(x0), generator=generator)


def batch(shape, generator, dtype=torch.float64):
    return torch.randn((2, *shape), generator=generator, dtype=torch.float64).to(dtype)


def total_cost(x0, x1):
    return (x1 - x0).square().sum().item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_optimal_transport_is_the_best_of_all_permutations(dtype, generator):
    for _ in range(5):
        x0, x1 = batch((6, 2), generator, dtype)
        pairs = OptimalTransport().pair(x0, x1)
        best = min(
            math.fsum((x1.double()[k] - x0.double()[j]).square().sum().item() for k, j in enumerate(order))
            for order in itertools.permutations(range(6))
        )
        # The same sum of six terms, in another order.
        assert total_cost(pairs.x0.double(), pairs.x1.double()) == pytest.approx(best, rel=1e-12)
        assert pairs.x0.dtype == dtype


def test_optimal_transport_never_costs_more_than_the_order_given(generator):
    for rows in (1, 2, 33):
        x0, x1 = batch((rows, 3), generator)
        pairs = OptimalTransport().pair(x0, x1)
        assert total_cost(pairs.x0, pairs.x1) <= total_cost(x0, x1) * (1 + 1e-12)


def test_optimal_transport_minimises_squares_and_not_distances():
    # On a line: moving both by one costs 2 squared, against 4 for one long move; distances tie at 2.
    x0, x1 = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[2.0], [1.0]]).double()
    assert OptimalTransport().pair(x0, x1).source_index.tolist() == [1, 0]


def test_optimal_transport_of_a_line_sorts(generator):
    x0, x1 = batch((50, 1), generator)
    pairs = OptimalTransport().pair(x0, x1)
    order = x1.flatten().argsort()
    assert torch.equal(pairs.x0.flatten()[order], x0.flatten().sort().values)


@pytest.mark.parametrize("coupling", [Independent(), OptimalTransport(), Shuffled()])
@pytest.mark.parametrize("shape", [(8, 2), (8, 8), (8, 3, 4, 4)])
def test_every_point_is_kept_and_targets_stay_in_order(coupling, shape, generator):
    x0, x1 = batch(shape, generator)
    pairs = coupling.pair(x0, x1, generator=generator)
    assert torch.equal(pairs.source_index.sort().values, torch.arange(8))
    assert torch.equal(pairs.target_index, torch.arange(8))
    assert torch.equal(pairs.x1, x1)
    assert torch.equal(pairs.x0, x0[pairs.source_index])


def test_images_are_compared_as_flat_points(generator):
    x0, x1 = batch((7, 3, 4, 4), generator)
    images, points = OptimalTransport().pair(x0, x1), OptimalTransport().pair(x0.flatten(1), x1.flatten(1))
    assert torch.equal(images.source_index, points.source_index)
    assert images.x0.shape == x0.shape


def test_extra_tensors_follow_their_points(generator):
    x0, x1 = batch((9, 2), generator)
    labels, colours = torch.arange(9), torch.arange(9) + 100
    pairs = OptimalTransport().pair(x0, x1, with_source=(labels, x0), with_target=(colours,))
    assert pairs.source_index.tolist() != list(range(9))
    assert torch.equal(pairs.with_source[0], pairs.source_index)
    assert torch.equal(pairs.with_source[1], pairs.x0)
    assert torch.equal(pairs.with_target[0], colours)
    independent = Independent().pair(x0, x1, with_source=(labels,), with_target=(colours,))
    assert torch.equal(independent.with_source[0], labels)
    assert torch.equal(independent.with_target[0], colours)


def test_optimal_transport_is_deterministic_and_draws_nothing(generator):
    x0, x1 = batch((16, 2), generator)
    states = generator.get_state(), torch.get_rng_state()
    first, again = (OptimalTransport().pair(x0, x1, generator=generator) for _ in range(2))
    assert torch.equal(first.source_index, again.source_index)
    assert torch.equal(states[0], generator.get_state())
    assert torch.equal(states[1], torch.get_rng_state())


def test_optimal_transport_takes_points_that_require_gradients(generator):
    x0, x1 = batch((5, 2), generator)
    x0.requires_grad_()
    pairs = OptimalTransport().pair(x0, x1)
    (gradient,) = torch.autograd.grad(pairs.x0.sum(), x0)
    assert torch.equal(gradient, torch.ones_like(x0))


def test_optimal_transport_takes_points_of_one_number_each():
    x0, x1 = torch.tensor([0.0, 5.0]), torch.tensor([6.0, 1.0])
    assert OptimalTransport().pair(x0, x1).x0.tolist() == [5.0, 0.0]


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("end", [0, 1])
def test_optimal_transport_needs_finite_points(value, end, generator):
    points = batch((4, 2), generator)
    points[end, 2, 1] = value
    with pytest.raises(ValueError, match="optimal transport needs finite points; x0 or x1 holds inf or nan"):
        OptimalTransport().pair(*points)


@pytest.mark.parametrize("coupling", [Independent(), OptimalTransport(), Shuffled()])
def test_what_does_not_fit_is_refused(coupling):
    x = torch.zeros(4, 2)
    with pytest.raises(TypeError, match="x0 and x1 must share a dtype"):
        coupling.pair(x, x.double())
    with pytest.raises(TypeError, match=r"x0 must be a floating-point tensor; got torch\.int64"):
        coupling.pair(x.long(), x)
    with pytest.raises(ValueError, match="x0 and x1 must share a shape"):
        coupling.pair(x, x[:3])
    for extra in ({"with_source": (torch.zeros(3),)}, {"with_target": (torch.zeros(5, 4),)}):
        with pytest.raises(ValueError, match="extra tensors need 4 rows like x0; got shape"):
            coupling.pair(x, x, **extra)


def test_a_random_coupling_is_reproducible_from_its_generator(generator):
    x0, x1 = batch((32, 2), generator)
    first, again, other = (
        Shuffled().pair(x0, x1, generator=torch.Generator().manual_seed(seed)).source_index
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    losses = [
        Regression(Linear(), coupling=Shuffled()).per_example(
            lambda t, x: x, x0, x1, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


class Recorder:
    """A network that keeps what it is given."""

    def __call__(self, t, x, **conditions):
        self.t, self.x, self.conditions = t, x, conditions
        return torch.zeros_like(x)


@pytest.mark.parametrize("coupling", [Independent(), OptimalTransport(), Shuffled()])
def test_conditions_of_a_loss_stay_with_their_targets(coupling, generator):
    x0, x1 = batch((8, 2), generator)
    network, loss = Recorder(), Regression(Linear(), coupling=coupling)
    loss(network, x0, x1, generator=generator, label=x1.clone(), scale=2.0)
    assert network.conditions["scale"] == 2.0
    label = network.conditions["label"]
    # From x_t = (1 - t) x0 + t x1 the source of each row can be read off, given its target.
    t = network.t[:, None]
    sources = (network.x - t * label) / (1 - t)
    # A condition that had moved away from its target would give points that are no sources; dividing by
    # 1 - t costs at most its inverse in digits.
    distances = (sources[:, None] - x0).norm(dim=-1)
    assert (distances.min(dim=1).values * (1 - network.t)).max() < 1e-14
    assert distances.argmin(dim=1).sort().values.tolist() == list(range(8))


def test_the_loss_uses_the_pairs_of_its_coupling(generator):
    x0, x1 = batch((8, 2), generator)
    pairs = OptimalTransport().pair(x0, x1)
    draw = Regression(Linear(), coupling=OptimalTransport()).draw(x0, x1, generator=generator)
    assert torch.equal(draw.x0, pairs.x0)
    assert torch.equal(draw.x1, x1)


def test_couplings_are_values():
    for make in (Independent, OptimalTransport):
        assert make() == make()
        assert hash(make()) == hash(make())
        assert pickle.loads(pickle.dumps(make())) == make()
    assert Independent() != OptimalTransport()
    assert repr(OptimalTransport()) == "OptimalTransport()"


def test_a_coupling_without_an_index_cannot_be_built():
    class Empty(Coupling):
        pass

    with pytest.raises(TypeError, match="source_index"):
        Empty()
