r"""Fields: what carries one density into the other, learned or exact.

A field answers, at a time and points, with the average direction (velocity), the score, the average
latent noise (denoiser) and the average ends. Samplers take any field; an oracle is one, a network
makes one through :class:`LearnedField`, and fields make fields: another path (:meth:`Field.along`), guidance
(:class:`Guided`). All satisfy, for a spatially linear interpolant,

.. math::
    x = \alpha \eta_0 + \beta \eta_1 + \gamma \eta_z, \qquad
    b = \dot\alpha \eta_0 + \dot\beta \eta_1 + \dot\gamma \eta_z, \qquad
    s = -\eta_z / \gamma,

with :math:`\eta_0 = E[x_0 | x_t = x]` and so on (Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797).
"""

from interpolants.fields.field import Diffusion, Field, FieldUnavailable
from interpolants.fields.guided import Guided
from interpolants.fields.learned import LearnedField, Network

__all__ = ["Diffusion", "Field", "FieldUnavailable", "Guided", "LearnedField", "Network"]
