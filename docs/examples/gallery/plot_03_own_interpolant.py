r"""
Your own interpolant in two lines
=================================

A path that weighs its two ends by functions of time, :math:`I = \alpha(t)\,x_0 + \beta(t)\,x_1`, is a
subclass of :class:`~interpolants.SpatiallyLinear`. You write the two weights, and everything else follows.
"""

from functools import partial

import matplotlib.pyplot as plt
import torch

from interpolants import MLP, Brownian, LearnedField, ODESampler, Regression, SpatiallyLinear, Trainer
from interpolants.checks import check_interpolant
from interpolants.data import RandomPairs
from interpolants.training import WarmUp

# %%
# Here they are. The weight of the source falls from 1 to 0, that of the target rises from 0 to 1, and
# this path starts slowly: near t = 0 almost nothing of the target is mixed in.


class Cubic(SpatiallyLinear):
    def alpha(self, t):
        return 1 - t**3

    def beta(self, t):
        return t**3


# %%
# Ask first whether it keeps its promises: ends, derivatives, shapes and types. Silence means that it does. A
# path that is no weighted sum subclasses :class:`~interpolants.Interpolant`, and is asked the same.

check_interpolant(Cubic())
check_interpolant(Cubic(gamma=Brownian(0.5)))  # the same path with latent noise

# %%
# A slip is answered by a sentence. This path stops short of the target:


class Slip(Cubic):
    def beta(self, t):
        return 0.95 * t**3


try:
    check_interpolant(Slip())
except ValueError as error:
    print(error)

# %%
# It goes wherever a path goes: into a loss, a field and a sampler.

torch.manual_seed(0)
source, target = torch.randn(20_000, 2), 3 * torch.rand(20_000, 2) + torch.tensor([2.0, -1.5])
network, pairs = MLP(dim=2, activation=torch.nn.SiLU), RandomPairs(source, target, 256)
adam, rates = partial(torch.optim.Adam, lr=1e-2), WarmUp(100, steps=1000)
for _step in Trainer(network, Regression(Cubic()), pairs, steps=1000, optimizer=adam, schedule=rates):
    pass
field = LearnedField(Cubic(), velocity=network)
flow = ODESampler(method="heun", steps=32).sample(field, source[:1000])

# %%
# Above the two weights; below where points begin (grey), how thirty of them travel, and where all end (blue).

figure, (weights, plane) = plt.subplots(2, 1, figsize=(7, 8), height_ratios=(2, 3), layout="constrained")
t = torch.linspace(0, 1, 101)
weights.plot(t, Cubic().alpha(t), label="α, of the source")
weights.plot(t, Cubic().beta(t), label="β, of the target")
weights.set_xlabel("t")
weights.legend()
plane.scatter(*source[:1000].T, s=4, color="0.7")
plane.plot(*flow.x[:, :30].movedim(-1, 0), color="0.4", linewidth=0.8)
plane.scatter(*flow.final.T, s=4, color="tab:blue", zorder=3)
plane.set_aspect("equal")
plt.show()
