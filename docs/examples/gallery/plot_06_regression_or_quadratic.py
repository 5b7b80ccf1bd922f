r"""
Regression or quadratic: what the loss tells you
================================================

:class:`~interpolants.Regression` is :math:`E|\hat b - \dot x_t|^2`, :class:`~interpolants.Quadratic` is
:math:`E[|\hat b|^2 - 2\,\dot x_t \cdot \hat b]`. They differ by :math:`E|\dot x_t|^2`, in which the network
has no part, so they teach the same. What differs is the number that you watch. The ends here are Gaussian
mixtures: the exact velocity is known, and with it where each curve should end.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import MLP, GaussianMixture, Linear, MixtureOracle, Quadratic, Regression

source = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
modes = 3 * torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
target = GaussianMixture(torch.ones(3), modes, 0.1 * torch.eye(2).repeat(3, 1, 1))
oracle = MixtureOracle(Linear(), source, target)
losses = regression, quadratic = Regression(Linear()), Quadratic(Linear())

# %%
# On the same minibatch, with the same times, the two gradients are equal up to rounding. Train with either.

network = MLP(dim=2, generator=torch.Generator().manual_seed(0))
random = torch.Generator().manual_seed(1)
batches = ((source.sample(256, generator=random), target.sample(256, generator=random)) for _ in range(1001))
draw = regression.draw(*next(batches), generator=random)  # times and pairs, shared by both losses
sums = [loss.mean(network, draw) for loss in losses]
one, other = (torch.cat([g.flatten() for g in torch.autograd.grad(s, network.parameters())]) for s in sums)
print(f"relative difference of the gradients: {(one - other).norm() / one.norm():.0e}")

# %%
# Train once and read both
# ------------------------
# Every 20 steps both losses are taken on held-out pairs, always with the same times.
# :meth:`~interpolants.losses.Loss.gap` estimates :math:`E|\hat b - b|^2` where the exact field is known.
# :meth:`~interpolants.losses.Loss.calibration`, :math:`E|\hat b|^2 - E[\dot x_t \cdot \hat b]`, needs none.

held_out = source.sample(16_384, generator=random), target.sample(16_384, generator=random)
fixed = quadratic.draw(*held_out, generator=torch.Generator().manual_seed(2))
floors = [loss.mean(oracle.velocity, fixed).item() for loss in losses]
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
values, gaps, calibrations = [], [], []
for step, pairs in enumerate(batches):
    if step % 20 == 0:
        values.append([loss.mean(network, fixed).item() for loss in losses])
        again = torch.Generator().manual_seed(2)
        gaps.append(quadratic.gap(network, oracle.velocity, *held_out, generator=again))
        calibrations.append(quadratic.calibration(network, *held_out, generator=again.manual_seed(2)))
    optimizer.zero_grad()
    quadratic(network, *pairs, generator=random).backward()
    optimizer.step()
    rate.step()
for name, found in (("gap", gaps[-1]), ("calibration", calibrations[-1])):
    print(f"{name} at the end: {found.value:.3f} ± {found.standard_error:.3f}")

# %%
# Left: the curves fall by the same amount, each to its floor (dashed). Regression's floor is the variance of
# :math:`\dot x_t` given :math:`x_t`, quadratic's is :math:`-E|b|^2`. Without an oracle you know neither, but
# quadratic has a mark: the answer 0 gets 0. Right: the gap falls from 1. Calibration of an answer
# :math:`\lambda b` is :math:`\lambda(\lambda - 1)E|b|^2`: positive if too strong, negative if too weak, but 0
# for the answer 0 as well, as at the start: a necessary sign, not a proof. To rank networks on the same draws
# either loss will do. Which loss and weight learn fastest: :doc:`the tables </benchmarks/losses>`.

figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
steps = range(0, 20 * len(values), 20)
for curve, floor, colour in zip(zip(*values, strict=True), floors, ("tab:blue", "tab:orange"), strict=True):
    left.plot(steps, curve, color=colour, linewidth=2)
    left.axhline(floor, color=colour, linestyle="--")
left.legend(left.lines[::2], ("regression", "quadratic"), loc="center right", fontsize=12)
for found, colour in ((gaps, "tab:green"), (calibrations, "tab:purple")):
    right.plot(steps, [each.value / -floors[1] for each in found], color=colour, linewidth=2)
right.legend(("gap", "calibration"), fontsize=12)
right.axhline(0, color="black")
left.set(xlabel="step", title="value on held-out pairs")
right.set(xlabel="step", title=r"in units of $E|b|^2$")
plt.show()
