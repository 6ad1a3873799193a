"""NaN and infinity, wherever they come from: one error ends the run and names them, and nothing is made of them."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toy_tasks import Drift, assert_same, dataset, make, make_ppo, make_td3, reach, state, vec

from sb3_o2o import O2OPPO, O2OSAC, NonFiniteError
from sb3_o2o.finetuning import (
    ConstrainedFineTuning,
    DualCritic,
    FineTuningCallback,
    OnlinePretraining,
    PolicyReevaluation,
)
from sb3_o2o.objectives import Batch, SACObjective, Step
from sb3_o2o.objectives.bc import BCObjective
from sb3_o2o.updates.finite import arrays_of, is_finite
from sb3_o2o.updates.trained import Snapshot, first_not_finite, trained_tensors

NAN, INF = float("nan"), float("inf")
BATCH = ["actions", "discounts", "dones", "next_observations", "observations", "rewards"]


# -- what goes wrong -----------------------------------------------------------------------------------------------


def poison_loss(model: Any, name: str, at: int = 3, value: float = NAN) -> None:
    """The loss of an optimiser is not finite the ``at``-th time that it is formed."""
    original, count = model.loop.gradients, 0

    def form(step: Step, parameters: Any) -> Any:
        nonlocal count
        losses, metrics, gradients = original(step, parameters)
        if name in losses:
            count += 1
            if count == at:
                losses = {**losses, name: th.full((), value)}
        return losses, metrics, gradients

    form.compile, form.compile_seconds = original.compile, 0.0
    model.loop.gradients = form


class Faulty(Drift):
    """What one step of an environment gives is not finite."""

    def __init__(self, what: str, value: float = NAN, at: int = 9, once: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.what, self.value, self.at, self.once, self.count = what, value, at, once, 0

    def _spoilt(self, observation: Any, what: str) -> Any:
        due = self.count == self.at if self.once else self.count >= self.at
        if self.what == what and due:
            place = observation["place"] if self.dictionary else observation
            place[1] = self.value
        return observation

    def reset(self, **kwargs: Any) -> Any:
        observation, infos = super().reset(**kwargs)
        return self._spoilt(observation, "first"), infos

    def step(self, action: np.ndarray) -> Any:
        self.count += 1
        observation, reward, terminated, truncated, infos = super().step(action)
        if terminated or truncated:
            observation = self._spoilt(observation, "last")
        due = self.count == self.at if self.once else self.count >= self.at
        if self.what == "reward" and due:
            reward = self.value
        return self._spoilt(observation, "observation"), reward, terminated, truncated, infos


def faulty(what: str, value: float = NAN, n_envs: int = 1, which: int = 0, **kwargs: Any) -> DummyVecEnv:
    """Environments of which one is faulty."""

    def build(index: int) -> Callable[[], gym.Env]:
        return lambda: Monitor(Faulty(what if index == which else "nothing", value, **kwargs))

    return DummyVecEnv([build(index) for index in range(n_envs)])


class NaNObjective(SACObjective):
    """A user's own: its critic's loss holds a division of zero by zero from the third update on."""

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        zero = th.zeros(()) if self.model._n_updates >= 3 else th.ones(())
        for step in super().steps(batch, actor_batch):
            is_critics = step.function == self.critic_losses
            yield Step(self.spoilt, (step.function, zero, *step.arguments)) if is_critics else step

    def spoilt(self, function: Any, zero: th.Tensor, *arguments: Any) -> Any:
        losses, metrics = function(*arguments)
        return {name: loss * (zero / zero) for name, loss in losses.items()}, metrics


class NaNCloning(BCObjective):
    """Another, of one graph."""

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        zero = th.full((), float(self.model._n_updates < 3))
        yield Step(self.spoilt, (batch, zero))

    def spoilt(self, batch: Batch, zero: th.Tensor) -> Any:
        losses, metrics = self.distance_loss(batch)
        return {name: loss * (zero / zero) for name, loss in losses.items()}, metrics


class NaNExtractor(FlattenExtractor):
    """A user's own features, not finite after some calls."""

    def __init__(self, space: Any, after: int = 30):
        super().__init__(space)
        self.left = after

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.left -= 1
        return super().forward(observations) * (NAN if self.left < 0 else 1.0)


