"""Champion and challenger: who acts, who wins, and what users of the model get."""

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import set_mean
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import assert_same, dataset, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o.finetuning import (
    AuxiliaryAdvantage,
    ChampionChallenger,
    ConstrainedFineTuning,
    FineTuningCallback,
    JumpStart,
    TrustRegion,
    Warmup,
)
from sb3_o2o.finetuning import champion as champion_module
from sb3_o2o.finetuning.champion import challenge_statistic


class Watch(FineTuningCallback):
    """Keeps who acts before each step, what went into the replay buffer, and what ended."""

    def __init__(self, champion: ChampionChallenger):
        super().__init__()
        self.champion, self.numbers, self.actions, self.dones = champion, [], [], []  # type: ignore[var-annotated]

    def _on_rollout_start(self) -> None:
        assert self.champion.acting is not None
        self.numbers.append(self.champion.acting.copy())

    def _on_step(self) -> bool:
        self.actions.append(self.locals["buffer_actions"].copy())
        self.dones.append(self.locals["dones"].copy())
        return True


def mean_of(model: Any, build: Any) -> th.nn.Linear:
    layer: th.nn.Linear = model.actor.mu[0] if build is make_td3 else model.actor.mu
    return layer


def two_policies(n_envs: int, build: Any = make, **kwargs: Any) -> tuple[Any, ChampionChallenger, Watch]:
    """The champion always does about (0.8, 0.8), the learning policy (-0.8, -0.8), and nothing is learned."""
    champion = ChampionChallenger(**{"champion_share": 0.0, **kwargs})
    model = build(env=vec(n_envs), policy_kwargs={"net_arch": []}, learning_starts=0, gradient_steps=0)
    set_mean(mean_of(model, build), 1.0, 1.0)
    if build is make:
        model.actor.set_std(1e-3)
    model.hooks.deliver_to([champion])
    champion.init_callback(model)
    model.call.callbacks = [champion]
    champion._on_training_start()  # freezes the policy
    champion.on_new_episodes()
    set_mean(mean_of(model, build), -1.0, -1.0)
    champion.run_id = model.finetuning_run.id
    return model, champion, Watch(champion)


def plays_next(champion: ChampionChallenger) -> int:
    champion._begin_episodes(np.array([0]))
    assert champion.acting is not None
    return int(champion.acting[0])


# -- who wins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("champion", "challenger", "expected"),
    [
        # means 2 and 5, squares within both 2 + 2, s^2 = 4 / 3: 3 / sqrt(4/3 (1/3 + 1/2))
        ([1.0, 2.0, 3.0], [4.0, 6.0], 3 / math.sqrt(4 / 3 * 5 / 6)),
        # means 2 and 1, squares 4 + 2, s^2 = 6 / 4: -1 / sqrt(6/4 (1/4 + 1/2))
        ([1.0, 1.0, 3.0, 3.0], [0.0, 2.0], -1 / math.sqrt(6 / 4 * 3 / 4)),
        # means 2 and 5, squares 2 + 0, s^2 = 2 / 3: 3 / sqrt(2/3 (1/3 + 1/2))
        ([1.0, 2.0, 3.0], [5.0, 5.0], 3 / math.sqrt(2 / 3 * 5 / 6)),
        ([1.0, 1.1], [5.0, 6.0], math.nan),  # too few to know how far returns spread
        ([1.0, 1.1, 1.2, 1.3, 1.4], [5.0], math.nan),  # and nobody knows how far the challenger's do
        ([], [5.0, 6.0, 7.0, 8.0, 9.0], math.nan),
        ([5.0, 6.0, 7.0, 8.0, 9.0], [], math.nan),
        ([1.0] * 3, [2.0] * 2, math.inf),
        ([2.0] * 3, [1.0] * 2, -math.inf),
        ([2.0] * 3, [2.0] * 2, 0.0),
    ],
)
def test_students_t(champion: list[float], challenger: list[float], expected: float) -> None:
    assert challenge_statistic(champion, challenger) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("champion", "challenger", "verdict"),
    [
        ([1.0, 2.0, 3.0], [1.9], "beaten"),
        ([1.0, 2.0, 3.0], [2.0], "beaten"),  # no better is not enough
        ([1.0, 2.0, 3.0], [9.0], "open"),  # four episodes in all
        ([1.0, 2.0, 3.0], [5.0, 5.0], "champion"),  # t = 3 / sqrt(2/3 5/6) = 4.02
        ([1.0, 2.0, 3.0], [3.0, 3.0], "open"),  # t = 1 / sqrt(2/3 5/6) = 1.34
        ([1.0, 2.0, 3.0], [3.0, 2.0, 2.0], "beaten"),  # leads after three, and not for good
        ([1.0, 2.0, 3.0], [3.0, 5.0, 4.0], "champion"),  # t = 2 / sqrt(1 2/3) = 2.45
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], "champion"),  # t = 1 / sqrt(1 2/3) = 1.22: half is enough after three
        ([1.0, 2.0, 3.0], [1.7, 2.7, 3.7], "beaten"),  # t = 0.7 / sqrt(1 2/3) = 0.86
        ([1.0, 2.0, 3.0], [6.0, 2.0, -3.0], "beaten"),
    ],
)
def test_verdicts(champion: list[float], challenger: list[float], verdict: str) -> None:
    callback = ChampionChallenger(episodes=3, confidence=2.0)
    callback.champion_returns, callback.challenger_returns = champion, challenger
    assert callback.verdict() == verdict


