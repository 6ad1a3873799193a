"""Interrupted equals uninterrupted, bit for bit: pre-training and fine-tuning, in the middle of episodes."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from toy_tasks import FAST, assert_same, dataset, dataset_file, make, make_td3, state, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.data import MixedReplayBuffer, MonteCarloReplayBuffer
from sb3_o2o.finetuning import DatasetReplay, FineTuningCallback, SymmetricReplay, Warmup

assert FAST["learning_starts"] < 11  # so that interrupted runs have made updates


class Noisy(FineTuningCallback):
    """Changes the TD targets by draws of its own generator, and counts."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.rng, self.count = np.random.default_rng(seed), 0

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor, batch: Any) -> th.Tensor:
        self.count += 1
        return values + float(self.rng.normal()) * self.count


class SaveAt(BaseCallback):
    """Asks for a bundle at one step."""

    def __init__(self, at: int, path: Path, stop: bool = False):
        super().__init__()
        self.at, self.path, self.stop = at, path, stop

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            model: Any = self.model
            model.save_resume(self.path)
            if self.stop:
                model.request_stop()
        return True


def never(path: Path) -> SaveAt:
    """So that both runs have callbacks of the same kinds."""
    return SaveAt(0, path)


def everything(model: Any) -> dict[str, th.Tensor]:
    """Parameters, moments, multipliers, what the online buffer holds, and what would be drawn next."""
    flat = state(model)

    def add(prefix: str, buffer: Any) -> None:
        for name, value in vars(buffer).items():
            for key, array in (value if isinstance(value, dict) else {"": value}).items():
                if isinstance(array, np.ndarray) and array.dtype != object:
                    flat[f"{prefix}/{name}/{key}"] = th.from_numpy(array.copy())
            if isinstance(value, ReplayBuffer):
                add(f"{prefix}/{name}", value)

    add("buffer", model.replay_buffer)
    if model.offline_buffer is not None:
        flat["offline"] = th.from_numpy(pickle.loads(pickle.dumps(model.offline_buffer.rng)).random(3))
    for index, callback in enumerate(model.finetuning):
        if getattr(callback, "buffer", None) is not None:
            flat[f"callback {index}"] = th.from_numpy(pickle.loads(pickle.dumps(callback.buffer.rng)).random(3))
    flat["numpy"] = th.from_numpy(np.random.get_state()[1].astype(np.int64))  # type: ignore[union-attr]
    flat["torch"] = th.get_rng_state()
    flat["counters"] = th.tensor([model.num_timesteps, model._n_updates, model.n_pretrain_steps, model._episode_num])
    last: Any = model._last_obs
    for key, array in (last if isinstance(last, dict) else {"": last}).items():
        if array is not None:
            flat[f"last observation/{key}"] = th.from_numpy(array.copy())
    return flat


# -- pre-training --------------------------------------------------------------------------------------------------

PRETRAINING: dict[str, dict[str, Any]] = {
    "sac": {},
    "bc": {"objective": "bc"},
    "cql with a multiplier": {"objective": "cql", "objective_kwargs": {"lagrange_gap": 0.5, "n_actions": 3}},
    "calql": {"objective": "calql", "objective_kwargs": {"n_actions": 3}, "n_critics": 4, "critic_subset": 2},
    "normalised": {"normalize_observations": True, "reward_scale": 2.0, "policy_delay": 2},
    "a schedule": {"learning_rate": lambda remaining: 0.01 * remaining, "target_update_interval": 3},
    "dictionary": {"dictionary": True, "objective": "cql"},
    "iql": {"objective": "iql", "objective_kwargs": {"actor_cosine": True}},
    "td3": {"build": make_td3, "policy_delay": 3},
    "td3_bc": {"build": make_td3, "objective": "td3_bc", "normalize_observations": True},
    "iql on td3": {"build": make_td3, "objective": "iql", "dictionary": True},
}


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining(name: str, in_memory: bool, tmp_path: Path) -> None:
    arguments = dict(PRETRAINING[name])
    build = arguments.pop("build", make)
    dictionary = arguments.get("dictionary", False)
    data: Any = dataset(dictionary=dictionary) if in_memory else dataset_file(tmp_path, dictionary)
    stopper = SaveAt(4, tmp_path / "bundle", stop=True)
    model = build(**arguments)
    model.pretrain(data, 9, callback=stopper)
    assert model.n_pretrain_steps == 4
    straight = everything(build(**arguments).pretrain(data, 9, callback=never(tmp_path)))
    trust = name == "a schedule"  # of a lambda
    resumed = type(model).load_resume(tmp_path / "bundle", vec(dictionary=dictionary), device="cpu", trust=trust)
    assert resumed.n_pretrain_steps == 4
    data = dataset(dictionary=dictionary) if in_memory else data
    resumed.pretrain(data, 5, callback=never(tmp_path), reset_gradient_steps=False)
    assert_same(straight, everything(resumed))