class NaNActions(FineTuningCallback):
    """Decides actions that are none."""

    def act(self, observations: Any) -> np.ndarray:
        return np.full((1, 2), NAN, np.float32)


def poison_buffer(model: Any) -> Any:
    """A user has filled the replay buffer with what was never checked."""
    model.learn(8)
    model.replay_buffer.rewards[:] = INF
    return model


# -- the trials ----------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """``run`` trains until something is not finite; the error says ``says`` and keeps ``keeps``."""

    name: str
    run: Callable[[], Any]
    says: str
    keeps: list[str] = field(default_factory=lambda: BATCH)


def pretrained(model: Any, loss: str = "", steps: int = 6, **kwargs: Any) -> Any:
    if loss:
        poison_loss(model, loss, **kwargs)
    model.pretrain(dataset(), steps)


def learned(model: Any, loss: str = "", steps: int = 40) -> Any:
    if loss:
        poison_loss(model, loss)
    model.learn(steps)


GREEDY: dict[str, Any] = {"learning_rate": 1e30}
ENV = ["actions", "observations", "rewards"]
ROLLOUT = ["actions", "advantages", "episode_starts", "log_probs", "observations", "returns", "rewards", "values"]
PPO_FEATURES = {"policy_kwargs": {"net_arch": [16], "features_extractor_class": NaNExtractor}}
CONSTRAINED = ConstrainedFineTuning
TRIALS = [
    # a loss of each optimiser
    *(
        Trial(
            f"SAC pretrain, {name} loss", lambda name=name: pretrained(make(objective="cql"), name), f"'{name}' is nan"
        )
        for name in ("critic", "actor", "ent_coef")
    ),
    Trial(
        "SAC pretrain, infinite", lambda: pretrained(make(), "critic", value=INF), r"'critic' is inf at update 3, pre"
    ),
    Trial(
        "SAC pretrain, multiplier of CQL",
        lambda: pretrained(make(objective="cql", objective_kwargs={"lagrange_gap": 1.0}), "lagrange"),
        "'lagrange' is nan",
    ),
    Trial("SAC pretrain, V of IQL", lambda: pretrained(make(objective="iql"), "value"), "'value' is nan", [*BATCH]),
    Trial("TD3 pretrain, actor", lambda: pretrained(make_td3(objective="td3_bc"), "actor", at=2), "'actor' is nan"),
    Trial("PPO pretrain, actor", lambda: pretrained(make_ppo(), "actor"), "'actor' is nan at update 3, pretraining"),
    Trial("PPO pretrain, critic", lambda: pretrained(make_ppo(objective="iql"), "critic"), "'critic' is nan"),
    Trial(
        "TD3 before pretrain, density model",
        lambda: pretrained(
            make_td3(objective="spot", online_objective="spot", objective_kwargs={"density_steps": 6}), "density"
        ),
        "'density' is nan",
    ),
    Trial("SAC learn, critic", lambda: learned(make(), "critic"), r"'critic' is nan at update 3, finetuning, environ"),
    Trial("TD3 learn, critic", lambda: learned(make_td3(), "critic"), "'critic' is nan"),
    Trial(
        "SAC learn, multiplier of a callback",
        lambda: learned(make(finetuning=[ConstrainedFineTuning(reference="interval")]), "multiplier", 60),
        "'multiplier' is nan",
    ),
    Trial(
        "SAC learn, second critics",
        lambda: learned(
            make(finetuning=[OnlinePretraining(8, 4), DualCritic(0.5)], dataset=dataset()), "second_critic"
        ),
        "'second_critic' is nan",
    ),
    Trial(
        "SAC in a phase without environment steps",
        lambda: learned(make(finetuning=[PolicyReevaluation(6)], dataset=dataset()), "critic"),
        r"'critic' is nan at update 3, reevaluation",
    ),
    # a user's own
    Trial(
        "user's objective, pretrain", lambda: pretrained(make(objective=NaNObjective)), "'critic' is nan at update 3"
    ),
    Trial(
        "user's objective, learn", lambda: learned(make(online_objective=NaNObjective)), "'critic' is nan at update 3"
    ),
    Trial(
        "user's features, SAC",
        lambda: learned(make(policy_kwargs={"net_arch": [16], "features_extractor_class": NaNExtractor}), steps=60),
        "network gives no distribution of actions at update \\d+, finetuning",
        [],
    ),
    Trial(
        "user's features, PPO", lambda: learned(make_ppo(**PPO_FEATURES), steps=60), "no distribution of actions", []
    ),
    # that diverges
    Trial("rate 1e30, SAC pretrain", lambda: pretrained(make(objective="cql", **GREEDY)), "'critic' is (nan|inf)"),
    Trial("rate 1e30, TD3 learn", lambda: learned(make_td3(**GREEDY)), "'critic' is (nan|inf)"),
    Trial(
        "rate 1e30, PPO learn",
        lambda: learned(make_ppo(**GREEDY)),
        "network gives no distribution of actions at update \\d, finetuning",
        ROLLOUT,
    ),
    # what environments give
    Trial(
        "observation, SAC",
        lambda: learned(make(env=faulty("observation"))),
        r"observation of environment 0 is nan at environment step 9, entry \[1\]",
        ENV,
    ),
    Trial(
        "observation of one of three, SAC",
        lambda: learned(make(env=faulty("observation", n_envs=3, which=2))),
        "observation of environment 2 is nan at environment step 27",
        ENV,
    ),
    Trial(
        "observation of one of two, PPO",
        lambda: learned(make_ppo(env=faulty("observation", n_envs=2, which=1))),
        "observation of environment 1 is nan at environment step 18",
        ENV,
    ),
    Trial(
        "observation in a dictionary",
        lambda: learned(make(env=faulty("observation", dictionary=True), dictionary=True)),
        r"observation \('place'\) of environment 0 is nan",
        ["actions", "observations/goal", "observations/place", "rewards"],
    ),
    Trial(
        "infinite observation behind VecNormalize",
        lambda: learned(make(env=VecNormalize(faulty("observation", INF)))),
        "observation of environment 0 is inf at environment step 9",
        ENV,
    ),
    Trial(
        "last observation",
        lambda: learned(make_td3(env=faulty("last", at=0))),
        "observation of environment 0 is nan at environment step [1-7],",
        ENV,
    ),
    Trial(
        "first observation",
        lambda: learned(make(env=faulty("first", at=0))),
        "observation of environment 0 is nan at environment step 0",
        ["observations"],
    ),
    Trial(
        "infinite reward, TD3",
        lambda: learned(make_td3(env=faulty("reward", -INF))),
        "reward of environment 0 is -inf at environment step 9",
        ENV,
    ),
    Trial(
        "reward, PPO",
        lambda: learned(make_ppo(env=faulty("reward"))),
        "reward of environment 0 is nan at environment step 9",
        ENV,
    ),
    Trial(
        "action of a callback",
        lambda: learned(make(finetuning=[NaNActions()])),
        "action of environment 0 is nan at environment step 1",
        ["actions"],
    ),
    Trial(
        "replay buffer that was filled by hand",
        lambda: learned(poison_buffer(make()), steps=8),
        r"rewards\[\d\] of the batch is inf",
        BATCH,
    ),
]


