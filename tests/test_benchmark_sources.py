import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmark takes its digits")
pytest.importorskip("matplotlib", reason="the benchmark draws")
pytest.importorskip("safetensors", reason="the benchmark trains")

from benchmarks import sources
from interpolants.data import Digits
from interpolants.metrics import Classifier


@pytest.fixture(scope="module")
def tasks():
    return sources.tasks("digits", 2, seed=0)


@pytest.fixture(scope="module")
def made(tasks):
    classifier = Classifier((1, 8, 8), 10, generator=torch.Generator().manual_seed(0))
    return [
        made
        for task in tasks[3:]
        for latent, coupling in ((False, "independent"), (True, "optimal-transport"))
        for made in sources.made_by(
            task, sources.configured(2, 0, coupling, latent=latent), classifier, sample_steps=3
        )
    ]


def numbers_of(images):
    """Return which of the digits each image is."""
    pixels = Digits().batch(torch.arange(len(Digits())))[0]
    known = {image.numpy().tobytes(): number for number, image in enumerate(pixels)}
    return [known[image.numpy().tobytes()] for image in images]


def labels_of(images):
    return set(Digits().labels[numbers_of(images)].tolist())


def test_the_targets_of_a_class_are_of_that_class(tasks):
    assert [(task.source, task.target) for task in tasks] == [
        ("Gaussian noise", "digits"),
        ("uniform noise", "digits"),
        ("glyphs", "digits"),
        ("Gaussian noise", "8s"),
        ("3s", "8s"),
    ]
    for task in tasks[3:]:
        assert labels_of(task.real) == labels_of(task.held_out) == {8}
    assert labels_of(tasks[4].starts) == {3}
    assert labels_of(tasks[4].draws.batch(torch.arange(len(tasks[4].draws)))[0]) == {3}
    assert labels_of(tasks[0].real) == set(range(10))


def test_held_out_images_are_not_trained_on(tasks):
    for task in tasks:
        trained = task.train.batch(torch.arange(len(task.train)))[0]
        assert torch.equal(trained, task.real)
        assert not set(numbers_of(trained)) & set(numbers_of(task.held_out))


def test_every_source_image_is_used_once_and_unseen_ones_come_first(tasks):
    ours = tasks[4]
    used = numbers_of(ours.starts)
    assert len(set(used)) == len(used) == 2 * len(ours.held_out)
    seen = set(numbers_of(ours.draws.batch(torch.arange(len(ours.draws)))[0]))
    unseen = [number not in seen for number in used]
    assert unseen == sorted(unseen, reverse=True)
    assert unseen[0]
    glyphs = tasks[2].starts.flatten(1)
    assert len(glyphs.unique(dim=0)) == len(glyphs) == 2 * len(tasks[2].held_out)


def test_noise_has_variance_one(tasks):
    for task in tasks[:2]:
        # 46,080 numbers; five standard errors of a variance, at most 5 (2 / 46,080)**0.5.
        assert abs(float(task.starts.var()) - 1) < 0.033
    assert float(tasks[1].starts.abs().max()) <= math.sqrt(3)


def test_each_sampler_ends_at_one_and_asks_as_often():
    plain, latent = (sources.samplers(7, latent=latent) for latent in (False, True))
    assert list(plain) == ["ODE, no latent"]
    assert list(latent) == ["ODE", "SDE"]
    for sampler in (*plain.values(), *latent.values()):
        assert len(sampler.times) == 8
        assert sampler.times[-1] == 1.0
        # Of a Brownian gamma: equal angles.
        angles = [math.asin(math.sqrt(t)) for t in sampler.times]
        assert angles == pytest.approx([math.pi / 2 * k / 7 for k in range(8)])


def test_settings_differ_in_what_is_compared_alone():
    one = sources.configured(5, 3, "independent", latent=False)
    other = sources.configured(5, 3, "optimal-transport", latent=True)
    different = {name for name in vars(one) if getattr(one, name) != getattr(other, name)}
    assert different == {"gamma", "learn", "inverse_variance", "coupling"}
    assert not one.conditional


def test_a_training_depends_on_its_seed_alone(tasks):
    config = sources.configured(2, 0, "independent", latent=False)
    x = tasks[3].starts[:4]
    found = [sources.trained(config, tasks[3]).velocity(0.5, x) for _ in range(2)]
    assert torch.equal(*found)
    assert found[0].abs().max() > 0