def test_the_champion_plays_as_many_before_a_leader_makes_room() -> None:
    """Three episodes that spread say little of a champion: a clear leader was sent away for the champion's spread."""
    _, champion, _ = two_policies(1, episodes=5, confidence=1.5)
    champion.champion_returns = [1.0, 4.0, 4.0]
    assert plays_next(champion) == 0
    for _ in range(4):  # means 3 and 3.9: at most t = 0.9 / sqrt(6/5 (1/3 + 1/4)) = 1.08
        assert plays_next(champion) == 2
        champion._take_return(2, 3.9)
    assert champion.challenger_number == 2
    assert (len(champion.champion_returns), len(champion.challenger_returns)) == (3, 4)
    assert plays_next(champion) == 1
    champion._take_return(1, 2.0)  # 1, 4, 4, 2: means 2.75 and 3.9, t = 1.15 / sqrt(6.75/6 2/4) = 1.53
    assert champion.champion_number == 2
    assert champion.champion_returns == [3.9] * 4


def test_the_champions_own_return_may_send_a_challenger_away() -> None:
    _, champion, _ = two_policies(1, episodes=5, confidence=1.5)
    champion.champion_returns = [1.0, 4.0, 4.0]
    assert plays_next(champion) == 0
    assert plays_next(champion) == 2
    for _ in range(4):
        champion._take_return(2, 3.1)
    assert plays_next(champion) == 1
    champion._take_return(1, 5.0)  # means 3.5 and 3.1
    assert (champion.champion_number, champion.challenger_number) == (1, 0)
    assert champion.champion_returns == [1.0, 4.0, 4.0, 5.0]


def test_any_lead_wins_without_confidence_and_still_not_one_episode() -> None:
    callback = ChampionChallenger(confidence=0.0)
    callback.champion_returns, callback.challenger_returns = [1.0, 2.0, 3.0], [2.5]
    assert callback.verdict() == "open"
    callback.challenger_returns = [2.5, 2.0]
    assert callback.verdict() == "champion"


