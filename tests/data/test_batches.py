import gc
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from itertools import islice

import pytest
import torch
from PIL import Image
from scipy.stats import chi2, kstest

from interpolants.data import Digits, Glyphs, ImageBatches, ImageFolder, ImageSet, TensorImages
from interpolants.data.ahead import Ahead, _close


def numbered(n=10):
    """Images of 1 x 2 pixels whose left one tells their number and whose label does too."""
    values = torch.stack([torch.arange(n), torch.full((n,), 255)], dim=1).to(torch.uint8)
    return TensorImages(values.reshape(n, 1, 1, 2), torch.arange(n))


def numbers(x):
    """The numbers of images, from their pixels."""
    return ((x[:, 0, 0, 0] + 1) * 127.5).round().long()


def spikes(shape, generator):
    return torch.rand(shape, generator=generator, dtype=torch.float64).pow(9)


class Unlabelled(ImageSet):
    """As many images as an unlimited set, each of the lower bits of its number."""

    shape = (1, 1, 2)

    def __len__(self):
        return 2**60

    def batch(self, index):
        return ((index % 200).float() / 127.5 - 1).reshape(-1, 1, 1, 1).expand(-1, 1, 1, 2), None


class Loud(ImageSet):
    """Warns of some images, lacks those from 100 on, and says who made an image and with how many threads."""

    shape = (1, 2, 2)
    classes = 2

    def __len__(self):
        return 2**60

    def batch(self, index):
        for number in index.tolist():
            if number % 20 == 0:
                warnings.warn(f"image {number % 40} is odd", UserWarning, stacklevel=2)
            if number >= 100:
                raise ValueError(f"image {number} is not there")
        return torch.zeros(len(index), 1, 2, 2), torch.tensor([os.getpid(), torch.get_num_threads()])


SOURCES = {
    "normal": "normal",
    "uniform": "uniform",
    "function": spikes,
    "set": numbered(7),
    "endless": Unlabelled(),
}


def taken(batches, n):
    return list(islice(batches, n))


def assert_same(first, second):
    assert len(first) == len(second)
    for (a0, a1, a), (b0, b1, b) in zip(first, second, strict=True):
        assert torch.equal(a0, b0)
        assert torch.equal(a1, b1)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


# ---- what a minibatch is


@pytest.mark.parametrize("source", SOURCES)
def test_a_minibatch_has_images_sources_and_labels(source):
    for x0, x1, conditions in taken(ImageBatches(numbered(), 4, source=SOURCES[source]), 5):
        assert x0.shape == x1.shape == (4, 1, 1, 2)
        assert x0.dtype == x1.dtype == torch.float32
        assert conditions.keys() == {"label"}
        assert conditions["label"].dtype == torch.int64
        assert torch.equal(conditions["label"], numbers(x1))


def test_conditions_are_empty_without_labels():
    assert taken(ImageBatches(numbered(), 4, labels=False), 1)[0][2] == {}
    assert taken(ImageBatches(Unlabelled(), 4), 1)[0][2] == {}


