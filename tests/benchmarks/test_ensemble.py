"""Networks of several seeds trained together are the networks trained one by one."""

from functools import partial

import pytest
import torch

from benchmarks.ensemble import Ensemble, Pairs, PerSeed, split, sum_over_seeds, train, train_by_hand
from interpolants import MLP, Independent, Linear, OptimalTransport, Regression, SineSquared


def build():
    return MLP(2, width=8, depth=2).double()


def points(rows, generator, seeds=3):
    x0 = torch.randn(seeds * rows, 2, generator=generator, dtype=torch.float64)
    return x0, 3 + torch.randn(seeds * rows, 2, generator=generator, dtype=torch.float64)


def test_each_row_is_answered_by_the_network_of_its_seed():
    state = torch.random.get_rng_state()
    ensemble = Ensemble(build, [3, 7])
    assert torch.equal(torch.random.get_rng_state(), state)
    t, x = torch.rand(10, dtype=torch.float64), torch.randn(10, 2, dtype=torch.float64)
    answers = split(ensemble(t, x), 2)
    for k, seed in enumerate((3, 7)):
        torch.manual_seed(seed)
        rows = slice(5 * k, 5 * (k + 1))
        torch.testing.assert_close(answers[k], build()(t[rows], x[rows]))
        torch.testing.assert_close(answers[k], ensemble.member(build, k)(t[rows], x[rows]))


def test_networks_with_buffers_are_refused():
    with pytest.raises(ValueError, match="running_mean"):
        Ensemble(lambda: torch.nn.BatchNorm1d(2), [0, 1])


@pytest.mark.parametrize("path", [Linear(), Linear(gamma=SineSquared())])
@pytest.mark.parametrize("antithetic", [False, True])
def test_a_seed_trains_as_it_would_alone(path, antithetic):
    sgd = partial(torch.optim.SGD, lr=0.05)
    ensemble = Ensemble(build, [0, 1, 2])
    loss = Regression(path, weight=sum_over_seeds(3), antithetic=antithetic)
    train(ensemble, loss, Pairs(points, 16, torch.Generator().manual_seed(5)), steps=4, optimizer=sgd)
    # The same draws, of which the network of the second seed sees its own third.
    torch.manual_seed(1)
    alone, generator = build(), torch.Generator().manual_seed(5)
    optimizer, own = sgd(alone.parameters()), Regression(path, antithetic=antithetic)
    for _ in range(4):
        draw = own.draw(*points(16, generator), generator=generator)
        part = type(draw)(*(None if value is None else split(value, 3)[1] for value in draw))
        optimizer.zero_grad()
        own.evaluate(alone, part).mean().backward()
        optimizer.step()
    for mine, other in zip(ensemble.member(build, 1).parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_loop_by_hand_is_the_trainer():
    loss = Regression(Linear(), weight=sum_over_seeds(2))
    found = []
    for how in ("trainer", "hand"):
        ensemble = Ensemble(build, [0, 1])
        generator = torch.Generator().manual_seed(5)
        pairs = Pairs(partial(points, seeds=2), 16, generator)
        settings = {
            "steps": 5,
            "optimizer": partial(torch.optim.Adam, lr=1e-2),
            "schedule": lambda k: 1 / (1 + k),
        }
        if how == "trainer":
            train(ensemble, loss, pairs, **settings)
        else:
            train_by_hand(ensemble, partial(loss, generator=generator), pairs, **settings)
        found.append(torch.cat([p.detach().flatten() for p in ensemble.parameters()]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("coupling", [Independent(), OptimalTransport()])
def test_points_are_paired_within_their_seed(coupling):
    generator = torch.Generator().manual_seed(0)
    x0, x1 = points(8, generator)
    index = PerSeed(coupling, 3).source_index(x0, x1)
    assert torch.equal(index.sort().values, torch.arange(24))
    for k in range(3):
        rows = slice(8 * k, 8 * (k + 1))
        own = coupling.source_index(x0[rows], x1[rows])
        expected = torch.arange(8) if own is None else own
        assert torch.equal(index[rows] - 8 * k, expected)
