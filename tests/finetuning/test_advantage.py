"""O2PPO's auxiliary advantage: its formula, what it does to a rollout, and how it is kept."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from toy_tasks import dataset, differs, make, make_ppo, vec

from sb3_o2o import O2OPPO
from sb3_o2o.finetuning import AuxiliaryAdvantage, FineTuningCallback
from sb3_o2o.objectives import finetuning_functional as FF


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# -- formulas ------------------------------------------------------------------------------------------------------

#: x = log pi + H of two dimensions: 0 and 0; 1/2 and 1/2, the most there is; -6 and 0.5
EXCESS = th.tensor([[0.0, 0.0], [0.5, 0.5], [-6.0, 0.5]])


def test_on_the_sum_as_in_the_code() -> None:
    found = FF.auxiliary_advantage(EXCESS, th.zeros(3, 2), th.tensor(3.0))
    # softplus(x + 8) - 8 with x = 0, 1, -5.5, over two dimensions, times 2 * 3
    wanted = [6 * (softplus(x + 8) - 8) / 2 for x in (0.0, 1.0, -5.5)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_per_dimension_as_in_the_paper() -> None:
    found = FF.auxiliary_advantage(EXCESS, th.zeros(3, 2), th.tensor(3.0), per_dimension=True)
    wanted = [6 * (softplus(x + 4) + softplus(y + 4) - 8) / 2 for x, y in EXCESS.tolist()]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert found[2] != FF.auxiliary_advantage(EXCESS, th.zeros(3, 2), th.tensor(3.0))[2]


@pytest.mark.parametrize("per_dimension", [False, True])
def test_one_dimension_is_the_same_and_bounded(per_dimension: bool) -> None:
    log_prob = th.tensor([[-1000.0], [-1.0], [-0.9]])
    found = FF.auxiliary_advantage(log_prob, th.full((3, 1), 1.4), th.tensor(2.0), per_dimension)
    assert found.tolist() == pytest.approx([-16.0, 4 * (softplus(4.4) - 4), 4 * (softplus(4.5) - 4)], rel=1e-5)
    assert found.max() <= 1.03 * 2.0  # about one standard deviation


def test_blending() -> None:
    found = FF.blended_advantages(th.tensor([1.0, -2.0]), th.tensor([3.0, 1.0]), th.tensor(0.5))
    assert found.tolist() == pytest.approx([2.5 / 1.5, -1.0])
    assert FF.blended_advantages(th.ones(2), th.zeros(2), th.tensor(0.0)).tolist() == [1.0, 1.0]


def test_blending_does_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"\(3, 1\) cannot be blended with \(3,\)"):
        FF.blended_advantages(th.zeros(3, 1), th.zeros(3), th.tensor(1.0))


# -- in a rollout --------------------------------------------------------------------------------------------------


#: the reference is the policy that fine-tuning begins with
FIRST: dict[str, Any] = {"reference": "interval", "interval": 10_000}


class Before(FineTuningCallback):
    """Keeps advantages, actions, observations and returns of each rollout; asked before the auxiliary advantage."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        names = ("advantages", "actions", "observations", "returns")
        self.kept.append(tuple(getattr(buffer, name).copy() for name in names))


