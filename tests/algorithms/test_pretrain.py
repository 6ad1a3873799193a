"""Pre-training: callbacks, counters, logs, the constructor's way, and that looking does not change the run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EventCallback,
    EveryNTimesteps,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import assert_same, dataset, dataset_file, differs, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import SymmetricReplay, Warmup


class Writer(KVWriter):
    """Keeps what is logged, in order."""

    def __init__(self) -> None:
        self.written: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.written.append((step, dict(key_values)))

    def close(self) -> None:
        pass

    @property
    def keys(self) -> set[str]:
        return {key for _, values in self.written for key in values}


def logging_to(model: O2OSAC) -> Writer:
    writer = Writer()
    model.set_logger(Logger(None, [writer]))
    return writer


class Events(BaseCallback):
    """A plain SB3 callback that also listens to updates and phases."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.steps: list[int] = []

    def _on_step(self) -> bool:
        self.steps.append(self.num_timesteps)
        return True

    def on_gradient_step(self) -> None:
        self.seen.append("gradient step")

    def on_phase_change(self, old: str | None, new: str) -> None:
        self.seen.append((old, new))


# -- callbacks -----------------------------------------------------------------------------------------------------


def test_callbacks_see_one_step_for_each_gradient_step() -> None:
    model = make().learn(9)
    events = Events()
    assert model.pretrain(dataset(), 5, callback=events) is model
    assert events.steps == [1, 2, 3, 4, 5]
    assert events.seen == [("finetuning", "pretraining"), *["gradient step"] * 5]
    assert (model.num_timesteps, model._total_timesteps, model.n_pretrain_steps) == (9, 9, 5)


def test_counting_on_and_anew() -> None:
    model, events = make().pretrain(dataset(), 3), Events()
    model.pretrain(dataset(), 2, callback=events, reset_gradient_steps=False)
    assert (events.steps, model.n_pretrain_steps) == ([4, 5], 5)
    assert model.pretrain(dataset(), 2).n_pretrain_steps == 2


def test_in_two_parts_is_as_in_one() -> None:
    parts = make().pretrain(dataset(), 4).pretrain(None, 5, reset_gradient_steps=False)
    assert_same(state(make().pretrain(dataset(), 9)), state(parts))


