import importlib.util
import itertools
import math
import pickle
import sys

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from interpolants import couplings
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


has_pot = pytest.mark.skipif(importlib.util.find_spec("ot") is None, reason="POT is not installed")
SOLVERS = [None, "scipy", pytest.param("pot", marks=has_pot)]


def squared_distances(x0, x1):
    """Every squared distance by its definition, one row for each target."""
    return torch.stack([(x0.double() - row.double()).flatten(1).square().sum(dim=1) for row in x1])


def best_total(x0, x1):
    cost = squared_distances(x0, x1)
    return cost[linear_sum_assignment(cost.numpy())].sum().item()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_optimal_transport_is_the_best_of_all_permutations(dtype, solver, generator):
    for _ in range(5):
        x0, x1 = batch((6, 2), generator, dtype)
        pairs = OptimalTransport(solver).pair(x0, x1)
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


def minibatches(rows, generator):
    """Minibatches that differ in what is easy about them, with a name."""

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def whole(*shape):
        return torch.randint(0, 4, shape, generator=generator).double()

    centres = 3 * normal(8, 16)
    return {
        "a plane": (normal(rows, 2), normal(rows, 2) + 1),
        "a line": (normal(rows, 1), normal(rows, 1)),
        "images": (normal(rows, 1, 6, 6), normal(rows, 1, 6, 6).tanh()),
        "ties": (whole(rows, 2), whole(rows, 2)),
        "black and white images": (whole(rows, 6, 6) // 2, whole(rows, 6, 6) // 2),
        "duplicates": (normal(rows, 2), normal(5, 2)[whole(rows).long()]),
        "one point": (torch.zeros(rows, 2).double(), torch.ones(rows, 2).double()),
        "no elements": (torch.zeros(rows, 0).double(), torch.zeros(rows, 0).double()),
        "the same points": ((x := normal(rows, 3)), x.flip(0)),
        "sorted clusters": (normal(rows, 16), centres[torch.arange(rows) * 8 // rows]),
        "outliers": (normal(rows, 2), normal(rows, 2) / normal(rows, 1) ** 2),
    }


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [191, 192, 261])
def test_every_solver_finds_the_least_total(rows, dtype, solver, generator):
    for name, ends in minibatches(rows, generator).items():
        x0, x1 = (x.to(dtype) for x in ends)
        index = OptimalTransport(solver).source_index(x0, x1)
        assert torch.equal(index.sort().values, torch.arange(rows)), name
        total = total_cost(x0[index].double(), x1.double())
        # Rounding of potentials as large as the largest of the costs, in double precision.
        rounding = 1e-13 * rows * max(squared_distances(x0, x1).max().item(), 1.0)
        assert total == pytest.approx(best_total(x0, x1), rel=1e-12, abs=rounding), name


def test_small_minibatches_are_paired_as_scipy_pairs_them_ties_included(generator):
    for name, ends in minibatches(191, generator).items():
        for dtype in (torch.float32, torch.float64):
            x0, x1 = (x.to(dtype) for x in ends)
            points = x1.flatten(1).double(), x0.flatten(1).double()
            cost = torch.cdist(*points, compute_mode="donot_use_mm_for_euclid_dist").square()
            _, columns = linear_sum_assignment(cost.numpy())
            assert OptimalTransport().source_index(x0, x1).tolist() == columns.tolist(), name


@pytest.mark.parametrize("solver", SOLVERS)
def test_points_far_from_the_origin_keep_their_distances(solver, generator):
    # In the last digits of single precision at 1e6; squared norms of 1e14 would drown what tells them apart.
    x0, x1 = ((1e6 + 0.5 * x).float() for x in batch((200, 100), generator))
    index = OptimalTransport(solver).source_index(x0, x1)
    assert total_cost(x0[index].double(), x1.double()) == pytest.approx(best_total(x0, x1), rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rows", [150, 200])
def test_narrow_clusters_far_apart_keep_their_distances_in_double_precision(rows, solver, generator):
    side = torch.arange(rows)[:, None] % 2
    x0, x1 = (1e5 * side + 0.01 * x for x in batch((rows, 100), generator))
    index = OptimalTransport(solver).source_index(x0, x1)
    assert torch.equal(index % 2, side.flatten())
    # Distances within a cluster are kept to the rounding of coordinates at 1e5, two parts in 1e9 of 0.01.
    assert total_cost(x0[index], x1) == pytest.approx(best_total(x0, x1), rel=1e-7)


def test_potentials_are_taken_from_192_rows_on(monkeypatch, generator):
    calls = []
    monkeypatch.setattr(couplings, "_reduced", lambda cost: calls.append(len(cost)) or cost)
    for rows in (191, 192):
        OptimalTransport().pair(*batch((rows, 2), generator))
    assert calls == [192]


@pytest.mark.parametrize(("name", "limit"), [("a plane", 0.03), ("images", 0.35), ("sorted clusters", 0.12)])
def test_potentials_leave_the_best_permutation_and_bring_its_cost_near_zero(name, limit, generator):
    cost = squared_distances(*minibatches(512, generator)[name])
    reduced = couplings._reduced(cost.clone())
    # All permutations change by the same amount: what is taken off is a number for each row and column.
    taken = cost - reduced
    crossed = taken - taken[:1] - taken[:, :1] + taken[0, 0]
    assert crossed.abs().max() < 1e-12 * cost.max()
    assert reduced.min() == 0
    assert torch.equal(reduced.amin(dim=0), torch.zeros(512).double())
    # The solver's work is in what the best permutation still costs; rows' and columns' minima leave more.
    by_minima = cost - cost.amin(dim=1, keepdim=True)
    by_minima -= by_minima.amin(dim=0)
    left, more = (
        values[linear_sum_assignment(values.numpy())].sum().item() for values in (reduced, by_minima)
    )
    # Above what four other seeds gave, by a third to twice.
    assert left < limit * more


@has_pot
@pytest.mark.parametrize(
    ("rows", "elements", "solver"),
    [(2048, 2, "pot"), (2048, 3, "pot"), (2047, 2, "scipy"), (2048, 4, "scipy"), (256, 784, "scipy")],
)
def test_pot_is_taken_for_thousands_of_points_of_few_elements(rows, elements, solver):
    assert couplings._faster(rows, elements) == solver


def test_without_pot_scipy_does_everything(monkeypatch, generator):
    monkeypatch.setitem(sys.modules, "ot", None)
    assert couplings._faster(4096, 2) == "scipy"
    x0, x1 = batch((200, 2), generator)
    assert OptimalTransport().pair(x0, x1).x0.shape == x0.shape
    with pytest.raises(ImportError, match=r"needs POT: pip install 'interpolants\[transport\]'"):
        OptimalTransport("pot").pair(x0, x1)


@has_pot
def test_the_solver_named_is_the_one_used(monkeypatch, generator):
    x0, x1 = batch((8, 2), generator)
    used = []
    for name in ("_assignment", "_network_simplex"):
        monkeypatch.setattr(couplings, name, lambda cost, name=name: used.append(name) or torch.arange(8))
    for solver in ("scipy", "pot", None):
        OptimalTransport(solver).pair(x0, x1)
    assert used == ["_assignment", "_network_simplex", "_assignment"]


@has_pot
def test_a_search_that_pot_gives_up_still_ends_at_the_least_total(monkeypatch, generator):
    x0, x1 = batch((50, 2), generator)
    monkeypatch.setattr(couplings, "_MOST_PIVOTS", 1)
    index = OptimalTransport("pot").source_index(x0, x1)
    assert total_cost(x0[index], x1) == pytest.approx(best_total(x0, x1), rel=1e-12)


@has_pot
def test_pots_potentials_leave_scipy_nothing_to_pay(monkeypatch, generator):
    x0, x1 = batch((100, 2), generator)
    seen, solve = [], couplings._assignment
    monkeypatch.setattr(couplings, "_assignment", lambda cost: seen.append(cost) or solve(cost))
    index = OptimalTransport("pot").source_index(x0, x1)
    (reduced,) = seen
    # Complementary slackness: nothing is negative, and what is paired costs nothing.
    assert reduced.min() > -1e-12
    assert reduced[torch.arange(100), index].abs().max() < 1e-12


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_points_are_paired_with_none(solver):
    assert OptimalTransport(solver).source_index(torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize("solver", ["Scipy", "emd", "", 1])
def test_a_solver_that_is_none_is_refused(solver):
    with pytest.raises(ValueError, match="solver must be None, 'scipy' or 'pot'; got"):
        OptimalTransport(solver)


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
    assert OptimalTransport() != OptimalTransport("scipy")
    assert repr(OptimalTransport()) == "OptimalTransport(solver=None)"


def test_a_coupling_without_an_index_cannot_be_built():
    class Empty(Coupling):
        pass

    with pytest.raises(TypeError, match="source_index"):
        Empty()


@pytest.mark.parametrize(
    ("elements", "dtype", "far", "both"),
    [
        (2, torch.float64, 1e9, False),
        (2, torch.float32, 1e8, False),
        (32, torch.float32, 1e10, True),
        (2, torch.float64, 1e3, False),
    ],
)
@pytest.mark.parametrize("solver", [None, "pot"])
def test_an_outlier_does_not_cost_the_others_their_partners(elements, dtype, far, both, solver):
    if solver == "pot":
        pytest.importorskip("ot", reason="the solver is POT's")
    generator = torch.Generator().manual_seed(3)
    x0, x1 = (torch.randn(256, elements, generator=generator, dtype=dtype) for _ in range(2))
    x0[5] = far
    if both:
        x1[7] = far
    found = OptimalTransport(solver).pair(x0, x1)
    usual = (found.x0.abs() < far / 2).all(dim=1) & (found.x1.abs() < far / 2).all(dim=1)
    # The answer of scipy alone, for the pairs without an outlier.
    cost = (x1.double()[:, None] - x0.double()[None]).square().sum(2)
    best = linear_sum_assignment(cost.numpy())[1]
    total = sum(float(cost[k, best[k]]) for k in range(256) if cost[k, best[k]] < far)
    own = (found.x1.double() - found.x0.double())[usual].square().sum()
    assert float(own) == pytest.approx(total, rel=1e-6)
