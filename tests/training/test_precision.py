"""Mixed precision: a scaled loss that overflows, and answers in 16 bits."""

import itertools
import math

import pytest
import torch

from interpolants import MLP, Linear, Quadratic, Regression, Trainer
from interpolants.training import Accelerated, Alone, Checkpoints


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Scaled(Accelerated):
    """What fp16 does to the loss, without fp16, which needs a GPU: the figures are those of float32."""

    def __init__(self, scale):
        super().__init__(cpu=True)
        self.scaled = True
        self._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def prepare(self, objective, optimizers):
        prepared = super().prepare(objective, optimizers)
        self._accelerator.native_amp = True
        return prepared


@pytest.fixture(autouse=True)
def _fp16(monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setattr(accelerate.Accelerator, "mixed_precision", "fp16")


def trainer_of(engine, broken=None, **options):
    batches = list(torch.randn(6, 2, 8, 2, generator=seeded(2)))
    if broken is not None:
        batches[broken] = torch.full((2, 8, 2), math.nan)
    return Trainer(
        MLP(2, width=8, depth=1, generator=seeded(1)),
        Regression(Linear()),
        [tuple(pair) for pair in batches],
        steps=6,
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
        generator=seeded(),
        engine=engine,
        **options,
    )


def weights(trainer):
    return torch.nn.utils.parameters_to_vector(trainer.network.parameters()).detach().clone()


@pytest.mark.parametrize("options", [{}, {"clip": 0.5, "accumulate": 2}], ids=["plain", "clipped"])
def test_a_scaled_loss_trains_as_one_that_is_not(options):
    plain, scaled = trainer_of(Alone(), **options), trainer_of(Scaled(2.0**10), **options)
    # A power of two changes no digit.
    assert [float(step.loss) for step in plain] == [float(step.loss) for step in scaled]
    assert torch.equal(weights(plain), weights(scaled))


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_scale_that_is_too_large_is_lowered_and_stops_nothing(clip):
    trainer = trainer_of(Scaled(2.0**127), clip=clip)
    start, norms = weights(trainer), []
    for step in trainer:
        assert step.loss.isfinite()
        norms.append(step.gradient_norm)
        if step.index == 1:
            assert torch.equal(weights(trainer), start)
    assert not torch.equal(weights(trainer), start)
    assert clip is None or not norms[0].isfinite()
    assert clip is None or norms[-1].isfinite()


@pytest.mark.parametrize("clip", [None, 0.5])
def test_after_a_skipped_step_a_scaled_training_goes_on(clip):
    trainer = trainer_of(Scaled(2.0**10), broken=2, clip=clip, skip_non_finite=1)
    assert [step.skipped for step in trainer] == [False, False, True, False, False, False]
    assert weights(trainer).isfinite().all()


def test_the_scale_is_carried_over(tmp_path):
    def overflowing(scale):
        return trainer_of(Scaled(scale))

    straight = overflowing(2.0**127)
    list(straight)
    stopped = overflowing(2.0**127)
    for _ in itertools.islice(stopped, 2):
        pass
    stopped.save(Checkpoints(tmp_path))
    continued = overflowing(2.0)
    continued.resume(Checkpoints(tmp_path))
    list(continued)
    assert torch.equal(weights(continued), weights(straight))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_answers_in_16_bits_are_squared_in_the_precision_of_the_points(low):
    answer = 1 + 2.0**-7  # Exact in 16 bits; its square is not.
    x0, x1 = torch.zeros(3, 1), torch.full((3, 1), 2.0**-9)
    value = Quadratic(Linear())(lambda t, x: torch.full_like(x, answer, dtype=low), x0, x1)
    assert value.dtype == torch.float32
    assert value == answer**2 - 2 * answer * 2.0**-9
    double = Regression(Linear())(lambda t, x: torch.full_like(x, 2.0, dtype=torch.float64), x0, x1)
    assert double == (2 - 2.0**-9) ** 2
