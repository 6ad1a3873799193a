"""Warm-up, symmetric replay, and the dataset in the online buffer."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import Given, get_critic, linear_sac, one_transition, set_critic, set_mean
from stable_baselines3.common.buffers import ReplayBuffer
from toy_tasks import arrays, assert_same, dataset, dataset_file, differs, make, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.data import MonteCarloReplayBuffer, OfflineDataset
from sb3_o2o.finetuning import DatasetReplay, FineTuningCallback, SymmetricReplay, Warmup
from sb3_o2o.objectives import Batch


class Batches(FineTuningCallback):
    """Keeps the critics' batches."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Batch] = []

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.seen.append(batch)


# -- Warmup --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_envs", "steps", "updates"), [(1, 0, 12), (1, 5, 7), (1, 12, 0), (2, 5, 4), (2, 6, 3)])
def test_warmup_counts_environment_steps(n_envs: int, steps: int, updates: int) -> None:
    """No update until more than ``steps`` steps are there: with two environments 12 steps are 6 rollouts."""
    model = make(env=vec(n_envs), learning_starts=0, finetuning=[Warmup(steps)]).learn(12)
    assert model._n_updates == updates
    assert model.phase == ("finetuning" if updates else "warmup")


def test_warmup_goes_on_over_calls_and_happens_once(tmp_path: Path) -> None:
    model = make(learning_starts=0, finetuning=[Warmup(6)]).learn(4)
    assert model._n_updates == 0
    model.save(tmp_path / "model")
    model = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    model.learn(4, reset_num_timesteps=False)
    assert model._n_updates == 2
    model.learn(4, reset_num_timesteps=False)
    assert model._n_updates == 6


def test_warmup_happens_again_in_a_new_fine_tuning(tmp_path: Path) -> None:
    make(learning_starts=0, finetuning=[Warmup(3)]).learn(6).save(tmp_path / "model")
    model = O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu")
    before = model._n_updates
    assert model.learn(3).phase == "warmup"
    assert model._n_updates == before


def test_warmup_acts_with_the_policys_own_samples() -> None:
    model = make(finetuning=[Warmup(8)], env=vec(), learning_starts=0).pretrain(dataset(), 2)
    model.learn(8)
    observations = model.replay_buffer.observations[:8, 0]  # type: ignore[union-attr]
    deterministic = model.policy.scale_action(model.predict(observations, deterministic=True)[0])
    taken = model.replay_buffer.actions[:8, 0]  # type: ignore[union-attr]
    assert not np.allclose(taken, deterministic, atol=1e-3)
    assert model._n_updates == 2  # none of them online


@pytest.mark.parametrize("build", [make, make_td3])
def test_fresh_critics_learn_from_the_policy_before_it_moves(build: Callable[..., Any], tmp_path: Path) -> None:
    """PORL: 4 steps collect, 5 train critics alone, two updates each; then the policy moves."""
    build(policy_delay=1).pretrain(dataset(), 3).save(tmp_path / "offline")
    algorithm = type(build())
    offline = state(algorithm.load(tmp_path / "offline", device="cpu"))
    start = {"finetuning": [Warmup(4, 5, fresh_critics=True)], "device": "cpu", "gradient_steps": 2}
    model = algorithm.load_offline(tmp_path / "offline", vec(), **start)
    done = model._n_updates
    model.learn(4)
    begun = state(model)
    assert model._n_updates == done
    assert differs(offline, begun, "policy/critic.")
    for name, value in model.critic.state_dict().items():
        assert th.equal(value, model.critic_target.state_dict()[name])
    model.save(tmp_path / "begun")
    model = algorithm.load(tmp_path / "begun", vec(), device="cpu")
    model.learn(5, reset_num_timesteps=False)
    assert model._n_updates == done + 2 * 5
    assert differs(begun, state(model), "policy/critic.")  # and were not thrown away again
    assert not differs(offline, state(model), "policy/actor.")
    learned = state(model)
    model.learn(1, reset_num_timesteps=False)
    assert differs(offline, state(model), "policy/actor.")
    model.save(tmp_path / "tuned")
    again = algorithm.load(tmp_path / "tuned", vec(), device="cpu", gradient_steps=0, finetuning=[])
    again.learn(1, callback=Warmup(0, fresh_critics=True), reset_num_timesteps=False)  # the run has begun
    assert not differs(state(model), state(again), "policy/critic.")
    assert differs(learned, state(again), "policy/critic.")
    # another run begins anew
    assert not algorithm.load_offline(tmp_path / "tuned", vec(), device="cpu").finetuning[0].has_renewed