def test_what_is_made_is_measured_on_all_starting_points(made):
    assert [(m.task.source, m.coupling, m.sampler) for m in made] == [
        (source, coupling, sampler)
        for source in ("Gaussian noise", "3s")
        for coupling, sampler in (
            ("independent", "ODE, no latent"),
            ("optimal-transport", "ODE"),
            ("optimal-transport", "SDE"),
        )
    ]
    for m in made:
        assert m.images.shape == m.task.starts.shape
        assert m.images.abs().max() <= 1
        assert m.quality.frechet.generated.n == len(m.task.held_out)
        assert m.quality.frechet.generated.repeats == 2
        assert (m.energy is None) == (m.sampler == "SDE")
    # Hardly trained, the ODE leaves a point about where it is, and the SDE adds its noise.
    start, ode, sde = made[4].task.starts, made[4].images, made[5].images
    assert (ode - start).abs().mean() < (sde - start).abs().mean()


def test_every_row_is_in_the_table_the_picture_and_the_figures(made):
    lines = sources.table(made).splitlines()
    assert len(lines) == 1 + 2 + len(made)
    assert lines[2].split()[:3] == ["real,", "held", "out"]
    drawing = sources.picture(made)
    assert len(drawing.axes) == 4
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in drawing.axes]
    assert labels == [["source", "ODE, no latent"], []] * 2
    shown = [text.get_text() for axes in drawing.axes for text in axes.texts]
    distances = [f"{m.quality.frechet.generated.value:.1f}" for m in made]
    assert [text for text in shown if text != "Fréchet"] == distances
    figures = sources.figures_of(made)
    assert [row["frechet"]["generated"]["value"] for row in figures] == [
        m.quality.frechet.generated.value for m in made
    ]


def row(source, value, error, target="digits", sampler="ODE"):
    generated = SimpleNamespace(value=value, standard_error=error)
    quality = SimpleNamespace(frechet=SimpleNamespace(generated=generated))
    task = SimpleNamespace(source=source, target=target)
    return sources.Made(task, "independent", sampler, torch.zeros(0), quality, None)


def test_a_source_is_compared_with_noise_towards_the_same_target_by_the_same_sampler():
    noise = [
        row("Gaussian noise", 2.0, 0.3),
        row("Gaussian noise", 5.0, 0.0, sampler="SDE"),
        row("Gaussian noise", 9.0, 0.0, target="other"),
    ]
    found = sources.comparisons([*noise, row("glyphs", 4.5, 0.4), row("glyphs", 4.5, 0.1, sampler="SDE")])
    assert [(c.source, c.target, c.sampler) for c in found] == [
        ("glyphs", "digits", "ODE"),
        ("glyphs", "digits", "SDE"),
    ]
    assert [c.difference for c in found] == pytest.approx([2.5, -0.5])
    assert [c.standard_error for c in found] == pytest.approx([0.5, 0.1])


@pytest.mark.parametrize(
    ("plain", "others", "answer", "ways"),
    [
        (4.0, (4.0, 4.0), "confirmed", "2 worse"),
        (4.0, (4.0, 2.8), "confirmed", "1 worse, 1 equal"),
        (2.8, (0.5, 2.9), "refuted", "1 equal, 1 better"),
        (1.0, (1.1, 2.9), "refuted", "2 equal"),
    ],
)
def test_the_conclusion_is_on_the_papers_way_and_counts_differences_of_three_errors(
    plain, others, answer, ways
):
    samplers = ("ODE, no latent", "ODE", "SDE")
    noise = [row("Gaussian noise", 2.0, 0.3, sampler=sampler) for sampler in samplers]
    glyphs = [
        row("glyphs", value, 0.1, sampler=sampler)
        for value, sampler in zip((plain, *others), samplers, strict=True)
    ]
    (said,) = sources.conclusions(sources.comparisons([*noise, *glyphs]))
    low, high = sorted(value - 2 for value in others)
    assert said.startswith(
        f"glyphs to digits: lower quality than from Gaussian noise is {answer} as the paper"
    )
    # (0.3**2 + 0.1**2)**0.5
    assert f"ODE, no latent, independent: Fréchet distance {plain - 2:+.2f} ± 0.32. " in said
    assert f"In the other ways: {ways}, from {low:+.2f} ± 0.32 (" in said
    assert f") to {high:+.2f} ± 0.32 (" in said