@pytest.mark.parametrize("batch_size", [3, 4, 10, 23])
def test_every_image_comes_once_in_every_epoch(batch_size):
    seen = torch.cat([x1 for _, x1, _ in taken(ImageBatches(numbered(), batch_size), 40)])
    epochs = numbers(seen)[: len(seen) // 10 * 10].reshape(-1, 10)
    assert (epochs.sort(1).values == torch.arange(10)).all()
    # Equal ones among 10! = 3.6 million orders are unlikely; so is the order of the set.
    assert len(torch.unique(epochs, dim=0)) == len(epochs)
    assert not (epochs == torch.arange(10)).all(1).any()


def test_every_place_of_an_epoch_is_equally_likely():
    counts = torch.zeros(10, 10)
    for seed in range(1000):
        _, x1, _ = taken(ImageBatches(numbered(), 10, seed=seed), 1)[0]
        counts[torch.arange(10), numbers(x1)] += 1
    # (10 - 1)**2 degrees of freedom, since rows and columns sum to 1000. False alarm once in ten million.
    assert ((counts - 100) ** 2 / 100).sum() * 9 / 10 < chi2.isf(1e-7, 81)


def test_unlimited_sets_are_taken_in_order():
    seen = torch.cat([x1 for _, x1, _ in taken(ImageBatches(Unlabelled(), 6), 5)])
    assert numbers(seen).tolist() == list(range(30))


def test_noise_is_normal_and_never_the_same():
    x0 = torch.cat([x0 for x0, _, _ in taken(ImageBatches(numbered(), 500), 40)]).flatten()
    assert kstest(x0, "norm").pvalue > 1e-7
    assert len(x0.unique()) > 0.99 * len(x0)


def test_uniform_noise_has_unit_variance_and_its_range():
    x0 = torch.cat([x0 for x0, _, _ in taken(ImageBatches(numbered(), 500, source="uniform"), 40)]).flatten()
    reach = math.sqrt(3)
    assert kstest(x0, "uniform", args=(-reach, 2 * reach)).pvalue > 1e-7
    # The variance of a square of variance 4/5: five and a half standard errors.
    assert abs(x0.square().mean() - 1) < 5.5 * math.sqrt(0.8 / len(x0))


def test_sources_from_a_set_are_shuffled_on_their_own():
    images = numbered()
    pairs = taken(ImageBatches(images, 10, source=images), 30)
    assert all(numbers(x0).sort().values.tolist() == list(range(10)) for x0, _, _ in pairs)
    same = torch.cat([numbers(x0) == numbers(x1) for x0, x1, _ in pairs]).float().mean()
    # Fixed points of 30 random permutations: Poisson of mean 30; 72 or more have chance 1e-10.
    assert same < 72 / 300
    assert torch.equal(pairs[0][2]["label"], numbers(pairs[0][1]))


def test_a_function_draws_from_the_shape_and_the_generator_it_is_given():
    shapes = []

    def draw(shape, generator):
        shapes.append(shape)
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    pairs = taken(ImageBatches(numbered(), 4, source=draw), 3)
    assert shapes == [(4, 1, 1, 2)] * 3
    assert not torch.equal(pairs[0][0], pairs[1][0])
    assert pairs[0][0].dtype == torch.float32


def test_images_are_mirrored_half_the_time():
    images, mirrored = numbered(200), 0
    for _, x1, conditions in taken(ImageBatches(images, 200, flip=True), 200):
        wanted, _ = images.batch(conditions["label"])
        turned = x1[:, 0, 0, 0] == 1
        assert torch.equal(x1[turned].flip(-1), wanted[turned])
        assert torch.equal(x1[~turned], wanted[~turned])
        mirrored += int(turned.sum())
    # Binomial, 40 000 trials of 1/2: six standard deviations are 600.
    assert abs(mirrored - 20_000) < 600
    # Image 255 would be white on both sides; there is none.
    plain = taken(ImageBatches(images, 100), 1)[0][1]
    assert (plain[:, 0, 0, 1] == 1).all()


def test_sources_from_a_set_are_mirrored_on_their_own():
    sides = [
        (x0[:, 0, 0, 0] == 1, x1[:, 0, 0, 0] == 1)
        for x0, x1, _ in taken(ImageBatches(numbered(200), 100, source=numbered(150), flip=True), 20)
    ]
    both = torch.cat([a == b for a, b in sides]).float().mean()
    assert abs(both - 1 / 2) < 6 * math.sqrt(1 / 4 / 2000)
    assert abs(torch.cat([a for a, _ in sides]).float().mean() - 1 / 2) < 6 * math.sqrt(1 / 4 / 2000)
    noise = taken(ImageBatches(numbered(), 4, flip=True), 1)[0][0]
    assert torch.equal(noise, taken(ImageBatches(numbered(), 4), 1)[0][0])


# ---- the same for all


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_processes_share_the_minibatches_of_one(source, flip):
    options = {"source": SOURCES[source], "seed": 5, "flip": flip}
    whole = taken(ImageBatches(numbered(), 12, **options), 8)
    for processes in (2, 3):
        parts = [
            taken(ImageBatches(numbered(), 12, **options, process=k, processes=processes), 8)
            for k in range(processes)
        ]
        joined = [
            (
                torch.cat([x0 for x0, _, _ in step]),
                torch.cat([x1 for _, x1, _ in step]),
                {"label": torch.cat([conditions["label"] for _, _, conditions in step])},
            )
            for step in zip(*parts, strict=True)
        ]
        assert_same(joined, whole)


def test_a_process_loads_its_own_images_only():
    asked = []

    class Asked(Unlabelled):
        def batch(self, index):
            asked.append(index.tolist())
            return super().batch(index)

    taken(ImageBatches(Asked(), 12, process=1, processes=3), 2)
    assert asked == [[4, 5, 6, 7], [16, 17, 18, 19]]


def test_the_seed_makes_the_series():
    first, again, other = (taken(ImageBatches(numbered(), 4, seed=seed), 6) for seed in (1, 1, 2))
    assert_same(first, again)
    for (a0, _, _), (b0, _, _) in zip(first, other, strict=True):
        assert not torch.equal(a0, b0)
    assert not torch.equal(
        numbers(torch.cat([x for _, x, _ in first])), numbers(torch.cat([x for _, x, _ in other]))
    )


def test_steps_of_one_seed_are_not_steps_of_the_next():
    series = [taken(ImageBatches(numbered(), 4, seed=seed), 10) for seed in range(5)]
    noise = torch.stack([x0.flatten() for steps in series for x0, _, _ in steps])
    assert len(torch.unique(noise, dim=0)) == 50


@pytest.mark.parametrize("source", SOURCES)
def test_stopping_anywhere_and_continuing_gives_the_same_minibatches(source):
    options = {"source": SOURCES[source], "seed": 3, "flip": True}
    whole = taken(ImageBatches(numbered(), 4, **options), 9)
    for stop in range(9):
        first = ImageBatches(numbered(), 4, **options)
        head = taken(first, stop)
        assert first.state_dict() == {"step": stop}
        second = ImageBatches(numbered(), 4, **options)
        second.load_state_dict(first.state_dict())
        assert_same(head + taken(second, 9 - stop), whole)


def test_iterating_again_continues():
    whole = taken(ImageBatches(numbered(), 4), 7)
    batches = ImageBatches(numbered(), 4)
    assert_same(taken(batches, 2) + taken(batches, 2) + [next(iter(batches)) for _ in range(3)], whole)
    assert batches.state_dict() == {"step": 7}


def test_a_running_iterator_follows_the_state():
    whole = taken(ImageBatches(numbered(), 4), 7)
    batches = ImageBatches(numbered(), 4)
    iterator = iter(batches)
    taken(iterator, 5)
    batches.load_state_dict({"step": 1})
    assert_same(taken(iterator, 6), whole[1:])
    other = iter(batches)  # Shares the step.
    batches.load_state_dict({"step": 0})
    assert_same([next(iterator), next(other), next(iterator)], whole[:3])


def test_far_steps_are_as_quick_as_the_first():
    batches = ImageBatches(numbered(), 4)
    batches.load_state_dict({"step": 10**15})
    start = time.perf_counter()
    taken(batches, 1)
    assert time.perf_counter() - start < 1


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    taken(ImageBatches(numbered(), 4, flip=True), 3)
    assert torch.equal(torch.get_rng_state(), before)


# ---- workers


def children():
    """The processes that this one has started and that run."""
    found = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-ww", "-o", "pid=,args="], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line]


@pytest.mark.slow
def test_workers_give_the_same_minibatches_and_leave_nothing_behind():
    options = {"source": numbered(7), "seed": 3, "flip": True}
    whole = taken(ImageBatches(numbered(), 4, **options), 9)
    batches = ImageBatches(numbered(), 4, **options, workers=2)
    state = torch.get_rng_state()
    assert children() == []
    iterator = iter(batches)
    head = taken(iterator, 5)
    assert len(children()) == 2
    # More are made ahead, but not counted.
    assert batches.state_dict() == {"step": 5}
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(head, whole[:5])
    batches.load_state_dict({"step": 3})
    assert children() == []
    assert_same(taken(iterator, 6), whole[3:])
    assert batches.state_dict() == {"step": 9}
    del iterator
    gc.collect()
    assert children() == []


@pytest.mark.slow
def test_workers_have_one_thread_and_their_warnings_and_errors_are_heard_here(tmp_path):
    for k in range(4):
        Image.new("L", (4, 2), 40 * k).save(tmp_path / f"{k}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    source = ImageFolder(tmp_path, size=2, channels=1)
    batches = iter(ImageBatches(Loud(), 4, source=source, workers=1))
    with pytest.warns(UserWarning, match=r"image 0 is odd|2\.png cannot be read") as warned:
        _, _, conditions = next(batches)
    worker, threads = conditions["label"].tolist()
    assert worker in children()
    assert threads == 1
    messages = [str(warning.message) for warning in warned]
    assert len(messages) == 2
    assert "2.png cannot be read" in messages[0] + messages[1]
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match="image 20 is odd") as later:
        taken(batches, 5)
    assert len(later) == 1
    # What was heard once would now be an error, and this is the first one.
    assert len(taken(batches, 19)) == 19
    with pytest.raises(ValueError, match="image 100 is not there"):
        next(batches)
    assert children() == []


def kill_and_take(pid, batches):
    os.kill(pid, signal.SIGKILL)
    taken(batches, 1000)  # What was made ahead may still be handed out.


def test_a_connection_that_breaks_with_its_worker_is_a_dead_worker():
    class Dead:
        pid, exitcode = 7, -9

        def join(self, timeout):
            pass

    class Broken:
        def __init__(self, workers):
            self._workers = workers

        def __next__(self):
            raise ConnectionResetError("by peer")

    ahead = object.__new__(Ahead)
    ahead._iterator = Broken([Dead()])
    with pytest.raises(RuntimeError, match="worker that loads minibatches has died: pid 7, exit code -9"):
        ahead.next()
    ahead._iterator = Broken([])
    with pytest.raises(ConnectionResetError, match="by peer"):
        ahead.next()


def test_a_worker_that_fails_while_it_is_stopped_is_no_error():
    ended = []

    class Worker:
        def kill(self):
            ended.append("kill")

        def join(self):
            ended.append("join")

    class Stopping:
        def __init__(self):
            self._workers = [Worker()]

        def _shutdown_workers(self):
            raise RuntimeError("DataLoader worker is killed by signal: Aborted.")

    _close(Stopping())
    assert ended == ["kill", "join"]


@pytest.mark.slow
def test_signals_to_the_whole_group_stop_no_worker():
    plan = ImageBatches(numbered(), 4)._plan
    ahead = Ahead(plan, 0, 1, pin=False)

    def interrupted():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(children()[0], number)

    interrupted()  # While it starts
    expected = ImageBatches(numbered(), 4)
    assert torch.equal(ahead.next().x1, next(iter(expected))[1])
    interrupted()
    time.sleep(0.2)
    for _, x1, _ in islice(expected, 20):
        assert torch.equal(ahead.next().x1, x1)
    # This process still hears them.
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    ahead.close()
    assert children() == []


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_and_not_a_hang():
    source = ImageBatches(Unlabelled(), 4, workers=2)
    batches = iter(source)
    first = taken(batches, 2)
    killed = children()[0]
    start = time.perf_counter()
    # Torch's own words, or ours where a connection breaks first; its signal may come at any moment.
    with pytest.raises(RuntimeError, match=rf"(?s)worker.*pid {killed}.*(is killed|exited|exit code -9)"):
        kill_and_take(killed, batches)
    assert time.perf_counter() - start < 15
    batches.close()
    assert children() == []
    step = source.state_dict()["step"]
    assert 2 <= step < 1000
    # Nothing is lost: the series goes on where it was.
    again = ImageBatches(Unlabelled(), 4)
    again.load_state_dict({"step": 0})
    assert_same(taken(again, 2), first)


def test_a_broken_picture_is_reported_once_for_all_epochs(tmp_path):
    for k in range(4):
        Image.new("RGB", (4, 2), (40 * k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"2\.png cannot be read") as warned:
        taken(ImageBatches(ImageFolder(tmp_path, size=2), 4), 5)
    assert len(warned) == 1


@pytest.mark.slow
def test_a_script_that_stops_in_the_middle_leaves_no_process(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "from interpolants.data import ImageBatches, TensorImages\n"
        "if __name__ == '__main__':\n"
        "    batches = iter(ImageBatches(TensorImages(torch.zeros(3, 1, 1, 1)), 2, workers=1))\n"
        "    print(len(next(batches)))\n"
        "    import subprocess, os\n"
        "    print(subprocess.run(['ps', '--ppid', str(os.getpid()), '-o', 'pid='], capture_output=True,"
        " text=True).stdout)\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    length, *pids = ran.stdout.split()
    assert length == "3"
    assert "Traceback" not in ran.stderr
    deadline = time.monotonic() + 10
    while any(running(int(pid)) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(running(int(pid)) for pid in pids)


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---- speed and memory


def test_sets_in_memory_cost_well_under_a_millisecond():
    batches = iter(ImageBatches(Digits(), 128))
    next(batches)
    fastest = min(seconds(batches) for _ in range(20))
    assert fastest < 5e-4  # Some 80 microseconds on a core that is free


def seconds(batches):
    start = time.perf_counter()
    next(batches)
    return time.perf_counter() - start


def test_memory_stays_flat():
    batches = iter(ImageBatches(Digits(), 32, flip=True))
    taken(batches, 100)
    tracemalloc.start()
    try:
        for _ in islice(batches, 200):
            pass
        before, _ = tracemalloc.get_traced_memory()
        for _ in islice(batches, 3000):  # 53 epochs
            pass
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_tensors_are_given_back():
    batches = iter(ImageBatches(TensorImages(torch.zeros(4, 3, 64, 64)), 64))
    taken(batches, 10)
    before = resident()
    for _ in islice(batches, 100):
        pass
    # Each minibatch has 6 MB: keeping them would take 630 MB.
    assert resident() - before < 100e6


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- devices


def test_minibatches_go_where_they_are_wanted():
    x0, x1, conditions = next(iter(ImageBatches(numbered(), 4, device="meta")))
    assert x0.device.type == x1.device.type == conditions["label"].device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 1])
def test_minibatches_on_a_gpu_are_those_of_the_cpu(workers):
    options = {"source": numbered(7), "flip": True}
    batches = iter(ImageBatches(numbered(), 4, **options, workers=workers, device="cuda"))
    found = taken(batches, 20)
    assert all(x.device.type == "cuda" for x0, x1, c in found for x in (x0, x1, c["label"]))
    there = [(x0.cpu(), x1.cpu(), {"label": c["label"].cpu()}) for x0, x1, c in found]
    assert_same(there, taken(ImageBatches(numbered(), 4, **options), 20))
    stored = TensorImages(numbered().images.cuda(), numbered().labels)
    _, x1, conditions = next(iter(ImageBatches(stored, 4, **options, device="cuda")))
    assert torch.equal(x1.cpu(), there[0][1])
    assert torch.equal(conditions["label"].cpu(), there[0][2]["label"])


# ---- what is refused


class Empty(ImageSet):
    shape = (1, 1, 2)

    def __len__(self):
        return 0

    def batch(self, index):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.zeros(3, 1, 2, 2)}, TypeError, "images must be an ImageSet"),
        ({"images": Digits}, TypeError, "images must be an ImageSet.*; got the class Digits"),
        ({"images": Empty()}, ValueError, "images must hold at least one image"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1; got 0"),
        ({"batch_size": 4.0}, TypeError, "batch_size must be a whole number; got float"),
        ({"batch_size": True}, TypeError, "batch_size must be a whole number; got bool"),
        ({"batch_size": 5, "processes": 2}, ValueError, "multiple of processes; got 5 for 2 processes"),
        ({"process": 1}, ValueError, "process must be one of 0 to 0; got 1"),
        ({"process": -1}, ValueError, "process must be at least 0"),
        ({"processes": 0}, ValueError, "processes must be at least 1"),
        ({"workers": -1}, ValueError, "workers must be at least 0"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number"),
        ({"source": "gauss"}, ValueError, "source must be .*; got 'gauss'"),
        ({"source": 3}, TypeError, "source must be .*; got int"),
        ({"source": Digits}, TypeError, "source must be .*; got the class Digits"),
        ({"source": Empty()}, ValueError, "source must hold at least one image"),
        ({"source": Digits()}, ValueError, r"source must have images of shape \(1, 1, 2\); got \(1, 8, 8\)"),
        ({"images": Glyphs(1), "source": Glyphs(1)}, ValueError, "which gives x0 = x1: change its seed"),
        ({"workers": 1, "source": lambda *_: None}, TypeError, "source must be picklable"),
        ({"device": "nowhere"}, RuntimeError, "nowhere"),
    ],
    ids=range(20),
)
def test_what_makes_no_minibatches_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ImageBatches(**{"images": numbered(), "batch_size": 4, **arguments})


