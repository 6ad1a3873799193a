"""Balanced replay: formulas by hand, what is drawn, which priorities follow, and that runs go on bit for bit."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import assert_same, dataset, dataset_file, make, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import BalancedReplay, FineTuningCallback
from sb3_o2o.networks import DensityRatio
from sb3_o2o.networks.ratio import state_action_inputs
from sb3_o2o.objectives import Batch
from sb3_o2o.objectives import finetuning_functional as FF

SMALL: dict[str, Any] = {"ratio_batch_size": 8, "ratio_net_arch": [8]}


def balanced(**kwargs: Any) -> BalancedReplay:
    return BalancedReplay(**{**SMALL, **kwargs})


class Batches(FineTuningCallback):
    """Keeps the critics' batches."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Batch] = []

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.seen.append(batch)


# -- formulas and network ------------------------------------------------------------------------------------------


def test_density_ratio_loss() -> None:
    # offline w = 1, 3: -log 1 = 0 and -log(1/2) = log 2; online w = 1, 0: log 1 = 0 and log(1e-10)
    loss = FF.density_ratio_loss(th.tensor([1.0, 3.0]), th.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(np.log(2) / 2 - np.log(1e-10) / 2, rel=1e-5)


def test_density_ratio_loss_is_least_at_the_ratio() -> None:
    """Of two states, one offline three times out of four and online once: w = 1/3 and 3."""
    ratios = th.ones(2, requires_grad=True)
    optimizer = th.optim.Adam([ratios], lr=0.05)
    offline, online = th.tensor([0, 0, 0, 1]), th.tensor([1, 1, 1, 0])
    for _ in range(400):
        optimizer.zero_grad()
        FF.density_ratio_loss(ratios[offline], ratios[online]).backward()
        optimizer.step()
    assert ratios.tolist() == pytest.approx([1 / 3, 3.0], rel=1e-2)


def test_replay_priorities() -> None:
    # square roots 2, 0, 3 over their offline mean (1 + 3) / 2 = 2; bounds at 0.5 and 1.2
    ratios, offline = th.tensor([4.0, 0.0, 9.0]), th.tensor([1.0, 9.0])
    assert FF.replay_priorities(ratios, offline, 2.0, 0.5, 1.2).tolist() == pytest.approx([1.0, 0.5, 1.2])
    # a network that says 0 everywhere offline
    assert FF.replay_priorities(ratios, th.zeros(2), 2.0).tolist() == pytest.approx([1e3, 1e-3, 1e3])


def test_the_network_leaves_torchs_generator_alone_and_pickles_whole() -> None:
    before = th.get_rng_state()
    ratio = DensityRatio(3, [8], 0.1, seed=1)
    assert th.equal(th.get_rng_state(), before)
    for _ in range(3):
        ratio.optimizer.zero_grad()
        FF.density_ratio_loss(ratio(th.randn(4, 3)), ratio(th.randn(4, 3))).backward()
        ratio.optimizer.step()
    copy = pickle.loads(pickle.dumps(ratio))
    offline, online = th.randn(2, 4, 3)
    for each in (ratio, copy):
        each.optimizer.zero_grad()
        FF.density_ratio_loss(each(offline), each(online)).backward()
        each.optimizer.step()
    for one, other in zip(ratio.network.parameters(), copy.network.parameters(), strict=True):
        assert th.equal(one, other)


def test_inputs_are_everything_side_by_side() -> None:
    observations = {"b": th.tensor([[3.0]]), "a": th.tensor([[[1, 2]]])}
    assert state_action_inputs(observations, th.tensor([[4.0]])).tolist() == [[1, 2, 3, 4]]
    assert state_action_inputs(th.tensor([[1.0, 2.0]]), th.tensor([[4.0]])).tolist() == [[1, 2, 4]]


# -- what is drawn -------------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "sac": {},
    "td3": {"build": make_td3},
    "two environments": {"n_envs": 2},
    "dictionary": {"dictionary": True},
    "dictionary, two environments, td3": {"build": make_td3, "dictionary": True, "n_envs": 2},
    "blocks": {"gradient_steps": 4, "policy_delay": 4, "actor_batch": "block"},
    "a full buffer": {"buffer_size": 9},
    "three-step returns": {"n_steps": 3},
    "rewards on another scale": {"reward_scale": 10.0, "reward_shift": -5.0},
    "calql": {"objective": "calql", "online_objective": "calql", "objective_kwargs": {"n_actions": 2}},
    "iql": {"online_objective": "iql"},
    "normalised": {"normalize_observations": True},
    "fraction": {"callback": {"new_priority": "fraction", "online_fraction": 0.5, "initial_steps": 10}},
}


