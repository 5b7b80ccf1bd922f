r"""
What latent noise buys, and what it costs
=========================================

Latent noise :math:`\gamma(t) z` is there half way and gone at both ends. It smooths the velocity in the
middle, not everywhere, and is paid for in the loss. Both are measured here on exact fields.
"""

import matplotlib.pyplot as plt
import torch

import interpolants as si

# %%
# Two narrow modes on a line become three. Half way there are six pairs of modes, and without noise the
# velocity changes abruptly from one pair to the next. ``Brownian(a)`` is :math:`\gamma^2 = a\,t(1-t)`, and
# ``SineSquared`` :math:`\gamma = \sin^2 \pi t`.


def modes(*means):
    ones = torch.ones(len(means))
    return si.GaussianMixture(ones, torch.tensor(means)[:, None], 0.2**2 * ones[:, None, None])


source, target = modes(-1.5, 1.5), modes(-2.0, 0.0, 2.0)
noises = (si.Zero(), si.Brownian(0.5), si.Brownian(2.0), si.SineSquared())

# %%
# Left, the root mean square of the slope :math:`\partial b / \partial x` over the density at each time. Noise
# takes the peaks from the middle, but a Brownian one makes the ends steep, and more of it more so. Right, the
# Wasserstein-2 distance from the ends of Euler steps to those of the flow. With 4 or 8 steps all noise helps;
# with more the Brownian ones are hardly better than none, or worse, while the smooth sine stays better.

generator = torch.Generator().manual_seed(0)
x0, x1 = (ends.sample(2_000, generator=generator) for ends in (source, target))
t, grid, steps = torch.linspace(0, 1, 101), torch.linspace(-4, 4, 801)[:, None], (4, 8, 16, 32, 64, 128)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.6), layout="constrained")
print(f"{'':16} mean slope  energy   floor  evaluations")
for gamma, style in zip(noises, ("k", "C0", "C0--", "C1"), strict=True):
    oracle, slopes, energies = si.MixtureOracle(si.Linear(gamma=gamma), source, target), [], []
    for time in t.tolist():
        b = oracle.velocity(time, grid.requires_grad_())
        slope, mass = torch.autograd.grad(b.sum(), grid)[0], oracle.log_density(time, grid).softmax(0)
        slopes.append((mass @ slope.square()).detach())
        energies.append((mass @ b.square()).detach())
    slope, energy = (torch.trapezoid(torch.cat(values), t) for values in (slopes, energies))
    floor = (x1 - x0).square().mean() + torch.trapezoid(gamma.derivative(t).square(), t) - energy
    flow = si.ODESampler("dopri5", steps=1).sample(oracle, x0)
    ends = [si.ODESampler(steps=n, end_only=True).sample(oracle, x0).final for n in steps]
    apart = [si.sliced_wasserstein2(end, flow.final, projections=1) for end in ends]
    print(f"{gamma!s:16} {slope.sqrt():10.2f} {energy:7.2f} {floor:7.2f} {flow.evaluations:12}")
    left.plot(t, torch.cat(slopes).sqrt(), style, linewidth=2, label=str(gamma))
    right.plot(steps, apart, style, linewidth=2)
left.set(xlabel="$t$", title="slope of the velocity", ylim=(0, 12))
right.set(xlabel="Euler steps", title="distance of the ends", xscale="log", yscale="log")
right.set_xticks(steps, labels=steps)
right.minorticks_off()
figure.legend(loc="outside lower center", ncols=2, fontsize=12)
plt.show()

# %%
# The cost is the floor of the regression loss: a network must average out :math:`\dot\gamma z` as well. For
# Brownian noise it is infinite, as :math:`\dot\gamma` is at the ends; ``antithetic=True`` keeps at least the
# variance of the gradient finite. An adaptive solver saves some evaluations with a little Brownian noise, and
# none with more. What is bought besides is the denoiser, and with it the score and the SDEs of
# :doc:`plot_07_ode_or_sde`. Without noise a velocity alone gives no score, unless the source is a standard
# normal and independent of the target:

for path in (si.Linear(), si.Linear(gamma=si.Brownian(0.5))):
    oracle = si.MixtureOracle(path, source, target)
    try:
        denoiser = None if path.gamma.vanishes else oracle.denoiser
        print(si.LearnedField(path, velocity=oracle.velocity, denoiser=denoiser).score(0.5, x0[:2]).flatten())
    except si.FieldUnavailable as error:
        print(error)