@pytest.mark.parametrize("build", [make, make_td3])
def test_the_winner_acts_and_a_beaten_one_makes_room(build: Any) -> None:
    model, champion, _ = two_policies(1, build, episodes=2)
    before = copy.deepcopy(champion.policy.state_dict())
    champion.champion_returns = [1.0, 2.0, 3.0]
    assert plays_next(champion) == 0  # who learns explores after an episode that was measured
    assert plays_next(champion) == champion.challenger_number == 2
    champion._take_return(2, 1.0)  # beaten
    assert champion.challenger_number == 0
    assert champion.champion_returns == [1.0, 2.0, 3.0]
    assert all(th.equal(value, before[name]) for name, value in champion.policy.state_dict().items())
    assert [plays_next(champion) for _ in range(3)] == [0, 0, 0]  # who was beaten comes back when it has learned
    champion._take_return(0, 100.0)  # with exploration: no matter
    assert champion.champion_returns == [1.0, 2.0, 3.0]
    set_mean(mean_of(model, build), 0.5, 0.5)
    newest = copy.deepcopy(model.actor.state_dict())
    assert [plays_next(champion) for _ in range(3)] == [3, 3, 3]  # until it is decided
    assert champion.challenger_number == 3
    set_mean(mean_of(model, build), 0.0, 0.0)  # what is learned meanwhile does not act
    champion._take_return(3, 6.0)
    champion._take_return(3, 5.5)
    assert champion.champion_number == 3
    assert champion.champion_returns == [6.0, 5.5]
    assert champion.challenger_returns == []
    for name, value in champion.policy.state_dict().items():
        assert th.equal(value, newest[name])
    observation = model.observation_space.sample()
    action, _ = model.predict(observation, deterministic=True)
    assert np.allclose(model.policy.scale_action(action), np.tanh(0.5), atol=1e-6)


def test_of_several_environments_one_is_measured_at_a_time() -> None:
    """Or those whose episodes end first would count more."""
    _, champion, _ = two_policies(3)
    assert champion.acting is not None
    assert champion.acting.tolist() == [1, 0, 0]
    champion._begin_episodes(np.array([1, 2]))  # theirs have ended
    assert champion.acting.tolist() == [1, 0, 0]
    champion.champion_returns = [1.0, 2.0, 3.0]
    champion._begin_episodes(np.array([0]))  # explores now, and makes room
    champion._begin_episodes(np.array([1, 2]))
    assert champion.acting.tolist() == [0, 2, 0]


# -- who acts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_each_plays_whole_episodes_and_only_after_the_champions_first(build: Any, n_envs: int) -> None:
    model, champion, watch = two_policies(n_envs, build, episodes=10**6, confidence=10**6)
    champion.verdict = lambda: "open"  # type: ignore[method-assign]
    model.learn(90 * n_envs, callback=[champion, watch])
    numbers, actions, dones = map(np.array, (watch.numbers, watch.actions, watch.dones))
    assert np.allclose(np.abs(actions), np.tanh(1.0), atol=0.01)
    assert set(numbers.flatten()) == {0, 1, 2}
    assert np.array_equal(actions.mean(axis=2) > 0, numbers == 1)
    changes = numbers[1:] != numbers[:-1]
    assert not (changes & ~dones[: len(changes)]).any()
    assert ((numbers != 0).sum(axis=1) <= 1).all()
    first = np.argmax((numbers == 2).any(axis=1))
    assert (dones & (numbers == 1))[:first].sum() == 3
    assert ((numbers[:first] == 0).sum(axis=0) > 0).all()  # who learns explores before anybody challenges
    action = champion.predict(np.stack([model.observation_space.sample()] * 2), deterministic=True)
    assert np.allclose(model.policy.scale_action(action), np.tanh(1.0), atol=1e-6)
    assert np.allclose(model.replay_buffer.actions[: len(actions)], actions)