def test_critics_evaluate_the_frozen_policy_by_hand() -> None:
    """y = 1 + Q(s', (0.5, 0)) / 2 = 1.25, Q = 0.2: the error of -1.05 moves x by 0.1 x 1.05 x 0.2 and b by 0.105."""
    warmup = Warmup(0, 10, fresh_critics=True)
    plain = {"squash": "none", "state_dependent_std": False}
    model = linear_sac(plain, finetuning=[warmup], learning_rate=0.1, ent_coef=0.5, entropy_backup=False)
    model.finetuning_run.steps_before, model.num_timesteps = 0, 1
    model.hooks.deliver_to([warmup])
    set_mean(model.actor.mu, 0.5, 0.0)
    for critic in (model.critic, model.critic_target):
        set_critic(critic, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    model.draws = Given(next_policy=[[0.0, 0.0]], policy=[[0.0, 0.0]])
    model.set_phase("finetuning")
    losses = model.update(one_transition((0.2, 0.0)))
    assert "actor_loss" not in losses
    for index in range(2):
        assert get_critic(model.critic, index) == pytest.approx([1.021, 0.0, 0.105])
    assert model.actor.mu.bias.tolist() == [0.5, 0.0]
    model.num_timesteps = 11  # the policy's turn: it climbs Q
    model.update(one_transition((0.2, 0.0)))
    assert model.actor.mu.bias[0] > 0.5


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.expensive)])
@pytest.mark.parametrize(
    ("build", "kwargs"),
    [(make, {}), (make, {"objective_kwargs": {"loss": "mse"}}), (make_td3, {}), (make_td3, {"policy_delay": 1})],
)
def test_a_frozen_policy_is_not_cloned_either(build: Callable[..., Any], kwargs: Any, compiled: bool) -> None:
    both = {"objective": "bc", "online_objective": "bc", "compile": compiled, **kwargs}
    model = build(finetuning=[Warmup(steps=2, freeze_policy_steps=10)], **both).pretrain(dataset(), 3)
    before = state(model)
    model.learn(9)
    assert model._n_updates > 6
    assert not differs(before, state(model), "policy/actor.")
    assert not differs(before, state(model), "log_ent_coef") or model.log_ent_coef is None
    model.learn(9, reset_num_timesteps=False)
    assert differs(before, state(model), "policy/actor.")


@pytest.mark.parametrize("build", [make, make_td3])
def test_the_cloned_policy_steps_on_each_minibatch_whatever_the_delay(build: Callable[..., Any]) -> None:
    """``actor_batch="block"`` is for an actor that waits."""
    sizes: list[int] = []
    actor_batch = {"policy_delay": 3, "gradient_steps": 3, "actor_batch": "block"}
    with pytest.warns(UserWarning, match="has no effect"):
        model = build(objective="bc", online_objective="bc", **actor_batch)
    steps = model.finetuning_objective.steps
    model.finetuning_objective.steps = lambda batch, actor: (sizes.append(len(actor)), steps(batch, actor))[1]
    model.pretrain(dataset(), 1).learn(8)
    assert len(sizes) > 3
    assert set(sizes) == {model.batch_size}


def test_fresh_critics_go_on_after_an_interruption(tmp_path: Path) -> None:
    def start() -> Any:
        return make(env=vec(2), learning_starts=0, finetuning=[Warmup(4, 6, fresh_critics=True)])

    whole = start()
    whole.learn(20)
    half = start()
    half.learn(6)
    half.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(2))
    resumed.learn(14, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))


# -- SymmetricReplay -----------------------------------------------------------------------------------------------


def is_offline(batch: Batch, rewards: np.ndarray) -> np.ndarray:
    return np.isin(batch.rewards.numpy(), rewards)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("dictionary", [False, True])
