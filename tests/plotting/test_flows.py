import sys

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from interpolants.plotting import cloud_figure, density_figure, flow_figure, save
from interpolants.plotting.style import PALE

UNIT = (1.0, 1.0)
NAN, INF = float("nan"), float("inf")

TIMES = torch.linspace(0, 1, 5)
POSITIONS = torch.linspace(-2, 3, 6)


def path(k=3, steps=4, seed=0):
    return torch.linspace(0, 1, steps + 1), torch.randn(
        steps + 1, k, generator=torch.Generator().manual_seed(seed)
    )


def densities(count):
    return list(torch.rand(count, 5, 6, generator=torch.Generator().manual_seed(0)))


def flows(count=2, rows=None):
    paths = [[path(seed=2 * k), path(k=7, steps=9, seed=2 * k + 1)] for k in range(count)]
    drawing = flow_figure(densities(count), TIMES, POSITIONS, paths, labels=["ODE", "SDE"], rows=rows)
    return drawing, paths


def rendered(drawing, axes):
    """A function that gives the colour, in [0, 1], of the pixel at a place in a panel."""
    drawing.canvas.draw()
    pixels = np.asarray(drawing.canvas.buffer_rgba())[..., :3] / 255

    def at(x, y):
        column, row = axes.transData.transform((x, y))
        return pixels[int(pixels.shape[0] - row), int(column)]

    return at


def lightness(colour):
    """Of CIELAB, from 0 to 100."""
    colour = np.asarray(colour, dtype=float)
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return 116 * np.cbrt(linear[..., :3] @ [0.2126, 0.7152, 0.0722]) - 16


def texts(axes):
    return [text.get_text() for text in axes.texts]


# ---- flow_figure