def test_the_champions_share_of_episodes() -> None:
    _, champion, _ = two_policies(1, champion_share=0.3)
    champion.champion_returns = [1.0, 2.0, 3.0]
    np.random.seed(0)
    drawn = []
    for _ in range(2000):
        champion.acting, champion.challenger_number = np.zeros(1, dtype=int), 0
        champion.challenger.load_state_dict(champion.policy.state_dict())  # so that the newest has moved
        drawn.append(plays_next(champion) == champion.champion_number)
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("number", "expected"), [(0, -np.tanh(1.0) + 0.05), (1, np.tanh(1.0)), (2, -np.tanh(1.0))])
def test_only_who_learns_explores(number: int, expected: float) -> None:
    model, champion, _ = two_policies(2, make_td3)
    model.action_noise = lambda: np.full((2, 2), 0.05)
    champion.challenger.load_state_dict(model.actor.state_dict())
    champion.challenger_number, champion.acting = 2, np.full(2, number)
    observations = np.stack([model.observation_space.sample() for _ in range(2)])
    assert np.allclose(model.policy.scale_action(champion.act(observations)), expected, atol=1e-6)


def test_it_acts_at_random_as_long_as_the_algorithm_would() -> None:
    model, champion, _ = two_policies(2, make_td3)
    model.learning_starts, champion.acting = 5, np.array([0, 1])
    observations = np.stack([model.observation_space.sample() for _ in range(2)])
    actions = champion.act(observations)
    assert np.isnan(actions).all(axis=1).tolist() == [True, False]  # the row is the algorithm's


def test_a_stochastic_policy_explores_by_its_samples_and_is_measured_by_its_mode() -> None:
    model, champion, _ = two_policies(1)
    model.actor.set_std(0.5)
    observations = np.stack([model.observation_space.sample()])
    for number, varies in ((0, True), (1, False)):
        champion.acting = np.array([number])
        once, again = (champion.act(observations) for _ in range(2))
        assert np.array_equal(once, again) is not varies


def test_nobody_challenges_before_the_policy_has_learned() -> None:
    model = make(env=vec(1), finetuning=[ChampionChallenger(champion_share=0.0), Warmup(60)])
    model.learn(55)
    (champion, _) = model.finetuning
    assert champion.n_policies == 1
    assert len(champion.champion_returns) >= 3
    model.learn(90, reset_num_timesteps=False)
    assert champion.n_policies > 1


def test_returns_are_the_environments_own_where_rewards_are_normalised() -> None:
    env = VecNormalize(vec(1), norm_obs=False, norm_reward=True)
    model = make(env=env, finetuning=[ChampionChallenger(champion_share=1.0)])
    model.learn(60)
    (champion,) = model.finetuning
    finished = [each["r"] for each in model.ep_info_buffer]
    played = [*finished[:3], *finished[4::2]]  # the first three, and then each second, beside the learner's
    assert len(played) > 4
    assert champion.champion_returns == pytest.approx(played, abs=1e-4)


# -- what users get ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [make, make_td3])
def test_the_champion_is_saved_loaded_and_exported_and_the_learner_goes_on(build: Any, tmp_path: Path) -> None:
    model = build(env=vec(1), finetuning=[ChampionChallenger(confidence=10**6, episodes=10**6)], learning_starts=2)
    model.learn(80)
    (champion,) = model.finetuning
    learning = copy.deepcopy(state(model))
    assert differs({f"policy/actor.{name}": value for name, value in champion.policy.state_dict().items()}, learning)
    observations = np.stack([model.observation_space.sample() for _ in range(5)])
    expected, _ = model.predict(observations, deterministic=True)
    own = model.policy.predict(observations, deterministic=True)[0]
    assert not np.allclose(expected, own)
    assert np.allclose(model.to_sb3().predict(observations, deterministic=True)[0], expected, atol=1e-6)
    assert_same(state(model), learning)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec(1), device="cpu")
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert_same(state(loaded), learning)
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.finetuning[0].champion_returns[: len(champion.champion_returns)] == champion.champion_returns
    sampled = np.stack([loaded.predict(observations)[0] for _ in range(2)])
    assert np.allclose(*sampled) is (build is make_td3)


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("anew", [{}, {"finetuning": [Warmup(3)]}, {"finetuning": [ChampionChallenger()]}])
def test_another_run_begins_with_the_champion(build: Any, anew: dict[str, Any], tmp_path: Path) -> None:
    model = build(env=vec(1), finetuning=[ChampionChallenger(confidence=10**6, episodes=10**6)], learning_starts=2)
    model.learn(80)
    (champion,) = model.finetuning
    expected = {name: value.clone() for name, value in champion.policy.state_dict().items()}
    assert any(not th.equal(value, model.actor.state_dict()[name]) for name, value in expected.items())
    model.save(tmp_path / "tuned")
    for source in (tmp_path / "tuned", model):
        again = type(model).load_offline(source, vec(1), device="cpu", **copy.deepcopy(anew))
        actors = [again.actor, *(target for network, target in again.target_pairs() if network is again.actor)]
        assert len(actors) == (2 if build is make_td3 else 1)
        for actor in actors:
            assert all(th.equal(value, expected[name]) for name, value in actor.state_dict().items())
        assert not again.actor.optimizer.state
        (callback,) = again.finetuning
        if isinstance(callback, ChampionChallenger):
            assert callback.policy is None
            assert callback.champion_returns == []
        again.learn(6)


