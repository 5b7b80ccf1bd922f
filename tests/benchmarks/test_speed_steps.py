"""The training steps, U-Net and transport of the suite's speed group, at sizes that take no time."""

import importlib.util
import math
import sys

import pytest
import torch

from benchmarks.record import LIMIT, NOISE, OURS, PEER
from benchmarks.settings import Settings
from benchmarks.speed import peak, steps, training, transport, unet
from benchmarks.timing import Timings
from interpolants import MLP, Linear, OptimalTransport, Regression

CPU = torch.device("cpu")
has_pot = pytest.mark.skipif(importlib.util.find_spec("ot") is None, reason="POT is not installed")


@pytest.fixture
def task(generator):
    x0s, x1s = torch.randn((2, 64, 2), generator=generator) + torch.tensor([[[0.0]], [[3.0]]])
    return steps.Task(lambda: MLP(2, width=8, depth=1), x0s, x1s, 32)


@pytest.fixture
def no_peers(monkeypatch):
    for module in (steps, unet, transport):
        monkeypatch.setattr(module, "installed", lambda name: False)


def settings(**asked):
    return Settings(budget="smoke", rounds=2, **asked)


def labels(table, kind):
    return [row.label for row in table.rows if row.kind == kind]


def test_the_loss_by_hand_is_the_regression_divided_by_the_elements():
    network, (x0, x1) = MLP(3, width=8), torch.randn(2, 16, 3)
    torch.manual_seed(0)
    ours = Regression(Linear())(network, x0, x1)
    torch.manual_seed(0)
    # The library keeps its times off the ends by a last digit; otherwise they are the same draws.
    assert steps.by_hand(network, x0, x1).item() == pytest.approx(ours.item() / 3, rel=1e-5)


@pytest.mark.parametrize("shape", [(16, 2), (4, 1, 8, 8)])
def test_the_loss_by_hand_vanishes_for_the_true_velocity(shape):
    x0 = torch.randn(shape)
    assert steps.by_hand(lambda t, x: torch.full_like(x, 2.0), x0, x0 + 2).item() < 1e-12


def test_minibatches_hold_points_of_both_sides(task):
    x0, x1 = task.draw()
    assert x0.shape == x1.shape == (32, 2)
    for points, all_points in ((x0, task.x0s), (x1, task.x1s)):
        assert (points[:, None] == all_points).all(dim=2).any(dim=1).all()
    again, _ = task.draw()
    assert not torch.equal(x0, again)


def test_both_loops_train(task):
    torch.manual_seed(0)
    for step, loss in (
        (steps.loop(task, steps.by_hand), float),
        (steps.trainer(task, steps.ADAM), lambda made: float(made.loss) / 2),
    ):
        losses = [loss(step()) for _ in range(400)]
        assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_matrix_products_are_those_of_the_network():
    network = MLP(2, width=16, depth=3)
    work = training.matrix_products(network, 32)
    # Forward and backward are twice as many operations as weights, thrice, less the points' gradient.
    weights = [m.weight for m in network.modules() if isinstance(m, torch.nn.Linear)]
    expected = 32 * 2 * (3 * sum(w.numel() for w in weights) - weights[0].numel())
    assert peak.demand(work).operations == expected
    step = steps.loop(steps.Task(lambda: network, *torch.randn(2, 64, 2), 32), steps.by_hand)
    assert peak.demand(step).operations == expected


def test_matrix_products_repeat_the_same_numbers():
    network = MLP(2, width=4, depth=1)
    work = training.matrix_products(network, 8)
    assert torch.equal(work().clone(), work())
    assert torch.isfinite(work()).all()


def test_training_steps_of_all_contenders_are_in_one_table(monkeypatch, no_peers):
    def eager(task):
        return steps.trainer(task, None)

    monkeypatch.setitem(training.TRAINERS, training.COMPILED, eager)
    (table,) = training.run(settings(peers=("torchcfm", "azula"))).tables
    assert table.columns == ["to by hand", "to torchcfm"]
    assert labels(table, NOISE) == ["by hand", "by hand again (noise)"]
    assert labels(table, LIMIT) == [training.PRODUCTS]
    assert labels(table, OURS) == list(training.TRAINERS)
    assert labels(table, PEER) == ["torchcfm", "azula"]
    by_label = {row.label: row.cells for row in table.rows}
    assert by_label["by hand"]["to by hand"]["value"] == 1
    assert by_label["by hand"]["to torchcfm"] == {"kind": "missing", "why": "torchcfm is not installed"}
    assert by_label["torchcfm"]["to by hand"] == {"kind": "missing", "why": "torchcfm is not installed"}
    assert by_label[training.PRODUCTS]["to by hand"]["value"] > 0


def test_a_step_that_cannot_be_compiled_says_why(monkeypatch):
    def broken(task, **how):
        def work():
            raise RuntimeError("no C++ compiler\nmore of it")

        return work

    monkeypatch.setitem(training.TRAINERS, training.COMPILED, broken)
    (table,) = training.run(settings()).tables
    cells = {row.label: row.cells for row in table.rows}[training.COMPILED]
    assert cells == {"to by hand": {"kind": "missing", "why": "no C++ compiler"}}


