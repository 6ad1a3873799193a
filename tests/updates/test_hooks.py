"""Every hook: when it is called, with which shapes, and that its answer counts."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import CallbackList
from toy_tasks import assert_same, dataset, differs, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.data import ReplaySamples
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import Batch

BATCH, ACT, STEPS = 8, 2, 9


class Everything(FineTuningCallback):
    """Overrides every hook, changes nothing, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def shapes(self, name: str) -> list[Any]:
        return [what for each, what in self.calls if each == name]

    def note(self, name: str, *tensors: Any) -> None:
        self.calls.append((name, tuple(tuple(each.shape) for each in tensors)))

    def act(self, observations: Any) -> np.ndarray | None:
        self.note("act", observations)
        return None

    def allow_update(self) -> bool:
        self.note("allow_update")
        return True

    def before_collecting(self) -> None:
        self.note("before_collecting")

    def before_finetuning(self) -> None:
        self.note("before_finetuning")

    def sample(self, batch_size: int) -> ReplaySamples | None:
        self.calls.append(("sample", batch_size))
        return None

    def prepare(self, batch: Batch) -> Batch:
        self.note("prepare", batch.rewards)
        return batch

    def next_actions(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        self.note("next_actions", actions, log_prob, batch.rewards)
        return actions

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor, batch: Batch) -> th.Tensor:
        self.note("next_values", values, actions, log_prob, batch.rewards)
        return values

    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        self.note("actor_values", values, actions, batch.rewards)
        return values

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor, batch: Batch) -> th.Tensor | float:
        self.note("actor_penalty", actions, log_prob, batch.rewards)
        return th.zeros_like(log_prob)

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.calls.append(("after_update", (len(batch), sorted(metrics))))

    def on_gradient_step(self) -> None:
        self.note("on_gradient_step")

    def on_phase_change(self, old: str | None, new: str) -> None:
        self.calls.append(("on_phase_change", (old, new)))


def test_when_and_with_what_hooks_are_called() -> None:
    seen = Everything()
    plain = make().learn(STEPS)
    watched = make().learn(STEPS, callback=seen)
    assert_same(state(plain), state(watched))
    updates = STEPS - 4
    flat = (BATCH,)
    assert seen.shapes("act") == [((1, 3),)] * STEPS
    assert len(seen.shapes("allow_update")) == updates
    assert len(seen.shapes("before_collecting")) == len(seen.shapes("before_finetuning")) == 1
    assert seen.shapes("sample") == [BATCH] * updates
    assert seen.shapes("prepare") == [(flat,)] * updates
    assert seen.shapes("next_actions") == [((BATCH, ACT), flat, flat)] * updates
    assert seen.shapes("next_values") == [(flat, (BATCH, ACT), flat, flat)] * updates
    assert seen.shapes("actor_values") == [(flat, (BATCH, ACT), flat)] * updates
    assert seen.shapes("actor_penalty") == [((BATCH, ACT), flat, flat)] * updates
    metrics = ["actor_loss", "critic_loss", "ent_coef", "ent_coef_loss"]
    assert seen.shapes("after_update") == [(BATCH, metrics)] * updates
    assert len(seen.shapes("on_gradient_step")) == updates
    assert seen.shapes("on_phase_change") == [(None, "finetuning")]
    order = [name for name, _ in seen.calls if name not in ("act", "allow_update")]
    assert order[:12] == [
        "before_collecting", "on_phase_change", "before_finetuning", "sample", "prepare", "next_actions",
        "next_values", "actor_values", "actor_penalty", "after_update", "on_gradient_step", "sample",
    ]  # fmt: skip


def test_several_actions_per_state() -> None:
    seen = Everything()
    kwargs = {"max_target_backup": True, "n_actions": 3}
    make(online_objective_kwargs=kwargs, n_critics=4, critic_subset=2).learn(6, callback=seen)
    assert seen.shapes("next_actions")[0] == ((BATCH, 3, ACT), (BATCH, 3), (BATCH,))
    assert seen.shapes("next_values")[0] == ((BATCH,), (BATCH, ACT), (BATCH,), (BATCH,))


def test_a_block_is_sampled_at_once() -> None:
    seen = Everything()
    make(gradient_steps=4, policy_delay=4, actor_batch="block").learn(6, callback=seen)
    assert seen.shapes("sample") == [4 * BATCH] * 2
    assert seen.shapes("next_values")[0][0] == (BATCH,)
    assert seen.shapes("actor_values") == [((4 * BATCH,), (4 * BATCH, ACT), (4 * BATCH,))] * 2
    assert [size for size, _ in seen.shapes("after_update")] == [BATCH] * 8