class After(Before):
    """The same, asked afterwards."""


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("squash_mean", [False, True])
def test_every_sample_has_its_own(squash_mean: bool, normalize: bool) -> None:
    before, after, auxiliary = Before(), After(), AuxiliaryAdvantage(64, normalize=normalize, **FIRST)
    kwargs = {"net_arch": [16], "squash_mean": squash_mean}
    model = make_ppo(env=vec(2), policy_kwargs=kwargs, learning_rate=0.01, normalize_observations=True)
    model.pretrain(dataset(), 3)
    model.learn(32, callback=[before, auxiliary, after])
    # the policy of the second rollout is another one than the reference
    reference = make_ppo(env=vec(2), policy_kwargs=kwargs, normalize_observations=True).policy
    reference.load_state_dict(auxiliary.policy.state_dict())
    assert differs(reference.state_dict(), model.policy.state_dict(), "")
    for (plain, actions, obs, returns), (mixed, *_, same), steps in zip(before.kept, after.kept, (16, 32), strict=True):
        assert np.array_equal(returns, same)  # what V is fitted to
        weight = 1 - steps / 64
        wanted = np.empty_like(plain)
        std = plain.std(ddof=1)
        for row, column in np.ndindex(*plain.shape):
            normal: Any = reference.get_distribution(th.as_tensor(obs[row, column])[None]).distribution
            excess = float((normal.log_prob(th.as_tensor(actions[row, column])) + normal.entropy()).sum().detach())
            own = 2 * std * (softplus(excess + 8) - 8) / 2
            wanted[row, column] = (plain[row, column] + weight * own) / (1 + weight)
        if normalize:
            wanted = (wanted - wanted.mean()) / (wanted.std(ddof=1) + 1e-5)
        assert mixed == pytest.approx(wanted, abs=1e-4)


def test_the_weight_falls_to_zero_and_stays() -> None:
    weights: list[float] = []

    class Weights(FineTuningCallback):
        def _on_rollout_end(self) -> None:
            weights.append(auxiliary.weight)

    auxiliary = AuxiliaryAdvantage(anneal_steps=16, **FIRST)
    make_ppo().learn(32, callback=[auxiliary, Weights()])
    assert weights == [0.5, 0.0, 0.0, 0.0]


def test_the_reference_is_the_policy_that_fine_tuning_began_with(tmp_path: Path) -> None:
    model = make_ppo(finetuning=[AuxiliaryAdvantage(**FIRST)], learning_rate=0.01).pretrain(dataset(), 3)
    started = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(16).save(tmp_path / "tuned")
    loaded = O2OPPO.load(tmp_path / "tuned", vec(), device="cpu")
    for run in (loaded, loaded.learn(8, reset_num_timesteps=False)):
        for name, value in started.items():
            assert th.equal(run.finetuning[0].policy.get_parameter(name), value)
            assert not th.equal(dict(run.policy.named_parameters())[name], value)
    again = O2OPPO.load_offline(tmp_path / "tuned", vec(), device="cpu")  # another fine-tuning run, from here
    now = {name: value.clone() for name, value in again.policy.named_parameters()}
    again.learn(8)
    assert all(th.equal(again.finetuning[0].policy.get_parameter(name), value) for name, value in now.items())


def test_the_best_policy_takes_over() -> None:
    """The toy's returns: a reference is replaced where an evaluation finds more than ever before, and only there."""

    class Scores(EvalCallback):
        found = iter([1.0, 3.0, 2.0, 4.0])

        def _on_step(self) -> bool:
            if self.n_calls % self.eval_freq == 0:
                self.last_mean_reward = next(self.found)
            return True

    taken: list[bool] = []

    class Looks(FineTuningCallback):
        def _on_rollout_end(self) -> None:
            taken.append(not differs(auxiliary.policy.state_dict(), self.model.policy.state_dict(), ""))

    auxiliary = AuxiliaryAdvantage()
    make_ppo(learning_rate=0.01).learn(32, callback=[Scores(vec(), eval_freq=8, verbose=0), auxiliary, Looks()])
    assert taken == [True, True, False, True]


def test_large_deviations_are_lowered_once() -> None:
    model = make_ppo(finetuning=[AuxiliaryAdvantage(max_std=0.05, **FIRST)], learning_rate=1e-9)
    with th.no_grad():
        model.policy.log_std[1] = math.log(0.02)
    model.learn(8)
    # on the scale of [-1, 1], of bounds that are 4 apart
    assert model.policy.log_std.exp().tolist() == pytest.approx([0.1, 0.02], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anneal_steps": 0}, "anneal_steps of Auxiliary.* at least 1, not 0"),
        ({"max_std": 0.0}, "max_std of .* above 0 or None, not 0.0"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuxiliaryAdvantage(**arguments)


def test_other_algorithms_have_no_rollout() -> None:
    with pytest.raises(ValueError, match="O2OSAC has none: use it with O2OPPO"):
        make().learn(4, callback=AuxiliaryAdvantage())