def test_an_older_champion_does_not_stand_for_a_policy_that_was_pre_trained_further() -> None:
    model = make(env=vec(1), finetuning=[ChampionChallenger(confidence=10**6)], learning_starts=2, dataset=dataset())
    model.pretrain(gradient_steps=3)
    model.learn(60)
    observation = model.observation_space.sample()
    assert not np.allclose(*(each.predict(observation, deterministic=True)[0] for each in (model, model.policy)))
    model.pretrain(gradient_steps=3, reset_gradient_steps=False)
    for each in (model, model.to_sb3()):
        expected = model.policy.predict(observation, deterministic=True)[0]
        assert np.allclose(each.predict(observation, deterministic=True)[0], expected, atol=1e-6)
    newest = copy.deepcopy(model.actor.state_dict())
    model.learn(1, reset_num_timesteps=False)
    for name, value in model.finetuning[0].policy.state_dict().items():
        assert th.equal(value, newest[name])


def test_several_agents_become_one_of_their_champions(tmp_path: Path) -> None:
    agents = []
    for seed in (0, 1):
        agents.append(make(env=vec(1), seed=seed, finetuning=[ChampionChallenger(confidence=10**6)], learning_starts=2))
        agents[-1].learn(60)
    merged = type(agents[0]).load_offline(agents, vec(1), device="cpu")
    for member, agent in zip(merged.actor.members, agents, strict=True):
        expected = agent.finetuning[0].policy.state_dict()
        mine = dict(member.named_parameters())
        assert all(th.equal(mine[name], expected[name]) for name in mine.keys() & expected.keys())
    merged.learn(4)


def test_another_algorithm_takes_the_champion_over() -> None:
    model = make_td3(env=vec(1), finetuning=[ChampionChallenger(confidence=10**6)], learning_starts=2)
    model.learn(60)
    observations = np.stack([model.observation_space.sample() for _ in range(4)])
    taken = type(make()).load_offline(model, vec(1), device="cpu", policy_kwargs=model.policy_kwargs)
    expected = model.predict(observations, deterministic=True)[0]
    assert np.allclose(taken.predict(observations, deterministic=True)[0], expected, atol=1e-4)


def test_statistics_that_move_on_are_warned_of() -> None:
    env = VecNormalize(vec(1), norm_reward=False)
    with pytest.warns(UserWarning, match="training = False"):
        make(env=env, finetuning=[ChampionChallenger()]).learn(2)


def test_episodes_that_do_not_end_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(champion_module, "_LONG_EPISODE", 30)
    model = make(env=vec(2), finetuning=[ChampionChallenger()], learning_starts=0, dataset=dataset())
    model.learn(200)  # episodes of fewer steps
    assert not [each for each in recwarn if "No episode has ended" in str(each.message)]
    for env in model.env.envs:
        step = env.unwrapped.step
        monkeypatch.setattr(env.unwrapped, "step", lambda action, step=step: (*step(action)[:2], False, False, {}))
    with pytest.warns(UserWarning, match="No episode has ended in 30 steps.*time limit") as told:
        model.learn(200, reset_num_timesteps=False)
    assert len([each for each in told if "No episode has ended" in str(each.message)]) == 1


