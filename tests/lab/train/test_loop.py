"""The loop by itself, on two linear layers: what a step does, what may differ between two starts, and what is not saved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lab.train.loop import Schedule, TrainingLoop, TrainingStateError
from lab.train.state import NEWEST, OLDER

SCHEDULE = Schedule(12, learning_rate=0.1, warmup=2, accumulate=2, ema_decay=0.9, save_every=4, log_every=3)


def modules():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {"one": nn.Sequential(nn.Linear(3, 5)), "other": nn.Linear(5, 1)}


@pytest.fixture
def start(tmp_path):
    """A run in a folder of its own."""

    def start(name="run", schedule=SCHEDULE, accelerator=None, identity=None, **changes):
        accelerator = accelerator or Accelerator(cpu=True)
        return TrainingLoop(tmp_path / name, modules(), replace(schedule, **changes), identity or {}, accelerator)

    return start


def loss_of(loop):
    """A new batch in every step."""

    def loss_of_step(index, generator):
        hidden = torch.tanh(loop.modules["one"](torch.randn(4, 3, generator=generator)))
        return (loop.modules["other"](hidden) - 1).square().mean(), {"twice": 2.0 * index, "size": hidden.abs().mean()}

    return loss_of_step


def trained(loop, stop_at=None):
    loop.run(loss_of(loop), stop_at=stop_at)
    return loop


def lines(loop):
    return [json.loads(line) for line in (loop.folder / "losses.jsonl").read_text().splitlines()]


def everything(loop):
    """All that must be the same bits."""
    average = loop.average.shadow_params if loop.average else []
    moments = [value for state in loop.optimizer.state.values() for value in state.values()]
    return [*loop.parameters, *average, *moments]


def assert_same_bits(one, other):
    assert [line["loss"] for line in lines(one)] == [line["loss"] for line in lines(other)]
    for left, right in zip(everything(one), everything(other), strict=True):
        assert torch.equal(left, right)


class Spoiled(torch.autograd.Function):
    """The value as it is, and a gradient that is none."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def spoiled_at(loop, step):
    plain = loss_of(loop)

    def loss_of_step(index, generator):
        loss, logs = plain(index, generator)
        return (Spoiled.apply(loss) if index // loop.schedule.accumulate + 1 == step else loss), logs

    return loss_of_step


def test_parts_of_a_run_are_the_whole_to_the_bit(start):
    whole = trained(start("whole"))
    for stop in (1, 3, 8, None):
        parts = trained(start("parts"), stop)
    assert whole.step == parts.step == 12
    assert_same_bits(whole, parts)


def test_every_step_has_a_line_with_the_means_of_its_parts(start):
    found = lines(trained(start()))
    assert [line["step"] for line in found] == list(range(1, 13))
    assert [line["twice"] for line in found] == [4.0 * n + 1 for n in range(12)]
    assert all(line["gradient"] > 0 and 0 < line["size"] < 1 for line in found)


def test_processes_share_gradients_with_the_last_part_of_a_step_alone(start):
    loop, seen = start(accumulate=3, save_every=100), []

    def loss_of_step(index, generator):
        seen.append(loop.accelerator.sync_gradients)
        return loss_of(loop)(index, generator)

    loop.run(loss_of_step, stop_at=2)
    assert seen == [False, False, True] * 2


def test_every_step_has_the_rate_of_the_schedule(start):
    used = []
    for stop in (5, None):
        loop = start(decay_from=0.5, final_rate=0.1)

        def loss_of_step(index, generator, loop=loop):
            used.append(loop.optimizer.param_groups[0]["lr"])
            return loss_of(loop)(index, generator)

        loop.run(loss_of_step, stop_at=stop)
    schedule = loop.schedule
    assert used[::2] == used[1::2] == [schedule.rate(step) for step in range(12)]
    assert schedule.rate(0) == 0.05
    assert schedule.rate(6) == 0.1
    assert schedule.rate(11) == pytest.approx(0.1 * (1 - 0.9 * 5 / 6))


class Readings(TorchDispatchMode):
    """Counts numbers that are read out of tensors, each of which would wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_reads_nothing_back(start):
    loop = start(save_every=100, log_every=4)
    trained(loop, stop_at=1)
    with Readings() as readings:
        for step in range(2, 4):
            loop.losses.add(step, 0.0, loop.one_step(loss_of(loop)))
        assert readings.count == 0
        assert set(loop.losses.read()) == {"loss", "gradient", "twice", "size"}


def test_the_average_follows_the_weights(start):
    loop = start(accumulate=1)
    expected = [torch.zeros_like(parameter) for parameter in loop.parameters]
    for step in range(1, 5):
        trained(loop, stop_at=step)
        decay = 0.0 if step == 1 else min(0.9, step / (9 + step))
        expected = [decay * mean + (1 - decay) * p.detach() for mean, p in zip(expected, loop.parameters, strict=True)]
    live = [parameter.detach().clone() for parameter in loop.parameters]
    with loop.averaged():
        for mean, parameter in zip(expected, loop.parameters, strict=True):
            torch.testing.assert_close(parameter, mean)
    assert all(torch.equal(one, other) for one, other in zip(live, loop.parameters, strict=True))


def test_a_nan_gradient_is_not_saved_though_the_loss_is_finite(start):
    loop = start()
    with pytest.raises(
        TrainingStateError, match=r"the loss is 0\.\d+ and the gradient's norm nan at step 10: nothing of it"
    ):
        loop.run(spoiled_at(loop, 10))
    assert torch.load(loop.folder / NEWEST, weights_only=True)["step"] == 8
    assert torch.load(loop.folder / OLDER, weights_only=True)["step"] == 4
    assert [line["step"] for line in lines(loop)] == list(range(1, 10))
    assert_same_bits(trained(start()), trained(start("never")))


@pytest.mark.parametrize("way", ["save", "averaged"])
def test_nothing_leaves_the_loop_before_it_was_checked(start, way):
    loop = start(log_every=100, save_every=100)
    loop.losses.add(1, 0.0, loop.one_step(spoiled_at(loop, 1)))
    with pytest.raises(TrainingStateError, match="gradient's norm nan at step 1"):
        loop.save() if way == "save" else loop.averaged().__enter__()
    assert not (loop.folder / NEWEST).exists()


def test_a_loss_that_is_infinite_stops_the_run(start):
    loop = start()
    with pytest.raises(TrainingStateError, match="the loss is inf and the gradient's norm nan at step 1"):
        loop.run(lambda index, generator: (loss_of(loop)(index, generator)[0] * float("inf"), {}))


@pytest.mark.parametrize("changes", [{"save_every": 3}, {"log_every": 1}, {"steps": 20}, {"steps": 9}])
def test_what_changes_nothing_that_is_done_may_change(start, changes):
    trained(start("run"), 8)
    assert_same_bits(trained(start("run", **changes)), trained(start("whole", **changes)))


def test_a_falling_rate_may_be_stretched_until_it_falls(start):
    falling = replace(SCHEDULE, decay_from=0.5)  # from step 6 of 12, from 10 of 20
    trained(start("run", falling), 7)
    longer = trained(start("run", falling, steps=20))
    assert_same_bits(longer, trained(start("whole", falling, steps=20)))
    trained(start("late", falling), 8)
    with pytest.raises(
        TrainingStateError, match=r"8 steps of which are done: steps is 12 there and 20 here. Give the same"
    ):
        start("late", falling, steps=20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.2}, "learning_rate is 0.1 there and 0.2 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"accumulate": 1, "save_every": 5}, "accumulate is 2 there and 1 here. Give"),
        ({"ema_decay": 0.0}, "ema_decay is 0.9 there and 0.0 here"),
        ({"steps": 7}, "8 steps of which are done: steps is 12 there and 7 here"),
        ({"identity": {"data": "new"}}, "data is None there and 'new' here"),
    ],
)
def test_what_changes_what_is_done_is_refused_with_both_values(start, changes, message):
    trained(start(), 8)
    with pytest.raises(TrainingStateError, match=message):
        start(**changes)


def test_trained_weights_are_float32(tmp_path):
    with pytest.raises(ValueError, match=r"one has weights to train in torch.bfloat16, expected torch.float32"):
        TrainingLoop(tmp_path, {"one": nn.Linear(2, 2).bfloat16()}, SCHEDULE, {}, Accelerator(cpu=True))


@pytest.fixture
def bfloat16():
    """accelerate has one precision in a process: it is told anew, before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_weights_stay_float32_where_it_computes_in_bfloat16(start, bfloat16):
    loop = start(accelerator=bfloat16)
    seen = []
    loop.unwrapped("one")[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    trained(loop, 2)
    assert set(seen) == {torch.bfloat16}
    assert {tensor.dtype for tensor in everything(loop)} == {torch.float32}


@pytest.fixture
def half(monkeypatch):
    """accelerate scales losses for half precision on GPUs only: its scaler, on the CPU."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
    monkeypatch.setattr(type(accelerator), "mixed_precision", "fp16")
    accelerator.native_amp = True
    monkeypatch.setattr(accelerator, "prepare_model", lambda module: module)
    return accelerator


def overflowing_at(loop, step):
    """Half precision's range ends at 65504: a scaled gradient is infinite there."""
    plain = loss_of(loop)

    def loss_of_step(index, generator):
        loss, logs = plain(index, generator)
        if index // 2 + 1 == step:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss, logs

    return loss_of_step


def test_an_overflow_of_half_precision_is_left_out_and_the_scale_is_kept(start, half):
    loop = start(accelerator=half)
    trained(loop, 4)
    before = [parameter.detach().clone() for parameter in loop.parameters]
    loop.run(overflowing_at(loop, 5), stop_at=5)
    assert all(torch.equal(one, other) for one, other in zip(before, loop.parameters, strict=True))
    assert half.scaler.get_scale() == 2.0**20  # doubled after the third step, halved by the fifth
    half.scaler.update(7.0)
    assert start(accelerator=half).step == 5
    assert half.scaler.get_scale() == 2.0**20


def test_half_precision_that_no_scale_helps_is_refused(start, half):
    half.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    loop = start(accelerator=half)
    with pytest.raises(TrainingStateError, match="gradient's norm nan at step 1"):
        loop.run(overflowing_at(loop, 1))


class Told(GeneralTracker):
    """A tracker that remembers."""

    name = "told"
    requires_logging_directory = False
    tracker = None

    def __init__(self):
        super().__init__()
        self.seen = []

    def store_init_configuration(self, values):
        pass

    def log(self, values, step, **_):
        self.seen.append((step, values["loss"]))


def test_a_tracker_is_told_of_every_step(start):
    told = Told()
    accelerator = Accelerator(cpu=True, log_with=told)
    accelerator.init_trackers("run")
    loop = trained(start(accelerator=accelerator))
    assert told.seen == [(line["step"], line["loss"]) for line in lines(loop)]