def test_pretraining_goes_on_without_naming_the_dataset(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    make().pretrain(data, 4, callback=SaveAt(4, tmp_path / "bundle"))
    straight = everything(make().pretrain(data, 9))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert_same(straight, everything(resumed.pretrain(None, 5, never(tmp_path), reset_gradient_steps=False)))


def test_from_pretraining_into_fine_tuning(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    model = make(objective="cql", finetuning=[Warmup(3), SymmetricReplay(0.5)]).pretrain(data, 5)
    model.save_resume(tmp_path / "bundle")
    straight = everything(model.learn(14))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert_same(straight, everything(resumed.learn(14)))


# -- fine-tuning ---------------------------------------------------------------------------------------------------


def normalised(n_envs: int = 1) -> VecNormalize:
    return VecNormalize(vec(n_envs), gamma=0.9)


CALQL = {"n_actions": 3, "lagrange_gap": 0.5}
FINETUNING: dict[str, dict[str, Any]] = {
    "plain": {},
    "two environments": {"n_envs": 2},
    "dictionary": {"dictionary": True},
    "update-to-data ratio": {
        "gradient_steps": 4,
        "policy_delay": 4,
        "actor_batch": "block",
        "n_critics": 5,
        "critic_subset": 2,
    },
    "rare updates": {"train_freq": 3, "gradient_steps": 2},
    "episodes": {"train_freq": (1, "episode")},
    "callbacks": {"finetuning": [Warmup(4), SymmetricReplay(0.5), Noisy()], "pretrain": 3},
    "the dataset in the buffer": {"finetuning": [DatasetReplay("part", 2)], "pretrain": 3},
    "calql": {
        "pretrain": 3,
        "objective": "calql",
        "online_objective": "calql",
        "objective_kwargs": CALQL,
        "finetuning": [SymmetricReplay(0.25)],
    },
    "calql of its own": {
        "pretrain": 3,
        "objective": "calql",
        "online_objective": "calql",
        "online_objective_kwargs": CALQL,
    },
    "VecNormalize": {"wrap": normalised},
    "VecNormalize, two environments": {"wrap": lambda: normalised(2)},
    "noise": {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))},
    "correlated noise": {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2))},
    "correlated noise, two environments": {
        "action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2)),
        "n_envs": 2,
    },
    "state-dependent exploration": {"use_sde": True},
    "three-step returns": {"n_steps": 3},
    "a full buffer": {"buffer_size": 9},
    "memory-efficient buffer": {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "random steps": {"learning_starts": 12},
    "frames": {"wrap": lambda: VecFrameStack(vec(), 2)},
    "iql": {"pretrain": 3, "objective": "iql", "online_objective": "iql", "finetuning": [SymmetricReplay(0.5)]},
    "td3": {"algorithm": make_td3, "action_noise": 0.2},
    "td3, blocks, two environments": {
        "algorithm": make_td3,
        "pretrain": 3,
        "objective": "td3_bc",
        "finetuning": [Warmup(4), SymmetricReplay(0.5), Noisy()],
        "n_envs": 2,
        **{"gradient_steps": 3, "actor_batch": "block", "n_critics": 4, "critic_subset": 2},
    },
    "iql on td3, its own": {"algorithm": make_td3, "pretrain": 3, "online_objective": "iql", "policy_delay": 1},
    "VecNormalize around frames": {"wrap": lambda: VecNormalize(VecFrameStack(vec(), 2))},
}


def build(name: str, folder: Path) -> Any:
    arguments = dict(FINETUNING[name])
    steps, env = arguments.pop("pretrain", 0), environment(name)
    arguments.pop("n_envs", None)
    arguments.pop("wrap", None)
    if "finetuning" in arguments:  # objects of its own for each run
        arguments["finetuning"] = pickle.loads(pickle.dumps(arguments["finetuning"]))
    model = arguments.pop("algorithm", make)(env=env, **arguments)
    if steps:
        model.pretrain(dataset_file(folder), steps)
    return model


def environment(name: str) -> Any:
    arguments = FINETUNING[name]
    if "wrap" in arguments:
        return arguments["wrap"]()
    return vec(arguments.get("n_envs", 1), dictionary=arguments.get("dictionary", False))