def test_a_run_without_a_champion_yet_begins_with_its_policy(tmp_path: Path) -> None:
    make(finetuning=[ChampionChallenger()]).pretrain(dataset(), 3).save(tmp_path / "offline")
    offline = state(make().load(tmp_path / "offline"))
    again = type(make()).load_offline(tmp_path / "offline", vec(1), device="cpu")
    assert not differs(offline, state(again), "policy/actor.")


@pytest.mark.parametrize("fresh", [False, True])
def test_interrupted_equals_uninterrupted(tmp_path: Path, fresh: bool) -> None:
    def start() -> Any:
        return make(env=vec(2), finetuning=[ChampionChallenger(episodes=2, confidence=0.0, fresh_learner=fresh)])

    whole = start()
    whole.learn(240)
    half = start()
    half.learn(120)
    half.save_resume(tmp_path / "bundle")
    resumed = type(half).load_resume(tmp_path / "bundle", vec(2))
    resumed.learn(120, reset_num_timesteps=False)
    ours, theirs = whole.finetuning[0], resumed.finetuning[0]
    assert ours.n_policies > 2
    assert ours.champion_number == theirs.champion_number
    assert ours.champion_returns == theirs.champion_returns
    assert_same(state(whole), state(resumed))
    assert np.array_equal(whole.replay_buffer.actions[:120], resumed.replay_buffer.actions[:120])


# -- a learner that begins anew ----------------------------------------------------------------------------------------


def pretrained(build: Any, **kwargs: Any) -> Any:
    model = build(env=vec(1), dataset=dataset(), learning_starts=0, learning_rate=0.01, **kwargs)
    model.pretrain(gradient_steps=20)
    return model


@pytest.mark.parametrize("build", [make, make_td3])
def test_what_learns_begins_anew_and_the_champion_is_kept(build: Any, tmp_path: Path) -> None:
    champion = ChampionChallenger(confidence=10**6, fresh_learner=True)
    model = pretrained(build, finetuning=[champion, Warmup(12)])
    offline, observations = state(model), np.stack([model.observation_space.sample() for _ in range(4)])
    expected = model.predict(observations, deterministic=True)[0]
    model.learn(10)
    begun = state(model)
    networks = [name for name in begun if name.startswith("policy/") and name.endswith("weight")]
    assert len(networks) > 6  # of policy, critics and targets
    assert not [name for name in networks if th.equal(begun[name], offline[name])]
    for network, target in model.target_pairs():
        assert_same(dict(network.state_dict()), dict(target.state_dict()))
    assert not any(optimizer.state for optimizer in model.optimizers().values())
    if build is make:
        assert model.current_ent_coef().item() == 1.0
    assert np.array_equal(model.predict(observations, deterministic=True)[0], expected)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec(1), device="cpu")
    loaded.learn(1, reset_num_timesteps=False)
    assert_same(state(loaded), begun)  # once in a run
    loaded.learn(60, reset_num_timesteps=False)
    assert differs(state(loaded), begun)
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], expected)


def test_a_learner_that_begins_anew_needs_no_offline_critics(tmp_path: Path) -> None:
    pretrained(make, n_critics=3).save(tmp_path / "offline")
    fresh = [ChampionChallenger(fresh_learner=True)]
    model = type(make()).load_offline(tmp_path / "offline", vec(1), device="cpu", n_critics=5, finetuning=fresh)
    assert model.n_critics == 5
    model.learn(4)


def test_a_learner_that_begins_anew_has_features_of_its_own() -> None:
    shared = {"share_features_extractor": True}
    model = make(policy_kwargs=shared, finetuning=[ChampionChallenger(fresh_learner=True)])
    before = state(model)
    with pytest.raises(ValueError, match="share_features_extractor=False"):
        model.learn(4)
    assert_same(state(model), before)


