"""Stock critics in and out of batched ones, Adam moments included."""

from typing import Any

import pytest
import torch as th
from stable_baselines3 import SAC
from toy_tasks import FAST, assert_same, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.transfer import conversion

CASES: dict[str, dict[str, Any]] = {
    "two critics": {},
    "four critics": {"n_critics": 4},
    "shared extractor": {"share_features_extractor": True},
    "deep": {"net_arch": {"pi": [16], "qf": [8, 16, 8]}},
    "tanh": {"activation_fn": th.nn.Tanh},
}


def trained_stock(dictionary: bool = False, **policy_kwargs: Any) -> SAC:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    model = SAC(policy, vec(dictionary=dictionary), policy_kwargs={"net_arch": [16], **policy_kwargs}, **FAST)
    return model.learn(12)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_exact(case: str) -> None:
    stock = trained_stock(**CASES[case])
    ours = make(policy_kwargs={"net_arch": [16], **CASES[case]})
    ours.set_parameters(stock.get_parameters())
    ours.log_ent_coef.data.copy_(stock.log_ent_coef)  # type: ignore[union-attr,arg-type]  # no state dictionary holds it
    # what the batched networks compute is what the stock ones do
    obs, actions = th.randn(6, 3), th.rand(6, 2) * 2 - 1
    for mine, theirs in ((ours.critic, stock.critic), (ours.critic_target, stock.critic_target)):
        for value, expected in zip(mine(obs, actions), theirs(obs, actions), strict=True):
            assert th.allclose(value, expected, atol=1e-6)
    back = ours.to_sb3()
    assert type(back) is SAC
    assert_same(state(stock), state(back))


def test_moments_move_with_their_weights() -> None:
    stock = trained_stock()
    ours = make()
    ours.set_parameters(stock.get_parameters())
    moments = ours.critic.optimizer.state_dict()["state"]
    theirs = stock.critic.optimizer.state_dict()["state"]
    # parameters of a stock critic in order: weight, bias, weight, bias of the first, then of the second network
    for key in ("exp_avg", "exp_avg_sq"):
        assert th.equal(moments[0][key], th.stack([theirs[0][key].T, theirs[4][key].T]))
        assert th.equal(moments[3][key][:, 0], th.stack([theirs[3][key], theirs[7][key]]))
    assert {float(each["step"]) for each in moments.values()} == {8.0}


def test_conversion_before_the_first_step() -> None:
    stock = SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST)
    ours = make()
    ours.set_parameters(stock.get_parameters())
    assert ours.critic.optimizer.state_dict()["state"] == {}
    ours.learn(12)


def test_another_number_of_critics_is_refused() -> None:
    stock = SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16], "n_critics": 3}, **FAST)
    with pytest.raises(ValueError, match=r"3 critics.*has 2.*n_critics=3"):
        make().set_parameters(stock.get_parameters())


def test_recognises_stock_policies() -> None:
    stock = SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16], "n_critics": 12}, **FAST)
    assert conversion.is_stock_policy(stock.policy.state_dict())
    assert conversion.count_stock_critics(stock.policy.state_dict()) == 12
    assert not conversion.is_stock_policy(make().policy.state_dict())


def test_twelve_critics_keep_their_order() -> None:
    stock = SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16], "n_critics": 12}, **FAST)
    ours = make(n_critics=12)
    ours.set_parameters(stock.get_parameters())
    obs, actions = th.randn(2, 3), th.rand(2, 2)
    expected = th.cat(stock.critic(obs, actions), dim=1)
    assert th.allclose(th.cat(ours.critic(obs, actions), dim=1), expected, atol=1e-6)


def test_own_parameters_pass_through(tmp_path: Any) -> None:
    model = make(n_critics=3, critic_layer_norm=True).learn(12)
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", device="cpu")
    assert_same(state(model), state(loaded))