@pytest.mark.filterwarnings("ignore:.*n_steps=3. is ignored:UserWarning")  # it is in the buffer's arguments
@pytest.mark.parametrize("name", FINETUNING)
def test_fine_tuning(name: str, tmp_path: Path) -> None:
    n_envs, stop = FINETUNING[name].get("n_envs", 2 if "two env" in name else 1), 11
    total = 26 * n_envs
    model = build(name, tmp_path)
    model.learn(total, callback=SaveAt(stop, tmp_path / "bundle", stop=True))
    done = model.num_timesteps
    assert 0 < done < total
    if name not in ("rare updates", "episodes"):
        assert done == stop * n_envs
        assert done % 7 != 0  # in the middle of an episode
    straight = everything(build(name, tmp_path).learn(total, callback=never(tmp_path)))
    resumed = type(model).load_resume(tmp_path / "bundle", environment(name), device="cpu")
    resumed.learn(total - done, callback=never(tmp_path), reset_num_timesteps=False)
    assert resumed._n_updates > 0
    assert_same(straight, everything(resumed))


def test_a_bundle_does_not_end_the_run(tmp_path: Path) -> None:
    """Saving on the way changes nothing, and the bundle is of the step at which it was asked for."""
    saving = everything(make().learn(20, callback=SaveAt(8, tmp_path / "bundle")))
    straight = everything(make().learn(20, callback=never(tmp_path)))
    assert_same(straight, saving)
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert (resumed.num_timesteps, resumed._n_updates) == (8, 4)
    assert_same(straight, everything(resumed.learn(12, never(tmp_path), reset_num_timesteps=False)))


def test_a_bundle_asked_for_at_the_last_step_is_written(tmp_path: Path) -> None:
    model = make().learn(10, callback=SaveAt(10, tmp_path / "bundle"))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert_same(everything(model), everything(resumed))


