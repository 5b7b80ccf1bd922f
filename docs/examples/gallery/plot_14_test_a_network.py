r"""
Hold a network to the truth
===========================

Samples tell dimly what is wrong with a network. Between Gaussian mixtures the field that it should have
learnt is known, :class:`~interpolants.MixtureOracle`: see how wrong it is, when, where, and whether the
sampler is to blame.
"""

import matplotlib.pyplot as plt
import torch

import interpolants as si

dice = torch.Generator().manual_seed(0)
source = si.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
means, variances = [[3.0, 0.0], [-2.0, 2.0], [-1.0, -3.0]], [[0.3, 0.3], [0.05, 0.6], [0.6, 0.05]]
target = si.GaussianMixture(torch.ones(3), torch.tensor(means), torch.tensor(variances).diag_embed())
oracle = si.MixtureOracle(si.Linear(), source, target)
batches = [(source.sample(256, generator=dice), target.sample(256, generator=dice)) for _ in range(100)]
held_out = source.sample(4000, generator=dice), target.sample(4000, generator=dice)

# %%
# How wrong, and when
# -------------------
# ``loss.gap`` is how far the objective is above its minimum, estimated from the objective itself. The mean
# square of network less oracle is the same with less noise, and for each time: in the end t = 1 is the worst.

network, loss, times = si.MLP(dim=2, generator=dice), si.Regression(si.Linear()), torch.linspace(0, 1, 41)
learned = si.LearnedField(si.Linear(), velocity=network)
axes = plt.figure(figsize=(8, 3.6), layout="constrained").gca()
for step in si.Trainer(network, loss, batches, steps=2000, generator=dice):
    if step.index in (100, 500, 2000):
        gap = loss.gap(network, oracle.velocity, *held_out, generator=dice)
        way = [(t, si.Linear().sample(t, *held_out).xt) for t in times]
        misses = [(learned.velocity(*p) - oracle.velocity(*p)).square().sum(1).mean().item() for p in way]
        print(f"{step.index}: gap {gap.value:.2f} ± {gap.standard_error:.2f}, direct {sum(misses) / 41:.2f}")
        axes.semilogy(times.numpy(), misses, linewidth=2, label=f"{step.index} steps")
axes.set(xlabel="t", ylabel="mean squared error of b"), axes.legend(), axes.grid(color="0.9")

# %%
# Where: colours tell the length of the error, lines the density. Far out, where no point was seen, it does no
# harm. What counts is within the lines and, where the flow divides, between them.

grid = torch.cartesian_prod(*[torch.linspace(-5, 5, 101)] * 2).flip(1)
figure, panels = plt.subplots(1, 3, figsize=(8, 2.7), layout="constrained")
for axes, t in zip(panels, torch.tensor([0.2, 0.6, 1.0]), strict=True):
    error = (learned.velocity(t, grid) - oracle.velocity(t, grid)).detach().norm(dim=1).reshape(101, 101)
    image = axes.imshow(error.numpy(), extent=(-5, 5, -5, 5), origin="lower", vmin=0, vmax=2)
    density = oracle.log_density(t, grid).reshape(101, 101).numpy()
    axes.contour(density, extent=(-5, 5, -5, 5), levels=[-8, -5, -3], colors="white", linestyles="solid")
    axes.set(title=f"t = {t:.1f}", xticks=[], yticks=[])
figure.colorbar(image, ax=panels, label="error of b", extend="max")

# %%
# Is it the sampler? From the same starts, Euler steps along the exact field show its error alone. Along the
# network the error falls until the network's own is left: more steps, or a better sampler, are then wasted.

x0, counts = held_out[0][:500], [2**k for k in range(9)]
truth = si.ODESampler("dopri5", rtol=1e-7, atol=1e-7).sample(oracle, x0.double()).final
axes = plt.figure(figsize=(8, 3.6), layout="constrained").gca()
for name, field in {"exact field": oracle, "network": learned}.items():
    apart = [(si.ODESampler(steps=n).sample(field, x0).final - truth).norm(dim=1) for n in counts]
    axes.loglog(counts, [float(errors.median()) for errors in apart], "o-", label=name)
axes.set(xlabel="Euler steps", ylabel="median error of the end"), axes.legend(), axes.grid(color="0.9")

# %%
# Is it the path? This one overshoots by 5 %. An oracle made for it would share the fault, and a network agree
# with it. :func:`~interpolants.check_interpolant` finds it, and so does the gap of the true velocity. On
# the true path it is 0 but for chance. A gap well below 0 says that what was held for exact is not.

wrong = si.Affine(lambda t: 1 - t, lambda t: 1.05 * t)
try:
    si.check_interpolant(wrong)
except si.InterpolantError as error:
    print(error)
for path in (si.Linear(), wrong):
    gap = si.Regression(path).gap(oracle.velocity, oracle.velocity, *held_out, generator=dice)
    print(f"{type(path).__name__}: gap of the truth {gap.value:.2f} ± {gap.standard_error:.2f}")