def test_every_row_has_its_density_in_every_panel_on_shared_axes():
    drawing, _ = flows()
    panels = drawing.axes[:6]
    assert [axes.get_title() for axes in panels] == ["density", "ODE", "SDE", "", "", ""]
    for k, axes in enumerate(panels):
        assert axes.get_xlim() == (0, 1)
        assert axes.get_ylim() == (-2, 3)
        (picture,) = axes.images
        # Time runs along x, so the rows of the picture are the positions.
        expected = densities(2)[k // 3].T.double().clamp(max=picture.get_clim()[1])
        assert np.array_equal(picture.get_array(), expected)
        assert picture.get_extent() == (0, 1, -2, 3)
        assert picture.get_clim() == panels[0].images[0].get_clim()


def test_only_the_outer_panels_have_numbers_and_names_at_their_axes():
    drawing, _ = flows(rows=["exact", "learned"])
    drawing.canvas.draw()
    for k, axes in enumerate(drawing.axes[:6]):
        left, bottom = k % 3 == 0, k >= 3
        assert axes.yaxis.get_tick_params()["labelleft"] == left
        assert axes.xaxis.get_tick_params()["labelbottom"] == bottom
        assert axes.get_ylabel() == ("position" if left else "")
        assert axes.get_xlabel() == ("time" if bottom else "")
        assert texts(axes) == ([["exact", "learned"][k // 3]] if left else [])
    without, _ = flows()
    assert not any(texts(axes) for axes in without.axes)


def test_the_name_of_a_row_stands_left_of_the_axis_and_inside_the_figure():
    drawing, _ = flows(rows=["exact", "learned"])
    drawing.canvas.draw()
    for axes in (drawing.axes[0], drawing.axes[3]):
        name, label = axes.texts[0].get_window_extent(), axes.yaxis.label.get_window_extent()
        assert 0 <= name.x0 < name.x1 < label.x0
        assert (name.y0 + name.y1) / 2 == pytest.approx((label.y0 + label.y1) / 2, abs=1)


def test_each_line_is_a_path_and_its_colour_is_where_it_starts():
    drawing, paths = flows()
    drawn = [axes.collections[0] for k, axes in enumerate(drawing.axes[:6]) if k % 3]
    everything = torch.cat([x[0] for dynamics in paths for _, x in dynamics]).double()
    for lines, (t, x) in zip(drawn, (each for dynamics in paths for each in dynamics), strict=True):
        segments = lines.get_segments()
        assert len(segments) == x.shape[1]
        for k, segment in enumerate(segments):
            assert np.array_equal(segment, torch.stack((t, x[:, k]), dim=1).double())
        assert np.array_equal(lines.get_array(), x[0].double())
        assert lines.get_clim() == (everything.min(), everything.max())
    assert not drawing.axes[0].collections
    assert not drawing.axes[3].collections


def test_the_colours_of_lines_go_from_dark_to_light_and_stand_out_on_white():
    lines = flows(count=1)[0].axes[1].collections[0]
    shades = lightness(lines.get_cmap()(np.linspace(0, 1, 50)))
    assert (np.diff(shades) > 0).all()
    assert shades[-1] < 80  # the light end of the whole map has 93
    assert shades[-1] - shades[0] > 50


def test_the_shades_of_density_are_evenly_spaced_and_faint_under_lines():
    drawing, _ = flows(count=1)
    strong, faint = (lightness(axes.images[0].get_cmap()(np.linspace(0, 1, 21))) for axes in drawing.axes[:2])
    assert strong[0] == pytest.approx(100, abs=1e-3)
    assert faint[0] == pytest.approx(100, abs=1e-3)
    # Even steps would be 4 each; between the five colours the map is straight in sRGB instead.
    assert np.allclose(np.diff(strong), (strong[-1] - strong[0]) / 20, rtol=0.15)
    assert (np.diff(faint) < 0).all()
    assert faint[-1] > 60 > 25 > strong[-1]


@pytest.mark.parametrize(("count", "place"), [(2, 0), (3, 1), (10, 9), (101, 0)])
def test_one_peaked_time_does_not_set_the_scale(count, place):
    density = torch.ones(count, 6)
    density[place, 2] = 1000
    t = torch.linspace(0, 1, count)
    drawing = flow_figure([density], t, POSITIONS, [[path()]], labels=["ODE"])
    for axes in drawing.axes[:2]:
        assert axes.images[0].get_clim() == (0, 1)
        assert axes.images[0].get_array()[2, place] == 1


def test_the_scale_ends_at_nine_tenths_of_the_peaks_in_the_highest_row():
    peaks = torch.arange(1.0, 12)  # of 11 times, of which one may stand out
    first = torch.zeros(11, 6)
    first[:, 3] = peaks.flip(0)
    t = torch.linspace(0, 1, 11)
    drawing = flow_figure([first, first / 2], t, POSITIONS, [[path()]] * 2, labels=["ODE"])
    assert {axes.images[0].get_clim() for axes in drawing.axes[:4]} == {(0, 10)}


@pytest.mark.parametrize(("density", "extend"), [(torch.ones(5, 6), "neither"), (None, "max")])
def test_the_colour_bar_says_when_a_peak_is_cut_off(density, extend):
    if density is None:
        density = torch.ones(5, 6)
        density[0, 0] = INF
    drawing = flow_figure([density], TIMES, POSITIONS, [[path()]], labels=["ODE"])
    assert len(drawing.axes) == 3
    bar = drawing.axes[0].images[0].colorbar
    assert bar.ax is drawing.axes[2]
    assert bar.extend == extend
    assert bar.ax.get_ylim() == (0, 1)


def test_a_density_of_nothing_is_white():
    drawing = flow_figure([torch.zeros(5, 6)], TIMES, POSITIONS, [[path()]], labels=["ODE"])
    assert (rendered(drawing, drawing.axes[0])(0.5, 0.5) == 1).all()


def test_a_density_is_drawn_where_it_is_on_uneven_grids_and_only_at_its_times():
    t = torch.tensor([0.2, 0.25, 0.3, 0.8])
    x = torch.tensor([-2.0, 0.0, 2.0, 2.5, 3.0])
    density = torch.zeros(4, 5)
    density[1:3, 3] = 1
    still = (torch.tensor([0.0, 1.0]), torch.full((2, 1), 10.0))
    drawing = flow_figure([density], t, x, [[still]], labels=["ODE"])
    at = rendered(drawing, drawing.axes[0])
    assert lightness(at(0.27, 2.5)) < 30
    assert 50 < lightness(at(0.55, 2.5)) < 75  # half way down to the next time
    assert lightness(at(0.27, 0.0)) > 99
    assert lightness(at(0.21, -1.0)) > 99
    density[:] = 1
    drawing = flow_figure([density], t, x, [[still]], labels=["ODE"])
    assert drawing.axes[0].get_xlim() == (0, 1)
    at = rendered(drawing, drawing.axes[0])
    for place in (0.1, 0.18, 0.82, 0.9):
        assert (at(place, 0.5) == 1).all()
    for place in (0.22, 0.5, 0.78):
        assert lightness(at(place, 0.5)) < 30


def test_unknown_densities_are_hatched_in_their_row_and_infinite_ones_are_darkest():
    density = torch.ones(5, 6)
    density[2:4, 1:4], density[0, 0] = NAN, INF
    drawing = flow_figure([density, torch.ones(5, 6)], TIMES, POSITIONS, [[path()]] * 2, labels=["ODE"])
    for k, axes in enumerate(drawing.axes[:4]):
        assert (axes.patch.get_hatch() is not None) == (k < 2)
    shown = np.ma.filled(np.ma.masked_invalid(drawing.axes[0].images[0].get_array()), -1)
    expected = torch.ones(5, 6)
    expected[2:4, 1:4] = -1
    assert np.array_equal(shown, expected.T)
    at = rendered(drawing, drawing.axes[0])
    seen = np.array([at(s, 0.0) for s in np.linspace(0.52, 0.73, 60)])
    assert (seen == 1).all(axis=1).any()
    assert lightness(seen).min() < 95  # a stroke
    assert lightness(seen).min() > 60  # and no density


def test_positions_that_are_not_finite_leave_a_gap():
    t, x = path(k=3)
    x[1, 0], x[2, 1], x[0, 2] = NAN, INF, NAN
    drawing = flow_figure(densities(1), TIMES, POSITIONS, [[(t, x)]], labels=["ODE"])
    lines = drawing.axes[1].collections[0]
    drawing.canvas.draw()
    vertices = [path.vertices for path in lines.get_paths()]
    for k, line in enumerate(vertices):
        assert np.array_equal(np.isfinite(line[:, 1]), x[:, k].isfinite())
    assert lines.get_clim() == (x[0, :2].min(), x[0, :2].max())
    assert lines.get_colors()[2][3] > 0  # without a known start a line is still seen
    x[0] = NAN
    flow_figure(densities(1), TIMES, POSITIONS, [[(t, x)]], labels=["ODE"]).canvas.draw()


def test_paths_may_run_back_and_times_may_be_rounded():
    t, x = path()
    back = (t.flip(0) * (1 + 2e-6), x)
    drawing = flow_figure(densities(1), TIMES, POSITIONS, [[back]], labels=["ODE"])
    lines = drawing.axes[1].collections[0]
    assert lines.get_segments()[0][0] == pytest.approx([1, float(x[0, 0])], abs=1e-5)
    assert np.array_equal(lines.get_array(), x[0].double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": []}, "paths for each density, not 1 for 0"),
        ({"paths": [[path()], [path()]]}, "paths for each density, not 2 for 1"),
        ({"density": [torch.zeros(6, 5)]}, r"\(times, positions\) = \(5, 6\), not \(6, 5\)"),
        ({"density": [torch.full((5, 6), -1.5)]}, r"not be negative, but its least is -1\.5: is it the log"),
        ({"times": torch.linspace(0, 1, 4)}, r"= \(4, 6\), not \(5, 6\)"),
        ({"times": torch.zeros(5)}, "times must be finite and rise strictly"),
        ({"times": TIMES.flip(0)}, "times must be finite and rise strictly"),
        ({"times": 2 * TIMES}, r"times must be in \[0, 1\], not from 0 to 2"),
        ({"times": TIMES[:1]}, r"times must have one dimension and at least 2 entries, not shape \(1,\)"),
        ({"times": TIMES[None]}, r"times must have one dimension and .* \(1, 5\)"),
        ({"positions": torch.tensor([0.0, 1, 2, 3, 4, NAN])}, "positions must be finite and rise strictly"),
        ({"positions": POSITIONS.flip(0)}, "positions must be finite and rise strictly"),
        ({"paths": [[(TIMES, torch.zeros(4, 3))]]}, r"S \+ 1, K\), not \(5,\) and \(4, 3\)"),
        ({"paths": [[(TIMES, torch.zeros(5))]]}, r"S \+ 1, K\), not \(5,\) and \(5,\)"),
        ({"paths": [[(TIMES, torch.zeros(5, 0))]]}, r"S \+ 1, K\), not"),
        ({"paths": [[(TIMES[:1], torch.zeros(1, 3))]]}, r"S \+ 1, K\), not"),
        ({"paths": [[(TIMES.abs() * 0, torch.zeros(5, 3))]]}, "path must rise strictly or fall strictly"),
        (
            {"paths": [[(TIMES - 0.5, torch.zeros(5, 3))]]},
            r"path must be in \[0, 1\], not from -0\.5 to 0\.5",
        ),
        ({"labels": ["ODE", "SDE"]}, "a label for each path of a row, not 2 for 1"),
        ({"labels": [], "paths": [[]]}, "a label for each path of a row, not 0 for 0"),
        ({"rows": ["exact", "learned"]}, "a name for each row, not 2 for 1"),
    ],
)
def test_flows_that_do_not_fit_are_refused(change, message):
    arguments = {
        "density": [torch.zeros(5, 6)],
        "times": TIMES,
        "positions": POSITIONS,
        "paths": [[path()]],
        "labels": ["ODE"],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        flow_figure(**arguments)


# ---- cloud_figure


def test_each_cloud_has_a_panel_with_the_points_in_sight():
    clouds = [torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (5, 40)]
    drawing = cloud_figure(clouds, ["target", "ODE"], bounds=(1.0, 1.5))
    assert [axes.get_xlabel() for axes in drawing.axes] == ["target", "ODE"]
    for axes, cloud in zip(drawing.axes, clouds, strict=True):
        assert axes.get_xlim() == (-1, 1)
        assert axes.get_ylim() == (-1.5, 1.5)
        assert np.array_equal(axes.collections[0].get_offsets(), cloud.double())
        assert texts(axes) == []
        assert not axes.images
    assert len({tuple(axes.collections[0].get_facecolor()[0]) for axes in drawing.axes}) == 1
    assert 0.2 < drawing.axes[0].collections[0].get_alpha() < 0.8


def test_the_more_points_the_smaller_they_are():
    few, many = (
        cloud_figure([torch.zeros(n, 2)], [""], bounds=UNIT).axes[0].collections[0].get_sizes()[0]
        for n in (100, 10_000)
    )
    assert many < 1 < 4 < few  # in square points, of which a pixel is a fifth


def test_points_out_of_sight_are_counted_under_their_panel():
    good = torch.tensor([[0.5, 0.5], [1.0, -2.0]])  # one lies on the corner
    outside = torch.tensor([[1.01, 0.0], [0.0, -2.01], [-5.0, 7.0]])
    unknown = torch.tensor([[NAN, 0.0], [0.0, INF]])
    clouds = [
        good,
        torch.cat((good, outside)),
        torch.cat((unknown, good)),
        torch.cat((unknown, outside, good)),
        unknown,
        torch.full((1234, 2), 9.0),
    ]
    drawing = cloud_figure(clouds, list("abcdef"), bounds=(1.0, 2.0), columns=3)
    assert [texts(axes) for axes in drawing.axes] == [
        [],
        ["3 outside"],
        ["2 not finite"],
        ["3 outside, 2 not finite"],
        ["2 not finite"],
        ["1,234 outside"],
    ]
    for axes in drawing.axes[:4]:
        assert np.array_equal(axes.collections[0].get_offsets(), good)
    for axes in drawing.axes[4:]:
        assert len(axes.collections[0].get_offsets()) == 0
    drawing.canvas.draw()


@pytest.mark.parametrize("draw", ["cloud", "density"])
def test_labels_stand_on_one_line_below_the_panels_and_the_notes_below_them(draw):
    labels = ["target", r"SDE, $\epsilon$ = 0.5", "$x^{2^2}$"]
    if draw == "cloud":
        drawing = cloud_figure([torch.full((3, 2), 0.5 + k) for k in range(3)], labels, bounds=UNIT)
    else:
        drawing = density_figure(
            [torch.full((4, 4), NAN if k else 0.0) for k in range(3)], labels, bounds=UNIT
        )
    drawing.canvas.draw()
    heights = set()
    for axes in drawing.axes:
        label = axes.xaxis.label
        heights.add(round(label.get_transform().transform(label.get_position())[1], 6))
        assert label.get_va() == "baseline"
        assert label.get_window_extent().y1 < axes.get_window_extent().y0
        for note in axes.texts:
            box = note.get_window_extent()
            assert 0 <= box.y0 < box.y1 < label.get_window_extent().y0
        assert axes.get_window_extent().width > 355  # the notes take no room from the panels
    assert len(heights) == 1
    assert [len(axes.texts) for axes in drawing.axes] == [0, 1, 1]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (None, [(0, k) for k in range(5)]),
        (9, [(0, k) for k in range(5)]),
        (2, [(k // 2, k % 2) for k in range(5)]),
    ],
)
def test_panels_are_square_and_set_out_in_rows(columns, expected):
    drawing = cloud_figure([torch.zeros(2, 2)] * 5, list("abcde"), bounds=(4.5, 4.5), columns=columns)
    assert [axes.get_xlabel() for axes in drawing.axes] == list("abcde")
    drawing.canvas.draw()
    boxes = [axes.get_window_extent() for axes in drawing.axes]
    # All positions are sums of rounded doubles, in pixels.
    assert np.allclose([(box.width, box.height) for box in boxes], boxes[0].width, atol=1e-6)
    # A panel and its margins have 384 pixels.
    assert boxes[0].width > 330
    assert drawing.bbox.width == pytest.approx(384 * (1 + max(column for _, column in expected)))
    lines = sorted({round(box.y0, 3) for box in boxes}, reverse=True)
    stands = sorted({round(box.x0, 3) for box in boxes})
    assert [(lines.index(round(b.y0, 3)), stands.index(round(b.x0, 3))) for b in boxes] == expected


def test_a_density_under_the_clouds_has_its_first_row_at_the_bottom_and_is_pale():
    density = torch.tensor([[4.0, 0.0, 2.0], [NAN, INF, 0.0]])
    drawing = cloud_figure([torch.full((1, 2), 9.0)] * 2, ["", ""], bounds=(1.0, 0.5), density=density)
    for axes in drawing.axes:
        assert axes.images[0].get_extent() == [-1, 1, -0.5, 0.5]
        at = rendered(drawing, axes)
        # Colours have eight bits, and the map 256 of them.
        pale = np.array(to_rgb(PALE))
        assert at(-0.7, -0.25) == pytest.approx(pale, abs=2 / 255)
        assert at(0.0, 0.25) == pytest.approx(pale, abs=2 / 255)
        assert at(0.7, -0.25) == pytest.approx((1 + pale) / 2, abs=2 / 255)
        for x, y in ((0.0, -0.25), (0.7, 0.25), (-0.7, 0.25)):
            assert (at(x, y) == 1).all()
    nothing = cloud_figure([torch.full((1, 2), 9.0)], [""], bounds=UNIT, density=torch.zeros(2, 2))
    assert (rendered(nothing, nothing.axes[0])(0.5, 0.5) == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clouds": []}, "a label for each cloud, not 1 for 0"),
        ({"clouds": [], "labels": []}, "a label for each cloud, not 0 for 0"),
        ({"labels": ["a", "b"]}, "a label for each cloud, not 2 for 1"),
        ({"clouds": [torch.zeros(5, 3)]}, r"clouds must have shape \(N, 2\), not \(5, 3\)"),
        ({"clouds": [torch.zeros(2)]}, r"clouds must have shape \(N, 2\), not \(2,\)"),
        ({"clouds": [torch.zeros(0, 2)]}, r"clouds must have shape \(N, 2\), not \(0, 2\)"),
        ({"bounds": (1.0, 0.0)}, "bounds must be half the width"),
        ({"density": torch.zeros(4)}, r"density must have shape \(H, W\), not \(4,\)"),
        ({"density": torch.full((2, 2), -3.0)}, "density must not be negative, but its least is -3"),
        ({"columns": 0}, "columns must be at least 1, not 0"),
        ({"columns": -2}, "columns must be at least 1, not -2"),
    ],
)
def test_clouds_that_do_not_fit_are_refused(change, message):
    arguments = {"clouds": [torch.zeros(5, 2)], "labels": ["a"], "bounds": UNIT, **change}
    with pytest.raises(ValueError, match=message):
        cloud_figure(**arguments)


# ---- density_figure


def test_log_densities_share_one_scale_and_low_values_its_lowest_colour():
    first = torch.tensor([[-1.0, -20.0], [-INF, -7.0]])
    second = torch.tensor([[1.5, INF], [-8.0, -3.0]])
    drawing = density_figure([first, second], ["exact", "learned"], bounds=(1.0, 0.5))
    shown = [axes.images[0].get_array() for axes in drawing.axes]
    assert np.array_equal(shown[0], [[-1, -8], [-8, -7]])
    assert np.array_equal(shown[1], [[1.5, 1.5], [-8, -3]])
    for axes in drawing.axes:
        picture = axes.images[0]
        assert picture.get_clim() == (-8, 1.5)
        assert picture.get_extent() == [-1, 1, -0.5, 0.5]
        assert axes.get_ylim() == (-0.5, 0.5)
        assert axes.patch.get_hatch() is None
    assert [axes.get_xlabel() for axes in drawing.axes] == ["exact", "learned"]


def test_the_first_row_of_a_log_density_is_at_the_bottom():
    values = torch.full((2, 2), -INF)
    values[0, 1] = 0.0
    drawing = density_figure([values], [""], bounds=UNIT)
    at = rendered(drawing, drawing.axes[0])
    assert lightness(at(0.5, -0.5)) > 85
    for x, y in ((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)):
        assert lightness(at(x, y)) < 20


@pytest.mark.parametrize(("least", "extend"), [(-4.0, "neither"), (-4.1, "min"), (-INF, "min")])
def test_one_colour_bar_names_the_scale(least, extend):
    values = torch.tensor([[least, -1.0]])
    drawing = density_figure([values, values], ["a", "b"], bounds=UNIT, lowest=-4.0)
    bar = drawing.axes[0].images[0].colorbar
    assert bar.ax.get_ylabel() == "log density (nats)"
    assert bar.ax.get_ylim() == (-4, -1)
    assert bar.extend == extend
    assert [axes.child_axes for axes in drawing.axes] == [[], [bar.ax]]
    drawing.canvas.draw()
    boxes = [axes.get_window_extent() for axes in (*drawing.axes, bar.ax)]
    assert boxes[0].width == pytest.approx(boxes[1].width)
    assert boxes[0].width > 330  # the bar takes no room from the panels
    assert boxes[2].height > 0.9 * boxes[1].height  # a little less where it ends in a point
    assert boxes[1].x1 < boxes[2].x0
    assert bar.ax.yaxis.label.get_window_extent().x1 <= drawing.bbox.x1


def test_unknown_log_densities_are_hatched_and_counted():
    values = torch.zeros(40, 40)
    values[:20, :20] = NAN
    drawing = density_figure([values, torch.zeros(40, 40)], ["a", "b"], bounds=UNIT)
    assert [texts(axes) for axes in drawing.axes] == [["400 NaN (hatched)"], []]
    assert [axes.patch.get_hatch() is not None for axes in drawing.axes] == [True, False]
    at = rendered(drawing, drawing.axes[0])
    seen = np.array([at(x, -0.5) for x in np.linspace(-0.9, -0.1, 100)])
    assert (seen == 1).all(axis=1).any()
    assert 60 < lightness(seen).min() < 95
    assert np.ptp(seen, axis=1).max() < 0.1  # strokes are gray, not of the scale


def test_log_densities_without_a_value_above_the_lowest_have_a_scale_all_the_same():
    for values in (torch.full((2, 2), -INF), torch.full((2, 2), NAN), torch.full((2, 2), -9.0)):
        drawing = density_figure([values], [""], bounds=UNIT)
        drawing.canvas.draw()
        assert drawing.axes[0].images[0].get_clim() == (-8, -7)


def test_the_colours_of_log_densities_are_perceptually_uniform():
    picture = density_figure([torch.zeros(2, 2)], [""], bounds=UNIT).axes[0].images[0]
    shades = lightness(picture.get_cmap()(np.linspace(0, 1, 11)))
    # Even steps of lightness, to a fifth: the map is uniform in a finer model of the eye than CIELAB.
    assert np.allclose(np.diff(shades), (shades[-1] - shades[0]) / 10, rtol=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_densities": []}, "a label for each log density, not 1 for 0"),
        ({"labels": []}, "a label for each log density, not 0 for 1"),
        ({"log_densities": [torch.zeros(4)]}, r"log densities must have shape \(H, W\), not \(4,\)"),
        ({"log_densities": [torch.zeros(0, 4)]}, r"log densities must have shape \(H, W\), not \(0, 4\)"),
        ({"bounds": (0.0, 1.0)}, "bounds must be half the width"),
        ({"lowest": -INF}, "lowest must be finite, not -inf"),
        ({"lowest": NAN}, "lowest must be finite, not nan"),
    ],
)
def test_log_densities_that_do_not_fit_are_refused(change, message):
    arguments = {"log_densities": [torch.zeros(4, 4)], "labels": ["a"], "bounds": UNIT, **change}
    with pytest.raises(ValueError, match=message):
        density_figure(**arguments)


# ---- all


FIGURES = {
    "flow": lambda: flows(rows=["exact", "learned"])[0],
    "cloud": lambda: cloud_figure([torch.eye(2)] * 2, ["a", "b"], bounds=UNIT, density=torch.eye(4)),
    "density": lambda: density_figure([torch.tensor([[0.0, NAN]])] * 2, ["a", "b"], bounds=UNIT),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("ending", [".png", ".pdf"])
def test_the_same_content_gives_the_same_bytes(tmp_path, name, ending):
    first, again = (save(FIGURES[name](), tmp_path / f"{k}{ending}").read_bytes() for k in range(2))
    assert first == again
    drawing = FIGURES[name]()
    once, twice = (save(drawing, tmp_path / f"{k}{ending}").read_bytes() for k in range(2))
    assert once == twice == first


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_changes_no_setting_and_no_global_state(tmp_path, name):
    before = dict(matplotlib.rcParams)
    save(FIGURES[name](), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_tensors_of_any_type_with_gradients_are_drawn():
    t, x = (each.bfloat16().requires_grad_() for each in path())
    density = torch.ones(5, 6).half().requires_grad_()
    flow_figure([density], TIMES.half(), POSITIONS.double(), [[(t, x)]], labels=["ODE"])
    cloud_figure([x[:, :2]], ["a"], bounds=UNIT, density=density)
    density_figure([density], ["a"], bounds=UNIT)
