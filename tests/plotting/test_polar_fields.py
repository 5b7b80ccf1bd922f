import colorsys
import math

import numpy as np
import pytest
import torch

from interpolants.plotting import field_figure, polar


def vector(angle, length=1.0):
    return torch.tensor([length * math.cos(angle), length * math.sin(angle)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("degrees", "colour"),
    [(0, (1, 0, 0)), (90, (0.5, 1, 0)), (180, (0, 1, 1)), (270, (0.5, 0, 1))],
)
def test_four_directions_have_their_hues(degrees, colour):
    found = polar(vector(math.radians(degrees))[None, None])
    assert torch.allclose(found, torch.tensor([[colour]], dtype=torch.float64), atol=1e-12)


def test_pure_hues_are_those_of_colorsys():
    angles = [2 * math.pi * k / 97 for k in range(97)]
    found = polar(torch.stack([vector(angle) for angle in angles])[None])[0]
    expected = torch.tensor([colorsys.hsv_to_rgb(k / 97, 1, 1) for k in range(97)], dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-12)


def test_length_strengthens_the_colour():
    field = torch.stack([vector(0.0, length) for length in (0, 1, 2, 4)])[None]
    gray = torch.tensor([0.8, 0.8, 0.8], dtype=torch.float64)
    red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for largest, strengths in ((None, (0, 0.25, 0.5, 1)), (2.0, (0, 0.5, 1, 1))):
        found = polar(field, maximum=largest)[0]
        for colour, strength in zip(found, strengths, strict=True):
            assert torch.allclose(colour, (1 - strength) * gray + strength * red)


def test_constant_colours_do_not_see_the_length():
    field = torch.stack([vector(1.0, length) for length in (0.1, 1, 20)])[None]
    found = polar(field, constant=True)[0]
    assert torch.allclose(found[0], found[1])
    assert torch.allclose(found[0], found[2])


def test_unknown_vectors_are_white_and_do_not_set_the_scale():
    field = torch.tensor([[[float("nan"), 1.0], [float("inf"), 0.0], [2.0, 0.0], [0.0, float("nan")]]])
    expected = torch.tensor([[[1.0, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 1]]])
    assert torch.equal(polar(field), expected)
    assert (polar(torch.full((2, 2, 2), float("nan"))) == 1).all()
    assert torch.allclose(polar(torch.zeros(2, 2, 2)), torch.tensor(0.8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_colours_have_the_type_of_the_field_and_lie_in_the_unit_cube(dtype):
    field = torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = polar(field)
    assert found.shape == (5, 6, 3)
    assert found.dtype == dtype
    assert ((found >= 0) & (found <= 1)).all()


def test_what_is_no_field_is_refused():
    with pytest.raises(ValueError, match=r"field must have shape \(H, W, 2\), not \(4, 4, 3\)"):
        polar(torch.zeros(4, 4, 3))
    with pytest.raises(ValueError, match="maximum must be above 0, not 0"):
        polar(torch.zeros(4, 4, 2), maximum=0.0)


def pictures(drawing):
    return [np.asarray(axes.images[0].get_array()) for axes in drawing.axes if axes.images]


def test_figure_has_a_row_each_for_learned_and_exact_and_a_wheel():
    learned, exact = torch.randn(2, 3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    drawing = field_figure(learned, exact, [0.0, 0.5, 0.9], bounds=(1.0, 0.8))
    assert [axes.get_title() for axes in drawing.axes[:3]] == ["t = 0", "t = 0.5", "t = 0.9"]
    assert drawing.axes[0].get_ylabel() == "learned"
    assert drawing.axes[3].get_ylabel() == "exact, from samples"
    shown = pictures(drawing)
    for k in range(3):
        largest = exact[k].norm(dim=-1).max().item()
        assert np.allclose(shown[k], polar(learned[k], maximum=largest), atol=1e-6)
        assert np.allclose(shown[3 + k], polar(exact[k]), atol=1e-6)


def test_first_row_of_a_field_is_at_the_bottom():
    drawing = field_figure(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), [0.0], bounds=(1.0, 0.5))
    picture = drawing.axes[0].images[0]
    assert picture.origin == "lower"
    assert picture.get_extent() == [-1, 1, -0.5, 0.5]
    assert drawing.axes[0].get_ylim() == (-0.5, 0.5)


def test_low_density_fades_to_white():
    field = torch.ones(1, 1, 3, 2)
    density = torch.tensor([[[0.0, 0.1, 1.0]]])
    shown = pictures(field_figure(field, field, [0.0], bounds=(1.0, 1.0), density=density))[0][0]
    pure = polar(field[0])[0, 0]
    assert np.allclose(shown[0], 1)
    assert np.allclose(shown[1], (1 + pure) / 2, atol=1e-6)  # a tenth is half of a fifth
    assert np.allclose(shown[2], pure, atol=1e-6)


@pytest.mark.parametrize(
    ("learned", "exact", "times", "options", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), [0.0, 1.0], {}, "learned must have shape"),
        (torch.zeros(2, 4, 4, 2), torch.zeros(2, 4, 5, 2), [0.0, 1.0], {}, "the shape of learned"),
        (torch.zeros(2, 4, 4, 2), torch.zeros(2, 4, 4, 2), [0.0], {}, "must be 2 times, not 1"),
        (
            torch.zeros(1, 4, 4, 2),
            torch.zeros(1, 4, 4, 2),
            [0.0],
            {"density": torch.zeros(4, 4)},
            r"density must have shape \(1, 4, 4\)",
        ),
        (torch.zeros(1, 4, 4, 2), torch.zeros(1, 4, 4, 2), [0.0], {"bounds": (0.0, 1.0)}, "bounds"),
    ],
)
def test_fields_that_do_not_fit_are_refused(learned, exact, times, options, message):
    with pytest.raises(ValueError, match=message):
        field_figure(learned, exact, times, **{"bounds": (1.0, 1.0), **options})
