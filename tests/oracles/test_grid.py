import pytest
import torch

from interpolants import Interpolant, Linear, MixtureOracle, Trigonometric
from interpolants.gammas import Brownian
from interpolants.oracles import GaussianMixture, field_on_grid, grid_points


def mixture(weights, means, variances):
    return GaussianMixture(
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(means, dtype=torch.float64),
        torch.tensor(variances, dtype=torch.float64)[:, None, None] * torch.eye(2, dtype=torch.float64),
    )


@pytest.mark.parametrize("path", [Linear(), Trigonometric(Brownian())], ids=repr)
def test_well_filled_cells_agree_with_the_exact_velocity(path, generator):
    source = mixture([0.5, 0.5], [[-1.5, 0.5], [-1.0, -1.0]], [0.3, 0.4])
    target = mixture([0.3, 0.7], [[1.5, -1.0], [1.0, 1.0]], [0.2, 0.5])
    oracle, n, bounds, resolution = MixtureOracle(path, source, target), 400_000, (-1.5, 1.5, -1.2, 1.2), 12
    x0, x1 = source.sample(n, generator=generator), target.sample(n, generator=generator)
    state = generator.get_state()
    field = field_on_grid(path, x0, x1, 0.5, bounds=bounds, resolution=resolution, generator=generator)
    sample = path.sample(0.5, x0, x1, generator=generator.set_state(state))
    checked = 0
    for row in range(resolution):
        for column in range(resolution):
            low = torch.tensor([-1.5 + 0.25 * column, -1.2 + 0.2 * row], dtype=torch.float64)
            high = low + torch.tensor([0.25, 0.2], dtype=torch.float64)
            inside = ((sample.xt >= low) & (sample.xt < high)).all(1)
            if inside.sum() < 1000:
                continue
            # Averaged over the points in the cell, the velocity has the cell's mean: no bias from its size.
            exact = oracle.velocity(0.5, sample.xt[inside])
            error = (sample.xt_dot[inside] - exact).std(0) / inside.sum() ** 0.5
            # Six standard errors of each of at most 288 numbers: chance exceeds them once in 1e6.
            assert ((field[row, column] - exact.mean(0)).abs() < 6 * error).all()
            checked += 1
    assert checked > 50


def test_centres_of_cells_are_where_the_field_is_known(generator):
    # Between two equal Gaussians on the trigonometric path b is linear: its mean over points that are
    # symmetric about the centre is its value there.
    bounds, resolution = (-1.0, 2.0, 0.0, 2.0), 3
    centres = grid_points(bounds, resolution).double()
    corners = torch.tensor([[-0.4, -0.3], [0.4, -0.3], [-0.4, 0.3], [0.4, 0.3]], dtype=torch.float64) / 2
    x0 = (centres.reshape(-1, 1, 2) + corners).reshape(-1, 2)
    matrix = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    field = field_on_grid(Linear(), x0, x0 + x0 @ matrix, 0.0, bounds=bounds, resolution=resolution, least=4)
    # Rounding of an average of four.
    torch.testing.assert_close(field, centres @ matrix, rtol=1e-6, atol=1e-6)


def test_cells_with_too_few_samples_are_nan():
    x0 = torch.tensor([[0.1, 0.1]] * 3 + [[0.9, 0.1]] * 2)
    field = field_on_grid(Linear(), x0, x0 + 1, 0.0, bounds=(0.0, 1.0, 0.0, 1.0), resolution=2, least=3)
    assert torch.isfinite(field[0, 0]).all()
    assert torch.isnan(field).sum() == 6


def test_eight_samples_are_enough_by_default():
    x0 = torch.tensor([[0.1, 0.1]] * 8 + [[0.9, 0.1]] * 7)
    field = field_on_grid(Linear(), x0, x0, 0.0, bounds=(0.0, 1.0, 0.0, 1.0))
    assert field.shape == (64, 64, 2)
    assert torch.isfinite(field[..., 0]).nonzero().tolist() == [[6, 6]]


def test_rows_go_up_and_columns_go_right():
    x0 = torch.tensor([[-1.9, 5.1], [1.9, 5.1], [-1.9, 6.9]])
    x1 = x0 + torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    field = field_on_grid(Linear(), x0, x1, 0.0, bounds=(-2.0, 2.0, 5.0, 7.0), resolution=3, least=1)
    # Differences of single-precision numbers near 30.
    torch.testing.assert_close(field[0, 0], torch.tensor([1.0, 10.0]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(field[0, 2], torch.tensor([2.0, 20.0]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(field[2, 0], torch.tensor([3.0, 30.0]), rtol=1e-5, atol=1e-5)
    assert torch.isnan(field[2, 2]).all()


def test_samples_outside_the_bounds_are_left_out():
    x0 = torch.tensor([[0.5, 0.5], [1.5, 0.5], [-0.5, 0.5], [0.5, 1.0], [0.5, -0.1]])
    x1 = x0 + torch.tensor([[1.0], [100.0], [100.0], [100.0], [100.0]])
    field = field_on_grid(Linear(), x0, x1, 0.0, bounds=(0.0, 1.0, 0.0, 1.0), resolution=1, least=1)
    assert field.flatten().tolist() == [1.0, 1.0]


def test_grid_points_are_the_centres():
    points = grid_points((-1.0, 1.0, 10.0, 14.0), resolution=2)
    assert points[..., 0].tolist() == [[-0.5, 0.5], [-0.5, 0.5]]
    assert points[..., 1].tolist() == [[11.0, 11.0], [13.0, 13.0]]
    assert grid_points((0.0, 1.0, 0.0, 1.0)).shape == (64, 64, 2)


def test_any_interpolant_will_do():
    class Bent(Interpolant):
        def interpolate(self, t, x0, x1):
            return x0 + t.reshape(-1, 1) ** 2 * (x1 - x0)

    x0 = torch.zeros(4, 2)
    field = field_on_grid(Bent(), x0, x0 + 1, 0.5, bounds=(0.0, 1.0, 0.0, 1.0), resolution=1, least=1)
    assert field.flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "bounds", [(1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0), (0.0, 1.0, 2.0, 1.0)]
)
def test_bounds_that_enclose_nothing_are_refused(bounds):
    with pytest.raises(ValueError, match="enclose an area"):
        field_on_grid(Linear(), torch.zeros(4, 2), torch.zeros(4, 2), 0.5, bounds=bounds)


def test_points_off_the_plane_and_empty_grids_are_refused():
    bounds = (0.0, 1.0, 0.0, 1.0)
    for shape in ((4, 3), (4,), (4, 2, 1)):
        with pytest.raises(ValueError, match="in the plane"):
            field_on_grid(Linear(), torch.zeros(shape), torch.zeros(shape), 0.5, bounds=bounds)
    with pytest.raises(ValueError, match="resolution"):
        field_on_grid(Linear(), torch.zeros(4, 2), torch.zeros(4, 2), 0.5, bounds=bounds, resolution=0)