def test_the_share_is_exact_in_each_slice(fraction: float, dictionary: bool) -> None:
    data, batches = dataset(dictionary=dictionary), Batches()
    arguments = {"gradient_steps": 4, "policy_delay": 4, "actor_batch": "block"}
    model = make(dictionary=dictionary, finetuning=[SymmetricReplay(fraction)], dataset=data, **arguments)
    model.learn(9, callback=batches)
    assert len(batches.seen) == 20
    for batch in batches.seen:
        assert is_offline(batch, data.rewards).sum() == fraction * len(batch)


def test_the_share_of_a_single_minibatch() -> None:
    data, batches = dataset(), Batches()
    make(finetuning=[SymmetricReplay(0.3)], dataset=data, batch_size=10).learn(8, callback=batches)
    assert [is_offline(batch, data.rewards).sum() for batch in batches.seen] == [3] * 4


def test_a_dataset_of_its_own() -> None:
    mine, batches = dataset(seed=5), Batches()
    make(finetuning=[SymmetricReplay(0.5, dataset=mine)]).pretrain(dataset(), 2).learn(8, callback=batches)
    assert all(is_offline(batch, mine.rewards).sum() == 4 for batch in batches.seen)


def test_rewards_are_on_the_training_scale_in_both_halves() -> None:
    data, batches = dataset(), Batches()
    model = make(finetuning=[SymmetricReplay(0.5)], dataset=data, reward_scale=10.0, reward_shift=-5.0)
    model.learn(8, callback=batches)
    scaled = (data.rewards.astype(np.float64) * 10 - 5).astype(np.float32)
    for batch in batches.seen:
        assert is_offline(batch, scaled).sum() == 4
    # distances from the origin in [0, 4] with a minus: online ones lie below the shift
    assert model.replay_buffer.rewards[:8].max() < -5.0  # type: ignore[union-attr]
    assert model.ep_info_buffer[0]["r"] > -40.0  # type: ignore[index]  # and the monitor sees those of the task


def test_n_step_discounts_in_both_halves() -> None:
    data, batches = dataset(), Batches()
    make(finetuning=[SymmetricReplay(0.5)], dataset=data, n_steps=3).learn(14, callback=batches)
    discounts = {round(value, 5) for batch in batches.seen for value in batch.discounts.tolist()}
    assert discounts <= {0.99, 0.9801, 0.9703}
    assert len(discounts) > 1


def test_its_draws_leave_the_online_ones_alone() -> None:
    """The same online transitions come up with and without a second callback that draws offline ones."""

    class Draw(SymmetricReplay):
        def sample(self, batch_size: int) -> None:
            super().sample(batch_size)

    indices = []
    for callbacks in ([], [Draw(1.0)]):
        batches = Batches()
        make(finetuning=[*callbacks], dataset=dataset()).learn(8, callback=batches)
        indices.append([batch.rewards.tolist() for batch in batches.seen])
    assert indices[0] == indices[1]


def test_replay_callbacks_are_saved_without_the_data(tmp_path: Path) -> None:
    path = dataset_file(tmp_path)
    model = make(finetuning=[SymmetricReplay(0.25, dataset=path)]).learn(8)
    assert len(pickle.dumps(model.finetuning[0])) < 3_000
    model.save(tmp_path / "model")
    loaded, batches = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu"), Batches()
    loaded.learn(8, callback=batches)
    assert loaded.finetuning[0].offline_fraction == 0.25
    assert all(is_offline(batch, dataset().rewards).sum() == 2 for batch in batches.seen)


def test_the_options_of_an_opened_dataset_are_saved(tmp_path: Path) -> None:
    path = Path(dataset_file(tmp_path))
    part = OfflineDataset.load(str(path), fraction=0.5, reward_scale=3.0)
    model = make(finetuning=[SymmetricReplay(0.5, dataset=part)]).learn(8)
    assert len(pickle.dumps(model.finetuning[0])) < 3_000
    model.save(tmp_path / "model")
    loaded: Any = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    loaded.save(tmp_path / "model")  # also where it has not been opened
    loaded, batches = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu"), Batches()
    loaded.learn(8, callback=batches)
    assert loaded.finetuning[0].buffer.dataset.fingerprint == part.fingerprint
    assert all(is_offline(batch, part.rewards).sum() == 4 for batch in batches.seen)
    path.unlink()  # the policy can be used where the data are not
    without = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    with pytest.raises(FileNotFoundError, match=r"boxes\.npz"):
        without.learn(8)


