import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2

from interpolants.data import Density, load_density, shipped_density
from interpolants.data.draw_densities import draw_densities


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def saved(tmp_path, array, mode=None, name="picture.png", **options):
    path = tmp_path / name
    image = Image.fromarray(np.asarray(array))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


# ---- sampling


def test_pixels_are_hit_in_proportion_to_their_values():
    values = torch.tensor([[0.0, 1.0, 0.5, 0.25], [0.1, 0.0, 0.75, 0.3], [0.6, 0.2, 0.0, 0.9]])
    n = 200_000
    x = Density(values).sample(n, generator=generator(), dtype=torch.float64)
    counts, _, _ = np.histogram2d(x[:, 1], x[:, 0], bins=(np.linspace(-0.75, 0.75, 4), np.linspace(-1, 1, 5)))
    counts = counts[::-1].ravel()  # rows of the picture run down, y runs up
    expected = n * values.double().ravel().numpy() / values.double().sum().item()
    lit = expected > 0
    assert (counts[~lit] == 0).all()
    assert counts.sum() == n
    statistic = ((counts - expected)[lit] ** 2 / expected[lit]).sum()
    assert statistic < chi2.isf(1e-7, lit.sum() - 1)  # false alarm once in ten million


def test_points_are_uniform_within_a_pixel():
    n = 200_000
    x = Density(torch.tensor([[0.0, 1.0]])).sample(n, generator=generator(1)).numpy()
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=10, range=((0, 1), (-0.5, 0.5)))
    statistic = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert counts.sum() == n
    # False alarm once in ten million; the margin of 2**-12 inside the pixel moves the statistic by 0.01.
    assert statistic < chi2.isf(1e-7, 99)


def test_first_row_is_up_and_first_column_is_left():
    values = torch.zeros(4, 4)
    values[0, 0] = 1
    density = Density(values)
    x = density.sample(100, generator=generator())
    assert (x[:, 0] < -0.5).all()
    assert (x[:, 1] > 0.5).all()
    corners = torch.tensor([[-0.75, 0.75], [0.75, 0.75], [-0.75, -0.75], [0.75, -0.75]])
    assert density.acceptance(corners).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sample_lies_on_a_lit_pixel(dtype):
    values = (torch.rand(300, 1000, generator=generator(3)) < 0.01).float()
    density = Density(values)
    # So many that rounding would carry some twenty across the edge of their pixel if nothing prevented it.
    x = density.sample(1_000_000, generator=generator(), dtype=dtype)
    assert x.shape == (1_000_000, 2)
    assert x.dtype == dtype
    assert (density.acceptance(x) == 1).all()