def test_negative_seeds_are_seeds():
    assert taken(ImageBatches(numbered(), 4, seed=-1), 1)[0][0].shape == (4, 1, 1, 2)


@pytest.mark.parametrize(
    ("drawn", "error", "message"),
    [
        (
            torch.zeros(2, 1, 1, 2),
            ValueError,
            r"must return a tensor of shape \(4, 1, 1, 2\); got \(2, 1, 1, 2\)",
        ),
        (0.0, TypeError, "what source returns must be a Tensor"),
    ],
)
def test_a_function_that_draws_something_else_is_refused(drawn, error, message):
    with pytest.raises(error, match=message):
        next(iter(ImageBatches(numbered(), 4, source=lambda shape, generator: drawn)))


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 1, 1, 2), torch.zeros(4, 1, 2, 1), torch.zeros(4, 1, 1, 2, dtype=torch.uint8)]
)
def test_a_set_that_gives_other_images_than_it_says_is_refused(images):
    class Wrong(Unlabelled):
        def batch(self, index):
            return images, None

    for arguments in ({"images": Wrong()}, {"images": numbered(), "source": Wrong()}):
        with pytest.raises(ValueError, match=r"must give float32 images of shape \(4, 1, 1, 2\); got torch"):
            next(iter(ImageBatches(**arguments, batch_size=4)))


@pytest.mark.parametrize(
    ("state", "error"), [({}, ValueError), ({"step": -1}, ValueError), ({"step": 1.5}, TypeError)]
)
def test_a_state_that_is_none_is_refused(state, error):
    with pytest.raises(error, match="step"):
        ImageBatches(numbered(), 4).load_state_dict(state)
