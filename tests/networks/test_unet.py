import pytest
import torch
from image_cases import images, moved, unet
from torch import nn

from interpolants.networks import UNet


def convolutions(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 20), (12, 8), (28, 4)])
def test_any_size_divisible_by_the_stride_is_taken(height, width):
    network = moved(unet(multipliers=(1, 1, 2)))
    t, x = images(2, height=height, width=width, dtype=torch.float32)
    assert network(t, x).shape == (2, 3, height, width)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 6), (7, 7), (2, 4)])
def test_other_sizes_are_refused_with_the_number_that_must_divide_them(height, width):
    t, x = images(2, height=height, width=width, dtype=torch.float32)
    with pytest.raises(ValueError, match=f"divisible by 4; got {height} x {width}"):
        unet(multipliers=(1, 1, 1))(t, x)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("width", [3, 12, 20, 44])
def test_any_number_of_channels_and_any_width_is_taken(channels, width):
    network = moved(UNet(channels, width=width, multipliers=(1, 3), blocks=1, heads=1))
    t, x = images(2, channels=channels, dtype=torch.float32)
    assert network(t, x).isfinite().all()
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm) and layer.num_channels >= 4:
            assert layer.num_groups <= 32
            # A channel normalised alone loses its mean, and everything at a single pixel.
            assert layer.num_channels // layer.num_groups >= 4


@pytest.mark.parametrize(("width", "groups"), [(64, 16), (128, 32), (256, 32), (96, 24), (100, 25), (74, 2)])
def test_norms_have_the_most_groups_that_divide_their_channels(width, groups):
    assert UNet(1, width=width, multipliers=(1,), blocks=1, heads=1).norm.num_groups == groups


def test_the_levels_have_the_widths_and_blocks_asked_for():
    network = UNet(1, width=8, multipliers=(1, 2, 3), blocks=2, heads=2)
    # On the way down two blocks a level and a halving between levels; on the way up three blocks a level.
    down = [layer.block.last.out_channels if hasattr(layer, "block") else "half" for layer in network.down]
    assert down == [8, 8, "half", 16, 16, "half", 24, 24]
    assert [layer.block.last.out_channels for layer in network.up] == [24] * 3 + [16] * 3 + [8] * 3
    # What comes from below beside what was kept on the way down, the last first.
    assert [layer.block.first.in_channels for layer in network.up] == [
        24 + 24, 24 + 24, 24 + 16,
        24 + 16, 16 + 16, 16 + 8,
        16 + 8, 8 + 8, 8 + 8,
    ]  # fmt: skip


def sizes_of_attention(network, height, width):
    seen = []
    for layer in network.modules():
        if hasattr(layer, "heads"):
            layer.register_forward_hook(lambda layer, given, answer: seen.append(tuple(answer.shape[2:])))
    t, x = images(1, height=height, width=width, dtype=torch.float32)
    network(t, x)
    return seen


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ((), []),
        (None, [(2, 3)] * (1 + 1 + 2)),
        ((4,), [(2, 3)] * (1 + 1 + 2)),
        ((2,), [(4, 6)] * (1 + 2)),
        ((2, 4), [(4, 6)] + [(2, 3)] * 4 + [(4, 6)] * 2),
        ((1,), [(8, 12)] * (1 + 2)),
    ],
)
def test_attention_is_at_the_strides_asked_for(attention, expected):
    network = unet(multipliers=(1, 1, 1), attention=attention)
    assert sizes_of_attention(network, 8, 12) == expected


def test_attention_is_that_of_torch(generator):
    network = moved(unet(heads=4)).double()
    attention = network.middle[0].attention
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64, generator=generator)
    reference = nn.MultiheadAttention(32, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(attention.first.weight.flatten(1))
        reference.in_proj_bias.copy_(attention.first.bias)
        reference.out_proj.weight.copy_(attention.last.weight.flatten(1))
        reference.out_proj.bias.copy_(attention.last.bias)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)
    mixed, _ = reference(tokens, tokens, tokens)
    expected = x + mixed.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_attention_of_one_head_is_a_weighted_mean_worked_out_by_hand():
    attention = unet(width=4, multipliers=(1,), heads=1).double().middle[0].attention
    with torch.no_grad():
        # Queries are the norm's first channel, keys its second, values all; the answer is the value.
        attention.norm.weight.fill_(1), attention.norm.bias.zero_()
        attention.first.weight.zero_(), attention.first.bias.zero_(), attention.last.bias.zero_()
        attention.first.weight[0, 0] = attention.first.weight[4, 1] = 1
        attention.first.weight[8:, :, 0, 0] = torch.eye(4)
        attention.last.weight[:, :, 0, 0] = torch.eye(4)
    x = torch.tensor([[1.0, -1.0], [2.0, 0.5], [-0.5, 1.5], [0.0, -2.0]], dtype=torch.float64)
    normal = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    expected = x.clone()
    for i in range(2):
        # Scores are divided by the square root of the head's 4 channels.
        scores = [float(normal[0, i] * normal[1, j]) / 2 for j in range(2)]
        weights = torch.tensor(scores, dtype=torch.float64).exp()
        expected[:, i] += (normal * weights).sum(1) / weights.sum()
    answer = attention(x.reshape(1, 4, 1, 2)).reshape(4, 2)
    torch.testing.assert_close(answer, expected)


