import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmark takes its digits")
pytest.importorskip("matplotlib", reason="the glyphs are drawn from its fonts")

from benchmarks.accuracy import images
from benchmarks.ensemble import Ensemble
from benchmarks.settings import Settings
from interpolants import (
    Brownian,
    Interpolant,
    LearnedField,
    Linear,
    Mirror,
    ProportionalToAlpha,
    ProportionalToGamma,
    SpatiallyLinear,
    Trigonometric,
)
from interpolants.data import Digits

CPU = torch.device("cpu")
TINY = images.Size(
    seeds=[0, 1], train=48, images=24, width=4, steps=2, rows=6, judge=2, evaluations=[1, 2, 4]
)


class Wrong(SpatiallyLinear):
    """Linear, with a time derivative that is 5 % too large."""

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t

    def sample(self, t, x0, x1, z=None, *, generator=None):
        found = super().sample(t, x0, x1, z, generator=generator)
        return replace(found, xt_dot=1.05 * found.xt_dot)


class Broken(Wrong):
    def beta(self, t):
        raise RuntimeError("no weight here")


class Bent(Interpolant):
    def interpolate(self, t, x0, x1):
        t = t.reshape(-1, 1, 1, 1)
        return (1 - t) * x0 + t * x1 + t * (1 - t) * x0 * x1


@pytest.fixture(scope="module")
def task():
    return images.task_of("digits", TINY, CPU)


@pytest.fixture(scope="module")
def linear(task):
    return images.studied(Linear(), task, TINY)


@pytest.fixture(scope="module")
def result():
    return tiny_run(Settings(budget="smoke", interpolants=("linear", f"{__name__}:Broken")))


def tiny_run(settings):
    with pytest.MonkeyPatch.context() as patch:
        seeds = settings.seed_list(2, 2, 2)
        patch.setattr(images, "size_of", lambda name, settings: replace(TINY, seeds=seeds))
        return images.run(settings)


def known_digits():
    pixels, labels = Digits().batch(torch.arange(len(Digits())))
    return {image.numpy().tobytes(): int(label) for image, label in zip(pixels, labels, strict=True)}


def keys(pixels):
    return [image.numpy().tobytes() for image in pixels]


# ------------------------------------------------------------------------------------------------- the task


def test_held_out_digits_are_not_trained_on_and_labels_are_theirs():
    train, labels, held_out = images.drawn(Digits(), 1541, 256, seed=3)
    known = known_digits()
    assert [known[key] for key in keys(train)] == labels.tolist()
    # Two digits of the set may have the same pixels, so that the numbers of images are compared.
    assert len(train) + len(held_out) == 1797
    assert sorted(keys(train) + keys(held_out)) == sorted(keys(Digits().batch(torch.arange(1797))[0]))


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_each_seed_has_images_and_noise_of_its_own(name):
    task = images.task_of(name, TINY, CPU)
    alone = images.task_of(name, replace(TINY, seeds=[1]), CPU)
    assert task.train.shape == (2, 48, 1, 8, 8)
    assert task.held_out.shape == (2, 24, 1, 8, 8)
    assert task.noise.shape == (48, 1, 8, 8)
    assert not set(keys(task.train[0])) & set(keys(task.held_out[0]))
    assert keys(task.train[0]) != keys(task.train[1])
    assert not torch.equal(task.noise[:24], task.noise[24:])
    # What stands beside a seed changes nothing about it.
    assert torch.equal(task.train[1], alone.train[0])
    assert torch.equal(task.held_out[1], alone.held_out[0])
    assert torch.equal(task.noise[24:], alone.noise)
    assert task.floor()[1] == alone.floor()[0]


def test_the_floor_is_the_distance_of_held_out_images_and_of_the_training_it_is_zero(task):
    assert task.distances(task.held_out.flatten(0, 1)) == task.floor()
    assert all(value > 1e-3 for value in task.floor())
    # Roundings of the roots of covariances; the trace is 64.
    assert max(task.distances(task.train.flatten(0, 1))) < 1e-5


def test_distances_are_of_clamped_images_and_by_seed():
    judges = [SimpleNamespace(distance=lambda some: float(some.amax())) for _ in range(2)]
    task = images.Task(torch.zeros(0), torch.zeros(0), judges, torch.zeros(0))
    assert task.distances(torch.tensor([0.5, -3.0, 7.0, 0.0]).reshape(4, 1, 1, 1)) == [0.5, 1.0]


def test_a_judge_finds_fewer_real_images_further_away():
    found, labels = Digits().batch(torch.arange(1200))
    judge = images.Judge(found[:800], labels[:800], seed=0, steps=20)
    assert judge.distance(found[800:830]) > 3 * judge.distance(found[800:])


