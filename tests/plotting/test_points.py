import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from interpolants.plotting import animate, colours_by_start, panel
from interpolants.plotting.style import INK

BAR = tuple(int(INK[i : i + 2], 16) for i in (1, 3, 5))
UNIT = (1.0, 1.0)


def frames_of(path):
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def coloured(frame):
    """The pixels above the bar that are not white, as x and y in [-1, 1], y up."""
    height, width, _ = frame.shape
    rows, columns = (frame[:-4] < 250).any(axis=2).nonzero()
    return (columns + 0.5) * 2 / width - 1, 1 - (rows + 0.5) * 2 / height


# ---- animate


def test_gif_of_two_thousand_points_has_its_frames_size_pauses_and_loops(tmp_path):
    x0, x1 = torch.rand(2, 2048, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    t = torch.linspace(0, 1, 129)
    path = animate(x0 + t[:, None, None] * (x1 - x0), t, tmp_path / "a.gif", bounds=UNIT)
    durations = []
    with Image.open(path) as image:
        assert (image.format, image.size, image.n_frames) == ("GIF", (360, 360), 72)
        assert image.info["loop"] == 0
        for frame in ImageSequence.Iterator(image):
            durations.append(frame.info["duration"])
    assert durations == [13 * 40] + [40] * 70 + [13 * 40]
    assert path.stat().st_size < 4_000_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_point_is_drawn_where_it_is(tmp_path):
    trajectory = torch.tensor([[[-0.5, 0.5]], [[0.5, -0.25]]])
    path = animate(trajectory, [0.0, 1.0], tmp_path / "a.gif", bounds=UNIT, frames=5, size=200)
    for k, frame in enumerate(frames_of(path)):
        x, y = coloured(frame)
        # A pixel is 0.01 wide; smooth edges and rounding move the middle of the disc by less than that.
        assert x.mean() == pytest.approx(-0.5 + k / 4, abs=0.01)
        assert y.mean() == pytest.approx(0.5 - 0.75 * k / 4, abs=0.01)


def test_frames_are_equally_spaced_in_time(tmp_path):
    t = torch.tensor([0.0, 0.9, 1.0])
    trajectory = torch.stack((torch.tensor([-0.8, 0.1, 0.8]), torch.zeros(3)), dim=1)[:, None]
    path = animate(trajectory, t, tmp_path / "a.gif", bounds=UNIT, frames=3, size=200)
    middle = coloured(frames_of(path)[1])[0].mean()
    assert middle == pytest.approx(-0.8 + 0.9 * 0.5 / 0.9, abs=0.01)  # t = 0.5, on the way to 0.1


def test_the_bar_shows_the_time_also_when_it_runs_back(tmp_path):
    trajectory = torch.zeros(2, 1, 2)
    for times, expected in (([0.0, 1.0], [0, 50, 100]), ([1.0, 0.0], [100, 50, 0])):
        path = animate(trajectory, times, tmp_path / "a.gif", bounds=UNIT, frames=3, size=100)
        assert [(frame[-1] == BAR).all(axis=1).sum() for frame in frames_of(path)] == expected


def test_a_point_keeps_its_own_colour(tmp_path):
    x0 = torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
    path = animate(torch.stack((x0, -x0)), [0.0, 1.0], tmp_path / "a.gif", bounds=UNIT, frames=2, size=100)
    first, last = frames_of(path)
    for frame, places in ((first, (75, 25)), (last, (25, 75))):
        for column, colour in zip(places, colours_by_start(x0), strict=True):
            # 36 hues of 8 bits stand for all: half a step of hue changes no channel by more than 0.1.
            assert np.allclose(frame[50, column] / 255, colour, atol=0.1)


def test_points_out_of_sight_are_left_out(tmp_path):
    x0 = torch.tensor([[0.0, 0.0], [5.0, 0.0], [float("nan"), 0.0], [0.0, float("inf")]])
    path = animate(x0.expand(2, 4, 2), [0.0, 1.0], tmp_path / "a.gif", bounds=UNIT, frames=2, size=100)
    x, y = coloured(frames_of(path)[0])
    assert abs(x.mean()) < 0.02
    assert abs(y.mean()) < 0.02
    assert max(x.std(), y.std()) < 0.1


def test_points_on_the_edge_are_drawn(tmp_path):
    x0 = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    path = animate(x0.expand(2, 4, 2), [0.0, 1.0], tmp_path / "a.gif", bounds=UNIT, frames=2, size=100)
    frame = frames_of(path)[0]
    assert (frame[0, 0] < 250).any()
    assert (frame[0, -1] < 250).any()


def test_longer_side_of_the_bounds_is_the_size(tmp_path):
    for bounds, expected in (((4.0, 2.0), (100, 50)), ((1.0, 2.0), (50, 100))):
        path = animate(
            torch.zeros(2, 1, 2), [0.0, 1.0], tmp_path / "a.gif", bounds=bounds, frames=2, size=100
        )
        with Image.open(path) as image:
            assert image.size == expected


def test_the_same_points_give_the_same_bytes(tmp_path):
    trajectory = torch.rand(3, 10, 2, generator=torch.Generator().manual_seed(0)).half()
    t = torch.tensor([0.0, 0.5, 1.0])
    first, again = (
        animate(trajectory, t, tmp_path / name, bounds=UNIT, frames=4, size=64).read_bytes()
        for name in ("a.gif", "b.gif")
    )
    assert first == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trajectory": torch.zeros(3, 5, 3)}, r"trajectory must have shape \(T, B, 2\), not \(3, 5, 3\)"),
        ({"trajectory": torch.zeros(3, 0, 2)}, "trajectory must have shape"),
        ({"trajectory": torch.zeros(4, 5, 2)}, "as many times as trajectory, 4, not 3"),
        ({"times": [0.0, 0.5, 0.5]}, "rise strictly or fall strictly"),
        ({"times": [0.0, 1.0, 0.5]}, "rise strictly or fall strictly"),
        ({"trajectory": torch.zeros(1, 5, 2), "times": [0.0]}, "at least two"),
        ({"bounds": (1.0, 0.0)}, "bounds must be half the width"),
        ({"bounds": (1.0, float("nan"))}, "bounds must be half the width"),
        ({"frames": 1}, "frames must be at least 2, not 1"),
        ({"size": 8}, "size must be at least 16, not 8"),
        ({"hold": -1}, "hold must be at least 0, not -1"),
    ],
)
def test_what_cannot_be_animated_is_refused(tmp_path, change, message):
    arguments = {"trajectory": torch.zeros(3, 5, 2), "times": [0.0, 0.5, 1.0], "bounds": UNIT, **change}
    with pytest.raises(ValueError, match=message):
        animate(path=tmp_path / "a.gif", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        animate(torch.zeros(2, 1, 2), [0.0, 1.0], tmp_path / "no" / "a.gif", bounds=UNIT, frames=2)


# ---- panel and colours


def test_panel_shows_each_snapshot_between_the_densities():
    snapshots = torch.rand(3, 20, 2)
    drawing = panel(snapshots, [0.0, 0.25, 1.0], p0=torch.eye(4), p1=torch.ones(2, 4), bounds=(1.0, 0.5))
    labels = [axes.get_xlabel() for axes in drawing.axes]
    assert labels == ["$p_0$", "t = 0", "t = 0.25", "t = 1", "$p_1$"]
    for axes, points in zip(drawing.axes[1:4], snapshots, strict=True):
        assert np.allclose(axes.collections[0].get_offsets(), points)
    for axes in drawing.axes:
        assert axes.get_xlim() == (-1, 1)
        assert axes.get_ylim() == (-0.5, 0.5)
    assert drawing.axes[4].images[0].get_extent() == [-1, 1, -0.5, 0.5]


def test_a_density_is_shown_with_its_first_row_on_top():
    picture = torch.zeros(2, 2)
    picture[0, 0] = 1
    drawing = panel(torch.full((1, 1, 2), 5.0), [0.0], p0=picture, bounds=UNIT)
    drawing.canvas.draw()
    pixels = np.asarray(drawing.canvas.buffer_rgba())[..., :3]
    box = drawing.axes[0].get_window_extent()
    height = pixels.shape[0]

    def at(x, y):
        column, row = (box.x0 + (x + 1) / 2 * box.width, height - (box.y0 + (y + 1) / 2 * box.height))
        return pixels[int(row), int(column)]

    assert (at(-0.5, 0.5) < 200).any()
    for x, y in ((0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)):
        assert (at(x, y) == 255).all()


@pytest.mark.parametrize(
    ("snapshots", "times", "options", "message"),
    [
        (torch.zeros(2, 5), [0.0, 1.0], {}, r"snapshots must have shape \(T, B, 2\)"),
        (torch.zeros(2, 5, 2), [0.0], {}, "as many times as snapshots, 2, not 1"),
        (torch.zeros(1, 5, 2), [0.0], {"p1": torch.zeros(1, 2, 2)}, r"shape \(H, W\)"),
        (torch.zeros(1, 5, 2), [0.0], {"bounds": (-1.0, 1.0)}, "bounds"),
    ],
)
def test_what_cannot_be_shown_is_refused(snapshots, times, options, message):
    with pytest.raises(ValueError, match=message):
        panel(snapshots, times, **{"bounds": UNIT, **options})


def test_opposite_starts_have_different_colours_and_distance_does_not_matter():
    x0 = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.5, 0.0], [-0.5, 0.0]])
    colours = colours_by_start(x0)
    assert torch.allclose(colours[0], colours[2])
    assert torch.allclose(colours[1], colours[3])
    assert (colours[0] - colours[1]).abs().max() > 0.3
    with pytest.raises(ValueError, match=r"x0 must have shape \(B, 2\)"):
        colours_by_start(torch.zeros(3))