def run(name: str, steps: int = 20, data: Any = None) -> tuple[Any, BalancedReplay, Batches]:
    arguments = dict(VARIANTS[name])
    build, n_envs = arguments.pop("build", make), arguments.pop("n_envs", 1)
    dictionary = arguments.get("dictionary", False)
    callback, batches = balanced(**arguments.pop("callback", {})), Batches()
    model = build(
        env=vec(n_envs, dictionary=dictionary),
        finetuning=[callback],
        dataset=dataset(dictionary=dictionary) if data is None else data,
        **{"batch_size": 16, **arguments},
    )
    model.learn(steps * n_envs, callback=batches)
    return model, callback, batches


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_draws_both_kinds(name: str) -> None:
    model, callback, batches = run(name)
    scaled = dataset().rewards.astype(np.float64) * model.reward_scale + model.reward_shift
    if model.n_steps == 1:
        offline = [np.isin(batch.rewards.numpy(), scaled.astype(np.float32)) for batch in batches.seen]
        shares = [share.mean() for share in offline]
        assert 0 < np.mean(shares) < 1
        # every online reward lies below the shift, by its distance
        for batch, is_offline in zip(batches.seen, offline, strict=True):
            assert (batch.rewards.numpy()[~is_offline] <= model.reward_shift).all()
    assert callback.tree is not None
    online = callback.tree.priorities[60:].reshape(-1, model.n_envs)
    n_listed = model.replay_buffer.size() * model.n_envs - callback._waiting.sum()
    # the transition of the last step is listed when the next update draws
    assert abs(np.count_nonzero(online) - n_listed) <= model.n_envs
    assert callback.tree.priorities[:60].min() >= 1e-3
    assert callback.tree.priorities.max() <= callback.largest_priority


def test_a_drawn_batch_is_the_transitions_of_its_places() -> None:
    model, callback, _ = run("two environments")
    data, buffer = dataset(), model.replay_buffer
    samples = callback.sample(64)
    assert len(set(callback._drawn)) > 20
    for row, place in enumerate(callback._drawn):
        if place < 60:
            expected = data.get(np.array([place]))
            observation, reward, done = expected.observations[0], expected.rewards[0], expected.terminations[0]
        else:
            step, env = divmod(place - 60, 2)
            observation, reward = buffer.observations[step, env], buffer.rewards[step, env]
            done = buffer.dones[step, env] * (1 - buffer.timeouts[step, env])
        assert np.array_equal(samples.observations[row], observation)
        assert (samples.rewards[row].item(), samples.dones[row].item()) == (reward, float(done))


def test_frequencies_are_the_priorities() -> None:
    """Chi-square over all transitions; strata make it smaller than independent draws would."""
    _, callback, _ = run("sac", 40)
    assert callback.tree is not None
    counts = np.zeros(callback.tree.capacity)
    for _ in range(400):
        callback.sample(50)
        np.add.at(counts, callback._drawn, 1)
    priorities = callback.tree.priorities
    assert (counts[priorities == 0] == 0).all()
    expected = 20_000 * priorities[priorities > 0] / priorities.sum()
    degrees = len(expected) - 1
    statistic = ((counts[priorities > 0] - expected) ** 2 / expected).sum()
    assert statistic < degrees + 3.1 * np.sqrt(2 * degrees)  # 0.1 % of independent draws lie beyond


def test_new_transitions_get_the_largest_priority() -> None:
    model, callback, _ = run("sac")
    assert callback.tree is not None
    assert callback.largest_priority > 1.0
    model.learn(1, reset_num_timesteps=False)  # listed by the update, and not drawn by it with certainty
    callback._list_new()
    newest = callback.tree.priorities[60 + model.replay_buffer.pos - 1]
    callback.largest_priority = 7.0
    buffer = model.replay_buffer
    buffer.pos += 1
    callback._list_new()
    assert callback.tree.priorities[60 + buffer.pos - 1] == 7.0
    assert newest > 0


def test_the_first_online_transitions_are_drawn_as_often_as_asked() -> None:
    """60 of priority 1, and 20 that are to weigh a quarter of all: 60 * 0.25 / (0.75 * 20) = 1 each."""
    callback = balanced(new_priority="fraction", online_fraction=0.25, initial_steps=20)
    model = make(finetuning=[callback], dataset=dataset(), learning_starts=20).learn(20)
    callback._list_new()
    assert callback.tree is not None
    online = callback.tree.priorities[60:]
    assert online[online > 0].tolist() == [1.0] * 20
    assert online.sum() / callback.tree.total == 0.25
    assert model._n_updates == 0


