"""What objectives may touch of an algorithm is there, and is said."""

import gymnasium as gym
import pytest
import tiny

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.finetuning.fine_tuned_learner import FineTunedLearner
from sb3_o2o.objectives import CriticLearner, Learner, PPOLearner, SACLearner, TD3Learner


def members(protocol: type) -> set[str]:
    """Of a protocol and those that it extends."""
    own = [vars(each) for each in protocol.__mro__ if getattr(each, "_is_protocol", False)]
    named = {name for space in own for name in space if not name.startswith("_")}
    return named | {name for space in own for name in space.get("__annotations__", {})}


@pytest.mark.parametrize(("algorithm", "protocol"), [(O2OSAC, SACLearner), (O2OTD3, TD3Learner), (O2OPPO, PPOLearner)])
def test_an_algorithm_has_all_that_objectives_and_callbacks_may_touch(algorithm: type, protocol: type) -> None:
    model = algorithm("MlpPolicy", gym.make(tiny.BOX), device="cpu", policy_kwargs={"net_arch": [4]})
    promised = members(protocol) | members(FineTunedLearner)
    absent = {"replay_buffer"} if algorithm is O2OPPO else set()
    missing = {name for name in promised - absent if not hasattr(model, name)}
    assert not missing
    assert members(protocol) > members(Learner)


def test_a_protocol_has_what_those_below_it_have() -> None:
    assert members(Learner) < members(CriticLearner) < members(SACLearner)
    assert {"hooks", "gamma", "device", "actor"} <= members(Learner)
