import numpy as np
import pytest
import torch

from interpolants.plotting import chain_figure, loss_curve


def lines(drawing):
    return [line.get_ydata() for line in drawing.axes[0].lines]


@pytest.mark.parametrize("window", [2, 5, 100])
def test_the_curve_is_the_mean_of_the_neighbours_and_at_the_start_of_as_many_before_as_after(window):
    losses = torch.randn(30, generator=torch.Generator().manual_seed(0)).tolist()
    raw, smooth = lines(loss_curve(range(30), losses, smoothing=window))
    assert np.array_equal(raw, losses)
    for k in range(30):
        before, after = min(k, window // 2), min(k, window - window // 2 - 1)
        neighbours = [losses[j] for j in range(k - before, k + after + 1) if j < 30]
        assert smooth[k] == pytest.approx(np.mean(neighbours), abs=1e-12)


def test_a_mean_of_one_is_the_losses_themselves_and_needs_no_legend():
    drawing = loss_curve(range(30), range(30))
    (line,) = lines(drawing)
    assert np.array_equal(line, range(30))
    assert drawing.axes[0].get_legend() is None


def test_losses_that_are_not_finite_leave_a_gap_and_no_trace_in_the_mean():
    losses = torch.tensor([1.0, float("nan"), 3.0, float("inf"), 5.0])
    raw, smooth = lines(loss_curve(torch.arange(5), losses, smoothing=3))
    assert np.array_equal(np.isfinite(raw), [True, False, True, False, True])
    assert np.allclose(smooth, [1, 2, 3, 4, 5])


def test_steps_may_be_on_a_logarithmic_axis():
    for log_steps, scale in ((False, "linear"), (True, "log")):
        drawing = loss_curve(range(1, 200), range(1, 200), log_steps=log_steps)
        axes = drawing.axes[0]
        assert (axes.get_xscale(), axes.get_yscale()) == (scale, "linear")
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["single steps", "mean of 3"]


def test_losses_that_make_no_curve_are_refused():
    with pytest.raises(ValueError, match="at least one, not 3 and 2"):
        loss_curve([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least one, not 0 and 0"):
        loss_curve([], [])
    with pytest.raises(ValueError, match="smoothing must be at least 1, not 0"):
        loss_curve([1], [1], smoothing=0)


def test_each_chain_has_a_panel_with_one_line_for_each_repetition():
    chains = [torch.rand(steps + 1, 2, 5, 2) for steps in (3, 8)]
    ends = torch.rand(2, 2)
    drawing = chain_figure(chains, ends, ["3 steps", "8 steps"], bounds=(1.0, 0.5))
    assert [axes.get_xlabel() for axes in drawing.axes] == ["3 steps", "8 steps"]
    for axes, chain in zip(drawing.axes, chains, strict=True):
        assert axes.get_ylim() == (-0.5, 0.5)
        assert len(axes.lines) == 10
        for k, line in enumerate(axes.lines):
            assert np.allclose(line.get_xydata(), chain[:, k // 5, k % 5])
        colours = [line.get_color() for line in axes.lines]
        assert len(set(colours[:5])) == len(set(colours[5:])) == 1
        assert colours[0] != colours[5]
        assert np.allclose(axes.collections[0].get_offsets(), chain[-1, 0])
        assert np.allclose(axes.collections[-1].get_offsets(), ends)
    without = chain_figure(chains, None, ["", ""], bounds=(1.0, 0.5))
    assert len(without.axes[0].collections) == len(drawing.axes[0].collections) - 1


@pytest.mark.parametrize(
    ("chains", "ends", "labels", "message"),
    [
        ([], None, [], "a label for each chain"),
        ([torch.zeros(3, 2, 5, 2)], None, ["a", "b"], "a label for each chain, not 2 for 1"),
        ([torch.zeros(3, 2, 2)], None, ["a"], "chains must have shape"),
        ([torch.zeros(3, 2, 5, 3)], None, ["a"], "chains must have shape"),
        ([torch.zeros(3, 2, 5, 2), torch.zeros(3, 1, 5, 2)], None, ["a", "b"], "the same starts"),
        ([torch.zeros(3, 2, 5, 2)], torch.zeros(3, 2), ["a"], r"ends must have shape \(2, 2\)"),
    ],
)
def test_chains_that_do_not_fit_are_refused(chains, ends, labels, message):
    with pytest.raises(ValueError, match=message):
        chain_figure(chains, ends, labels, bounds=(1.0, 1.0))