def test_only_what_was_drawn_changes_and_as_the_formula_says() -> None:
    class Before(FineTuningCallback):
        """Stands before the other, so that it sees the tree as it was."""

        def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
            callback: Any = self.model.finetuning[1]  # type: ignore[attr-defined]
            self.drawn, self.was = callback._drawn.copy(), callback.tree.priorities.copy()
            self.batch, self.rng = batch, pickle.loads(pickle.dumps(callback.buffer.rng))

    first, callback = Before(), balanced()
    make(finetuning=[first, callback], dataset=dataset(), batch_size=8).learn(6)
    assert callback.tree is not None
    assert callback.ratio is not None
    now = callback.tree.priorities
    assert np.array_equal(np.flatnonzero(now != first.was), np.unique(first.drawn))
    callback.buffer.rng = first.rng  # type: ignore[union-attr]
    offline, _ = callback._uniform_inputs()
    with th.no_grad():
        ratios = callback.ratio(state_action_inputs(first.batch.observations, first.batch.actions))
        expected = FF.replay_priorities(ratios, callback.ratio(offline), 5.0)
    assert np.allclose(now[first.drawn], expected.numpy())


def test_online_like_transitions_rise() -> None:
    """The dataset's places are spread wider than those that the policy visits: far ones are offline."""
    callback = balanced(ratio_learning_rate=1e-2, ratio_net_arch=[32], ratio_batch_size=64, temperature=1.0)
    model = make(finetuning=[callback], dataset=dataset(400), env=vec(limit=3)).learn(150)
    assert callback.ratio is not None
    assert model._n_updates > 0
    offline, online = callback._uniform_inputs()
    with th.no_grad():
        assert callback.ratio(online).mean() > 1.5 * callback.ratio(offline).mean()


def test_rows_of_a_full_buffer_are_replaced() -> None:
    model, callback, batches = run("a full buffer", 40)
    assert model.replay_buffer.full
    assert callback.tree is not None
    assert np.count_nonzero(callback.tree.priorities[60:]) == 9
    stored = set(model.replay_buffer.rewards.ravel().tolist()) | set(dataset().rewards.tolist())
    assert set(callback.sample(200).rewards.ravel().tolist()) <= stored
    assert len(batches.seen) == 36


def test_unfinished_episodes_wait_for_their_returns() -> None:
    model, callback, _ = run("calql", 25)
    unfinished = model.replay_buffer._unfinished[0]
    callback._list_new()
    assert callback.tree is not None
    assert np.count_nonzero(callback.tree.priorities[60:]) == 25 - unfinished
    samples = callback.sample(32)
    assert samples.returns_to_go is not None


def test_its_draws_leave_those_of_others_alone() -> None:
    """The same actions and the same transitions come up in the environment."""

    class Ignored(BalancedReplay):
        def sample(self, batch_size: int) -> Any:
            super().sample(batch_size)

    plain = make(dataset=dataset()).learn(16)
    beside = make(finetuning=[Ignored(**SMALL)], dataset=dataset()).learn(16)
    assert_same(state(plain), state(beside))


def test_with_vecnormalize() -> None:
    env = VecNormalize(vec(2), gamma=0.9)
    callback = balanced()
    model = make(env=env, finetuning=[callback], dataset=dataset()).learn(30)
    assert model._n_updates > 0
    assert callback.sample(16).observations.abs().max() <= 10.0


# -- state ---------------------------------------------------------------------------------------------------------


def priorities_and_weights(callback: BalancedReplay) -> dict[str, th.Tensor]:
    assert callback.tree is not None
    assert callback.ratio is not None
    flat = {f"ratio/{name}": value for name, value in callback.ratio.network.state_dict().items()}
    flat["tree"] = th.from_numpy(callback.tree._nodes.copy())
    flat["largest"] = th.tensor(callback.largest_priority)
    flat["rng"] = th.from_numpy(pickle.loads(pickle.dumps(callback.buffer.rng)).random(4))  # type: ignore[union-attr]
    return flat