def test_the_same_seed_gives_the_same_points():
    density = load_density(shipped_density("p0"))
    first, again, other = (density.sample(1000, generator=generator(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sampling_leaves_the_global_generator_alone_when_given_one():
    before = torch.get_rng_state()
    Density(torch.ones(2, 2)).sample(10, generator=generator())
    assert torch.equal(before, torch.get_rng_state())


def test_a_faint_background_does_not_starve_the_rejection():
    values = torch.full((200, 200), 1 / 65535)
    values[3, 5] = 1
    x = Density(values).sample(100, generator=generator())
    # One pixel holds 1 / (1 + 39999 / 65535) = 62 % of the mass: 100 draws give none with chance 1e-42.
    assert x.shape == (100, 2)
    assert (Density(values).acceptance(x) == 1).any()


def test_sampling_nothing_gives_an_empty_matrix():
    assert Density(torch.ones(2, 2)).sample(0).shape == (0, 2)
    with pytest.raises(ValueError, match="n must be at least 0, not -1"):
        Density(torch.ones(2, 2)).sample(-1)


# ---- the density itself


def test_values_are_divided_by_their_maximum():
    assert Density(torch.tensor([[2, 4]])).values.tolist() == [[0.5, 1.0]]


def test_longer_side_spans_minus_one_to_one():
    assert Density(torch.ones(2, 4)).bounds == (1.0, 0.5)
    assert Density(torch.ones(1, 1)).bounds == (1.0, 1.0)


def test_acceptance_is_zero_outside_the_box_and_at_nan():
    x = torch.tensor([[0.0, 0.49], [0.0, 0.51], [1.0, -0.5], [1.01, 0.0], [float("nan"), 0.0], [0.0, -1e30]])
    assert Density(torch.ones(1, 2)).acceptance(x).tolist() == [1, 0, 1, 0, 0, 0]


def test_acceptance_keeps_type_and_leading_shape():
    found = Density(torch.ones(2, 2)).acceptance(torch.zeros(3, 5, 2, dtype=torch.float16))
    assert found.shape == (3, 5)
    assert found.dtype == torch.float16
    assert Density(torch.tensor([[1, 2]])).acceptance(torch.tensor([[-1, 0]])).tolist() == [0.5]
    with pytest.raises(ValueError, match=r"x must have shape \(..., 2\), not \(4, 3\)"):
        Density(torch.ones(2, 2)).acceptance(torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(3), "shape"),
        (torch.ones(0, 3), "shape"),
        (torch.zeros(2, 2), "zero everywhere"),
        (torch.tensor([[1.0, -0.1]]), "non-negative"),
        (torch.tensor([[1.0, float("nan")]]), "finite"),
        (torch.tensor([[1.0, float("inf")]]), "finite"),
    ],
)
def test_values_that_are_no_density_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Density(values)


def test_values_must_be_a_tensor():
    with pytest.raises(TypeError, match="must be a tensor, not list"):
        Density([[1.0]])


def test_a_density_survives_pickling():
    density = Density(torch.tensor([[1.0, 0.5]]), name="step")
    again = pickle.loads(pickle.dumps(density))
    assert again.name == "step"
    assert torch.equal(again.values, density.values)


# ---- pictures


def test_grayscale_and_one_bit_are_read_without_a_warning(tmp_path):
    gray = np.array([[0, 51], [102, 204]], dtype=np.uint8)
    # The test suite turns warnings into errors, so reading is the test.
    density = load_density(saved(tmp_path, gray, name="gray.png"))
    assert density.name == "gray"
    assert torch.allclose(density.values, torch.tensor([[0, 0.25], [0.5, 1.0]]))
    bits = load_density(saved(tmp_path, np.array([[True, False]])))
    assert bits.values.tolist() == [[1, 0]]


def test_opaque_gray_with_an_opacity_channel_is_plain(tmp_path):
    density = load_density(saved(tmp_path, np.array([[0, 255]], dtype=np.uint8), mode="LA"))
    assert density.values.tolist() == [[0, 1]]


def test_colour_is_read_as_luminance(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    with pytest.warns(UserWarning, match="luminance") as warned:
        density = load_density(saved(tmp_path, colours))
    assert len(warned) == 1
    # ITU-R 601 weights, rounded to 8 bits.
    assert torch.allclose(density.values * 0.587, torch.tensor([[0.299, 0.587, 0.114]]), atol=1 / 255)


def test_palette_is_read_as_its_colours(tmp_path):
    colours = np.array([[[255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    with pytest.warns(UserWarning, match="luminance"):
        density = load_density(saved(tmp_path, colours, mode="P"))
    assert density.values.tolist() == [[1, 0]]


def test_sixteen_bits_keep_their_precision(tmp_path):
    array = np.array([[0, 1, 65534, 65535]], dtype=np.uint16)
    with pytest.warns(UserWarning, match="16-bit.*65535") as warned:
        density = load_density(saved(tmp_path, array))
    assert len(warned) == 1
    assert torch.allclose(
        density.values.double() * 65535, torch.tensor([[0.0, 1, 65534, 65535]]).double(), atol=0.01
    )


def test_integers_of_32_bits_are_read(tmp_path):
    with pytest.warns(UserWarning, match="16-bit"):
        density = load_density(saved(tmp_path, np.array([[0, 30000, 60000]], dtype=np.int32), name="i.tiff"))
    assert density.values.tolist() == [[0, 0.5, 1]]


def test_floating_point_pictures_are_read_and_checked(tmp_path):
    with pytest.warns(UserWarning, match="floating-point"):
        density = load_density(saved(tmp_path, np.array([[0, 2, 8]], dtype=np.float32), name="f.tiff"))
    assert density.values.tolist() == [[0, 0.25, 1]]
    for bad in (-1.0, float("nan")):
        path = saved(tmp_path, np.array([[1, bad]], dtype=np.float32), name="bad.tiff")
        with pytest.raises(ValueError, match=r"bad\.tiff is not a density"):
            load_density(path)


def test_transparent_means_density_zero(tmp_path):
    pixels = np.array([[[255, 255, 255, 255], [255, 255, 255, 102], [255, 255, 255, 0]]], dtype=np.uint8)
    with pytest.warns(UserWarning, match=r"luminance; .*opacity") as warned:
        density = load_density(saved(tmp_path, pixels))
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert torch.allclose(density.values, torch.tensor([[1, 0.4, 0]]))


def test_transparent_gray_values_are_dark(tmp_path):
    gray = np.array([[100, 200, 255]], dtype=np.uint8)
    with pytest.warns(UserWarning, match="opacity"):
        density = load_density(saved(tmp_path, gray, transparency=200))
    assert torch.allclose(density.values, torch.tensor([[100 / 255, 0, 1]]))
    deep = np.array([[100, 200, 1000]], dtype=np.uint16)
    with pytest.warns(UserWarning, match="16-bit.*opacity"):
        density = load_density(saved(tmp_path, deep, transparency=200))
    assert torch.allclose(density.values, torch.tensor([[0.1, 0, 1]]))


def test_a_black_glyph_on_a_transparent_ground_is_its_opacity(tmp_path):
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = (0, 51, 255)
    with pytest.warns(UserWarning, match="opacity is taken as the density"):
        density = load_density(saved(tmp_path, pixels))
    assert torch.allclose(density.values, torch.tensor([[0, 0.2, 1]]))


@pytest.mark.parametrize("opacity", [0, 128, 255])
def test_black_everywhere_is_refused(tmp_path, opacity):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[..., 3] = opacity
    with pytest.raises(ValueError, match=r"picture\.png is black everywhere"):
        load_density(saved(tmp_path, pixels))


def test_black_gray_is_refused(tmp_path):
    with pytest.raises(ValueError, match="black everywhere"):
        load_density(saved(tmp_path, np.zeros((3, 3), dtype=np.uint8)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*nowhere\.png$"):
        load_density(tmp_path / "nowhere.png")


def test_what_is_no_image_is_refused(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    for path in (text, empty, tmp_path):
        with pytest.raises(ValueError, match=f"{path.name} is not an image that can be read: "):
            load_density(path)


@pytest.mark.parametrize("keep", [30, 60, 200, 1000])
def test_a_truncated_image_is_refused(tmp_path, keep):
    path = tmp_path / "cut.png"
    path.write_bytes(shipped_density("p0").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut\.png is not an image that can be read: "):
        load_density(path)


def test_a_single_pixel_is_uniform_on_the_box(tmp_path):
    density = load_density(saved(tmp_path, np.array([[3]], dtype=np.uint8)))
    x = density.sample(1000, generator=generator())
    assert (x.abs() <= 1).all()
    # The mean of 1000 uniform numbers has standard deviation 1 / sqrt(3000); 5.5 of them: once in 2e7.
    assert (x.mean(dim=0).abs() < 5.5 / 3000**0.5).all()


@pytest.mark.parametrize("side", [8001, 12_000, 40_000])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    path = tmp_path / "huge.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    )
    with pytest.raises(ValueError, match=r"huge\.png is too large: .* at most 64,000,000 pixels"):
        load_density(path)


# ---- what is shipped


@pytest.mark.parametrize("name", ["p0", "p1"])
def test_shipped_densities_are_small_plain_and_inside_the_frame(name):
    path = shipped_density(name)
    assert path.stat().st_size < 8000
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("L", (256, 256))
    values = load_density(path).values
    rows, columns = values.nonzero().T
    for index in (rows, columns):
        assert index.min() >= 24
        assert index.max() <= 231
    assert columns.max() - columns.min() > 200
    assert ((values > 0) & (values < 1)).sum() > 300  # smooth edges


def test_shipped_densities_are_what_the_script_draws(tmp_path):
    for path in draw_densities(tmp_path):
        with Image.open(path) as drawn, Image.open(shipped_density(path.stem)) as shipped:
            assert drawn.tobytes() == shipped.tobytes()


def test_drawing_twice_gives_the_same_bytes(tmp_path):
    first, again = (draw_densities(tmp_path / folder) for folder in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_the_heart_points_down_and_the_star_points_up():
    heart, star = (load_density(shipped_density(name)).values for name in ("p0", "p1"))
    for values, tip in ((heart, -1), (star, 0)):
        row = values.sum(dim=1).nonzero().squeeze()[tip]
        assert (values[row] > 0).sum() < 20
        assert values[row, 127] > 0
    assert heart[50, 127] == 0  # the notch


def test_an_unknown_shipped_density_is_refused():
    with pytest.raises(ValueError, match='"p0" and "p1", not \'p2\''):
        shipped_density("p2")


def test_reading_warns_only_in_its_own_words(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "white").save(buffer, "jpeg")
    path = tmp_path / "white.jpg"
    path.write_bytes(buffer.getvalue())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert (load_density(path).values == 1).all()
    assert [w.category for w in warned] == [UserWarning]
    assert warned[0].filename == __file__
