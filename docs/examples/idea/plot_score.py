"""
Denoiser and score
==================

Given a point of the path, how much latent noise is in it on average? The answer is the denoiser, and up to
a factor it is the slope of the log density.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import Brownian, GaussianMixture, Linear, MixtureOracle

plt.rcParams.update({"font.size": 12})
generator = torch.Generator().manual_seed(0)
source = GaussianMixture(torch.ones(1), torch.tensor([[-0.4]]), torch.full((1, 1, 1), 0.36))
target = GaussianMixture(
    torch.tensor([0.42, 0.58]), torch.tensor([[-1.8], [1.6]]), torch.tensor([0.08, 0.12]).reshape(2, 1, 1)
)
path, t = Linear(gamma=Brownian(0.5)), 0.6
oracle = MixtureOracle(path, source, target)

# %%
# Deblending now gives three things: :math:`x_0`, :math:`x_1` and the noise :math:`z`. At nine places, 2,000
# draws each, the mean of z is the denoiser; minus that over gamma is the score.

places, draws = torch.linspace(-2, 2, 9), 2000
_, _, z = oracle.posterior_sample(t, places.repeat_interleave(draws)[:, None], generator=generator)
z = z.reshape(len(places), draws)
gamma = path.gamma(t)
score, error = -z.mean(1) / gamma, z.std(1) / draws**0.5 / gamma

# %%
# No noise enters the other side of the comparison: the slope of the exact log density, by automatic
# differentiation.

x = torch.cat([places, torch.linspace(-2.4, 2.4, 400)])[:, None].requires_grad_()
log_density = oracle.log_density(t, x)
slope = torch.autograd.grad(log_density.sum(), x)[0][:, 0]
off = (score - slope[:9]) / error
print("mean of draws less slope, in standard errors:", [round(float(o), 1) for o in off])

# %%
# The arrows of the upper picture are the score: they point uphill, to where points are more likely, and
# vanish on the tops.

line, height = x[9:, 0].detach(), log_density[9:].detach().exp()
figure, (top, bottom) = plt.subplots(2, figsize=(6.4, 6), sharex=True, layout="constrained")
top.fill_between(line, height, color="C0", alpha=0.3, linewidth=0)
top.plot(line, height, color="C0")
arrows = {"angles": "xy", "scale_units": "xy", "scale": 12, "width": 0.008}
top.quiver(places, torch.full_like(places, 0.04), slope[:9], torch.zeros(9), **arrows)
top.set(ylabel=r"density $\rho(t, x)$", title=f"the score points uphill (t = {t})", ylim=(0, None))
bottom.axhline(0, color="0.8", zorder=0)
bottom.plot(line, slope[9:], color="C0", label=r"slope of $\log\rho$")
bottom.errorbar(
    places, score, 3 * error, fmt="o", color="C1", capsize=4, label=r"$-$ mean of drawn $z$ $/\ \gamma$"
)
bottom.set(xlabel="position x", ylabel="score", xlim=(-2.4, 2.4))
bottom.legend()
plt.show()
