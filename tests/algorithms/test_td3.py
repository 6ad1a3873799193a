"""O2OTD3: stock models in and out, the delay, target networks, hooks without a density, arguments."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.noise import NormalActionNoise
from toy_tasks import FAST, assert_same, dataset, dataset_file, differs, make_td3, state, vec

from sb3_o2o import O2OTD3
from sb3_o2o.finetuning import FineTuningCallback, SymmetricReplay
from sb3_o2o.objectives import Batch


def stock(algorithm: Any = TD3, dictionary: bool = False, steps: int = 12, **kwargs: Any) -> Any:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    arguments = {"policy_kwargs": {"net_arch": [16]}, **FAST, **kwargs}
    return algorithm(policy, vec(dictionary=dictionary), **arguments).learn(steps)


def go_on(model: Any, steps: int = 8) -> Any:
    """Continue both in the same way: the same environment, buffer and random numbers."""
    model.set_random_seed(21)
    model.learning_starts = 4
    return model.learn(steps)


# -- stock models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("algorithm", [TD3, DDPG])
@pytest.mark.parametrize("how", ["load a zip", "load a stream", "load_offline a zip", "load_offline a live model"])
def test_stock_models_come_in_and_go_on_as_they_would(
    how: str, algorithm: Any, dictionary: bool, tmp_path: Path
) -> None:
    theirs = stock(algorithm, dictionary)
    theirs.save(tmp_path / "stock")
    env = vec(dictionary=dictionary)
    if how.startswith("load_offline"):
        source = theirs if how.endswith("live model") else str(tmp_path / "stock.zip")
        ours = O2OTD3.load_offline(source, env=env, device="cpu")
        assert ours.learning_starts == 0
    else:
        path: Any = tmp_path / "stock"
        ours = O2OTD3.load(path if how == "load a zip" else io.BytesIO(path.with_suffix(".zip").read_bytes()), env=env)
    assert ours.n_critics == (1 if algorithm is DDPG else 2)
    reference = algorithm.load(tmp_path / "stock", env=vec(dictionary=dictionary), device="cpu")
    ours._n_updates = reference._n_updates
    go_on(reference)
    go_on(ours)
    assert_same(state(reference), state(ours.to_sb3()), tolerance=1e-5)


@pytest.mark.parametrize("dictionary", [False, True])
def test_to_sb3_is_loaded_by_stock_td3(dictionary: bool, tmp_path: Path) -> None:
    ours = make_td3(dictionary=dictionary, n_critics=3).learn(12)
    ours.to_sb3().save(tmp_path / "exported")
    theirs = TD3.load(tmp_path / "exported", env=vec(dictionary=dictionary), device="cpu")
    assert type(theirs.policy).__module__.startswith("stable_baselines3.")
    obs = vec(dictionary=dictionary).reset()
    assert np.array_equal(ours.predict(obs)[0], theirs.predict(obs)[0])
    # and back again, moments and target networks included, without a loss
    assert_same(state(ours), state(O2OTD3.load(tmp_path / "exported", device="cpu")))
    assert_same(state(ours.to_sb3()), state(theirs))
    theirs.learn(12)


def test_to_sb3_keeps_what_stock_td3_does_not_have(tmp_path: Path) -> None:
    ours = make_td3(critic_layer_norm=True, normalize_observations=True).pretrain(dataset(), 3)
    ours.to_sb3().save(tmp_path / "exported")
    loaded = TD3.load(tmp_path / "exported", env=vec(), device="cpu")
    obs = dataset().observations
    assert np.array_equal(ours.predict(obs)[0], loaded.predict(obs)[0])
    loaded.learn(12)


def test_exporting_changes_nothing() -> None:
    ours, twin = make_td3().learn(12), make_td3().learn(12)
    for model, exported in ((ours, True), (twin, False)):
        model.set_random_seed(5)
        if exported:
            model.to_sb3()
        model.learn(6, reset_num_timesteps=False)
    assert_same(state(ours), state(twin))


def test_load_refuses_other_families_and_names_the_way(tmp_path: Path) -> None:
    from toy_tasks import make

    make().save(tmp_path / "sac")
    with pytest.raises(ValueError, match=r"holds a SAC model, not a TD3 model\. O2OTD3\.load_offline takes over"):
        O2OTD3.load(tmp_path / "sac")


# -- fresh parts ---------------------------------------------------------------------------------------------------


def test_fresh_critics_and_optimisers(tmp_path: Path) -> None:
    make_td3().pretrain(dataset(), 6).save(tmp_path / "offline")
    kept = O2OTD3.load_offline(tmp_path / "offline", vec(), device="cpu")
    fresh = O2OTD3.load_offline(tmp_path / "offline", vec(), device="cpu", load_critic=False, load_optimizer=False)
    assert differs(state(kept), state(fresh), "policy/critic.")
    assert not differs(state(kept), state(fresh), "policy/actor")
    for own, target in zip(fresh.critic.parameters(), fresh.critic_target.parameters(), strict=True):
        assert th.equal(own, target)
    assert kept.actor.optimizer.state_dict()["state"]
    for optimizer in fresh.optimizers().values():
        assert optimizer.state_dict()["state"] == {}
    fresh.learn(6)


# -- delay and targets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "delayed"), [("td3", True), ("td3_bc", True), ("iql", False)])
def test_actor_and_targets_move_at_every_second_offline_update(objective: str, delayed: bool) -> None:
    """Those of IQL, which knows no delay, at every one."""
    model = make_td3(objective=objective)
    moved = []
    for _ in range(4):
        before = state(model)
        model.pretrain(dataset() if model.offline_buffer is None else None, 1, reset_gradient_steps=False)
        after = state(model)
        moved.append(
            [differs(before, after, f"policy/{name}.") for name in ("critic", "actor", "actor_target", "critic_target")]
        )
    assert moved == [[True, False, False, False] if delayed else [True] * 4, [True] * 4] * 2


def test_the_count_goes_on_from_offline_to_online() -> None:
    model = make_td3(policy_delay=3).pretrain(dataset(), 2)
    before = state(model)
    model.learn(5)  # the third update
    assert model._n_updates == 3
    assert differs(before, state(model), "policy/actor.")


def test_targets_follow_by_tau() -> None:
    model = make_td3(tau=0.3, policy_delay=1)
    old = {
        name: [each.clone() for each in getattr(model, name).parameters()] for name in ("actor_target", "critic_target")
    }
    model.pretrain(dataset(), 1)
    for name, network in (("actor_target", model.actor), ("critic_target", model.critic)):
        for was, own, target in zip(old[name], network.parameters(), getattr(model, name).parameters(), strict=True):
            assert th.allclose(target, 0.7 * was + 0.3 * own, atol=1e-6)


def test_behaviour_cloning_trains_the_actor_at_every_update_and_its_target() -> None:
    model = make_td3(objective="bc", policy_delay=2)
    for wanted in (False, True):
        before = state(model)
        model.pretrain(dataset() if model.offline_buffer is None else None, 1, reset_gradient_steps=False)
        after = state(model)
        assert differs(before, after, "policy/actor.")
        assert differs(before, after, "policy/actor_target.") is wanted
        assert not differs(before, after, "policy/critic")


def test_a_block_is_drawn_at_once_only_where_the_actor_steps_on_it() -> None:
    class Sizes(FineTuningCallback):
        def sample(self, batch_size: int) -> None:
            sizes.append(batch_size)

    sizes: list[int] = []
    make_td3(gradient_steps=4).learn(5, callback=Sizes())
    assert sizes == [8] * 4
    sizes.clear()
    make_td3(gradient_steps=4, actor_batch="block").learn(5, callback=Sizes())
    assert sizes == [32]


# -- hooks ---------------------------------------------------------------------------------------------------------


class Look(FineTuningCallback):
    """Overrides the hooks of the update and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []

    def next_actions(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        self.seen.append(("next_actions", log_prob))
        return actions

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        self.seen.append(("next_values", log_prob))
        return values

    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        self.seen.append(("actor_values", tuple(values.shape)))
        return values

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        self.seen.append(("actor_penalty", log_prob))
        return th.zeros(len(actions))


@pytest.mark.parametrize("online", ["td3", "td3_bc"])
def test_hooks_are_asked_without_a_density(online: str) -> None:
    look = Look()
    plain, watched = make_td3(online_objective=online).learn(8), make_td3(online_objective=online)
    watched.learn(8, callback=look)
    assert_same(state(plain), state(watched))
    once = [("next_actions", None), ("next_values", None)]
    twice = [*once, ("actor_values", (8,)), ("actor_penalty", None)]
    assert look.seen == [*once, *twice] * 2


@pytest.mark.parametrize("hook", ["next_actions", "next_values", "actor_values", "actor_penalty"])
@pytest.mark.parametrize("online", ["td3", "td3_bc"])
def test_answers_count(hook: str, online: str) -> None:
    answers: dict[str, Any] = {
        "next_actions": lambda actions, log_prob, batch: -actions,
        "next_values": lambda values, actions, log_prob, batch: values + 1,
        "actor_values": lambda values, actions, batch: -values,
        "actor_penalty": lambda actions, log_prob, batch: 3.0 * actions.pow(2).sum(dim=1),
    }
    callback = FineTuningCallback()
    setattr(callback, hook, answers[hook])
    arguments: dict[str, Any] = {"policy_delay": 1, "learning_starts": 8, "online_objective": online}
    plain, changed = make_td3(**arguments).learn(9), make_td3(**arguments).learn(9, callback=callback)
    of_critic = hook.startswith("next")
    # the gradients' moments: Adam's first step hides the size of a gradient
    assert differs(state(plain), state(changed), "critic.optimizer") == of_critic
    assert differs(state(plain), state(changed), "actor.optimizer") or of_critic


# -- arguments and logs --------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "objective": ({"objective": "td3bc"}, r"Unknown objective for O2OTD3 'td3bc'\. Did you mean 'td3_bc'\?"),
    "objective of SAC": ({"objective": "cql"}, "Unknown objective for O2OTD3 'cql'"),
    "likelihood": (
        {"objective": "bc", "objective_kwargs": {"loss": "likelihood"}},
        "has no likelihood, use loss='mse'",
    ),
    "likelihood of iql": (
        {"objective": "iql", "objective_kwargs": {"policy_loss": "likelihood"}},
        "has no likelihood, use policy_loss='mse'",
    ),
    "alpha": (
        {"objective": "td3_bc", "objective_kwargs": {"alpha": -1.0}},
        "alpha .*must be a finite number of at least 0",
    ),
    "reduction": ({"objective_kwargs": {"critic_reduction": "max"}}, "critic_reduction .*must be.*not 'max'"),
    "noise": ({"target_policy_noise": -0.1}, "target_policy_noise must be a finite number of at least 0, not -0.1"),
    "exploration": (
        {"action_noise": -0.1},
        "action_noise must be a finite number of at least 0, an ActionNoise or None, not -0.1",
    ),
    "critics": ({"actor_critics": "last"}, "actor_critics must be 'min', 'mean', 'first' or 'pairs', not 'last'"),
    "recipe": ({"recipe": "wsrl"}, "is for O2OSAC, not for O2OTD3"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    arguments, message = ARGUMENTS[name]
    with pytest.raises(ValueError, match=message):
        make_td3(**arguments)


def test_noise_as_a_number(tmp_path: Path) -> None:
    ours = make_td3(action_noise=0.1).learn(12)
    same = make_td3(action_noise=NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))).learn(12)
    assert_same(state(ours), state(same))
    ours.save(tmp_path / "model")
    assert isinstance(O2OTD3.load(tmp_path / "model").action_noise, NormalActionNoise)
    assert O2OTD3.load(tmp_path / "model", action_noise=0.3).action_noise._sigma.tolist() == pytest.approx([0.3, 0.3])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("td3", {"critic_loss", "actor_loss"}),
        ("bc", {"actor_loss"}),
        ("td3_bc", {"critic_loss", "actor_loss", "q_weight"}),
        ("iql", {"critic_loss", "actor_loss", "value_loss", "advantage", "advantage_weight"}),
    ],
)
def test_log_keys(objective: str, expected: set[str]) -> None:
    model, keys = make_td3(objective=objective), set()

    class Keys(FineTuningCallback):
        def _on_step(self) -> bool:
            keys.update(self.model.loop.metrics.sums)  # type: ignore[attr-defined]
            return True

    model.pretrain(dataset(), 4, callback=Keys())
    assert keys == expected
    assert all(len(f"offline/{key}") <= 36 for key in keys)
    assert all(math.isfinite(value) for value in (model.n_pretrain_steps, model.tau))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ["td3_bc", "iql"])
def test_precision(precision: str, objective: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"dataset": dataset_file(tmp_path), "finetuning": [SymmetricReplay(0.5)]}
    model = make_td3(objective=objective, precision=precision, actor_layer_norm=True, **arguments).pretrain(None, 4)
    model.learn(8)
    assert all(value.dtype != th.bfloat16 and th.isfinite(value).all() for value in state(model).values())
