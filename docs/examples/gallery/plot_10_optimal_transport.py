r"""
Optimal transport within the minibatch
======================================

A loss may choose which source point goes with which target point. Lines between independent pairs cross, and
a flow, which has one direction at each point and time, must bend there. Pairing each minibatch by optimal
transport straightens it, so that fewer steps will do. Here eight Gaussians become two moons.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import MLP, LearnedField, Linear, ODESampler, Regression, Trainer
from interpolants.couplings import Independent, OptimalTransport
from interpolants.data import eight_gaussians, moons
from interpolants.metrics import path_energy, wasserstein2
from interpolants.training import WarmUp

couplings = {"independent": Independent(), "optimal transport": OptimalTransport()}
generator = torch.Generator().manual_seed(0)


def draw(n):
    return eight_gaussians(n, std=0.3, generator=generator), 3 * moons(n, generator=generator)


def turn(a, b, c):  # its sign: on which side of the line from a to b the point c lies
    return (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]


# %%
# One minibatch, paired in two ways
# ---------------------------------
# :class:`~interpolants.OptimalTransport` reorders the sources (blue) so that the squared lengths of the lines
# sum to the least. It is a true permutation: every point is used once. (Drawing pairs from the plan with
# replacement would leave out about 37 %.) Some lines still cross, but no two points pass the crossing at the
# same time.

x0, x1 = draw(128)
figure, panels = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for axes, (name, coupling) in zip(panels, couplings.items(), strict=True):
    pairs = coupling.pair(x0, x1)
    a, b = pairs.x0[:, None], pairs.x1[:, None]
    apart = turn(a, b, pairs.x0) * turn(a, b, pairs.x1) < 0  # line j has an end on either side of line i
    crossings, used = int((apart & apart.T).sum()) // 2, len(pairs.source_index.unique())
    print(f"{name:18}{used} sources used, mean squared length {(b - a).square().sum(-1).mean():.1f}")
    axes.plot(*torch.stack((pairs.x0, pairs.x1)).unbind(-1), color="0.6", linewidth=0.8, zorder=1)
    axes.scatter(*torch.cat((x0, x1)).T, s=14, c=["tab:blue"] * 128 + ["tab:orange"] * 128)
    axes.set(title=f"{name}: {crossings} crossings", aspect="equal", xticks=[], yticks=[])

# %%
# The flow that each of them teaches
# ----------------------------------
# Network, data and seeds are the same; only ``coupling`` differs. The floor is the Wasserstein-2 distance
# between two samples of the target. The energy is the mean of the squared speed; no flow that reaches the
# target takes less than the squared distance; one that misses it a little may. Blue lines are points' ways.

start, target = draw(1000)
floors = torch.tensor([wasserstein2(draw(1000)[1], target) for _ in range(4)])
print(f"floor {floors.mean():.2f} ± {floors.std():.2f}, least energy {wasserstein2(start, target) ** 2:.1f}")
batches = [draw(128) for _ in range(100)]
plan = {"steps": 1000, "schedule": WarmUp(steps=1000), "optimizer": lambda p: torch.optim.Adam(p, lr=1e-2)}
figure, panels = plt.subplots(2, 3, figsize=(8, 5.7), layout="constrained", sharex=True, sharey=True)
for row, (name, coupling) in zip(panels, couplings.items(), strict=True):
    network, loss = MLP(dim=2, generator=generator.manual_seed(1)), Regression(Linear(), coupling=coupling)
    list(Trainer(network, loss, batches, **plan, generator=generator.manual_seed(2)))
    for axes, steps in zip(row, (64, 4, 1), strict=True):
        flow = ODESampler(steps=steps).sample(LearnedField(Linear(), velocity=network), start)
        distance, energy = wasserstein2(flow.final, target), path_energy(flow.x, flow.t)
        print(f"{name:18}Euler steps: {steps:2}, distance {distance:.2f}, energy {energy:4.1f}")
        axes.plot(*flow.x[:, :120].unbind(-1), color="tab:blue", linewidth=0.8, alpha=0.5)
        axes.scatter(*flow.final.T, s=2, color="tab:orange", zorder=3)
        axes.set(title=f"{name},\nEuler steps: {steps}", aspect="equal", xticks=[], yticks=[])

# %%
# After independent pairs one Euler step makes a heap: at the start all targets are as likely, and the mean of
# the lines leads to their middle. After optimal transport one step is nearly as good as 64, and the energy is
# about the least there is. In 64 steps independent pairs do as well. :doc:`/benchmarks/moons` has longer
# trainings and several seeds.
