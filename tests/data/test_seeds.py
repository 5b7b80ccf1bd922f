import itertools

import torch

from interpolants.data.seeds import mixed, seeded


def test_a_seed_depends_on_every_part_their_order_kind_and_number():
    parts = [
        (),
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        (10,),
        (1, 0, 0),
        ("0",),
        ("a",),
        ("a", 1),
        ("a1",),
        (-1,),
    ]
    assert len({mixed(*some) for some in parts}) == len(parts)


def test_seeds_are_64_bits_wide():
    seeds = [mixed("width", k) for k in range(200)]
    # Each of the bits is missing from all of 200 random numbers with chance 2**-200.
    union = 0
    for seed in seeds:
        union |= seed
    assert union == 2**64 - 1


def test_neighbouring_seeds_and_steps_share_nothing():
    seeds = {mixed(seed, "source", step) for seed, step in itertools.product(range(100), range(100))}
    assert len(seeds) == 10_000


def test_a_seed_is_the_same_in_every_version():
    # Written down when the function was: a stored run goes on as it began only while this holds.
    assert mixed(0, "source", 7) == 16326619111520850513


def test_the_generator_starts_from_the_seed():
    first = torch.rand(3, generator=seeded(1, "x"))
    assert torch.equal(first, torch.rand(3, generator=torch.Generator().manual_seed(mixed(1, "x"))))
    assert not torch.equal(first, torch.rand(3, generator=seeded(2, "x")))