def test_dictionaries_and_several_environments() -> None:
    class Look(FineTuningCallback):
        def act(self, observations: Any) -> None:
            shapes.append({key: value.shape for key, value in observations.items()})

        def sample(self, batch_size: int) -> None:
            shapes.append(batch_size)

    shapes: list[Any] = []
    make(env=vec(2, dictionary=True), dictionary=True).learn(6, callback=Look())
    assert {"goal": (2, 1), "place": (2, 3)} in shapes
    assert BATCH in shapes


# -- answers count -------------------------------------------------------------------------------------------------


class Answer(FineTuningCallback):
    """A callback with one hook, given as a function."""

    def __init__(self, **hooks: Any):
        super().__init__()
        for name, function in hooks.items():
            setattr(self, name, function)


def changes(part: str, **hooks: Any) -> bool:
    """Whether a hook changes a part of the networks after one update."""
    plain, changed = (make(learning_starts=8).learn(9, callback=Answer(**each)) for each in ({}, hooks))
    return differs(state(plain), state(changed), part)


def test_next_actions_reach_the_target() -> None:
    assert changes("policy/critic.", next_actions=lambda actions, log_prob, batch: -actions)


def test_next_values_reach_the_target() -> None:
    model = make(learning_starts=8, ent_coef=0.1)
    targets: list[th.Tensor] = []
    original = model.finetuning_objective.td_target  # type: ignore[operator]
    model.finetuning_objective.td_target = lambda *args: targets.append(original(*args)) or targets[-1]  # type: ignore[assignment,func-returns-value]
    batches: list[Batch] = []
    hooks = {
        "next_values": lambda values, actions, log_prob, batch: th.full_like(values, 7.0),
        "after_update": lambda batch, metrics: batches.append(batch),
    }
    model.learn(9, callback=Answer(**hooks))
    (target,), (batch,) = targets, batches
    assert th.allclose(target, batch.rewards + (1 - batch.dones) * 0.99 * 7.0)


def test_actor_values_reach_the_actor_alone() -> None:
    hook = {"actor_values": lambda values, actions, batch: -values}
    assert changes("policy/actor.", **hook)
    assert not changes("policy/critic.", **hook)


def test_actor_penalties_reach_the_actor_alone() -> None:
    hook = {"actor_penalty": lambda actions, log_prob, batch: 3.0 * actions.pow(2).sum(dim=1)}
    assert changes("policy/actor.", **hook)
    assert not changes("policy/critic.", **hook)


def test_penalties_add_up_and_values_are_handed_on() -> None:
    double = {"actor_values": lambda values, actions, batch: 2 * values, "actor_penalty": lambda *_: 1.0}
    losses: list[float] = []
    look = Answer(after_update=lambda batch, metrics: losses.append(metrics["actor_loss"].item()))
    for callbacks in ([], [Answer(**double)], [Answer(**double), Answer(**double)]):
        model = make(learning_starts=8, ent_coef=0.0)
        model.learn(9, callback=[*callbacks, look])
    # without entropy the loss is -Q; each callback doubles Q and adds 1
    assert losses[1] == pytest.approx(2 * losses[0] + 1, rel=1e-4)
    assert losses[2] == pytest.approx(4 * losses[0] + 2, rel=1e-4)


def test_samples_replace_those_of_the_online_buffer() -> None:
    batches: list[Batch] = []
    data = dataset()

    def sample(batch_size: int) -> ReplaySamples:
        asked.append(batch_size)
        return buffer.sample(batch_size)

    asked: list[int] = []
    model = make()
    buffer = model.open_offline_buffer(data)
    hooks = {"sample": sample, "after_update": lambda batch, metrics: batches.append(batch)}
    model.learn(8, callback=Answer(**hooks))
    assert asked == [BATCH] * 4
    rewards = set(data.rewards.tolist())
    assert all(reward in rewards for batch in batches for reward in batch.rewards.tolist())


