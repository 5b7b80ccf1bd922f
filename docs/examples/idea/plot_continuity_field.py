"""
Mass in and out of a cell
=========================

The continuity equation is a balance of mass: what a cell gains is what flows in less what flows out. Here
on a line, where the flux is one number at each wall.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import GaussianMixture, Linear, MixtureOracle

plt.rcParams.update({"font.size": 12})
real = {"dtype": torch.float64}
source = GaussianMixture(
    torch.ones(1, **real), torch.tensor([[-0.4]], **real), torch.full((1, 1, 1), 0.36, **real)
)
target = GaussianMixture(
    torch.tensor([0.42, 0.58], **real),
    torch.tensor([[-1.8], [1.6]], **real),
    torch.tensor([0.08, 0.12], **real).reshape(2, 1, 1),
)
oracle = MixtureOracle(Linear(), source, target)

# %%
# The density is :math:`\rho`, the velocity :math:`b`, and the flux is their product: mass per unit of time
# through a point. The cell is the interval from 0.3 to 0.9.


def density(t, x):
    return oracle.log_density(t, x.reshape(-1, 1)).exp()


def flux(t, x):
    return oracle.velocity(t, x.reshape(-1, 1))[:, 0] * density(t, x)


cell = torch.linspace(0.3, 0.9, 201, **real)
walls = cell[[0, -1]]

# %%
# The mass of the cell at each time, once by adding up the density inside, once from the fluxes at the walls
# alone.

times = torch.linspace(0, 1, 401, **real)
inside = torch.stack([torch.trapezoid(density(t, cell), cell) for t in times])
gain = torch.stack([-flux(t, walls).diff()[0] for t in times])
counted = inside[0] + torch.cat([torch.zeros(1, **real), torch.cumulative_trapezoid(gain, times)])
print(f"mass at the start {inside[0]:.4f}, at most {inside.max():.4f}, at the end {inside[-1]:.4f}")
print(f"largest difference between the two accounts: {(inside - counted).abs().max():.1e}")

# %%
# Above, one moment: the arrows at the walls are half as long as the flux there. Less leaves than enters, so
# the cell gains. Below, the two accounts of its mass over time.

t, line = 0.45, torch.linspace(-2.8, 2.8, 400, **real)
figure, (top, bottom) = plt.subplots(2, figsize=(6.4, 6.4), layout="constrained")
top.fill_between(line, density(t, line), color="C0", alpha=0.25, linewidth=0)
top.plot(line, density(t, line), color="C0", label=r"density $\rho$")
top.plot(line, flux(t, line), color="C1", linestyle="--", label=r"flux $b\rho$")
top.axvspan(*walls, color="0.5", alpha=0.3, linewidth=0)
for wall, rate, inward, name in zip(walls, flux(t, walls) / 2, (1, 0), ("in", "out"), strict=True):
    tail, head = wall - inward * rate, wall + (1 - inward) * rate
    top.annotate("", (head, 1.4), (tail, 1.4), arrowprops={"width": 2.5, "color": "black"})
    top.text((tail + head) / 2, 1.5, name, ha="center")
top.axhline(0, color="0.7", linewidth=0.8)
top.set(xlabel="position", title=f"one cell at t = {t}", xlim=(-2.8, 2.8), ylim=(-0.9, 1.75))
top.legend(loc="upper left")
bottom.plot(times, inside, color="C0", linewidth=5, alpha=0.4, label="density inside, added up")
bottom.plot(times, counted, color="black", linestyle="--", label="start + inflow - outflow")
bottom.axvline(t, color="0.7", linewidth=0.8)
bottom.set(xlabel="time", ylabel="mass of the cell", xlim=(0, 1), ylim=(0, 0.52))
bottom.legend(loc="upper left")
plt.show()
