"""Pictures of points, fields, flows and curves; the only folder that knows matplotlib."""

from interpolants.plotting.curves import chain_figure, loss_curve
from interpolants.plotting.fields import field_figure, polar
from interpolants.plotting.flows import cloud_figure, density_figure, flow_figure
from interpolants.plotting.images import image_grid
from interpolants.plotting.points import animate, colours_by_start, panel
from interpolants.plotting.style import figure, save

__all__ = [
    "animate",
    "chain_figure",
    "cloud_figure",
    "colours_by_start",
    "density_figure",
    "field_figure",
    "figure",
    "flow_figure",
    "image_grid",
    "loss_curve",
    "panel",
    "polar",
    "save",
]