def a_buffer() -> ReplayBuffer:
    buffer: Any = make().learn(20).replay_buffer
    return buffer


@pytest.mark.parametrize("source", [dataset, arrays, a_buffer])
def test_data_from_memory_are_not_saved(source: Callable[[], Any], tmp_path: Path) -> None:
    model = make(finetuning=[SymmetricReplay(0.5, dataset=source())]).learn(8)
    assert len(pickle.dumps(model.finetuning[0])) < 3_000
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="SymmetricReplay needs a dataset: pass dataset="):
        O2OSAC.load(tmp_path / "model", env=vec(), device="cpu").learn(8)
    other, batches = dataset(seed=5), Batches()
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu", dataset=other)
    loaded.learn(8, callback=batches)
    assert all(is_offline(batch, other.rewards).sum() == 4 for batch in batches.seen)


# -- DatasetReplay -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("dictionary", [False, True])
def test_all_of_the_dataset(n_envs: int, dictionary: bool) -> None:
    data = dataset(dictionary=dictionary)
    env = vec(n_envs, dictionary=dictionary)
    model = make(env=env, dictionary=dictionary, finetuning=[DatasetReplay()], dataset=data).learn(4 * n_envs)
    buffer: Any = model.replay_buffer
    assert buffer.size() == 60 // n_envs + 4
    stored = np.concatenate([buffer.rewards[: 60 // n_envs, column] for column in range(n_envs)])
    assert np.array_equal(stored, data.rewards)
    ends = np.concatenate([buffer.dones[: 60 // n_envs, column] for column in range(n_envs)])
    assert np.array_equal(ends > 0, data.terminations | data.truncations)


def test_the_best_part_of_the_dataset() -> None:
    data = dataset()
    model = make(finetuning=[DatasetReplay("part", n_trajectories=2)], dataset=data).learn(4)
    best = np.sort(np.argsort(-data.episode_returns)[:2])
    expected = np.concatenate([data.rewards[10 * episode : 10 * episode + 10] for episode in best])
    assert model.replay_buffer.size() == 24  # type: ignore[union-attr]
    assert np.array_equal(model.replay_buffer.rewards[:20, 0], expected)  # type: ignore[union-attr]


def test_nothing_of_the_dataset() -> None:
    assert make(finetuning=[DatasetReplay("none")]).learn(4).replay_buffer.size() == 4  # type: ignore[union-attr]


def test_it_is_loaded_once_for_each_buffer(tmp_path: Path) -> None:
    model = make(finetuning=[DatasetReplay()], dataset=dataset_file(tmp_path)).learn(4)
    model.learn(4, reset_num_timesteps=False)
    assert model.replay_buffer.size() == 68  # type: ignore[union-attr]
    model.save(tmp_path / "model")  # the weights, without the buffer
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    assert loaded.learn(4).replay_buffer.size() == 64  # type: ignore[union-attr]


def test_time_limits_of_the_dataset_bootstrap_and_terminations_do_not() -> None:
    data = dataset()
    model = make(finetuning=[DatasetReplay()], dataset=data).learn(1)
    buffer: Any = model.replay_buffer
    terminal = (buffer.dones * (1 - buffer.timeouts))[:60, 0]
    assert np.array_equal(terminal > 0, data.terminations)


def test_scaled_rewards_go_into_the_buffer() -> None:
    data = dataset()
    model = make(finetuning=[DatasetReplay()], dataset=data, reward_scale=2.0, reward_shift=1.0).learn(1)
    assert np.allclose(model.replay_buffer.rewards[:60, 0], 2 * data.rewards + 1)  # type: ignore[union-attr]


def test_returns_are_known_for_what_is_loaded() -> None:
    """Cal-QL's bound needs the return of every transition that is sampled."""
    data = dataset()
    model = make(
        objective="calql",
        online_objective="calql",
        objective_kwargs={"n_actions": 3},
        finetuning=[DatasetReplay()],
        dataset=data,
    ).learn(1)
    buffer = model.replay_buffer
    assert isinstance(buffer, MonteCarloReplayBuffer)
    assert np.allclose(buffer.returns[:60, 0], data.returns_to_go(model.gamma), atol=1e-5)
    assert buffer.n_sampleable == 60 + buffer.dones[60, 0]  # the one online step counts once its episode is over
