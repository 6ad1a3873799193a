"""NaN and infinity, wherever they come from: one error ends the run and names them, and nothing is made of them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch as th
from failing import (
    BATCH,
    INF,
    InfiniteActions,
    NaNCloning,
    NaNExtractor,
    NaNObjective,
    faulty,
    poison_buffer,
    poison_loss,
    poison_ratio,
)
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import assert_same, dataset, make, make_ppo, make_td3, state

from sb3_o2o import NonFiniteError
from sb3_o2o.finetuning import (
    BalancedReplay,
    ConstrainedFineTuning,
    DualCritic,
    OnlinePretraining,
    PolicyReevaluation,
)
from sb3_o2o.objectives import SACObjective

# -- the trials ----------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """``run`` trains until something is not finite; the error says ``says`` and keeps ``keeps``."""

    name: str
    run: Callable[[], Any]
    says: str
    keeps: list[str] = field(default_factory=lambda: BATCH)


def pretrained(model: Any, loss: str = "", steps: int = 6, **kwargs: Any) -> Any:
    if loss:
        poison_loss(model, loss, **kwargs)
    model.pretrain(dataset(), steps)


def learned(model: Any, loss: str = "", steps: int = 40) -> Any:
    if loss:
        poison_loss(model, loss)
    model.learn(steps)


GREEDY: dict[str, Any] = {"learning_rate": 1e30}
ENV = ["actions", "observations", "rewards"]
ROLLOUT = ["actions", "advantages", "episode_starts", "log_probs", "observations", "returns", "rewards", "values"]
PPO_FEATURES = {"policy_kwargs": {"net_arch": [16], "features_extractor_class": NaNExtractor}}
CONSTRAINED = ConstrainedFineTuning
TRIALS = [
    # a loss of each optimiser
    *(
        Trial(
            f"SAC pretrain, {name} loss", lambda name=name: pretrained(make(objective="cql"), name), f"'{name}' is nan"
        )
        for name in ("critic", "actor", "ent_coef")
    ),
    Trial(
        "SAC pretrain, infinite", lambda: pretrained(make(), "critic", value=INF), r"'critic' is inf at update 3, pre"
    ),
    Trial(
        "SAC pretrain, multiplier of CQL",
        lambda: pretrained(make(objective="cql", objective_kwargs={"lagrange_gap": 1.0}), "lagrange"),
        "'lagrange' is nan",
    ),
    Trial("SAC pretrain, V of IQL", lambda: pretrained(make(objective="iql"), "value"), "'value' is nan", [*BATCH]),
    Trial("TD3 pretrain, actor", lambda: pretrained(make_td3(objective="td3_bc"), "actor", at=2), "'actor' is nan"),
    Trial("PPO pretrain, actor", lambda: pretrained(make_ppo(), "actor"), "'actor' is nan at update 3, pretraining"),
    Trial("PPO pretrain, critic", lambda: pretrained(make_ppo(objective="iql"), "critic"), "'critic' is nan"),
    Trial(
        "TD3 before pretrain, density model",
        lambda: pretrained(
            make_td3(objective="spot", online_objective="spot", objective_kwargs={"density_steps": 6}), "density"
        ),
        "'density' is nan",
    ),
    Trial("SAC learn, critic", lambda: learned(make(), "critic"), r"'critic' is nan at update 3, finetuning, environ"),
    Trial("TD3 learn, critic", lambda: learned(make_td3(), "critic"), "'critic' is nan"),
    Trial(
        "SAC learn, multiplier of a callback",
        lambda: learned(make(finetuning=[ConstrainedFineTuning(reference="interval")]), "multiplier", 60),
        "'multiplier' is nan",
    ),
    Trial(
        "SAC learn, second critics",
        lambda: learned(
            make(finetuning=[OnlinePretraining(8, 4), DualCritic(0.5)], dataset=dataset()), "second_critic"
        ),
        "'second_critic' is nan",
    ),
    Trial(
        "SAC learn, density ratio of balanced replay",
        lambda: learned(poison_ratio(make(finetuning=[BalancedReplay(ratio_net_arch=[8])], dataset=dataset()))),
        "loss of BalancedReplay's density ratio is nan at environment step",
        ["offline", "online"],
    ),
    Trial(
        "SAC in a phase without environment steps",
        lambda: learned(make(finetuning=[PolicyReevaluation(6)], dataset=dataset()), "critic"),
        r"'critic' is nan at update 3, reevaluation",
    ),
    # a user's own
    Trial(
        "user's objective, pretrain", lambda: pretrained(make(objective=NaNObjective)), "'critic' is nan at update 3"
    ),
    Trial(
        "user's objective, learn", lambda: learned(make(online_objective=NaNObjective)), "'critic' is nan at update 3"
    ),
    Trial(
        "user's features, SAC",
        lambda: learned(make(policy_kwargs={"net_arch": [16], "features_extractor_class": NaNExtractor}), steps=60),
        "network gives no distribution of actions at update \\d+, finetuning",
        [],
    ),
    Trial(
        "user's features, PPO", lambda: learned(make_ppo(**PPO_FEATURES), steps=60), "no distribution of actions", []
    ),
    # that diverges
    Trial("rate 1e30, SAC pretrain", lambda: pretrained(make(objective="cql", **GREEDY)), "'critic' is (nan|inf)"),
    Trial("rate 1e30, TD3 learn", lambda: learned(make_td3(**GREEDY)), "'critic' is (nan|inf)"),
    Trial(
        "rate 1e30, PPO learn",
        lambda: learned(make_ppo(**GREEDY)),
        "network gives no distribution of actions at update \\d, finetuning",
        ROLLOUT,
    ),
    # what environments give
    Trial(
        "observation, SAC",
        lambda: learned(make(env=faulty("observation"))),
        r"observation of environment 0 is nan at environment step 9, entry \[1\]",
        ENV,
    ),
    Trial(
        "observation of one of three, SAC",
        lambda: learned(make(env=faulty("observation", n_envs=3, which=2))),
        "observation of environment 2 is nan at environment step 27",
        ENV,
    ),
    Trial(
        "observation of one of two, PPO",
        lambda: learned(make_ppo(env=faulty("observation", n_envs=2, which=1))),
        "observation of environment 1 is nan at environment step 18",
        ENV,
    ),
    Trial(
        "observation in a dictionary",
        lambda: learned(make(env=faulty("observation", dictionary=True), dictionary=True)),
        r"observation \('place'\) of environment 0 is nan",
        ["actions", "observations/goal", "observations/place", "rewards"],
    ),
    Trial(
        "infinite observation behind VecNormalize",
        lambda: learned(make(env=VecNormalize(faulty("observation", INF)))),
        "observation of environment 0 is inf at environment step 9",
        ENV,
    ),
    Trial(
        "last observation",
        lambda: learned(make_td3(env=faulty("last", at=0))),
        "observation of environment 0 is nan at environment step [1-7],",
        ENV,
    ),
    Trial(
        "first observation",
        lambda: learned(make(env=faulty("first", at=0))),
        "observation of environment 0 is nan at environment step 0",
        ["observations"],
    ),
    Trial(
        "infinite reward, TD3",
        lambda: learned(make_td3(env=faulty("reward", -INF))),
        "reward of environment 0 is -inf at environment step 9",
        ENV,
    ),
    Trial(
        "reward, PPO",
        lambda: learned(make_ppo(env=faulty("reward"))),
        "reward of environment 0 is nan at environment step 9",
        ENV,
    ),
    Trial(
        "action of a callback",
        lambda: learned(make(finetuning=[InfiniteActions()])),
        "action of environment 0 is inf at environment step 1",
        ["actions"],
    ),
    Trial(
        "replay buffer that was filled by hand",
        lambda: learned(poison_buffer(make()), steps=8),
        r"rewards\[\d\] of the batch is inf",
        BATCH,
    ),
]


@pytest.mark.parametrize("trial", TRIALS, ids=[trial.name for trial in TRIALS])
def test_one_error_names_what_was_first_not_finite(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    # compiling anything switches this off for the whole process, and what comes next is then seen first
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NonFiniteError, match=trial.says) as caught:
            trial.run()
    assert set(trial.keeps) <= set(caught.value.arrays)
    assert caught.value.path is None


def test_a_loss_is_read_before_its_optimiser_steps() -> None:
    model = make(objective="cql")
    model.pretrain(dataset(), 2)
    poison_loss(model, "critic", at=1)
    before = state(model)
    with pytest.raises(NonFiniteError):
        model.pretrain(dataset(), 5)
    assert_same(state(model), before)


def test_what_is_found_late_is_named_by_its_update() -> None:
    """As on a GPU: losses of many updates are read together."""
    model = make(objective="cql")
    model.loop.watch.waits = True
    poison_loss(model, "actor", at=4)
    with pytest.raises(
        NonFiniteError, match="The loss of the optimiser 'actor' is nan at update 4, pretraining"
    ) as caught:
        model.pretrain(dataset(), 30)
    assert model._n_updates == 30  # read when the log was due
    assert set(caught.value.arrays) == set(BATCH)


def test_losses_that_wait_are_read_after_a_hundred_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(objective="bc")
    model.loop.watch.waits = True
    poison_loss(model, "actor", at=2)
    monkeypatch.setattr("sb3_o2o.updates.finite.READ_EVERY", 7)
    with pytest.raises(NonFiniteError, match="at update 2, pretraining"):
        model.pretrain(dataset(), 50)
    assert model._n_updates == 7
    model = make(objective="bc")
    model.loop.watch.waits = True
    monkeypatch.setattr("sb3_o2o.updates.finite.HELD_BYTES", 1)  # batches too large to be held
    poison_loss(model, "actor", at=2)
    with pytest.raises(NonFiniteError, match="at update 2, pretraining"):
        model.pretrain(dataset(), 50)
    assert model._n_updates == 2


def test_a_gradient_that_is_not_finite_is_told_from_its_loss() -> None:
    class Root(SACObjective):
        """The gradient of the root of 0 is infinite, its value is 0."""

        def actor_losses(self, *arguments: Any) -> Any:
            losses, metrics = super().actor_losses(*arguments)
            weights = next(iter(self.model.actor.mu.parameters()))
            return {**losses, "actor": losses["actor"] + ((weights - weights.detach()) ** 2).sum().sqrt()}, metrics

    model = make(objective=Root)
    with pytest.raises(NonFiniteError, match=r"actor\.mu\.weight holds nan at update 2, pretraining: an earlier"):
        model.pretrain(dataset(), 5)
    model = make(objective=Root)
    with pytest.raises(NonFiniteError, match=r"actor\.mu\.weight holds nan at update 1"):
        model.pretrain(dataset(), 1)  # no update follows that would notice


def test_a_compiled_objective(quick_compiler: None) -> None:
    with pytest.raises(NonFiniteError, match="'actor' is nan at update 3, pretraining"):
        pretrained(make_td3(objective=NaNCloning, compile=True))