def test_evaluation_and_checkpoints(tmp_path: Path) -> None:
    stop = StopTrainingOnNoModelImprovement(100)
    evaluation = EvalCallback(
        vec(), eval_freq=3, n_eval_episodes=1, log_path=str(tmp_path), best_model_save_path=str(tmp_path),
        callback_after_eval=stop, verbose=0,
    )  # fmt: skip
    checkpoint = CheckpointCallback(4, str(tmp_path), name_prefix="offline")
    model = make().pretrain(dataset(), 9, callback=[evaluation, checkpoint])
    assert evaluation.evaluations_timesteps == [3, 6, 9]
    assert stop.n_calls == 3
    with np.load(tmp_path / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [3, 6, 9]
    checkpoint_model = O2OSAC.load(tmp_path / "offline_8_steps", env=vec(), device="cpu")
    assert (checkpoint_model.n_pretrain_steps, checkpoint_model.num_timesteps) == (8, 0)
    assert O2OSAC.load_offline(tmp_path / "best_model", env=vec(), device="cpu").learn(6).num_timesteps == 6
    assert model.num_timesteps == 0


def test_a_function_will_do_as_callback() -> None:
    calls: list[int] = []

    def callback(variables: dict[str, Any], _: dict[str, Any]) -> bool:
        calls.append(variables["self"].n_pretrain_steps)
        return len(calls) < 3

    assert make().pretrain(dataset(), 9, callback=callback).n_pretrain_steps == 3
    assert calls == [1, 2, 3]


def test_a_callback_may_stop_it() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 4

    model = make().pretrain(dataset(), 9, callback=Stop())
    assert (model.n_pretrain_steps, model._n_updates, model.num_timesteps) == (4, 4, 0)


def test_an_error_in_a_callback_leaves_the_counters_right() -> None:
    class Fail(BaseCallback):
        def _on_step(self) -> bool:
            raise RuntimeError("no disk")

    model = make().learn(7)
    with pytest.raises(RuntimeError, match="no disk"):
        model.pretrain(dataset(), 9, callback=Fail())
    assert (model.num_timesteps, model.n_pretrain_steps) == (7, 1)
    model.learn(3, reset_num_timesteps=False)
    assert model.num_timesteps == 10


def test_events_reach_callbacks_inside_of_others() -> None:
    class Holder(EventCallback):
        def _on_step(self) -> bool:
            return True

    inner, deep, listed = Events(), Events(), Events()
    nested = [EveryNTimesteps(100, inner), Holder(Holder(deep)), listed]
    model = make(finetuning=[Warmup(6)]).pretrain(dataset(), 3, callback=nested)
    for each in (inner, deep, listed):
        assert each.seen == [(None, "pretraining"), *["gradient step"] * 3]
    model.learn(9, callback=nested)
    for each in (inner, deep, listed):
        assert each.seen[4:] == [("pretraining", "warmup"), ("warmup", "finetuning"), *["gradient step"] * 3]


def test_update_hooks_are_not_asked_offline() -> None:
    replay = SymmetricReplay(0.5)
    asked: list[int] = []
    replay.sample = asked.append  # type: ignore[method-assign,assignment]
    make(finetuning=[replay]).pretrain(dataset(), 3, callback=replay)
    assert asked == []


def test_phases() -> None:
    model = make(finetuning=[Warmup(6)])
    assert model.phase is None
    assert model.pretrain(dataset(), 2).phase == "pretraining"
    assert model.learn(5).phase == "warmup"
    assert model.learn(3, reset_num_timesteps=False).phase == "finetuning"


# -- what is trained -----------------------------------------------------------------------------------------------


def test_the_environment_is_not_touched() -> None:
    model = make()
    assert model.env is not None
    model.env.step_async = model.env.reset = None  # type: ignore[method-assign,assignment]
    model.pretrain(dataset(), 3)
    assert model.replay_buffer.size() == 0  # type: ignore[union-attr]


def test_behaviour_cloning_trains_the_actor_alone() -> None:
    model = make(objective="bc")
    before = state(model)
    model.pretrain(dataset(), 3)
    assert differs(before, state(model), "policy/actor.")
    assert not differs(before, state(model), "policy/critic")


@pytest.mark.parametrize("loss", ["likelihood", "mse"])
def test_behaviour_cloning_imitates(loss: str) -> None:
    data = dataset()
    model = make(objective="bc", objective_kwargs={"loss": loss}, learning_rate=0.01, batch_size=32)

    def distance() -> float:
        with th.no_grad():
            mean, _, _ = model.actor.get_action_dist_params(th.tensor(data.observations))
        return float((th.tanh(mean) - th.tensor(data.actions)).pow(2).mean())

    before = distance()
    model.pretrain(data, 100)
    assert distance() < 0.9 * before


def test_the_online_objective_takes_over() -> None:
    model = make(objective="cql").pretrain(dataset(), 2)
    assert model.active_objective is model.offline_objective
    model.learn(8)
    assert model.active_objective is model.finetuning_objective is not model.offline_objective
    assert type(model.active_objective).__name__ == "SACObjective"


@pytest.mark.parametrize("kwargs", [None, {"lagrange_gap": 0.5, "n_actions": 3}])
def test_a_multiplier_goes_on_where_it_was(kwargs: dict[str, Any] | None) -> None:
    same = {"lagrange_gap": 0.5, "n_actions": 3}
    model = make(objective="cql", online_objective="cql", objective_kwargs=same, online_objective_kwargs=kwargs)
    model.pretrain(dataset(), 4)
    learned = model.offline_objective.log_multiplier.item()
    assert learned != 1.0
    assert model.finetuning_objective.log_multiplier.item() == learned


def test_the_actor_steps_at_every_offline_update() -> None:
    """The delay is one of high update-to-data ratios online: offline every update moves the actor."""
    model = make(policy_delay=4)
    before = state(model)
    model.pretrain(dataset(), 1)
    assert differs(before, state(model), "policy/actor.")


# -- the constructor's way -----------------------------------------------------------------------------------------


def test_learn_pretrains_first_where_the_constructor_says_so(tmp_path: Path) -> None:
    path = dataset_file(tmp_path)
    model = make(dataset=path, pretrain_steps=6, objective="cql").learn(8)
    assert (model.n_pretrain_steps, model.num_timesteps) == (6, 8)
    apart = make(dataset=path, objective="cql").pretrain(None, 6).learn(8)
    assert_same(state(apart), state(model))
    model.learn(4, reset_num_timesteps=False)
    assert (model.n_pretrain_steps, model.num_timesteps) == (6, 12)


def test_pretrain_takes_both_from_the_constructor(tmp_path: Path) -> None:
    assert make(dataset=dataset_file(tmp_path), pretrain_steps=3).pretrain().n_pretrain_steps == 3


def test_a_saved_model_is_not_pretrained_twice(tmp_path: Path) -> None:
    model = make(dataset=dataset_file(tmp_path), pretrain_steps=3).learn(6)
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    events = Events()
    loaded.learn(6, callback=events)
    assert loaded.n_pretrain_steps == 3
    assert not any("pretraining" in each for each in events.seen)


# -- logs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"critic_loss", "actor_loss", "ent_coef", "ent_coef_loss"}),
        ({"objective": "bc"}, {"actor_loss", "ent_coef", "ent_coef_loss"}),
        ({"objective": "cql"}, {"critic_loss", "actor_loss", "cql_gap"}),
        (
            {"objective": "calql", "objective_kwargs": {"lagrange_gap": 1.0}},
            {"cql_gap", "bound_rate", "cql_multiplier", "lagrange_loss"},
        ),
    ],
)
def test_log_keys(arguments: dict[str, Any], expected: set[str]) -> None:
    model = make(**arguments)
    writer = logging_to(model)
    model.pretrain(dataset(), 6, log_interval=3)
    assert [step for step, _ in writer.written] == [3, 6]
    assert {f"offline/{name}" for name in expected} <= writer.keys
    # SB3's table cuts longer ones, and then two of them may look the same
    assert all(len(key) <= 36 for key in writer.keys)
    assert not any(key.startswith("train/") for key in writer.keys)
    assert all(math.isfinite(value) for _, values in writer.written for value in values.values())
    writer.written.clear()
    model.learn(30, log_interval=1)
    assert any(key.startswith("train/") for key in writer.keys)
    assert not any(key.startswith("offline/") for key in writer.keys)
    assert all(len(key) <= 36 for key in writer.keys)


