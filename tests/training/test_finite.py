"""A loss that is not finite: where it is noticed, what is said, and what is skipped."""

import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from interpolants import MLP, Linear, Regression, Trainer
from interpolants.losses import Draw
from interpolants.training import Checkpoints, NonFiniteLoss
from interpolants.training.finite import FiniteGuard, statistics
from interpolants.training.steps import Objective


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(count, broken=(), value=math.nan):
    """Minibatches of four pairs in two dimensions, of which some have a broken number."""
    found = []
    for k in range(count):
        x0, x1 = torch.randn(2, 4, 2, generator=seeded(k))
        if k in broken:
            x1[0, 1] = value
        found.append((x0, x1))
    return found


def trainer_of(batches, steps, **options):
    network = MLP(2, width=4, depth=1, generator=seeded())
    return Trainer(network, Regression(Linear()), batches, steps=steps, generator=seeded(), **options)


def weights(trainer):
    return nn.utils.parameters_to_vector(trainer.network.parameters()).detach().clone()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_before_the_weights_change(value):
    trainer = trainer_of(pairs(3, broken=[1], value=value), 3)
    next(trainer)
    before = weights(trainer)
    with pytest.raises(NonFiniteLoss) as caught:
        next(trainer)
    assert caught.value.step == 2
    assert caught.value.checkpoint is None
    assert "x1 with 1 numbers not finite" in caught.value.statistics["minibatch"]
    assert torch.equal(weights(trainer), before)
    assert trainer.index == 1


def test_the_error_names_the_last_checkpoint(tmp_path):
    batches = pairs(3, broken=[2])
    trainer, checkpoints = trainer_of(batches, 3), Checkpoints(tmp_path)
    next(trainer)
    path = trainer.save(checkpoints)
    next(trainer)
    with pytest.raises(NonFiniteLoss, match=r"step 3 is not finite .*the last is .*step-00000001") as caught:
        next(trainer)
    assert caught.value.checkpoint == path
    resumed = trainer_of(batches, 3)
    resumed.resume(checkpoints)
    next(resumed)
    with pytest.raises(NonFiniteLoss) as caught:
        next(resumed)
    assert caught.value.checkpoint == path


def test_a_broken_part_of_an_accumulated_step_is_found_and_described():
    with pytest.raises(NonFiniteLoss) as caught:
        next(trainer_of(pairs(3, broken=[0]), 1, accumulate=3))
    assert caught.value.statistics["minibatch"].startswith("12 examples")
    assert "x1 with 1 numbers not finite" in caught.value.statistics["minibatch"]


def test_as_many_steps_are_skipped_as_allowed_and_no_more():
    trainer = trainer_of(pairs(6, broken=[1, 2, 4]), 6, skip_non_finite=2, averages=(0.5,))
    skipped, changed, averaged, before = [], [], [], weights(trainer)
    for _ in range(4):
        skipped.append(next(trainer).skipped)
        changed.append(not torch.equal(weights(trainer), before))
        averaged.append(trainer.averages[0.5].updates)
        before = weights(trainer)
    with pytest.raises(NonFiniteLoss) as caught:
        next(trainer)
    assert skipped == [False, True, True, False]
    assert changed == [True, False, False, True]
    assert averaged == [1, 1, 1, 2]
    assert caught.value.step == 5


def test_the_count_of_skipped_steps_outlives_the_process(tmp_path):
    batches = pairs(4, broken=[0, 2])
    trainer = trainer_of(batches, 4, skip_non_finite=1)
    next(trainer)
    trainer.save(Checkpoints(tmp_path))
    resumed = trainer_of(batches, 4, skip_non_finite=1)
    resumed.resume(Checkpoints(tmp_path))
    next(resumed)
    with pytest.raises(NonFiniteLoss):
        next(resumed)


