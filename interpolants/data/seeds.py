"""Seeds of many independent draws out of one."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["mixed", "seeded"]


def mixed(*parts: int | str) -> int:
    """Return a number of 64 bits that depends on every part, their order and where one ends.

    Neighbouring parts give unrelated numbers, so that step 1 of seed 0 is not step 0 of seed 1, as it would
    be for their sum.

    Example:
        >>> len({mixed(0, 1), mixed(1, 0), mixed(1), mixed("1"), mixed(0, "1")})
        5
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def seeded(*parts: int | str) -> torch.Generator:
    """Return a generator on the CPU that is seeded by all parts together.

    torch's generator of the CPU starts from 32 bits of its seed, so among a million generators about a
    hundred pairs begin alike.

    Example:
        >>> first, second = (torch.rand((), generator=seeded(0, "noise", step)) for step in (0, 1))
        >>> bool(first != second)
        True
    """
    return torch.Generator().manual_seed(mixed(*parts))
