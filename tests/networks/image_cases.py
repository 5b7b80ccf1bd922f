import torch

from interpolants.networks import Transformer, UNet


def unet(**options):
    options = {"generator": torch.Generator().manual_seed(0), **options}
    return UNet(3, **{"width": 16, "multipliers": (1, 2), "blocks": 1, "heads": 2, **options})


def transformer(**options):
    options = {"generator": torch.Generator().manual_seed(0), **options}
    return Transformer(3, (4, 6), **{"width": 16, "depth": 2, "heads": 2, **options})


def moved(network, seed=0):
    """Every weight drawn anew, so that nothing is zero and nothing hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise.to(parameter.dtype))
    return network


def images(count=5, channels=3, height=4, width=6, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(count, generator=generator, dtype=dtype)
    return t, torch.randn(count, channels, height, width, generator=generator, dtype=dtype)
