from itertools import islice

import pytest
import torch
from scipy.stats import chi2

from interpolants.data import RandomPairs


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_minibatches_are_drawn_from_their_own_sets():
    x0, x1 = torch.arange(5.0)[:, None], 10 + torch.arange(3.0)[:, None]
    for a, b in islice(RandomPairs(x0, x1, 7, generator=generator()), 20):
        assert a.shape == b.shape == (7, 1)
        assert torch.isin(a, x0).all()
        assert torch.isin(b, x1).all()


def test_all_pairs_are_equally_likely():
    n = 60_000
    x0, x1 = torch.arange(4.0), torch.arange(3.0)
    a, b = next(iter(RandomPairs(x0, x1, n, generator=generator())))
    counts = torch.bincount((3 * a + b).long(), minlength=12)
    # Twelve independent pairs, so equal counts also say that the sides are drawn independently.
    assert ((counts - n / 12) ** 2 / (n / 12)).sum() < chi2.isf(1e-7, 11)  # false alarm once in ten million


def test_the_same_seed_gives_the_same_pairs_and_iterating_again_goes_on():
    x0, x1 = torch.randn(100, 2, generator=generator(1)), torch.randn(50, 2, generator=generator(2))
    whole = list(islice(RandomPairs(x0, x1, 8, generator=generator(3)), 4))
    pairs = RandomPairs(x0, x1, 8, generator=generator(3))
    halves = [*islice(pairs, 2), *islice(pairs, 2)]
    for (a, b), (c, d) in zip(whole, halves, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert not torch.equal(whole[0][0], whole[2][0])


def test_points_of_any_shape_pass_through():
    a, b = next(iter(RandomPairs(torch.zeros(3, 1, 4, 4), torch.ones(2, 1, 4, 4), 5)))
    assert a.shape == b.shape == (5, 1, 4, 4)


@pytest.mark.parametrize(
    ("x0", "x1", "batch_size", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 3), 4, r"one shape, not \(2,\) and \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 2).double(), 4, "one dtype"),
        (torch.zeros(3, 2), torch.zeros(3, 2, device="meta"), 4, "one device"),
        (torch.zeros(0, 2), torch.zeros(3, 2), 4, "x0 must hold at least one point"),
        (torch.zeros(3, 2), torch.zeros(()), 4, "x1 must hold at least one point"),
        (torch.zeros(3, 2), torch.full((3, 2), float("nan")), 4, "x1 must be finite"),
        (torch.full((3, 2), float("inf")), torch.zeros(3, 2), 4, "x0 must be finite"),
        (torch.zeros(3, 2), torch.zeros(3, 2), 0, "batch_size must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_paired_is_refused(x0, x1, batch_size, message):
    with pytest.raises(ValueError, match=message):
        RandomPairs(x0, x1, batch_size)