@pytest.mark.parametrize("trial", TRIALS, ids=[trial.name for trial in TRIALS])
def test_one_error_names_what_was_first_not_finite(trial: Trial) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NonFiniteError, match=trial.says) as caught:
            trial.run()
    assert set(trial.keeps) <= set(caught.value.arrays)
    assert caught.value.path is None


def test_a_loss_is_read_before_its_optimiser_steps() -> None:
    model = make(objective="cql")
    model.pretrain(dataset(), 2)
    poison_loss(model, "critic", at=1)
    before = state(model)
    with pytest.raises(NonFiniteError):
        model.pretrain(dataset(), 5)
    assert_same(state(model), before)


def test_what_is_found_late_is_named_by_its_update() -> None:
    """As on a GPU: losses of many updates are read together."""
    model = make(objective="cql")
    model.loop.watch.waits = True
    poison_loss(model, "actor", at=4)
    with pytest.raises(
        NonFiniteError, match="The loss of the optimiser 'actor' is nan at update 4, pretraining"
    ) as caught:
        model.pretrain(dataset(), 30)
    assert model._n_updates == 30  # read when the log was due
    assert set(caught.value.arrays) == set(BATCH)


def test_losses_that_wait_are_read_after_a_hundred_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(objective="bc")
    model.loop.watch.waits = True
    poison_loss(model, "actor", at=2)
    monkeypatch.setattr("sb3_o2o.updates.finite.READ_EVERY", 7)
    with pytest.raises(NonFiniteError, match="at update 2, pretraining"):
        model.pretrain(dataset(), 50)
    assert model._n_updates == 7
    model = make(objective="bc")
    model.loop.watch.waits = True
    monkeypatch.setattr("sb3_o2o.updates.finite.HELD_BYTES", 1)  # batches too large to be held
    poison_loss(model, "actor", at=2)
    with pytest.raises(NonFiniteError, match="at update 2, pretraining"):
        model.pretrain(dataset(), 50)
    assert model._n_updates == 2