class Root(nn.Module):
    """A network whose gradient at first is infinite, though its answer is not."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, t, x):
        return x + self.scale.abs().sqrt()


def test_a_clipped_gradient_that_is_not_finite_counts_too():
    batches = [(torch.zeros(4, 2), torch.ones(4, 2))]
    trainer = Trainer(Root(), Regression(Linear()), batches, steps=2, clip=1.0, generator=seeded())
    with pytest.raises(NonFiniteLoss) as caught:
        next(trainer)
    assert caught.value.statistics["norm of the gradient"] in ("nan", "inf")
    assert trainer.network.scale == 0
    skipping = Trainer(Root(), Regression(Linear()), batches, steps=2, clip=1.0, skip_non_finite=2)
    assert [step.skipped for step in skipping] == [True, True]


def test_statistics_count_what_is_broken():
    network = nn.Module()
    network.a = nn.Parameter(torch.tensor([1.0, -7.0]))
    network.b = nn.Parameter(torch.tensor([1.0, math.inf]))
    network.turned = nn.Parameter(torch.tensor([2 + 0j]))
    network.codes = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    network.empty = nn.Parameter(torch.zeros(0))
    x0, x1 = torch.tensor([[1.0, math.nan]]), torch.tensor([[-math.inf, 3.0]])
    draws = [Draw(torch.tensor([0.25]), x0, x1, None), Draw(torch.tensor([0.75]), 9 * x1, x0, None)]
    found = statistics(Objective(network, Regression(Linear())), draws, torch.tensor(2.5))
    assert found == {
        "minibatch": "2 examples, t in [0.25, 0.75], x0 with 2 numbers not finite, otherwise at most 27, "
        "x1 with 2 numbers not finite, otherwise at most 3",
        "largest weight": "7",
        "parameters with a NaN or infinity": "1 of 4",
        "norm of the gradient": "2.5",
    }


def test_the_error_can_be_sent_to_another_process(tmp_path):
    error = NonFiniteLoss(7, {"minibatch": "4 examples"}, tmp_path / "a")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.step, copy.statistics, copy.checkpoint) == (7, {"minibatch": "4 examples"}, tmp_path / "a")
    assert str(copy) == str(error)
    assert str(NonFiniteLoss(7)) == (
        "the loss of step 7 is not finite; of the checkpoints, no checkpoint was written"
    )


class Late:
    """A loss on an accelerator, to be looked at one step late; there is none here."""

    device = SimpleNamespace(type="cuda")

    def __init__(self, value):
        self.value = torch.tensor(value)


@pytest.fixture
def late(monkeypatch):
    event = SimpleNamespace(synchronize=lambda: None)

    def note(self, step, loss, norm, draws):
        self._noted = (step, draws, norm, loss.value, event)

    monkeypatch.setattr(FiniteGuard, "_note", note)


def test_a_step_noticed_late_is_explained_by_its_own_minibatch(late):
    guard = FiniteGuard(0, lambda step, draws, norm: NonFiniteLoss(step, {"draws": draws, "norm": norm}))
    assert guard.accept(1, Late(1.0), None, ["first"])
    assert guard.accept(2, Late(math.nan), 5, ["second"])
    with pytest.raises(NonFiniteLoss) as caught:
        guard.accept(3, Late(1.0), None, ["third"])
    assert caught.value.step == 2
    assert caught.value.statistics == {"draws": ["second"], "norm": 5}
    guard.settle()  # Said once.


@pytest.mark.parametrize("ask", ["save", "end"])
def test_saving_and_the_end_notice_the_last_step_and_explain_it(late, ask, tmp_path):
    trainer = trainer_of(pairs(2), 2)
    next(trainer)
    path = trainer.save(Checkpoints(tmp_path))
    next(trainer)
    draws = [trainer.loss.draw(*pairs(1, broken=[0])[0])]
    trainer._guard.accept(2, Late(math.nan), None, draws)
    with pytest.raises(NonFiniteLoss, match="x1 with 1 numbers not finite") as caught:
        trainer.save(Checkpoints(tmp_path)) if ask == "save" else next(trainer)
    assert (caught.value.step, caught.value.checkpoint) == (2, path)
    assert len(Checkpoints(tmp_path).paths()) == 1


def test_a_guard_with_a_limit_does_not_wait_until_later(late):
    guard = FiniteGuard(1, lambda step, draws, norm: NonFiniteLoss(step))
    assert not guard.accept(1, torch.tensor(math.nan), None, [])
    assert guard.skipped == 1
