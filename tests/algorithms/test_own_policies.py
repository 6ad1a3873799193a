"""Policies of one's own: of this library's classes, or refused with what to do."""

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import SAC, TD3
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from toy_tasks import FAST, dataset, make, make_td3, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.networks import O2OSACPolicy, O2OTD3Policy


class OfSAC(SACPolicy):
    """A user's, which knows nothing of ours."""


class TakesAnything(SACPolicy):
    """The same, as people write it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)


class OfTD3(TD3Policy):
    """A user's as well."""


class OfOurs(O2OSACPolicy):
    """What the error says to write."""


class OfOursTD3(O2OTD3Policy):
    """The same for TD3."""


@pytest.mark.parametrize(
    ("ours", "stock", "policy"), [(O2OSAC, SAC, OfSAC), (O2OSAC, SAC, TakesAnything), (O2OTD3, TD3, OfTD3)]
)
def test_of_stock_classes(ours: Any, stock: Any, policy: Any, tmp_path: Path) -> None:
    """Not by an argument that nobody has given."""
    message = rf"{ours.__name__} needs a policy that derives from {ours.__name__}Policy, which {policy.__name__} does"
    with pytest.raises(ValueError, match=message):
        ours(policy, vec(), **FAST)
    trained = stock(policy, vec(), **FAST).learn(6)
    trained.save(tmp_path / "stock")
    for load in (ours.load, ours.load_offline):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "stock", vec(), trust=True)
    cloned = ours.load_offline(trained.policy, vec(), dataset=dataset(), pretrain_steps=2, **FAST)  # as it says
    cloned.learn(6)


def test_of_ours() -> None:
    for model in (make(OfOurs), make_td3(OfOursTD3)):  # type: ignore[arg-type]
        model.learn(6)
        assert type(model.policy).__name__.startswith("OfOurs")
