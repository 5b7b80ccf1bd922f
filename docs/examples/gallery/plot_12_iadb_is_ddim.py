r"""
IADB is DDIM
============

From Gaussian noise, IADB's Euler steps on the linear path and deterministic DDIM are one sampler in two
notations, as :cite:t:`heitz2023iterative` show. :class:`~interpolants.DDIMSampler` is there to see it, and to
try what is said about which of them is more stable. For use, take :class:`~interpolants.ODESampler`.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import DDIMSampler, GaussianMixture, LearnedField, Linear, MixtureOracle, ODESampler

source = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
means, variances = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [0.0, -2.0]]), torch.tensor([[0.2, 0.05]] * 3)
target = GaussianMixture(torch.ones(3), means, variances.diag_embed())
exact = MixtureOracle(Linear(), source, target)
x0 = source.sample(300, generator=torch.Generator().manual_seed(0)).double()
counts = [2**k for k in range(8)]

# %%
# The same points on the way
# --------------------------
# An Euler step moves along the velocity. A DDIM step takes off the expected noise, divides by the share of
# the data, and adds the noise again at the next time. Its points are IADB's, divided by
# :math:`\sqrt{\alpha^2 + \beta^2}`; the library hands them back at IADB's size. With the exact field, lines
# (Euler) and rings (DDIM) have the same corners, and the largest difference of 300 ends is a rounding that
# grew a little on the way.

for dtype in (torch.float64, torch.float32):
    for n in counts:
        ends = [
            sampler.sample(exact, x0.to(dtype)).final for sampler in (DDIMSampler(n), ODESampler(steps=n))
        ]
        print(f"{dtype}, {n:3} steps: largest difference {(ends[0] - ends[1]).abs().max():.0e}")
figure, panels = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained", sharex=True, sharey=True)
for axes, n in zip(panels, (1, 4, 16), strict=True):
    axes.plot(*ODESampler(steps=n).sample(exact, x0[:20]).x.unbind(-1), color="tab:blue", linewidth=1)
    rings = DDIMSampler(n).sample(exact, x0[:20]).x.reshape(-1, 2)
    axes.scatter(*rings.T, s=14, facecolors="none", edgecolors="tab:orange", zorder=3)
    axes.set(title=f"steps: {n}", aspect="equal", xticks=[], yticks=[])

# %%
# What a network's error does
# ---------------------------
# IADB trains a network on the velocity, DDIM one on the noise. Give the exact answer of each the same small
# error, a fixed vector for each point, and both networks to both samplers. All start just after pure noise,
# at t = 0.0063, about where the usual schedule of diffusion models does. An error of the noise is divided by
# t on the way to the data, whichever sampler does it.

wrong = 1e-4 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
answers = {"velocity": exact.velocity, "x0": exact.x0, "x1": exact.x1}
looks = {
    "velocity": ("the velocity", "tab:blue"),
    "x0": ("the noise", "tab:orange"),
    "x1": ("the data", "0.3"),
}
figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
for kind, (name, colour) in looks.items():
    network = {kind: lambda t, x, answer=answers[kind]: answer(t, x) + wrong}
    field, moved = LearnedField(Linear(), **network, gaussian_source=True), []
    for n in counts:
        times = [0.0063, *(k / n for k in range(1, n + 1))]
        truth = ODESampler(times=times).sample(exact, x0).final
        ends = [sampler(times=times).sample(field, x0).final for sampler in (ODESampler, DDIMSampler)]
        moved.append([float((end - truth).norm(dim=1).median()) / 1e-4 for end in ends])
    euler, ddim = zip(*moved, strict=True)
    axes.loglog(counts, euler, color=colour, linewidth=2, label=f"{name}, by Euler")
    axes.loglog(counts, ddim, "o", color=colour, markersize=9, fillstyle="none", label=f"{name}, by DDIM")
axes.set(xlabel="steps", ylabel="median move / error of the network", xticks=counts, xticklabels=counts)
axes.legend(title="a network that answers")
axes.grid(color="0.9")
axes.minorticks_off()

# %%
# Rings lie on lines: neither sampler is the more stable one. What differs is the question the network is
# asked. With few steps an error of the noise is the worst by far, with many one of the data; one of the
# velocity stays about what it was.