# --------------------------------------------------------------------------------------------- the training


@pytest.mark.parametrize("gamma", [None, Brownian()], ids=["plain", "latent"])
def test_networks_one_by_one_answer_as_the_ensemble(gamma, monkeypatch):
    path = Linear() if gamma is None else Linear(gamma)
    alone = images.network_of(path, TINY, CPU)
    monkeypatch.setattr(images, "OneByOne", Ensemble)
    together = images.network_of(path, TINY, CPU)
    # The last layer of an untrained network is 0.
    with torch.no_grad():
        for network in (alone, together):
            for weight in network.parameters():
                weight.add_(0.1)
    t, x = torch.rand(6), torch.randn(6, 1, 8, 8)
    mine, theirs = alone(t, x), together(t, x)
    if gamma is None:
        mine, theirs = {"velocity": mine}, {"velocity": theirs}
    assert list(mine) == (["velocity"] if gamma is None else ["velocity", "denoiser"])
    for name, answer in mine.items():
        torch.testing.assert_close(answer, theirs[name], rtol=1e-4, atol=1e-4)


def test_minibatches_pair_noise_with_images_of_the_same_seed(generator):
    own = torch.arange(3.0).repeat_interleave(5) * 10 + torch.arange(5.0).repeat(3)
    draw = images.minibatches(own.reshape(3, 5, 1, 1, 1))
    x0, x1 = draw(200, generator)
    assert [set(rows.tolist()) for rows in x1.reshape(3, 200)] == [
        {10.0 * k + i for i in range(5)} for k in range(3)
    ]
    # 600 standard normal numbers: five standard errors.
    assert abs(float(x0.mean())) < 5 / math.sqrt(600)
    assert abs(float(x0.square().mean()) - 1) < 5 * math.sqrt(2 / 600)


def test_training_brings_the_images_nearer(task):
    # A single image is learnt within a few steps.
    one = replace(task, train=task.train[:1, :1], noise=task.noise[:24])
    few, many = (
        images.trained(Linear(), one, replace(TINY, seeds=[0], steps=steps, rows=16)) for steps in (2, 40)
    )
    errors = [
        float((images.euler(Linear(), 4).sample(field, one.noise).final - one.train[0]).square().mean())
        for field in (few, many)
    ]
    # Two steps leave the noise nearly where it is: its variance, and the image's square.
    assert errors[0] == pytest.approx(1 + float(one.train.square().mean()), rel=0.15)
    assert errors[1] < 0.8 * errors[0]


def test_the_loss_is_a_sum_over_seeds():
    x0, x1 = torch.zeros(6, 1, 2, 2), torch.ones(6, 1, 2, 2)
    # The velocity is 1 everywhere: four pixels' squares for each of three seeds.
    assert float(images.loss_of(Linear(), 3)(lambda t, x: 0 * x, x0, x1)) == pytest.approx(12)


def test_latent_noise_has_a_second_head_and_a_weight_that_keeps_the_loss_finite(generator):
    loss = images.loss_of(Linear(Brownian()), 1)
    n = 40_000
    x = torch.zeros(n, 1)
    found = loss.per_example(lambda t, x: {"velocity": 0 * x, "denoiser": 0 * x}, x, x, generator=generator)
    # E gamma'^2 / (1 + gamma'^2) with gamma'^2 = (1 - 2t)^2 / (4 t (1 - t)) is E (1 - 2t)^2 = 1/3; the
    # denoiser's target has variance 1. Each is times the square of a normal number.
    assert abs(float(found.mean()) - 4 / 3) < 5 * float(found.std()) / math.sqrt(n)


def test_a_path_that_starts_elsewhere_has_no_numbers(task):
    study = images.studied(Mirror(Brownian()), task, TINY)
    assert study.slopes["network"]["why"] == "ValueError: does not start at noise"


# --------------------------------------------------------------------------------------------- the sampling


def test_ddim_makes_the_images_of_iadb(linear):
    for n in TINY.evaluations:
        # Distances of tens, in single precision.
        assert linear.curves["DDIM"][n] == pytest.approx(linear.curves["Euler"][n], abs=1e-3)


def test_samplers_say_what_they_are_not_offered_for():
    latent = Linear(Brownian())
    assert images.heun(Linear(), 1) == "two evaluations a step"
    assert images.heun(Linear(), 8).steps == 4
    assert images.ddim(latent, 4) == "has latent noise"
    assert images.ddim(Bent(), 4) == "not spatially linear"
    assert images.sde(Bent(), 4) == "no score"
    assert images.sde(Trigonometric(), 4).epsilon == ProportionalToAlpha(1.0)
    assert images.sde(latent, 4).epsilon == ProportionalToGamma(1.0)
    for sampler in (images.euler, images.ddim, images.sde):
        assert sampler(Linear(), 5).steps == 5