# -- who stays near it -------------------------------------------------------------------------------------------------


class Held(FineTuningCallback):
    """Keeps what an update is held against, the champion, and the policy that learns."""

    def __init__(self, reference: Any, champion: ChampionChallenger):
        super().__init__()
        self.reference, self.champion = reference, champion
        self.seen: list[tuple[dict[str, th.Tensor], dict[str, th.Tensor], dict[str, th.Tensor]]] = []

    def after_update(self, batch: Any, metrics: dict[str, th.Tensor]) -> None:
        networks = (self.reference.policy, self.champion.policy, self.model.policy.actor)  # type: ignore[attr-defined]
        self.seen.append(tuple(copy.deepcopy(each.state_dict()) for each in networks))  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("of_class", [ConstrainedFineTuning, TrustRegion])
@pytest.mark.parametrize("comes_first", [True, False])
def test_a_reference_may_follow_the_champion(
    build: Any, of_class: Any, comes_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, reference = ChampionChallenger(champion_share=0.0), of_class(reference="champion")
    monkeypatch.setattr(champion, "verdict", lambda: "champion")  # each challenger wins at its first return
    held = Held(reference, champion)
    both = [reference, champion] if comes_first else [champion, reference]
    build(finetuning=both, learning_starts=0, learning_rate=0.01).learn(120, callback=held)
    for against, acts, _ in held.seen:
        assert_same(against, acts)
    against, _, learns = held.seen[-1]
    assert any(not th.equal(against[name], learns[name]) for name in against)
    pairs = itertools.pairwise(against for against, _, _ in held.seen)
    changes = sum(any(not th.equal(one[name], other[name]) for name in one) for one, other in pairs)
    assert changes == reference.n_taken - 1 > 2
    assert reference.best_score == -math.inf  # no evaluation was asked


def test_a_reference_that_follows_the_champion_goes_on_with_it(tmp_path: Path) -> None:
    """After a resume the reference is the champion's copy, as it was, although nobody has won since."""
    champion, reference = ChampionChallenger(champion_share=0.0), ConstrainedFineTuning(reference="champion")
    champion.verdict = lambda: "champion"  # type: ignore[method-assign]
    model = make(finetuning=[champion, reference], learning_starts=0, learning_rate=0.01).learn(60)
    del champion.verdict
    assert reference.n_taken > 1
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", env=vec())
    after = loaded.finetuning[1]
    assert_same(reference.policy.state_dict(), after.policy.state_dict())
    loaded.learn(4, reset_num_timesteps=False)
    assert_same(champion.policy.state_dict(), after.policy.state_dict())
    assert after.n_taken == reference.n_taken


def test_a_reference_cannot_follow_a_champion_that_is_not_there() -> None:
    for of_class in (ConstrainedFineTuning, TrustRegion):
        with pytest.raises(ValueError, match=r"add ChampionChallenger\(\)"):
            make(finetuning=[of_class(reference="champion")]).learn(2)
    with pytest.raises(ValueError, match="reference"):
        AuxiliaryAdvantage(reference="champion")  # type: ignore[arg-type]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_cannot_stand_beside_it() -> None:
    with pytest.raises(ValueError, match="reference='champion'"):
        make(finetuning=[ChampionChallenger(), ConstrainedFineTuning()]).learn(2)
    make(finetuning=[ChampionChallenger(), ConstrainedFineTuning(reference="interval")]).learn(12)
    with pytest.raises(ValueError, match="ChampionChallenger"):
        make(finetuning=[ChampionChallenger(), JumpStart()])
    with pytest.raises(ValueError, match="replay buffer"):
        make_ppo(finetuning=[ChampionChallenger()])
    with pytest.raises(ValueError, match="use_sde"):
        make(finetuning=[ChampionChallenger()], use_sde=True).learn(1)


@pytest.mark.parametrize("kwargs", [{"episodes": 1}, {"confidence": -1.0}, {"champion_share": 1.5}])
def test_bad_arguments(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        ChampionChallenger(**kwargs)
