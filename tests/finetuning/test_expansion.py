"""PEX: who acts, what the new policy imitates, by hand; and that every evaluation sees both policies."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import Given, linear_sac, one_transition, set_critic, set_mean
from stable_baselines3.common.evaluation import evaluate_policy
from toy_tasks import assert_same, dataset, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import ActorCriticAlignment, FineTuningCallback, JumpStart, PolicyExpansion, SymmetricReplay
from sb3_o2o.objectives import finetuning_functional as FF

PLAIN = {"squash": "none", "state_dependent_std": False}
IQL = {"objective": "iql", "online_objective": "iql"}


class Stated(Given):
    """Chances that are stated as well."""

    chance = 0.5

    def uniform(self, name: str, shape: tuple[int, ...]) -> th.Tensor:
        return th.full(shape, 2 * self.chance - 1)


def two_policies(**kwargs: Any) -> tuple[Any, PolicyExpansion]:
    """The offline policy does (0.5, 0), the new one about (-0.5, 0) with a deviation of 0.5."""
    pex = PolicyExpansion(**kwargs)
    model = linear_sac(PLAIN, finetuning=[pex], learning_rate=0.1, **IQL)
    set_mean(model.actor.mu, 0.5, 0.0)
    model.actor.set_std(0.5)
    model.hooks.deliver_to([pex])
    pex._take_policy()
    set_mean(model.actor.mu, -0.5, 0.0)
    return model, pex


def test_probability_by_hand() -> None:
    values = th.tensor([1.0, 0.0]), th.tensor([0.9, 0.0])
    first = math.exp(10) / (math.exp(10) + math.exp(9))
    assert FF.expansion_probability(*values, 10.0).tolist() == pytest.approx([first, 0.5])


def test_an_update_imitates_what_the_two_would_do_by_hand() -> None:
    model, _ = two_policies(inverse_temperature=2.0)
    objective = model.finetuning_objective
    objective.beta, objective.optimizers["value"].param_groups[0]["lr"] = 2.0, 0.0
    with th.no_grad():
        for parameter in objective.value.parameters():
            parameter.zero_()
    for critic in (model.critic, model.critic_target):
        set_critic(critic, (1.0, 0.0, 0.0), (1.0, 0.0, 0.1))
    model.qf_lr_schedule = lambda _: 0.0  # values stay: the arithmetic is the policy's
    # new action: -0.5 + 0.5 = 0, Q = 0; offline Q = 0.5; P(offline) = 1 / (1 + exp(-1)) = 0.731
    model.draws = Stated(expansion_policy=[[1.0, 0.0]])
    for chance, imitated in ((0.73, 0.5), (0.74, 0.0)):
        set_mean(model.actor.mu, -0.5, 0.0)
        model.actor.set_std(0.5)
        model.draws.chance = chance
        model.set_phase("finetuning")
        losses = model.update(one_transition((0.9, 0.9)))  # its own action is not imitated
        weight = math.exp(2.0 * imitated)  # A = min Qb(s, a) - V = a_1
        assert losses["advantage_weight"].item() == pytest.approx(weight, rel=1e-5)
        moved = 0.1 * weight * (imitated + 0.5) / 0.25
        assert model.actor.mu.bias.tolist() == pytest.approx([-0.5 + moved, 0.0], rel=1e-4)


def test_the_critics_choose_who_acts() -> None:
    model, _ = two_policies()
    model.draws = Stated(expansion_policy=[[0.0, 0.0]])
    obs = np.zeros(3, np.float32)
    for slope, sign in ((1.0, 1.0), (-1.0, -1.0)):
        set_critic(model.critic, (slope, 0.0, 0.0), (slope, 0.0, 5.0))
        action, _ = model.predict(obs, deterministic=True)
        assert action[0] == pytest.approx(sign * 1.0)  # +-0.5 in a space of [-2, 2]
        several, _ = model.predict(np.zeros((1, 3), np.float32))  # Q differ by 1: e^10 to 1
        assert several[0, 0] == pytest.approx(sign * 1.0)
    model.draws.chance = 1.0
    assert model.predict(obs)[0][0] == pytest.approx(-1.0)
    # the minimum over critics
    set_critic(model.critic, (1.0, 0.0, 0.0), (-2.0, 0.0, 0.0))  # -1 at 0.5, -0.5 at -0.5
    assert model.predict(obs, deterministic=True)[0][0] == pytest.approx(-1.0)
    before = th.get_rng_state()
    model.predict(obs, deterministic=True)
    assert th.equal(before, th.get_rng_state())


@pytest.mark.parametrize("build", [make, make_td3])
def test_evaluations_and_collecting_see_both(build: Any, tmp_path: Path) -> None:
    build(objective="iql").pretrain(dataset(), 3).save(tmp_path / "offline")
    algorithm = type(build())
    model = algorithm.load_offline(
        tmp_path / "offline",
        vec(2),
        online_objective="iql",
        dataset=dataset(),
        finetuning=[PolicyExpansion(), SymmetricReplay(0.5)],
        device="cpu",
        learning_starts=0,
    )
    offline = state(algorithm.load(tmp_path / "offline"))
    (pex, _) = model.finetuning

    original, asked = pex.choose, []
    pex.choose = lambda *arguments: asked.append(len(arguments[0])) or original(*arguments)  # type: ignore[func-returns-value]
    model.learn(2)
    assert asked[0] == 2
    assert differs(offline, state(model), "policy/actor.")  # anew
    for name, value in pex.policy.state_dict().items():
        assert th.equal(value, offline[f"policy/actor.{name}"])
    before = state(model)
    model.learn(20, reset_num_timesteps=False)
    assert differs(before, state(model), "policy/actor.")
    assert differs(before, state(model), "policy/critic.")
    asked.clear()
    evaluate_policy(model, vec(), n_eval_episodes=1, warn=False)
    assert asked
    del pex.choose
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    actions, _ = model.predict(observations, deterministic=True)
    model.save(tmp_path / "tuned")
    loaded = algorithm.load(tmp_path / "tuned", device="cpu")  # without an environment
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], actions)
    # some processors round the product of one row otherwise than the same row's among several
    assert np.allclose(loaded.predict(observations[0], deterministic=True)[0], actions[0], rtol=0, atol=1e-6)
    own, _ = loaded.policy.predict(observations, deterministic=True)
    assert 0 < np.isclose(own, actions).all(axis=1).mean() < 1
    # another run begins with one policy again
    assert algorithm.load_offline(tmp_path / "tuned", vec(), device="cpu").finetuning[0].policy is None


def test_interrupted_equals_uninterrupted(tmp_path: Path) -> None:
    def start() -> Any:
        return make(env=vec(2), finetuning=[PolicyExpansion()], **IQL)

    whole = start()
    whole.learn(24)
    half = start()
    half.learn(12)
    half.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(2))
    resumed.learn(12, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))


def test_sac_and_awac_beside_the_offline_policy() -> None:
    for online in ("sac", "awac"):
        model = make(online_objective=online, finetuning=[PolicyExpansion()])
        before = state(model)
        model.learn(12)
        assert differs(before, state(model), "policy/actor.")
    kept = make(finetuning=[PolicyExpansion(fresh_policy=False)])
    before = state(kept)
    kept.learn(1)
    assert not differs(before, state(kept), "policy/actor.")


def test_dictionaries(tmp_path: Path) -> None:
    model = make(dictionary=True, finetuning=[PolicyExpansion()], **IQL)
    model.learn(12)
    obs = vec(dictionary=True).reset()
    assert model.predict(obs)[0].shape == (1, 2)


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="PolicyExpansion"):
        make(finetuning=[PolicyExpansion(), PolicyExpansion()])
    with pytest.raises(ValueError, match="replay buffer"):
        make_ppo(finetuning=[PolicyExpansion()])
    with pytest.raises(ValueError, match="gSDE"):
        make(use_sde=True, finetuning=[PolicyExpansion()]).learn(1)
    with pytest.raises(ValueError, match="share_features_extractor"):
        make(policy_kwargs={"net_arch": [8], "share_features_extractor": True}, finetuning=[PolicyExpansion()]).learn(1)
    with pytest.raises(ValueError, match="inverse_temperature"):
        PolicyExpansion(inverse_temperature=0.0)
    make(finetuning=[PolicyExpansion(), JumpStart()], **IQL).learn(12)  # one rolls in, two go on


@pytest.mark.parametrize("kind", [PolicyExpansion, JumpStart, ActorCriticAlignment])
def test_a_policy_that_nothing_has_trained_is_said(kind: Any, tmp_path: Path) -> None:
    untrained = make(finetuning=[kind()])
    untrained.save(tmp_path / "untrained")
    with pytest.warns(UserWarning, match=f"{kind.__name__} freezes the policy .* nothing has trained it"):
        untrained.learn(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*nothing has trained it")
        make(finetuning=[kind()]).pretrain(dataset(), 1).learn(1)
        O2OSAC.load_offline(tmp_path / "untrained", vec(), device="cpu", finetuning=[kind()]).learn(1)
        make(finetuning=[]).learn(12, callback=FineTuningCallback()).learn(1, callback=kind())


def test_the_recipes_offline_policy_learns_at_the_codes_rates() -> None:
    """PEX's IQL has the cosine of IQL offline, and a constant rate online."""
    small: dict[str, Any] = {"buffer_size": 200, "batch_size": 8, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    model = O2OSAC("MlpPolicy", vec(), recipe="pex", finetuning=[PolicyExpansion()], **small).pretrain(dataset(), 4)
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4 * 0.5 * (1 + math.cos(math.pi * 0.75)))
    assert model.finetuning_objective is model.offline_objective  # V goes on
    model.learn(3)
    assert model.actor.optimizer.param_groups[0]["lr"] == 3e-4