def test_a_perfect_last_step_is_at_the_floor(task):
    """A velocity that leads every point to a held-out image gets what held-out images get."""
    goal = task.held_out.flatten(0, 1)
    field = LearnedField(
        Linear(),
        velocity=lambda t, x: (goal - x) / (1 - t).clamp(min=1e-3).reshape(-1, 1, 1, 1),
        gaussian_source=True,
    )
    found = dict(images.curve(field, "Euler", task, TINY))
    for n in TINY.evaluations:
        assert found[n] == pytest.approx(task.floor(), rel=1e-4)


def test_heun_and_ddim_are_not_run_where_more_steps_change_nothing(task):
    field = LearnedField(Linear(), velocity=lambda t, x: 0 * x, gaussian_source=True)
    size = replace(TINY, evaluations=[32, 64])
    for name in ("Heun", "DDIM"):
        found = dict(images.curve(field, name, task, size))
        assert isinstance(found[32], list)
        assert found[64] == "not measured"
    assert isinstance(dict(images.curve(field, "Euler", task, size))[64], list)


def test_random_numbers_depend_on_the_first_seed_and_on_what_they_are_for():
    cases = [(0, "training"), (0, "sampling"), (1, "training")]
    generators = [images.generator_of(replace(TINY, seeds=[seed]), what, CPU) for seed, what in cases]
    assert len({float(torch.rand((), generator=one)) for one in generators}) == 3


def test_images_that_are_not_finite_have_no_distance(task):
    field = LearnedField(Linear(), velocity=lambda t, x: x / 0, gaussian_source=True)
    assert dict(images.curve(field, "Euler", task, TINY)) == dict.fromkeys([1, 2, 4], "not finite")


def test_an_error_of_a_sampler_is_told_in_its_cells(task):
    field = LearnedField(Linear(), velocity=lambda t, x: x.sum(1), gaussian_source=True)
    (why,) = set(dict(images.curve(field, "Euler", task, TINY)).values())
    assert why.startswith("ValueError: network(t, x) must return the shape of x")


def exact_velocity(factor, s=0.5):
    """From N(0, 1) to N(0, s^2) along Linear, times a factor."""

    def velocity(t, x):
        t = t.reshape(-1, 1, 1, 1)
        return factor * (s * s * t - (1 - t)) / ((1 - t) ** 2 + (s * t) ** 2) * x

    return velocity


def test_the_slopes_of_a_right_path_are_1_and_a_derivative_5_per_cent_off_is_seen(generator):
    data = 0.5 * torch.randn(2, 20_000, 1, 4, 4, generator=generator)
    found = {}
    for name, path, factor in (("right", Linear(), 1.0), ("wrong", Wrong(), 1.05)):
        field = LearnedField(path, velocity=exact_velocity(factor))
        found[name] = images.slopes_of(field, data, torch.Generator().manual_seed(1), rows=8_000)
    # Central differences of a straight line are exact.
    assert found["right"]["time derivative"] == pytest.approx([1.0, 1.0], abs=1e-9)
    assert found["wrong"]["time derivative"] == pytest.approx([1 / 1.05] * 2, abs=1e-9)
    # The motion about the velocity has the variance v of x1 - x0 given x_t, at most 1.25, in each of
    # 128,000 numbers whose mean square velocity is about 0.34: a standard error of at most
    # sqrt(1.25 / (0.34 * 128,000)) = 0.0054.
    assert found["right"]["network"] == pytest.approx([1.0, 1.0], abs=5 * 0.0054)
    for right, wrong in zip(found["right"]["network"], found["wrong"]["network"], strict=True):
        assert wrong == pytest.approx(right / 1.05, rel=1e-5)


def test_the_slope_of_a_seed_is_that_of_its_own_network(generator):
    class Faster(torch.nn.Module):
        def forward(self, t, x):
            return exact_velocity(self.factor)(t, x)

    network = images.OneByOne(Faster, [0, 1, 2])
    for factor, member in zip((0.5, 1.0, 2.0), network.members, strict=True):
        member.factor = factor
    field = LearnedField(Linear(), velocity=network)
    data = 0.5 * torch.randn(3, 2_000, 1, 2, 2, generator=generator)
    found = images.slopes_of(field, data, torch.Generator().manual_seed(1), rows=2_000)["network"]
    # Relative standard errors of sqrt(1.25 / (0.34 * 8,000)) = 0.021, as above.
    assert found == pytest.approx([2.0, 1.0, 0.5], rel=5 * 0.021)