@pytest.mark.parametrize("given_to_learn", [False, True])
@pytest.mark.parametrize("name", ["sac", "two environments", "dictionary", "a full buffer", "calql", "blocks"])
def test_interrupted_equals_uninterrupted(name: str, given_to_learn: bool, tmp_path: Path) -> None:
    arguments = dict(VARIANTS[name])
    n_envs, dictionary = arguments.pop("n_envs", 1), arguments.get("dictionary", False)
    data, total, stop = dataset_file(tmp_path, dictionary), 30 * n_envs, 17 * n_envs

    def start() -> tuple[Any, list[Any]]:
        callback = balanced()
        own = {"finetuning": [] if given_to_learn else [callback]}
        model = make(env=vec(n_envs, dictionary=dictionary), dataset=data, **own, **arguments)
        return model, [callback] if given_to_learn else []

    model, callbacks = start()
    model.learn(total, callback=callbacks)
    straight = state(model) | priorities_and_weights((callbacks or model.finetuning)[0])
    model, callbacks = start()
    model.learn(stop, callback=callbacks)
    model.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(n_envs, dictionary=dictionary), device="cpu")
    callbacks = [balanced()] if given_to_learn else []
    resumed.learn(total - stop, callback=callbacks, reset_num_timesteps=False)
    assert_same(straight, state(resumed) | priorities_and_weights((callbacks or resumed.finetuning)[0]))


def test_a_saved_model_keeps_the_network_and_the_datasets_priorities(tmp_path: Path) -> None:
    model = make(finetuning=[balanced()], dataset=dataset_file(tmp_path), buffer_size=100_000).learn(20)
    callback: Any = model.finetuning[0]
    offline, weights = callback.tree.priorities[:60].copy(), callback.ratio.network[0].weight.clone()
    assert (offline != 1.0).any()
    assert len(pickle.dumps(callback)) < 10_000  # nothing of the online buffer's places
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu", learning_starts=100)
    loaded.learn(2, reset_num_timesteps=False)
    again: Any = loaded.finetuning[0]
    assert np.allclose(again.tree.priorities[:60], offline)
    assert th.equal(again.ratio.network[0].weight, weights)
    assert np.count_nonzero(again.tree.priorities[60:]) >= 1
    fresh = O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu", learning_starts=100).learn(2)
    assert fresh.finetuning[0].tree.priorities[:60].tolist() == [1.0] * 60  # a new fine-tuning run


def test_a_buffer_that_was_loaded_is_listed(tmp_path: Path) -> None:
    model = make(finetuning=[balanced()], dataset=dataset_file(tmp_path)).learn(20)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(1, reset_num_timesteps=False)
    callback: Any = loaded.finetuning[0]
    callback._list_new()
    assert np.count_nonzero(callback.tree.priorities[60:]) == 21


@pytest.mark.parametrize("name", ["sac", "two environments", "a full buffer", "calql"])
def test_priorities_outlive_a_callback_that_stops_the_run(name: str) -> None:
    """One of Stable-Baselines3's ends a call at a step that has not been listed yet."""

    class Looks(BaseCallback):
        """The priorities with which a call begins."""

        def _on_training_start(self) -> None:
            assert callback.tree is not None
            n_listed = model.replay_buffer.size() * model.n_envs - callback._waiting.sum()
            begun.append((callback.tree.priorities.copy(), n_listed))

        def _on_step(self) -> bool:
            return True

    arguments, callback, begun = dict(VARIANTS[name]), balanced(), []
    n_envs = arguments.pop("n_envs", 1)
    model = make(env=vec(n_envs), finetuning=[callback], dataset=dataset(), **arguments)
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(4))
    assert callback.tree is not None
    before = callback.tree.priorities.copy()
    model.learn(n_envs, callback=Looks(), reset_num_timesteps=False)
    (priorities, n_listed) = begun[0]
    assert (before[:60] != 1.0).any()
    assert np.array_equal(priorities[:60], before[:60])
    # the step that the callback saw has come in, or the episode that it ended
    assert np.count_nonzero(priorities[60:]) == n_listed
    assert 1 <= (priorities[60:] != before[60:]).sum() <= (7 if name == "calql" else n_envs)


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature of BalancedReplay must be a finite number above 0, not 0.0"),
        ({"new_priority": "mean"}, "new_priority of BalancedReplay must be 'max' or 'fraction', not 'mean'"),
        ({"online_fraction": 1.0}, r"online_fraction of BalancedReplay must be a number in \(0, 1\), not 1.0"),
        ({"initial_steps": 0}, "initial_steps of BalancedReplay must be a whole number of at least 1, not 0"),
        ({"ratio_batch_size": 0}, "ratio_batch_size of .* of at least 1, not 0"),
        ({"ratio_learning_rate": 0.0}, "ratio_learning_rate of .* above 0, not 0.0"),
    ],
)
def test_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalancedReplay(**arguments)


def test_buffers_that_cannot_be_drawn_from() -> None:
    saving = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    with pytest.raises(ValueError, match="optimize_memory_usage=False"):
        make(finetuning=[balanced()], dataset=dataset(), **saving).learn(8)
    with pytest.raises(ValueError, match="BalancedReplay needs a dataset"):
        make(finetuning=[balanced()]).learn(8)
