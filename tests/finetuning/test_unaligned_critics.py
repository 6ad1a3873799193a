"""What OCR-CFT compares its alignment with: the policy on critics that were re-evaluated, fixed or going on."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from by_hand import Given, linear_sac, one_transition, set_critic, set_mean
from toy_tasks import assert_same, dataset, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o.finetuning import PolicyReevaluation, ValueAlignment
from sb3_o2o.objectives import OnReevaluatedCriticsObjective


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("critics", ["fixed", "iterative"])
def test_what_moves(build: Any, critics: str) -> None:
    phases = [ValueAlignment(4, critics=critics)]  # type: ignore[arg-type]
    model = build(finetuning=phases, dataset=dataset(), gradient_steps=0, policy_delay=1).pretrain(dataset(), 1)
    before = state(model)
    model.learn(1)
    after = state(model)
    assert model.finished_phases == ["alignment"]
    assert differs(before, after, "policy/actor.")
    goes_on = critics == "iterative"
    assert differs(before, after, "policy/critic.") is goes_on
    if not goes_on:
        assert not differs(before, after, "policy/critic_target.")
    if build is make:
        assert th.equal(before["log_ent_coef"], after["log_ent_coef"])
    for network, target in model.target_pairs():
        if network is not model.critic or goes_on:
            assert all(map(th.equal, network.parameters(), target.parameters()))


def test_an_update_on_fixed_critics_by_hand() -> None:
    model = linear_sac({"squash": "none", "state_dependent_std": False}, learning_rate=0.1, ent_coef=0.5)
    set_critic(model.critic, (2.0, 0.0, 0.0), (3.0, 0.0, 9.0))
    set_mean(model.actor.mu, 0.25, 0.0)
    model.actor.set_std(0.5)
    model.draws = Given(policy=[[0.0, 0.0]])
    objective = OnReevaluatedCriticsObjective(model, iterative=False)
    model.phase_in_progress = (objective, None)
    before = state(model)
    model.update(one_transition((0.0, 0.0)))
    # min Q = 2 a: the mean moves by 0.1 * 2; the entropy's gradient by log std is -0.5
    assert model.actor.mu.bias.tolist() == pytest.approx([0.45, 0.0])
    assert model.actor.log_std.tolist() == pytest.approx([(th.tensor(0.5).log() + 0.05).item()] * 2, rel=1e-5)
    assert not differs(before, state(model), "policy/critic")


@pytest.mark.parametrize("critics", ["fixed", "iterative"])
def test_interrupted_equals_uninterrupted(critics: str, tmp_path: Path) -> None:
    def start() -> Any:
        phases = [PolicyReevaluation(3), ValueAlignment(6, critics=critics)]  # type: ignore[arg-type]
        return make(finetuning=phases, dataset=dataset()).pretrain(dataset(), 1)

    whole = start()
    whole.learn(12)
    half = start()
    half.learn(6)
    half.save_resume(tmp_path / "bundle")
    resumed = type(half).load_resume(tmp_path / "bundle", vec(), dataset=dataset())
    resumed.learn(6, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="critics of ValueAlignment"):
        ValueAlignment(critics="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ValueAlignment calibrates action values"):
        make_ppo(finetuning=[ValueAlignment(2, critics="fixed")], dataset=dataset()).learn(8)
    with pytest.raises(ValueError, match="online rule"):
        OnReevaluatedCriticsObjective(make(online_objective="iql"), iterative=True)
