"""The door: here, and nowhere else, names become objects."""

from interpolants.config.images import (
    IMAGE_PRESETS,
    ImageConfig,
    Split,
    image_field_of,
    image_network_of,
    image_optimizer_of,
    image_sets_of,
    image_source_of,
    schedule_of,
)
from interpolants.config.planar import (
    PRESETS,
    Config,
    density_of,
    field_of,
    learning_rate_at,
    network_of,
    optimizer_of,
)
from interpolants.config.shared import (
    device_of,
    gamma_of,
    generator_of,
    imported_interpolant,
    interpolant_of,
    loss_of,
    sampler_of,
)

__all__ = [
    "IMAGE_PRESETS",
    "PRESETS",
    "Config",
    "ImageConfig",
    "Split",
    "density_of",
    "device_of",
    "field_of",
    "gamma_of",
    "generator_of",
    "image_field_of",
    "image_network_of",
    "image_optimizer_of",
    "image_sets_of",
    "image_source_of",
    "imported_interpolant",
    "interpolant_of",
    "learning_rate_at",
    "loss_of",
    "network_of",
    "optimizer_of",
    "sampler_of",
    "schedule_of",
]