def test_a_bundle_asked_for_between_updates_waits_for_the_block(tmp_path: Path) -> None:
    class Between(FineTuningCallback):
        def on_gradient_step(self) -> None:
            model: Any = self.model
            if model._n_updates == 6:
                model.save_resume(tmp_path / "bundle")

    arguments: dict[str, Any] = {"gradient_steps": 4, "policy_delay": 4}
    straight = everything(make(**arguments).learn(14))
    make(**arguments).learn(14, callback=Between())
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert resumed._n_updates == 8
    with pytest.warns(UserWarning, match="Between"):
        resumed.learn(14 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(straight, everything(resumed))


def test_a_bundle_is_replaced_whole(tmp_path: Path) -> None:
    model = make().learn(6)
    model.save_resume(tmp_path / "bundle")
    (tmp_path / "bundle" / "left over").write_text("")
    model.learn(4, reset_num_timesteps=False).save_resume(tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "left over").exists()
    assert O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu").num_timesteps == 10
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_large_empty_buffer_makes_a_small_bundle(tmp_path: Path) -> None:
    model = make(
        buffer_size=100_000,
        replay_buffer_class=MixedReplayBuffer,
        replay_buffer_kwargs={"dataset": dataset_file(tmp_path)},
    )
    model.learn(8).save_resume(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "replay_buffer.zip").stat().st_size < 100_000
    straight = everything(model.learn(8, reset_num_timesteps=False))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert isinstance(resumed.replay_buffer, MixedReplayBuffer)
    assert len(resumed.replay_buffer.online.rewards) == 100_000
    assert_same(straight, everything(resumed.learn(8, reset_num_timesteps=False)))


def test_monte_carlo_buffers_go_on_within_the_episode(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"replay_buffer_class": MonteCarloReplayBuffer}
    model = make(**arguments).learn(10)
    model.save_resume(tmp_path / "bundle")
    model.learn(10, reset_num_timesteps=False)
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu").learn(10, reset_num_timesteps=False)
    assert isinstance(model.replay_buffer, MonteCarloReplayBuffer)
    assert isinstance(resumed.replay_buffer, MonteCarloReplayBuffer)
    assert np.array_equal(model.replay_buffer.returns, resumed.replay_buffer.returns)
    assert model.replay_buffer.n_sampleable == resumed.replay_buffer.n_sampleable > 0


# -- stopping ------------------------------------------------------------------------------------------------------


class StopAt(BaseCallback):
    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            self.model.request_stop()  # type: ignore[attr-defined]
        return True


def test_request_stop_keeps_the_transition_of_its_step() -> None:
    model = make().learn(20, callback=StopAt(6))
    assert model.num_timesteps == model.replay_buffer.size() == 6  # type: ignore[union-attr]
    assert model._n_updates == 2  # and makes its updates
    model.learn(3, reset_num_timesteps=False)
    assert model.num_timesteps == 9


def test_request_stop_between_two_pretraining_updates() -> None:
    model = make().pretrain(dataset(), 9, callback=StopAt(4))
    assert model.n_pretrain_steps == 4
    assert model.pretrain(dataset(), 2, reset_gradient_steps=False).n_pretrain_steps == 6


def test_a_stop_at_the_very_end_ends_the_next_call() -> None:
    model = make().pretrain(dataset(), 4, callback=StopAt(4))
    assert model.learn(5).num_timesteps == 0
    assert model.learn(5).num_timesteps == 5


def test_a_stop_during_the_constructors_pretraining_does_not_go_on_online(tmp_path: Path) -> None:
    model = make(dataset=dataset_file(tmp_path), pretrain_steps=6)
    original, calls = model.loop.run, []

    def update(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            model.request_stop()
        original(*arguments)

    model.loop.run = update  # type: ignore[method-assign]
    model.learn(8)
    assert (model.n_pretrain_steps, model.num_timesteps) == (3, 0)
    del model.loop.run
    model.learn(8)
    assert (model.n_pretrain_steps, model.num_timesteps) == (6, 8)


# -- callbacks -----------------------------------------------------------------------------------------------------


def evaluation(folder: Path) -> EvalCallback:
    return EvalCallback(vec(), n_eval_episodes=1, eval_freq=3, log_path=str(folder), verbose=0)


@pytest.mark.parametrize("offline", [False, True])
def test_callbacks_go_on_counting(offline: bool, tmp_path: Path) -> None:
    data = dataset_file(tmp_path)

    def run(model: O2OSAC, steps: int, first: bool, *callbacks: BaseCallback) -> None:
        if offline:
            model.pretrain(data, steps, callback=[*callbacks], reset_gradient_steps=first)
        else:
            model.learn(steps, callback=[*callbacks], reset_num_timesteps=first)

    straight, stopped = evaluation(tmp_path / "a"), evaluation(tmp_path / "b")
    run(make(), 20, True, never(tmp_path), straight)
    # the bundle is asked for by the first callback, before the second has seen the step
    run(make(), 20, True, SaveAt(9, tmp_path / "bundle", stop=True), stopped)
    assert stopped.evaluations_timesteps == [3, 6, 9]
    resumed = evaluation(tmp_path / "c")
    model = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    run(model, 11, False, never(tmp_path), resumed)
    assert resumed.n_calls == straight.n_calls == 20
    assert resumed.evaluations_timesteps == straight.evaluations_timesteps == [3, 6, 9, 12, 15, 18]


def test_callbacks_of_pretraining_do_not_go_on_in_fine_tuning(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    make().pretrain(data, 6, callback=evaluation(tmp_path / "a")).save_resume(tmp_path / "bundle")
    model = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    fresh = evaluation(tmp_path / "b")
    model.learn(7, callback=fresh)
    assert fresh.evaluations_timesteps == [3, 6]


def test_missing_callbacks_are_named(tmp_path: Path) -> None:
    make().learn(8, callback=[Noisy(), SaveAt(6, tmp_path / "bundle")])
    model = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    with pytest.warns(UserWarning, match="had these callbacks: Noisy"):
        model.learn(2, callback=never(tmp_path), reset_num_timesteps=False)


def test_generators_of_callbacks_given_to_learn(tmp_path: Path) -> None:
    straight = everything(make().learn(20, callback=[Noisy(), never(tmp_path)]))
    make().learn(20, callback=[Noisy(), SaveAt(9, tmp_path / "bundle", stop=True)])
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert_same(
        straight, everything(resumed.learn(11, callback=[Noisy(seed=99), never(tmp_path)], reset_num_timesteps=False))
    )


# -- their datasets ------------------------------------------------------------------------------------------------


def drawn(callback: SymmetricReplay) -> th.Tensor:
    """What the callback would draw next."""
    assert callback.buffer is not None
    return th.from_numpy(pickle.loads(pickle.dumps(callback.buffer.rng)).random(3))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("where", ["model", "file", "memory"])
def test_replay_given_to_learn(where: str, nested: bool, tmp_path: Path) -> None:
    """As with that of the constructor; the dataset is the model's, or comes with the callback again."""

    def replay() -> SymmetricReplay:
        own = {"model": None, "file": dataset_file(tmp_path), "memory": dataset(seed=5)}[where]
        return SymmetricReplay(0.5, dataset=own)

    def callbacks(first: BaseCallback, last: BaseCallback) -> list[BaseCallback]:
        return [CallbackList([first]), last] if nested else [first, last]

    straight, one, other = make().pretrain(dataset_file(tmp_path), 3), replay(), replay()
    straight.learn(20, callback=callbacks(one, never(tmp_path)))
    stopped = make().pretrain(dataset_file(tmp_path), 3)
    stopped.learn(20, callback=callbacks(replay(), SaveAt(9, tmp_path / "bundle", stop=True)))
    assert (tmp_path / "bundle" / "state.zip").stat().st_size < 30_000
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    resumed.learn(11, callback=callbacks(other, never(tmp_path)), reset_num_timesteps=False)
    assert_same(everything(straight), everything(resumed))
    assert_same({"next": drawn(one)}, {"next": drawn(other)})


def test_replay_with_another_dataset_draws_from_that(tmp_path: Path) -> None:
    mine = dataset(seed=5)
    make().learn(20, callback=[SymmetricReplay(0.5, dataset_file(tmp_path)), SaveAt(9, tmp_path / "bundle", True)])
    resumed, callback = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu"), SymmetricReplay(0.5, mine)
    resumed.learn(11, callback=[callback, never(tmp_path)], reset_num_timesteps=False)
    assert callback.buffer is not None
    assert callback.buffer.dataset.fingerprint == mine.fingerprint


@pytest.mark.parametrize("give", ["to the model", "to the buffer"])
def test_replay_from_memory_has_to_be_given_its_data_back(give: str, tmp_path: Path) -> None:
    data = dataset()
    straight = make(finetuning=[SymmetricReplay(0.5)], dataset=data)
    straight.learn(20, callback=SaveAt(9, tmp_path / "bundle"))
    resumed: Any = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    with pytest.raises(ValueError, match=r"cannot be opened by that.*Give it back: buffer\.dataset = dataset"):
        resumed.learn(11, never(tmp_path), reset_num_timesteps=False)
    if give == "to the model":
        resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu", dataset=data)
    else:
        resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
        resumed.finetuning[0].buffer.dataset = data
    resumed.learn(11, never(tmp_path), reset_num_timesteps=False)
    assert_same(everything(straight), everything(resumed))


def test_datasets_are_sampled_onto_the_device_of_the_resumed_run(tmp_path: Path) -> None:
    model: Any = make(finetuning=[SymmetricReplay(0.5)]).pretrain(dataset_file(tmp_path), 3).learn(9)
    for buffer in (model.offline_buffer, model.finetuning[0].buffer):
        buffer.device = th.device("meta")  # stands in for one that this machine does not have
    model.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    resumed.learn(3, reset_num_timesteps=False).pretrain(None, 2, reset_gradient_steps=False)
    assert (resumed.num_timesteps, resumed.n_pretrain_steps) == (12, 5)


def test_bundles_between_two_calls_keep_what_the_callbacks_know(tmp_path: Path) -> None:
    """Read and written again at once, or written after more pre-training."""
    model = make(finetuning=[SymmetricReplay(0.5)]).pretrain(dataset_file(tmp_path), 3)
    model.learn(9, callback=[Noisy(), never(tmp_path)]).save_resume(tmp_path / "bundle")
    O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu").save_resume(tmp_path / "bundle")
    resumed, noisy = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu"), Noisy(seed=99)
    resumed.learn(5, callback=[noisy, never(tmp_path)], reset_num_timesteps=False)
    assert noisy.count == resumed._n_updates - 3 > 5
    resumed.pretrain(None, 2, reset_gradient_steps=False).save_resume(tmp_path / "bundle")
    straight = everything(resumed.learn(5, reset_num_timesteps=False))
    again = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert_same(straight, everything(again.learn(5, reset_num_timesteps=False)))


def test_noise_of_several_environments_begins_after_an_interrupted_pretraining(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    arguments: dict[str, Any] = {"action_noise": 0.2, "learning_starts": 0}
    straight = everything(make_td3(env=vec(2), **arguments).pretrain(data, 6).learn(20))
    make_td3(env=vec(2), **arguments).pretrain(data, 6, callback=SaveAt(4, tmp_path / "bundle", stop=True))
    resumed = O2OTD3.load_resume(tmp_path / "bundle", vec(2), device="cpu")
    resumed.pretrain(None, 2, callback=never(tmp_path), reset_gradient_steps=False).save_resume(tmp_path / "bundle")
    again = O2OTD3.load_resume(tmp_path / "bundle", vec(2), device="cpu")
    assert_same(straight, everything(again.learn(20)))