def test_blocks_and_attention_start_as_the_identity(generator):
    network = unet()
    stage = network.middle[0]
    x = torch.randn(2, 32, 2, 3, generator=generator)
    assert torch.equal(stage(x, torch.randn(2, 64, generator=generator)), x)


def test_a_block_is_scaled_and_shifted_by_its_condition(generator):
    block = moved(unet()).double().middle[0].block
    x = torch.randn(2, 32, 2, 3, dtype=torch.float64, generator=generator)
    condition = torch.randn(2, 64, dtype=torch.float64, generator=generator)
    modulation = nn.functional.linear(
        condition * torch.sigmoid(condition), block.modulation.weight, block.modulation.bias
    )
    silu = nn.SiLU()
    expected = []
    for i in range(2):
        hidden = block.last_norm(block.first(silu(block.first_norm(x[i : i + 1]))))
        scale, shift = modulation[i, :32], modulation[i, 32:]
        hidden = hidden * (1 + scale.reshape(1, 32, 1, 1)) + shift.reshape(1, 32, 1, 1)
        expected.append(x[i : i + 1] + block.last(silu(hidden)))
    torch.testing.assert_close(block(x, condition), torch.cat(expected))


def test_dropout_acts_in_training_alone():
    network = moved(unet(dropout=0.5))
    t, x = images(dtype=torch.float32)
    assert not torch.equal(network(t, x), network(t, x))
    evaluated = network.eval()(t, x)
    assert torch.equal(evaluated, network(t, x))
    assert torch.equal(evaluated, moved(unet()).train()(t, x))


def test_the_network_is_its_stages_with_every_skip_connection_in_its_place():
    network = moved(unet(multipliers=(1, 1))).double()
    t, x = images(1, height=4, width=4)
    condition = network.condition(t, None)
    first = network.first(x)
    top = network.down[0](first, condition)
    half = network.down[1](top, condition)
    bottom = network.down[2](half, condition)
    y = network.middle[1](network.middle[0](bottom, condition), condition)
    for stage, skip in zip(network.up, (bottom, half, top, first), strict=True):
        y = stage(torch.cat([y, skip], dim=1), condition)
    expected = network.last(nn.SiLU()(network.norm(y)))
    torch.testing.assert_close(network(t, x), expected)


def test_the_resolution_is_halved_and_doubled_by_convolutions(generator):
    network = moved(unet(multipliers=(1, 1), attention=())).double()
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64, generator=generator)
    halving = network.down[1].convolution
    # Every second place of the convolution of the whole, from the first.
    whole = nn.functional.conv2d(x, halving.weight, halving.bias, padding=1)
    torch.testing.assert_close(network.down[1](x, None), whole[:, :, ::2, ::2])
    doubling = network.up[1].doubled
    twice = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(doubling(x), doubling.convolution(twice))


def test_convolutions_start_by_the_law_of_torch_and_the_last_at_zero():
    network = unet(width=32, generator=torch.Generator().manual_seed(0))
    zero = [
        network.last,
        *(m.last for m in network.modules() if hasattr(m, "first_norm") or hasattr(m, "heads")),
    ]
    for layer in convolutions(network):
        bound = layer.weight[0].numel() ** -0.5
        if any(layer is other for other in zero):
            assert not layer.weight.any()
            assert not layer.bias.any()
        elif layer.weight.numel() > 300:
            assert layer.weight.abs().max() <= bound
            assert layer.bias.abs().max() <= bound
            # The largest of 300 uniform draws is below 0.95 of the bound once in 5 million.
            assert layer.weight.abs().max() > 0.95 * bound
            assert layer.bias.any()


@pytest.mark.parametrize("multipliers", [(), (0,), (1, -1)])
def test_multipliers_out_of_range_are_refused(multipliers):
    with pytest.raises(ValueError, match="multipliers must be one or more numbers of at least 1"):
        unet(multipliers=multipliers)


@pytest.mark.parametrize("attention", [(3,), (4,), (1, 8), (0,)])
def test_strides_outside_the_pyramid_are_refused(attention):
    with pytest.raises(ValueError, match=r"strides out of \[1, 2\]; got \(.*\)"):
        unet(attention=attention)


def test_heads_that_do_not_divide_the_channels_are_refused_where_there_is_attention():
    with pytest.raises(ValueError, match="heads must divide the 32 channels at stride 2; got 3"):
        unet(heads=3)
    unet(heads=3, attention=())


@pytest.mark.parametrize("options", [{"blocks": 0}, {"dropout": -0.1}, {"dropout": 1.5}])
def test_blocks_and_dropout_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        unet(**options)