def test_logs_are_means_since_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    writer, losses = logging_to(model), []
    gradient_step = model.loop.gradient_step

    def recorded(*arguments: Any) -> dict[str, th.Tensor]:
        metrics = gradient_step(*arguments)
        losses.append(metrics["critic_loss"].item())
        return metrics

    monkeypatch.setattr(model.loop, "gradient_step", recorded)
    model.pretrain(dataset(), 5, log_interval=3)
    logged = [values["offline/critic_loss"] for _, values in writer.written]
    assert logged == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])], rel=1e-5)


def test_tensorboard(tmp_path: Path) -> None:
    make(tensorboard_log=str(tmp_path)).pretrain(dataset(), 3).learn(8, tb_log_name="online")
    assert {path.name for path in tmp_path.iterdir()} == {"offline_1", "online_1"}


def test_progress_bar(capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    plain = make().pretrain(dataset(), 5)
    assert_same(state(plain), state(make().pretrain(dataset(), 5, progress_bar=True)))
    assert "pre-training" in capsys.readouterr().out


# -- looking does not change the run -------------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("normalized", [False, True])
def test_looking_does_not_change_the_run(offline: bool, normalized: bool, tmp_path: Path) -> None:
    def environment(training: bool = True) -> Any:
        return VecNormalize(vec(), training=training) if normalized else vec()

    def run(model: O2OSAC, *callbacks: BaseCallback) -> dict[str, th.Tensor]:
        model.pretrain(dataset(), 8, callback=[*callbacks], log_interval=2)
        if not offline:
            model.learn(12, callback=[*callbacks], log_interval=1)
        return state(model)

    class Export(BaseCallback):
        def _on_step(self) -> bool:
            model: Any = self.model
            if self.n_calls == 3:
                model.to_sb3()
                model.save(tmp_path / "copy")
                model.predict(np.zeros((1, 3), np.float32), deterministic=True)
                model.save_resume(tmp_path / "bundle")
            return True

    plain = run(make(env=environment()))
    looking = make(env=environment(), verbose=1, tensorboard_log=str(tmp_path))
    evaluation = EvalCallback(environment(False), eval_freq=2, n_eval_episodes=2, best_model_save_path=str(tmp_path))
    checkpoint = CheckpointCallback(3, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    assert_same(plain, run(looking, evaluation, checkpoint, Events(), Export()))


def test_opening_a_dataset_draws_no_random_numbers(tmp_path: Path) -> None:
    model = make()
    before = np.random.get_state()[1].copy(), th.get_rng_state()  # type: ignore[union-attr]
    model.open_offline_buffer(dataset_file(tmp_path)).sample(4)
    assert np.array_equal(before[0], np.random.get_state()[1])  # type: ignore[arg-type]
    assert th.equal(before[1], th.get_rng_state())


class Peek(BaseCallback):
    """Acts between updates, which leaves the policy in evaluation mode, and notes the mode at each update's end."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[tuple[bool, bool, bool]] = []

    def on_gradient_step(self) -> None:
        model: Any = self.model
        self.modes.append((model.policy.training, model.actor.training, model.critic.training))

    def _on_step(self) -> bool:
        model: Any = self.model
        model.policy.set_training_mode(False)  # as acting does where layers have modes
        model.predict(np.zeros((1, *model.observation_space.shape), np.float32))
        assert not model.actor.training
        return True


def test_updates_are_made_in_training_mode() -> None:
    model, peek = make(learning_starts=0), Peek()
    model.pretrain(dataset(), 3, callback=peek)
    model.learn(3, callback=peek)
    assert len(peek.modes) == 6
    assert all(all(modes) for modes in peek.modes)
