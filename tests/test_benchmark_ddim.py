import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmark takes its digits")
pytest.importorskip("matplotlib", reason="the benchmark draws")

from benchmarks import ddim
from interpolants import LearnedField, Linear


@pytest.fixture(scope="module")
def mixture():
    return ddim.exact_fields("cpu")[0]


@pytest.fixture
def noise(generator):
    return torch.randn(4, 64, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("first", [0.0, 0.01])
def test_the_loop_by_hand_is_the_sampler(mixture, noise, first):
    library = ddim.kept_in_single(ddim.ddim(first))(mixture, noise, 4)
    # Roundings of 1e-16 of points of size 1, divided by 0.01.
    torch.testing.assert_close(ddim.ddim_rounded(first)(mixture, noise, 4), library, rtol=0, atol=1e-11)


def test_iadb_by_hand_is_the_sampler(mixture, noise):
    library = ddim.kept_in_single(ddim.SAMPLERS["IADB (Euler)"])(mixture, noise, 4)
    torch.testing.assert_close(ddim.iadb_rounded(mixture, noise, 4), library, rtol=0, atol=1e-12)


def test_every_sampler_makes_the_evaluations_it_is_given_or_is_left_out(generator):
    field = LearnedField(Linear(), velocity=lambda t, x: x.cos(), gaussian_source=True)
    x0 = torch.randn(5, 1, 8, 8, generator=generator)
    rows = ddim.compare(field, x0, lambda images: float(images.square().mean()), (1, 2, 4))
    assert {name: list(cells) for name, cells in rows.items()} == {
        "IADB (Euler)": [1, 2, 4],
        "DDIM": [1, 2, 4],
        "Heun": [2, 4],
        "rk4": [4],
    }
    cell = rows["rk4"][4]
    assert cell.images.shape == x0.shape
    assert cell.quality == float(cell.images.square().mean())
    assert len(ddim.picture(rows, (1, 2, 4)).axes) == 12


def test_clipping_keeps_the_estimates_of_the_digit_in_their_range(generator):
    field = LearnedField(Linear(), x0=lambda t, x: 3 * x, gaussian_source=True)
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=generator)
    found = ddim.clipped(field).x1(0.3, x)
    expected = ((x - 0.7 * 3 * x) / 0.3).clamp(-1, 1)
    # Roundings of 1e-16, divided by 0.3 twice.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