def test_a_ratio_is_taken_to_each_base():
    times = Timings({"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}, "a")
    cells = steps.ratios(times, "a", {"to a": "a", "to b": "b", "to azula": "azula"})
    assert (cells["to a"]["value"], cells["to b"]["value"]) == (1.0, 0.5)
    assert cells["to azula"]["why"] == "azula is not installed"


@pytest.mark.parametrize("name", list(steps.LOSSES))
def test_a_peers_step_trains(name, task):
    if not steps.installed(name):
        pytest.skip(f"{name} is not installed")
    step = steps.peers(task, settings(peers=(name,)))[name]
    assert math.isfinite(step())


def test_a_peer_that_was_not_asked_for_takes_no_part(monkeypatch, task):
    monkeypatch.setattr(steps, "installed", lambda name: True)
    assert steps.peers(task, settings()) == {}


def test_the_unet_has_a_table_of_training_and_one_of_sampling(no_peers):
    result = unet.run(settings(peers=("flow_matching", "torchcfm")))
    training_table, sampling_table = result.tables
    assert labels(training_table, OURS) == list(unet.TRAINERS)
    assert labels(training_table, PEER) == ["torchcfm", "flow_matching"]
    assert labels(sampling_table, OURS) == ["ODESampler"]
    why = {row.label: row.cells["to by hand"].get("why") for row in sampling_table.rows}
    assert why["flow_matching"] == "flow_matching is not installed"
    assert why["torchcfm"] == "no Euler step of a velocity"


def test_euler_by_hand_and_the_sampler_take_the_same_steps():
    network, x = MLP(2), torch.randn(8, 2)
    works = unet.sampling_works(network, x, Settings())
    with torch.no_grad():
        # The same operations in another order.
        torch.testing.assert_close(works["by hand"](), works["ODESampler"](), rtol=1e-5, atol=1e-6)
    assert not works["by hand"]().requires_grad


def test_shares_are_demands_over_time_over_peak():
    work = training.matrix_products(MLP(2, width=16, depth=1), 32)
    asked = peak.demand(work)
    times = Timings({"by hand": [2.0, 4.0]}, "by hand")
    table = unet.share_table({"by hand": work}, times, peak.Peak(asked.operations, asked.bytes))
    cells = table.rows[0].cells
    assert cells["matrix products"]["value"] == cells["memory"]["value"] == 0.5


def test_traffic_counts_arguments_and_results_once_and_views_not_at_all():
    a, b = torch.ones(8, 4), torch.ones(4, 2)
    assert peak.demand(lambda: (a @ b).view(-1).t()).bytes == 4 * (8 * 4 + 4 * 2 + 8 * 2)
    assert peak.demand(lambda: a.expand(5, 8, 4).sum()).bytes == 4 * (8 * 4 + 1)
    assert peak.demand(lambda: a.double()).bytes == 4 * 8 * 4 + 8 * 8 * 4
    assert peak.demand(lambda: a @ b).operations == 2 * 8 * 4 * 2


def test_the_peak_of_this_machine_is_that_of_a_machine():
    before = torch.backends.cuda.matmul.allow_tf32
    found = peak.measured_peak(CPU, rounds=2)
    # A core does a few operations in a cycle, and reads a few bytes; no machine does a million times that.
    assert 1e7 < found.operations < 1e16
    assert 1e7 < found.bytes < 1e14
    assert torch.backends.cuda.matmul.allow_tf32 == before


@has_pot
def test_transport_has_a_table_for_points_and_one_for_pictures(monkeypatch, no_peers):
    monkeypatch.setattr(Settings, "pick", lambda self, smoke, small, full: [20] if smoke == [200] else smoke)
    tables = transport.run(settings(seeds=2, peers=("torchcfm",))).tables
    assert [table.name for table in tables] == ["transport_2", "transport_784"]
    for table in tables:
        assert table.columns == ["20", "targets kept"]
        cells = {row.label: row.cells for row in table.rows}
        assert list(cells) == [
            "OptimalTransport",
            "OptimalTransport again (noise)",
            "scipy",
            "POT",
            "torchcfm",
        ]
        assert {
            name: cells[name]["targets kept"]["value"] for name in ("OptimalTransport", "scipy", "POT")
        } == {
            "OptimalTransport": 1,
            "scipy": 1,
            "POT": 1,
        }
        assert cells["torchcfm"]["20"]["why"] == "torchcfm is not installed"


@pytest.mark.parametrize("elements", [2, 5])
def test_every_solver_of_the_transport_table_finds_the_same_pairs(elements):
    x0, x1 = transport.points(30, elements, 0, CPU)
    expected = OptimalTransport().pair(x0, x1)
    for name, pairing in transport.pairings(Settings()).items():
        found_x0, found_x1 = pairing(x0, x1)
        assert torch.equal(found_x0, expected.x0), name
        assert torch.equal(found_x1, expected.x1), name


def test_points_follow_their_seed():
    for elements in (2, 7):
        first, again, other = (transport.points(9, elements, seed, CPU) for seed in (0, 0, 1))
        assert all(map(torch.equal, first, again))
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])
        assert first[0].shape == first[1].shape == (9, elements)


def test_kept_is_the_share_of_targets_that_are_paired():
    x1 = torch.arange(10.0)[:, None]
    assert transport.kept(lambda x0, x1: (x0, x1), x1, x1) == 1
    assert transport.kept(lambda x0, x1: (x0, x1 // 2), x1, x1) == 0.5


def test_transport_without_pot_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    assert list(transport.pairings(settings(peers=("torchcfm",)))) == ["OptimalTransport", "scipy"]
    monkeypatch.setattr(Settings, "pick", lambda self, smoke, small, full: [8] if smoke == [200] else smoke)
    cells = {row.label: row.cells for row in transport.run(settings(seeds=1)).tables[0].rows}
    assert cells["POT"]["8"]["why"] == "POT is not installed"
