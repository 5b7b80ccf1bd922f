import math

import pytest
import torch
from image_cases import images, moved, transformer
from torch import nn

from interpolants.networks import Transformer
from interpolants.networks.transformer import _positions


@pytest.mark.parametrize(
    ("name", "millions", "width", "depth", "heads"),
    [
        ("S/2", 33, 384, 12, 6),
        ("B/2", 130, 768, 12, 12),
        ("L/2", 458, 1024, 24, 16),
        ("XL/2", 675, 1152, 28, 16),
    ],
)
def test_named_sizes_are_the_published_ones(name, millions, width, depth, heads):
    # As published: latent images of 4 channels, a variance beside the noise, a thousand classes.
    with torch.device("meta"):
        network = Transformer.named(name, channels=4, size=32, classes=1000, out_channels=8)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions
    assert (network.first.out_features, len(network.blocks), network.blocks[0].heads) == (width, depth, heads)


def test_the_largest_has_the_parameters_of_the_published_code_to_the_last():
    with torch.device("meta"):
        network = Transformer.named("XL/2", channels=4, size=32, classes=1000, out_channels=8)
    # The published code counts its table of positions too.
    assert sum(p.numel() for p in network.parameters()) + network.position.numel() == 675_129_632


@pytest.mark.parametrize("name", ["M/2", "S", "S/", "S/x", "S2", "/2", "s/2", "S/-2"])
def test_names_of_no_size_are_refused(name):
    with pytest.raises(ValueError, match="name must be S, B, L, XL, a slash and the patch; got"):
        Transformer.named(name, channels=4, size=32)