def test_the_slope_with_latent_noise_is_of_the_whole_motion(generator):
    field = LearnedField(Linear(Brownian()), velocity=exact_velocity(1.0))
    data = 0.5 * torch.randn(1, 1_000, 1, 2, 2, generator=generator)
    found = images.slopes_of(field, data, torch.Generator().manual_seed(1), rows=2_000)
    # The differences' error is h^2 gamma''' / 6, below 1e-4 of gamma' on [0.05, 0.95].
    assert found["time derivative"] == pytest.approx([1.0], abs=2e-4)


def test_a_wrong_derivative_is_many_standard_errors_from_right_in_the_table(task):
    cell = images.studied(Wrong(), task, TINY).slopes["time derivative"]
    assert cell["value"] == pytest.approx(1 / 1.05, abs=1e-6)
    assert 1 - cell["value"] > 1_000 * cell["standard_error"]


# ----------------------------------------------------------------------------------- the tables and pictures


def test_every_path_has_its_rows_and_one_that_fails_loses_no_other(result):
    names = ["digits_distance", "digits_difference", "glyphs_distance", "glyphs_difference", "slope"]
    assert [table.name for table in result.tables] == names
    for table in (result.tables[0], result.tables[2]):
        floor, *rows = table.rows
        assert floor.kind == "floor"
        assert [row.label for row in rows[:4]] == [
            "linear, Euler (IADB)",
            "linear, Heun",
            "linear, DDIM",
            "linear, SDE",
        ]
        for row in (floor, *rows[:4]):
            for cell in row.cells.values():
                assert cell["kind"] == "measured"
                assert cell["value"] > 0
                assert cell["standard_error"] > 0
        assert {cell["why"] for row in rows[4:] for cell in row.cells.values()} == {
            "RuntimeError: no weight here"
        }
    slopes = result.tables[-1].rows
    assert [row.label for row in slopes] == [
        "right",
        "digits: linear",
        f"digits: {__name__}:Broken",
        "glyphs: linear",
        f"glyphs: {__name__}:Broken",
    ]
    assert slopes[1].cells["time derivative"]["value"] == pytest.approx(1, abs=1e-6)
    assert slopes[2].cells["network"]["why"] == "RuntimeError: no weight here"


def test_differences_are_those_of_the_distances(result):
    distance, difference = result.tables[:2]
    values = {row.label: row.cells for row in distance.rows}
    for row in difference.rows[:3]:
        for column, cell in row.cells.items():
            base = values["linear, Euler (IADB)"][column]["values"]
            mine = values[row.label][column]["values"]
            by_hand = [a - b for a, b in zip(mine, base, strict=True)]
            # They are rounded to a thousandth.
            assert cell["values"] == pytest.approx(by_hand, abs=6e-4)


def test_the_same_seeds_give_the_same_numbers_and_others_others(linear):
    for seeds, same in (([0, 1], True), ([2, 3], False)):
        size = replace(TINY, seeds=seeds)
        again = images.studied(Linear(), images.task_of("digits", size, CPU), size)
        assert (again == linear) is same
        numbers = {value for values in again.curves["SDE"].values() for value in values}
        assert bool(numbers & {value for values in linear.curves["SDE"].values() for value in values}) is same


def test_curves_show_the_numbers_of_the_table_and_the_floor(result):
    ode, sde = result.plots[:2]
    table = result.tables[0]
    rows = {row.label: row.cells for row in table.rows}
    assert [series.label for series in ode.series] == ["linear, Euler (IADB)", "linear, Heun"]
    assert [series.label for series in sde.series] == ["linear, Euler (IADB)", "linear, DDIM", "linear, SDE"]
    assert ode.series[0].x == [1.0, 2.0, 4.0]
    assert ode.series[1].x == [2.0, 4.0]
    for plot in (ode, sde):
        assert plot.floor == rows["real images, held out"]["4"]["value"]
        for series in plot.series:
            last = rows[series.label]["4"]
            assert (series.y[-1], series.error[-1]) == (last["value"], last["standard_error"])


@pytest.mark.parametrize("budget", ["smoke", "small", "full"])
@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_every_budget_fits_the_data_and_has_errors(name, budget):
    size = images.size_of(name, Settings(budget=budget))
    assert len(size.seeds) >= 2
    assert size.train + size.images <= 1797 or name == "glyphs"
    assert size.steps > size.steps // 10
    assert images.columns_of(size)
    assert images.size_of(name, Settings(budget=budget, seeds=3, first_seed=5)).seeds == [5, 6, 7]
