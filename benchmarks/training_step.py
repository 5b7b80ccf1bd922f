"""One training step of the demo, beside a loop written by hand, interleaved in one run.

    python -m benchmarks.training_step [--rounds 100]

Every contender trains an MLP of its own on the same points: batch 256, 4 x 64 ReLU, Adam 1e-3. Rounds take
a 25 ms block of each in turn; the figure is the median over rounds of the ratio to the hand-written loop's
block of the same round. The hand-written loop stands in the table twice: the second row is the noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from benchmarks.machine import save
from interpolants import MLP, Linear, Regression, Trainer
from interpolants.data import RandomPairs, load_density, shipped_density

BATCH, POINTS = 256, 65_536


def by_hand(x0s: torch.Tensor, x1s: torch.Tensor) -> Callable[[], object]:
    network = MLP(2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> object:
        x0 = x0s[torch.randint(POINTS, (BATCH,))]
        x1 = x1s[torch.randint(POINTS, (BATCH,))]
        t = torch.rand(BATCH)
        xt = (1 - t[:, None]) * x0 + t[:, None] * x1
        optimizer.zero_grad()
        loss = functional.mse_loss(network(t, xt), x1 - x0)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def ours(x0s: torch.Tensor, x1s: torch.Tensor, *, compile: bool, optimizer: object) -> Callable[[], object]:
    trainer = Trainer(
        MLP(2),
        Regression(Linear()),
        RandomPairs(x0s, x1s, BATCH),
        steps=10**9,
        optimizer=optimizer,
        compile=compile,
    )
    return partial(next, trainer)


def block(step: Callable[[], object], seconds: float) -> float:
    count, started = 0, time.perf_counter()
    while True:
        for _ in range(8):
            step()
        count += 8
        passed = time.perf_counter() - started
        if passed >= seconds:
            return passed / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x0s, x1s = (load_density(shipped_density(name)).sample(POINTS) for name in ("p0", "p1"))
    adam, fused = (partial(torch.optim.Adam, lr=1e-3, **how) for how in ({}, {"fused": True}))
    contenders = {
        "by hand": by_hand(x0s, x1s),
        "by hand again (noise)": by_hand(x0s, x1s),
        "Trainer": ours(x0s, x1s, compile=False, optimizer=adam),
        "Trainer, fused Adam (default)": ours(x0s, x1s, compile=False, optimizer=fused),
        "Trainer(compile=True)": ours(x0s, x1s, compile=True, optimizer=adam),
    }
    started = time.perf_counter()
    contenders["Trainer(compile=True)"]()
    first = time.perf_counter() - started
    for step in contenders.values():
        block(step, 0.3)
    seconds = [{name: block(step, 0.025) for name, step in contenders.items()} for _ in range(rounds)]
    figures = {}
    print(f"{'':32}{'ratio':>8}{'quartiles':>16}{'us/step':>10}")
    for name in contenders:
        ratios = [row[name] / row["by hand"] for row in seconds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        step_us = statistics.median(row[name] for row in seconds) * 1e6
        figures[name] = {"ratio": middle, "quartiles": [low, high], "microseconds_per_step": step_us}
        print(f"{name:32}{middle:8.3f}{f'{low:.3f}-{high:.3f}':>16}{step_us:10.0f}")
    print(f"first compiled step: {first:.1f} s")
    print(save("training_step", {"rounds": rounds, "first_compiled_step_seconds": first, "rows": figures}))


if __name__ == "__main__":
    main()