def test_a_name_takes_further_arguments():
    with torch.device("meta"):
        network = Transformer.named("S/4", 1, (8, 12), classes=3)
    assert (network.patch, network.size, network.null_label) == (4, (8, 12), 3)
    assert network.position.shape == (2 * 3, 384)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 3}, "patch must divide height and width; got 3 for 4 x 6"),
        ({"patch": 4}, "patch must divide height and width; got 4 for 4 x 6"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"width": 16, "heads": 3}, "divisible by heads = 3 and by 4; got 16"),
        ({"width": 18, "heads": 2}, "divisible by heads = 2 and by 4; got 18"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transformer(**options)


@pytest.mark.parametrize("size", [0, (4, 0), (-2, 4)])
def test_images_of_no_pixels_are_refused(size):
    with pytest.raises(ValueError, match="size must be at least 1"):
        Transformer(1, size, width=16, heads=2)


@pytest.mark.parametrize(("height", "width"), [(6, 4), (4, 4), (8, 12)])
def test_images_of_another_size_are_refused(height, width):
    t, x = images(height=height, width=width, dtype=torch.float32)
    with pytest.raises(ValueError, match=rf"height and width \(4, 6\); got \({height}, {width}\)"):
        transformer()(t, x)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_patch_is_read_from_its_place_and_written_to_it(patch):
    network = Transformer(3, (4, 6), patch=patch, width=12, depth=1, heads=1).double()
    _, x = images()
    patches = network._patches(x)
    assert patches.shape == (5, 24 // patch**2, 3 * patch**2)
    assert torch.equal(network._image(patches), x)
    columns = 6 // patch
    for row, column, token in [(0, 1, 1), (1, 0, columns), (1, 2, columns + 2)]:
        corner = x[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        assert torch.equal(patches[:, token].sort(1).values, corner.flatten(1).sort(1).values)


def test_positions_are_those_of_the_formula():
    positions = _positions(2, 3, 8).double()
    assert positions.shape == (6, 8)
    for row in range(2):
        for column in range(3):
            expected = [
                f(axis * w) for axis in (column, row) for f in (math.sin, math.cos) for w in (1, 0.01)
            ]
            # Stored in single precision.
            torch.testing.assert_close(
                positions[3 * row + column],
                torch.tensor(expected, dtype=torch.float64),
                rtol=1e-6,
                atol=1e-7,
            )


def test_positions_are_those_of_diffusers():
    embeddings = pytest.importorskip("diffusers.models.embeddings", reason="compares with diffusers")
    expected = embeddings.get_2d_sincos_pos_embed(32, 5, base_size=5, output_type="pt")
    torch.testing.assert_close(_positions(5, 5, 32), expected.float(), rtol=1e-6, atol=1e-6)


def test_positions_are_fixed_and_travel_with_the_state():
    network = transformer()
    assert "position" in network.state_dict()
    assert "position" not in dict(network.named_parameters())


def test_a_block_starts_as_the_identity(generator):
    block = transformer().blocks[0]
    tokens, condition = torch.randn(2, 6, 16, generator=generator), torch.randn(2, 16, generator=generator)
    assert torch.equal(block(tokens, condition), tokens)


def test_a_block_is_attention_and_two_layers_between_scales_shifts_and_gates(generator):
    block = moved(transformer().blocks[0]).double()
    tokens = torch.randn(2, 6, 16, dtype=torch.float64, generator=generator)
    condition = torch.randn(2, 16, dtype=torch.float64, generator=generator)
    reference = nn.MultiheadAttention(16, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.attention_first.weight)
        reference.in_proj_bias.copy_(block.attention_first.bias)
        reference.out_proj.weight.copy_(block.attention_last.weight)
        reference.out_proj.bias.copy_(block.attention_last.bias)
    # The order of the published code: shift, scale and gate of attention, then of the layers.
    parts = block.modulation(condition).reshape(2, 6, 1, 16).unbind(1)
    norm = nn.LayerNorm(16, eps=1e-6, elementwise_affine=False)
    given = norm(tokens) * (1 + parts[1]) + parts[0]
    expected = tokens + parts[2] * reference(given, given, given)[0]
    hidden = block.first(norm(expected) * (1 + parts[4]) + parts[3])
    expected = expected + parts[5] * block.last(nn.GELU(approximate="tanh")(hidden))
    torch.testing.assert_close(block(tokens, condition), expected)


def test_the_network_is_its_blocks_between_two_layers():
    network = moved(transformer(classes=7)).double().eval()
    t, x = images()
    label = torch.tensor([0, 6, 3, 7, 3])
    condition = nn.SiLU()(network.condition(t, label))
    # The convolution of the published code, whose kernel reads rows, columns and then channels here.
    kernel = network.first.weight.reshape(16, 2, 2, 3).permute(0, 3, 1, 2)
    tokens = nn.functional.conv2d(x, kernel, network.first.bias, stride=2).flatten(2).transpose(1, 2)
    tokens = tokens + _positions(2, 3, 16)
    for block in network.blocks:
        tokens = block(tokens, condition)
    shift, scale = network.modulation(condition).reshape(5, 2, 1, 16).unbind(1)
    norm = nn.LayerNorm(16, eps=1e-6, elementwise_affine=False)
    tokens = (norm(tokens) * (1 + scale) + shift).transpose(1, 2).reshape(5, 16, 2, 3)
    kernel = network.last.weight.reshape(2, 2, 3, 16).permute(3, 2, 0, 1)
    bias = network.last.bias.reshape(2, 2, 3).permute(2, 0, 1).repeat(1, 2, 3)
    expected = nn.functional.conv_transpose2d(tokens, kernel, stride=2) + bias
    torch.testing.assert_close(network(t, x, label=label), expected)


def test_initial_weights_follow_the_published_laws():
    network = Transformer(
        3, 8, width=64, depth=2, heads=4, classes=50, generator=torch.Generator().manual_seed(0)
    )
    small = {"condition.first.weight", "condition.last.weight", "condition.table.weight"}
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or "modulation" in name or name == "last.weight":
            assert not parameter.any(), name
            continue
        # Five standard errors of a standard deviation, with the kurtosis of a normal, the larger.
        error = 5 / math.sqrt(2 * parameter.numel())
        expected = 0.02 if name in small else math.sqrt(2 / sum(parameter.shape))
        assert abs(parameter.std() / expected - 1) < error, name


def test_recomputing_blocks_changes_no_gradient():
    gradients = []
    for checkpoint in (False, True):
        network = moved(transformer(checkpoint=checkpoint, classes=7, class_dropout=0.5)).double()
        t, x = images()
        x.requires_grad_()
        torch.manual_seed(0)
        answer = network(t, x, label=torch.arange(5))
        answer.square().sum().backward()
        gradients.append([answer.detach(), x.grad, *(p.grad for p in network.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_recomputing_blocks_keeps_less_for_the_backward_pass():
    def kept(checkpoint):
        network = moved(transformer(checkpoint=checkpoint, depth=6))
        t, x = images(dtype=torch.float32)
        elements = []
        with torch.autograd.graph.saved_tensors_hooks(lambda y: elements.append(y.numel()) or y, lambda y: y):
            network(t, x)
        return sum(elements)

    assert kept(True) < kept(False) / 4