def test_a_gradient_that_is_not_finite_is_told_from_its_loss() -> None:
    class Root(SACObjective):
        """The gradient of the root of 0 is infinite, its value is 0."""

        def actor_losses(self, *arguments: Any) -> Any:
            losses, metrics = super().actor_losses(*arguments)
            weights = next(iter(self.model.actor.mu.parameters()))
            return {**losses, "actor": losses["actor"] + ((weights - weights.detach()) ** 2).sum().sqrt()}, metrics

    model = make(objective=Root)
    with pytest.raises(NonFiniteError, match=r"actor\.mu\.weight holds nan at update 2, pretraining: an earlier"):
        model.pretrain(dataset(), 5)
    model = make(objective=Root)
    with pytest.raises(NonFiniteError, match=r"actor\.mu\.weight holds nan at update 1"):
        model.pretrain(dataset(), 1)  # no update follows that would notice


def test_a_compiled_objective(fresh_compiler: None) -> None:
    with pytest.raises(NonFiniteError, match="'actor' is nan at update 3, pretraining"):
        pretrained(make_td3(objective=NaNCloning, compile=True))


# -- where the values are kept -------------------------------------------------------------------------------------


def test_the_batch_lies_beside_the_log(tmp_path: Path) -> None:
    model = make(objective="bc")
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    poison_loss(model, "actor")
    with pytest.raises(NonFiniteError, match=r"The values are kept in .*nonfinite\.npz\.") as caught:
        model.pretrain(dataset(), 5)
    assert caught.value.path == str(tmp_path / "log" / "nonfinite.npz")
    with np.load(caught.value.path) as saved:
        assert saved["what"] == "The loss of the optimiser 'actor' is nan at update 3, pretraining."
        assert saved["observations"].shape == (8, 3)
        np.testing.assert_array_equal(saved["rewards"], caught.value.arrays["rewards"])


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    model = make(env=faulty("reward"))
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    (tmp_path / "log" / "nonfinite.npz").mkdir()  # in the way
    with (
        pytest.warns(UserWarning, match=r"nonfinite\.npz could not be written"),
        pytest.raises(NonFiniteError, match="rew"),
    ):
        model.learn(20)