def test_actions_go_to_the_environment_and_into_the_buffer() -> None:
    class Act(FineTuningCallback):
        def act(self, observations: Any) -> np.ndarray:
            return np.full((len(observations), 2), [1.0, 2.0], np.float32)

        def _on_step(self) -> bool:
            taken.append(self.locals["actions"])
            return True

    taken: list[np.ndarray] = []
    model = make(env=vec(2)).learn(8, callback=Act())
    assert np.array_equal(np.concatenate(taken), np.tile([1.0, 2.0], (8, 1)))
    # bounds [-2, 2] and [-1, 3]: scaled 0.5 and 0.5
    assert isinstance(model.replay_buffer, ReplayBuffer)
    assert np.allclose(model.replay_buffer.actions[:4], 0.5)


def test_all_must_allow_an_update() -> None:
    asked: list[str] = []
    refusing = Answer(allow_update=lambda: asked.append("first") or False)  # type: ignore[func-returns-value]
    counting = Answer(allow_update=lambda: asked.append("second") or True)  # type: ignore[func-returns-value]
    model = make().learn(6, callback=[refusing, counting])
    assert model._n_updates == 0
    assert asked == ["first", "second"] * 2  # those that count are asked as well


def test_before_finetuning_runs_once_however_often_learn_is_called(tmp_path: Path) -> None:
    calls: list[int] = []
    model = make()
    for _ in range(2):
        model.learn(
            6, callback=Answer(before_finetuning=lambda: calls.append(model._n_updates)), reset_num_timesteps=False
        )
    assert calls == [0]
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    loaded.learn(6, callback=Answer(before_finetuning=lambda: calls.append(1)), reset_num_timesteps=False)
    assert calls == [0]
    again = O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu", learning_starts=4)
    again.learn(6, callback=Answer(before_finetuning=lambda: calls.append(2)))
    assert calls == [0, 2]


# -- a callback's life ---------------------------------------------------------------------------------------------


class Counting(FineTuningCallback):
    def __init__(self, step: int = 1) -> None:
        super().__init__()
        self.step, self.count, self.weights = step, 0, th.zeros(2)

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.count += self.step
        self.weights += 1


def test_those_of_the_constructor_live_in_the_zip(tmp_path: Path) -> None:
    model = make(finetuning=[Counting(2)]).learn(9)
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    (callback,) = loaded.finetuning
    assert isinstance(callback, Counting)
    assert (callback.count, callback.weights.tolist()) == (10, [5.0, 5.0])
    loaded.learn(9, reset_num_timesteps=False)
    assert callback.count == 28
    assert (tmp_path / "model.zip").stat().st_size < 300_000


def test_those_of_learn_live_as_long_as_the_call(tmp_path: Path) -> None:
    model, callback = make(), Counting()
    model.learn(6, callback=callback)
    model.learn(6, reset_num_timesteps=False)
    assert callback.count == 2
    assert model.finetuning == []


def test_new_ones_replace_those_of_the_zip(tmp_path: Path) -> None:
    make(finetuning=[Counting(2)]).save(tmp_path / "model")
    model = O2OSAC.load_offline(tmp_path / "model", vec(), finetuning=[{"Counting": {"step": 5}}], device="cpu")
    assert [callback.step for callback in model.finetuning] == [5]
    assert O2OSAC.load_offline(tmp_path / "model", vec(), finetuning=[], device="cpu").finetuning == []


def test_a_callback_pickles_without_the_model() -> None:
    callback = Counting()
    make(buffer_size=50_000).learn(6, callback=callback)
    stored = pickle.dumps(callback)
    assert len(stored) < 5_000
    again = pickle.loads(stored)
    assert (again.count, again.num_timesteps) == (2, 6)
    make().learn(6, callback=again)
    assert again.count == 4


def test_a_callback_given_twice_acts_once() -> None:
    callback = Counting()
    make(finetuning=[callback]).learn(6, callback=CallbackList([callback]))
    assert callback.count == 2


def test_plain_types_of_yaml() -> None:
    model = make(finetuning=["Counting", {"Counting": {"step": 3}}, {"Counting": None}])
    assert [callback.step for callback in model.finetuning] == [1, 3, 1]


def test_what_is_not_overridden_costs_nothing() -> None:
    class Look(FineTuningCallback):
        def after_update(self, *_: Any) -> None:
            self.listeners = len(self.model.hooks.defined("next_values"))  # type: ignore[attr-defined]

    look = Look()
    for callback, listeners in ((FineTuningCallback(), 0), (Everything(), 1)):
        make().learn(5, callback=[callback, look])
        assert look.listeners == listeners
