r"""
The log-likelihood of a checkerboard
====================================

A flow gives more than samples: follow its ODE backwards from any point, add up the divergence of the velocity
on the way, and you have the log density there. The checkerboard is uniform on 8 cells of area 4. No model of
it has an expected negative log-likelihood below :math:`\ln 32`, about 3.4657 nats: a scale with a known end.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import MLP, Hutchinson, LearnedField, Linear, Regression, Trainer, log_likelihood
from interpolants.data import KnownDensity
from interpolants.plotting import density_figure
from interpolants.samplers import standard_normal_log_prob
from interpolants.training import WarmUp

# %%
# First a brief training, from N(0, Id). A smooth activation helps: the adaptive solver then takes fewer
# steps.

board = KnownDensity("checkerboard")
random = torch.Generator().manual_seed(0)
x0, x1 = torch.randn(2000, 512, 2, generator=random), board.sample(2000 * 512, generator=random)
network = MLP(dim=2, activation=torch.nn.SiLU, generator=random)
batches = list(zip(x0, x1.view(2000, 512, 2), strict=True))
trainer = Trainer(
    network,
    Regression(Linear()),
    batches,
    steps=2000,
    generator=random,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
    schedule=WarmUp(50, steps=2000),
)
for _ in trainer:
    pass
field = LearnedField(Linear(), velocity=network)

# %%
# How far from the floor?
# -----------------------
# Held-out points of the board, with the error that comes from their number. What lies above the floor is the
# Kullback-Leibler divergence from the board to the model. This network has seen 2,000 minibatches; 65,536
# steps of ``interpolants train sde-2d`` come to 3.5278 ± 0.0026.

held_out = board.sample(2000, generator=random)
exact = log_likelihood(field, held_out, standard_normal_log_prob)
value, error = -exact.value.mean().item(), exact.value.std().item() / len(held_out) ** 0.5
print(f"negative log-likelihood {value:.3f} ± {error:.3f} nats, {exact.evaluations} evaluations")
print(f"floor {board.entropy:.4f}, so the divergence is {value - board.entropy:.3f} ± {error:.3f}")

# %%
# The exact divergence takes a backward pass for each dimension: little in the plane, too much for large
# images. :class:`~interpolants.Hutchinson` takes one for each probe and is unbiased. Each point has its
# standard error. (Eight probes in the plane cost more than the exact answer; they are here to be compared.)

some = slice(0, 500)
probes = Hutchinson(probes=8)
rough = log_likelihood(field, held_out[some], standard_normal_log_prob, divergence=probes, generator=random)
off = rough.value - exact.value[some]
print(f"one point: standard error {rough.standard_error.median():.2f} in the median")
print(f"500 points: {off.mean():.3f} ± {off.std() / 500**0.5:.3f} from the exact mean")

# %%
# Where it is lost
# ----------------
# The model is smooth and the board is not: edges are blurred, and bridges join the cells. The densities
# should sum to 1 over the square, but for what the model puts outside: if they do not, the solver or the grid
# is too coarse.

steps = 4.5 * ((2 * torch.arange(80) + 1) / 80 - 1)
grid = torch.cartesian_prod(steps, steps).flip(1)  # rows from the lowest y
learned = log_likelihood(field, grid, standard_normal_log_prob).value
print(f"mass on the grid {learned.exp().sum() * (9 / 80) ** 2:.3f}")
pictures = [values.view(80, 80) for values in (board.log_prob(grid), learned)]
plt.figure(density_figure(pictures, ["exact", "learned"], bounds=board.bounds))
plt.show()