def test_arrays_of_a_batch_with_dictionaries() -> None:
    model = make(dictionary=True, objective="bc")
    buffer = model.open_offline_buffer(dataset(dictionary=True))
    named = arrays_of(model.to_batch(buffer.sample(4)))
    assert {name: array.shape for name, array in named.items() if "obs" in name} == {
        "observations/goal": (4, 1),
        "observations/place": (4, 3),
        "next_observations/goal": (4, 1),
        "next_observations/place": (4, 3),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_is_finite(dtype: Any) -> None:
    array = np.ones((3, 4), dtype)
    assert is_finite(array)
    assert is_finite(array[:, ::2])
    if dtype is not np.uint8:
        assert is_finite(np.full(5, np.finfo(dtype).max))  # whose square is not
        for value in (np.nan, np.inf, -np.inf):
            array[1, 2] = value
            assert not is_finite(array)
            assert not is_finite(array[:, ::2])


# -- going back ----------------------------------------------------------------------------------------------------


def test_a_rollback_goes_back_to_the_snapshot_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_o2o.updates.finite.SNAPSHOT_EVERY", 5)
    model = make(objective="cql", on_nonfinite="rollback")
    states, taken = [], Snapshot.__init__

    def take(self: Any, model: Any, *arguments: Any) -> None:
        states.append(state(model))
        taken(self, model, *arguments)

    monkeypatch.setattr(Snapshot, "__init__", take)
    back: list[Any] = []
    restore = Snapshot.restore
    monkeypatch.setattr(
        Snapshot, "restore", lambda self, model: (restore(self, model), back.append((self.n_updates, state(model))))
    )
    poison_loss(model, "critic", at=8)
    with pytest.warns(UserWarning, match=r"'critic' is nan at update 8, pre.* of update 5, rollback 1 of at most 3"):
        model.pretrain(dataset(), 12)
    assert model.n_pretrain_steps == 12
    assert [at for at, _ in back] == [5]
    assert_same(back[0][1], states[1])
    assert first_not_finite(trained_tensors(model)) is None
    assert model.logger.name_to_value.get("train/rollbacks", 1) == 1


def test_a_rollback_forgets_moments_that_are_younger() -> None:
    model = make(objective="cql", on_nonfinite="rollback")
    fresh = state(model)
    poison_loss(model, "critic", at=3)
    with pytest.warns(UserWarning, match="Going back to the weights of update 0"):
        model.pretrain(dataset(), 3)
    assert_same(state(model), fresh)  # the third update was dropped, and with it the two before


def test_rollbacks_end() -> None:
    model = make(objective="cql", on_nonfinite="rollback", learning_rate=1e30)
    with (
        pytest.warns(UserWarning, match="rollback 3 of at most 3"),
        pytest.raises(NonFiniteError, match=r"\(The run has gone back 3 times\.\)"),
    ):
        model.pretrain(dataset(), 50)


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_a_step_that_is_not_finite_is_dropped_and_episodes_begin_anew(build: Any) -> None:
    env = VecNormalize(faulty("observation", INF, once=True, at=12))
    model = build(env=env, on_nonfinite="rollback")
    with pytest.warns(UserWarning, match="environment 0 is inf at environment step 12"):
        model.learn(40)
    assert model.num_timesteps >= 40
    assert np.isfinite(env.obs_rms.mean).all()
    assert np.isfinite(env.obs_rms.var).all()
    if isinstance(model, O2OPPO):
        return
    buffer = model.replay_buffer
    assert np.isfinite(buffer.observations[: buffer.pos]).all()
    assert np.isfinite(buffer.next_observations[: buffer.pos]).all()
    assert buffer.timeouts[10] == 1.0  # the last step before, row 10: nothing is summed across the gap
    assert not np.array_equal(buffer.next_observations[10], buffer.observations[11])


def test_hindsight_ends_its_episode_too() -> None:
    from stable_baselines3 import HerReplayBuffer

    env = reach()
    inner, at = env.envs[0].unwrapped, 8
    step = inner.step

    def once(action: np.ndarray) -> Any:
        nonlocal at
        at -= 1
        observation, reward, *rest = step(action)
        return (observation, NAN if at == 0 else reward, *rest)

    inner.step = once
    model = make("MultiInputPolicy", env=env, replay_buffer_class=HerReplayBuffer, on_nonfinite="rollback")
    with pytest.warns(UserWarning, match="reward of environment 0 is nan at environment step 8"):
        model.learn(30)
    assert (model.replay_buffer.ep_length[:7] > 0).all()


def test_ppo_goes_back() -> None:
    model = make_ppo(on_nonfinite="rollback")
    original, calls = model.policy.evaluate_actions, 0

    def sometimes(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        values, log_prob, entropy = original(*arguments)
        return values * (NAN if calls == 4 else 1.0), log_prob, entropy

    model.policy.evaluate_actions = sometimes
    with pytest.warns(UserWarning, match=r"gradient is not finite at update \d, finetuning.*rollback 1"):
        model.learn(32)
    assert first_not_finite(trained_tensors(model)) is None
    assert model.num_timesteps == 32


def test_a_snapshot_has_what_callbacks_train() -> None:
    model = make(finetuning=[OnlinePretraining(8, 4), DualCritic(0.5)], dataset=dataset())
    model.learn(30)
    names = {name.partition(".")[0] for name, _ in trained_tensors(model)}
    assert {"policy", "log_ent_coef", "DualCritic"} <= names or {"policy", "log_ent_coef", "OnlinePretraining"} <= names
    snapshot, before = Snapshot(model), {name: tensor.detach().clone() for name, tensor in trained_tensors(model)}
    model.learn(20, reset_num_timesteps=False)
    changed = dict(trained_tensors(model))
    assert any(not th.equal(before[name], changed[name]) for name in before if "second" in name or "critics" in name)
    snapshot.restore(model)
    assert_same({name: tensor.detach() for name, tensor in trained_tensors(model)}, before)


# -- files ---------------------------------------------------------------------------------------------------------


def broken(which: str = "critic") -> O2OSAC:
    model = make(objective="cql")
    with th.no_grad():
        next(iter(getattr(model, which).parameters()))[..., 0] = NAN
    return model


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    whole = (tmp_path / "model.zip").read_bytes()
    with pytest.raises(NonFiniteError, match=r"Not saved: policy\.critic.* holds nan\. .*allow_nonfinite=True"):
        broken().save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == whole
    with pytest.raises(NonFiniteError, match="Not saved"):
        broken().save_resume(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    broken().save(tmp_path / "model", allow_nonfinite=True)
    assert (tmp_path / "model.zip").read_bytes() != whole


def test_statistics_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    env = VecNormalize(vec())
    model = make(env=env)
    env.obs_rms.mean[1] = NAN
    with pytest.raises(NonFiniteError, match="VecNormalize's mean of observations holds nan"):
        model.save(tmp_path / "model")


def test_a_model_that_is_not_finite_is_not_loaded_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    broken().save(path, allow_nonfinite=True)
    with pytest.raises(NonFiniteError, match=r"model\.zip was saved after training had failed: .*allow_nonfinite=True"):
        O2OSAC.load(path)
    assert O2OSAC.load(path, allow_nonfinite=True).n_critics == 2
    with pytest.raises(ValueError, match=r"load\(allow_nonfinite\) must be True or False, not 'yes'"):
        O2OSAC.load(path, allow_nonfinite="yes")


def test_load_offline_takes_over_the_part_that_is_finite(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    broken("critic").save(path, allow_nonfinite=True)
    with pytest.raises(NonFiniteError, match=r"What load_offline takes over is not finite: .*load_critic=False"):
        O2OSAC.load_offline(path, vec())
    with pytest.raises(NonFiniteError, match="What load_offline takes over is not finite"):
        O2OSAC.load_offline(broken("actor"), vec())
    model = O2OSAC.load_offline(path, vec(), load_critic=False)
    model.learn(20)


def test_a_best_model_stays(tmp_path: Path) -> None:
    from sb3_o2o.evaluation import NormalizedEvalCallback

    model = make(objective="bc", env=vec())
    looking = NormalizedEvalCallback(
        Monitor(Drift()), eval_freq=2, best_model_save_path=str(tmp_path), n_eval_episodes=1
    )
    poison_loss(model, "actor", at=4)
    with pytest.raises(NonFiniteError):
        model.pretrain(dataset(), 6, callback=looking)
    assert first_not_finite(trained_tensors(O2OSAC.load(tmp_path / "best_model"))) is None


def test_the_command_line_says_what_is_left(tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    from command_line import SHORT, SMALL, sb3_o2o

    setting = ["--set", "qf_learning_rate=1e30"]
    result = sb3_o2o("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", 8, *SMALL, *SHORT, *setting)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    said = re.sub(r"\s+", " ", result.stderr)
    assert re.search(r"Error: The loss of the optimiser 'critic' is (nan|inf) at update \d, pretraining\.", said), said
    assert "The values are kept in runs/cql-TinyBox-v0_1/nonfinite.npz." in said
    run = Path("runs/cql-TinyBox-v0_1")
    assert (run / "nonfinite.npz").is_file()
    assert not list(run.rglob("tensorboard/**/nonfinite.npz"))
    assert not (run / "offline" / "model.zip").exists()
