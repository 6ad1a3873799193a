"""Adaptive behaviour cloning: one update and the controller by hand, and that both survive an interruption."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tiny
import torch as th
from by_hand import Given, linear_td3, one_transition, set_critic, set_mean
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_tasks import Drift, assert_same, make, make_ppo, make_td3, state, vec

from sb3_o2o.finetuning import AdaptiveBC
from sb3_o2o.objectives import finetuning_functional as FF


def test_an_update_by_hand() -> None:
    imitation = AdaptiveBC(weight=0.4, references=(0.0, 1.0))
    model = linear_td3(
        finetuning=[imitation],
        online_objective_kwargs={"normalize_values": True},
        learning_rate=0.1,
        policy_delay=1,
        actor_critics="mean",
    )
    for critic in (model.critic, model.critic_target):
        set_critic(critic, (1.0, 0.0, 0.0), (3.0, 0.0, 0.0))
    mean = math.atanh(0.5)
    set_mean(model.actor.mu[0], mean, 0.0)
    model.hooks.deliver_to([imitation])
    model.qf_lr_schedule = lambda _: 0.0
    model.draws = Given(target_smoothing=[[0.0, 0.0]])
    model.set_phase("finetuning")
    losses = model.update(one_transition((0.1, 0.6)))
    # mean Q is 1, so it stays; |pi - a|^2 = (0.16 + 0.36) / 2 = 0.26
    assert losses["actor_loss"].item() == pytest.approx(-1 + 0.4 * 0.26, rel=1e-5)
    # gradients by the means: (-2 + 0.4 * 0.4) * tanh' with tanh' = 0.75, and 0.4 * (-0.6)
    expected = [mean + 0.1 * 1.84 * 0.75, 0.1 * 0.24]
    assert model.actor.mu[0].bias.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_controller_by_hand() -> None:
    assert FF.controlled_change(0.5, 0.6, 1.05, 0.01, 0.1) == pytest.approx(-0.0045 + 0.01)
    assert FF.controlled_change(0.7, 0.6, 1.05, 0.01, 0.1) == pytest.approx(-0.0045)
    imitation = AdaptiveBC(weight=0.4, k_p=0.01, k_d=0.1, references=(-10.0, 10.0))
    model = make_td3(finetuning=[imitation])
    model.learn(1)
    imitation.begin_new_run()
    imitation._episode_ended(2.0, 10)  # a score of 0.6: the average begins there
    assert imitation.current_weight.item() == pytest.approx(0.4 - 10 * 0.0045)
    assert imitation.average == pytest.approx(0.6)
    imitation._episode_ended(0.0, 5)  # 0.5
    assert imitation.current_weight.item() == pytest.approx(0.4 - 0.045 + 5 * 0.0055)
    assert imitation.average == pytest.approx(0.595)
    imitation._episode_ended(-10.0, 100)  # a collapse: up to the largest
    assert imitation.current_weight.item() == pytest.approx(0.4)
    for _ in range(20):
        imitation._episode_ended(0.0, 10**4)
    assert 0 <= imitation.current_weight.item() <= 0.4


@pytest.mark.parametrize("n_envs", [1, 3])
def test_every_episode_counts(n_envs: int) -> None:
    imitation = AdaptiveBC(references=(-10.0, 0.0))
    ended: list[tuple[float, int]] = []
    imitation._episode_ended = lambda total, length: ended.append((total, length))  # type: ignore[method-assign]
    model = make(env=vec(n_envs), finetuning=[imitation]).learn(30 * n_envs)
    assert sorted(round(total, 3) for total, _ in ended) == sorted(round(each["r"], 3) for each in model.ep_info_buffer)
    assert sum(length for _, length in ended) == sum(each["l"] for each in model.ep_info_buffer)


@pytest.mark.parametrize("build", [make, make_td3])
def test_interrupted_equals_uninterrupted(build: Any, tmp_path: Path) -> None:
    def start() -> Any:
        return build(finetuning=[AdaptiveBC(references=(-10.0, 0.0), k_p=0.003)])

    whole = start()
    whole.learn(40)
    half = start()
    half.learn(20)
    half.save_resume(tmp_path / "bundle")
    resumed = type(half).load_resume(tmp_path / "bundle", vec())
    resumed.learn(20, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))
    one, other = whole.finetuning[0], resumed.finetuning[0]
    assert 0 < one.current_weight.item() < 0.4
    assert (one.current_weight.item(), one.average) == (other.current_weight.item(), other.average)
    whole.save(tmp_path / "model")
    loaded = type(whole).load(tmp_path / "model", device="cpu").finetuning[0]
    assert (loaded.current_weight.item(), loaded.average) == (one.current_weight.item(), one.average)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="references"):
        AdaptiveBC(references=(1.0, 1.0))
    with pytest.raises(ValueError, match="no reference returns are known for this environment"):
        make_td3(finetuning=[AdaptiveBC()]).learn(1)
    tiny.register()
    with pytest.raises(ValueError, match=f"known for '{tiny.BOX}'"):
        make_td3(env=gym.make(tiny.BOX), finetuning=[AdaptiveBC()]).learn(1)
    with pytest.raises(ValueError, match="Monitor"):
        make_td3(env=DummyVecEnv([Drift]), finetuning=[AdaptiveBC(references=(-10.0, 0.0))]).learn(20)
    with pytest.raises(ValueError, match="AdaptiveBC"):
        make_ppo(finetuning=[AdaptiveBC(references=(-10.0, 0.0))]).learn(8)
    with pytest.raises(ValueError, match="AdaptiveBC"):
        make(finetuning=[AdaptiveBC(references=(-10.0, 0.0)), AdaptiveBC(references=(-10.0, 0.0))])


def test_d4rl_references_are_known() -> None:
    class Named(Drift):
        spec = gym.spec("Hopper-v5")

    imitation = AdaptiveBC()
    make(env=Named(), finetuning=[imitation]).learn(1)
    assert imitation._bounds() == pytest.approx((-20.272305, 3234.3))
    assert isinstance(imitation.current_weight, th.Tensor)
