"""O2OPPO: stock models in and out, cloning, resumption, two learning rates, rewards, and what is refused."""

import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import FAST, FAST_PPO, assert_same, dataset, dataset_file, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.finetuning import (
    AuxiliaryAdvantage,
    ConstrainedFineTuning,
    DatasetReplay,
    FineTuningCallback,
    OnlinePretraining,
    PerturbedTargets,
    PolicyReevaluation,
    SymmetricReplay,
    ValueAlignment,
    Warmup,
)
from sb3_o2o.runs.saved_policies import load_policy

OBS = dataset().observations
IQL: dict[str, Any] = {"objective": "iql", "objective_kwargs": {"critic_net_arch": [8], "tau": 0.5}}


def stock(dictionary: bool = False, **kwargs: Any) -> PPO:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    return PPO(policy, vec(dictionary=dictionary), policy_kwargs={"net_arch": [16]}, **{**FAST_PPO, **kwargs}).learn(16)


def shared(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> None:
    """What stock PPO has is the same in both."""
    names = {name for name in one if name.startswith(("policy/", "policy.optimizer/"))}
    assert names
    assert_same({name: one[name] for name in names}, {name: other[name] for name in names})


# -- stock models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("how", ["load a zip", "load a stream", "load_offline a zip", "load_offline a live model"])
def test_stock_models_come_in_and_go_on_as_they_would(how: str, dictionary: bool, tmp_path: Path) -> None:
    theirs = stock(dictionary)
    theirs.save(tmp_path / "stock")
    env = vec(dictionary=dictionary)
    if how.startswith("load_offline"):
        source = theirs if how.endswith("live model") else str(tmp_path / "stock.zip")
        ours = O2OPPO.load_offline(source, env=env, device="cpu")
    else:
        path: Any = tmp_path / "stock"
        ours = O2OPPO.load(path if how == "load a zip" else io.BytesIO(path.with_suffix(".zip").read_bytes()), env=env)
    reference = PPO.load(tmp_path / "stock", env=vec(dictionary=dictionary), device="cpu")
    for model in (reference, ours):
        model.set_random_seed(21)
        model.learn(16)
    shared(state(reference), state(ours))


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("dictionary", [False, True])
def test_to_sb3_is_loaded_by_stock_ppo(dictionary: bool, separate: bool, tmp_path: Path) -> None:
    rate = 1e-3 if separate else None
    ours = make_ppo(dictionary=dictionary, value_learning_rate=rate, **IQL).pretrain(dataset(dictionary=dictionary), 3)
    ours.learn(16)
    ours.to_sb3().save(tmp_path / "exported")
    theirs = PPO.load(tmp_path / "exported", env=vec(dictionary=dictionary), device="cpu")
    assert type(theirs.policy).__module__.startswith("stable_baselines3.")
    obs = vec(dictionary=dictionary).reset()
    assert np.array_equal(ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0])
    for own, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(ours.policy.optimizer.state[own]["exp_avg"], theirs.policy.optimizer.state[other]["exp_avg"])
    back = O2OPPO.load(tmp_path / "exported", device="cpu", value_learning_rate=rate)
    shared(state(ours), state(back))
    theirs.learn(8)


def test_to_sb3_keeps_what_stock_ppo_does_not_have(tmp_path: Path) -> None:
    kwargs = {"net_arch": [16], "squash_mean": True, "activation_fn": "relu", "value_activation_fn": "tanh"}
    ours = make_ppo(policy_kwargs=kwargs, normalize_observations=True).pretrain(dataset(), 3)
    ours.to_sb3().save(tmp_path / "exported")
    loaded = PPO.load(tmp_path / "exported", env=vec(), device="cpu")
    assert np.array_equal(ours.predict(OBS, deterministic=True)[0], loaded.predict(OBS, deterministic=True)[0])
    loaded.learn(8)


def test_exporting_changes_nothing() -> None:
    results = []
    for exported in (True, False):
        model = make_ppo().learn(8)
        if exported:
            model.to_sb3()
        results.append(state(model.learn(8, reset_num_timesteps=False)))
    assert_same(*results)


def test_fresh_values_and_optimisers(tmp_path: Path) -> None:
    make_ppo(**IQL).pretrain(dataset(), 3).learn(8).save(tmp_path / "tuned")
    kept = O2OPPO.load_offline(tmp_path / "tuned", vec(), device="cpu")
    fresh = O2OPPO.load_offline(tmp_path / "tuned", vec(), device="cpu", load_critic=False, load_optimizer=False)
    assert differs(state(kept), state(fresh), "policy/value_net")
    assert differs(state(kept), state(fresh), "offline_objective/critic")
    assert not differs(state(kept), state(fresh), "policy/action_net")
    assert kept.policy.optimizer.state_dict()["state"]
    for optimizer in (fresh.policy.optimizer, fresh.pretrain_optimizer, *fresh.offline_objective.optimizers.values()):
        assert optimizer.state_dict()["state"] == {}
    fresh.learn(8)


def test_the_recipe_decides_the_entropy_coefficient(tmp_path: Path) -> None:
    make_ppo(ent_coef=0.3, normalize_observations=True, policy_kwargs={"net_arch": [8], "squash_mean": True}).pretrain(
        dataset(), 1
    ).save(tmp_path / "offline")
    with pytest.warns(UserWarning, match="net_arch"):
        model = O2OPPO.load_offline(tmp_path / "offline", vec(), recipe="o2ppo", device="cpu")
    assert (model.ent_coef, model.n_steps, model.value_lr_schedule(1.0)) == (0.01, 2048, 2e-4)
    assert [type(callback) for callback in model.finetuning] == [PolicyReevaluation, AuxiliaryAdvantage]
    assert model.policy.net_arch == {"pi": [8], "vf": [256, 256, 256]}  # V is fitted anew


# -- cloning -------------------------------------------------------------------------------------------------------


def constant(observations: Any) -> np.ndarray:
    return np.tile(np.array([1.0, 2.0], np.float32), (len(observations), 1))


SOURCES: dict[str, Any] = {
    "a callable": lambda: constant,
    "SAC": lambda: SAC("MlpPolicy", vec(), **FAST),
    "TD3": lambda: TD3("MlpPolicy", vec(), **FAST),
    "IQL on SAC": lambda: make(objective="iql").pretrain(dataset(), 2),
    "TD3+BC": lambda: make_td3(objective="td3_bc").pretrain(dataset(), 2),
}


@pytest.mark.parametrize("name", SOURCES)
def test_any_policy_is_cloned(name: str, tmp_path: Path) -> None:
    source = theirs = SOURCES[name]()
    if name == "SAC":
        theirs.save(tmp_path / "theirs")
        source = tmp_path / "theirs.zip"
    arguments = {**FAST_PPO, "dataset": dataset(), "pretrain_steps": 150, "learning_rate": 0.01}
    model = O2OPPO.load_offline(source, vec(), clone_std=0.2, **arguments)
    wanted = constant(OBS) if name == "a callable" else theirs.predict(OBS, deterministic=True)[0]
    found = model.predict(OBS, deterministic=True)[0]
    untrained = make_ppo().predict(OBS, deterministic=True)[0]
    assert np.abs(found - wanted).mean() < 0.5 * np.abs(untrained - wanted).mean()
    assert model.clone_report is not None
    assert model.clone_report.copied == ()
    expected = np.linalg.norm((found - wanted) / 2, axis=1).mean()  # two units are one on the scale of [-1, 1]
    assert model.clone_report.action_distance == pytest.approx(expected, rel=1e-4)
    assert th.allclose(model.policy.log_std.exp(), 0.2 * th.tensor([2.0, 2.0]))
    assert model.n_pretrain_steps == 0
    model.learn(8)


def test_a_likelihood_clones_the_standard_deviation_of_a_source_that_samples() -> None:
    arguments = {**FAST_PPO, "dataset": dataset(600), "pretrain_steps": 200, "learning_rate": 0.01}
    found = []
    for std in (0.05, 0.6):
        source = make()
        source.actor.set_std(std)
        model = O2OPPO.load_offline(source, vec(), clone_loss="likelihood", **arguments)
        found.append(model.actor.get_action_dist_params(th.from_numpy(OBS))[1].exp())
    assert (found[0] < 0.2).all()
    assert (found[1] > 0.35).all()


@pytest.mark.parametrize(("algorithm", "build"), [(O2OSAC, make), (O2OTD3, make_td3)])
def test_others_clone_it(algorithm: Any, build: Any, tmp_path: Path) -> None:
    theirs = make_ppo()
    theirs.save(tmp_path / "ppo")
    for source in (theirs, tmp_path / "ppo.zip"):
        model = algorithm.load_offline(source, vec(), dataset=dataset(), pretrain_steps=5, **FAST)
        assert model.clone_report.copied == ()
        model.learn(6)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("kind", ["gSDE", "own policy", "recurrent"])
def test_ppo_models_that_only_their_own_class_opens_are_cloned(kind: str, live: bool, tmp_path: Path) -> None:
    from sb3_contrib import RecurrentPPO

    small = {"n_steps": 8, "batch_size": 8, "device": "cpu", "policy_kwargs": {"net_arch": [4]}}
    stock: Any = {
        "gSDE": lambda: PPO("MlpPolicy", vec(), use_sde=True, **small),
        "own policy": lambda: PPO(OwnPolicy, vec(), **small),
        "recurrent": lambda: RecurrentPPO("MlpLstmPolicy", vec(), **small),
    }[kind]()
    stock.save(tmp_path / "stock")
    source = stock if live else tmp_path / "stock"
    trust = kind == "own policy"
    model = O2OSAC.load_offline(source, vec(), dataset=dataset(), pretrain_steps=2, device="cpu", trust=trust)
    assert model.clone_report.copied == ()
    loaded, _ = load_policy(tmp_path / "stock.zip", trust)
    assert type(loaded) is type(stock)


class OwnPolicy(ActorCriticPolicy):
    """A user's, which knows nothing of ours."""


def test_an_own_policy_has_to_derive_from_ours() -> None:
    with pytest.raises(ValueError, match="derives from O2OPPOPolicy, which OwnPolicy does not"):
        make_ppo(policy=OwnPolicy)


def test_back_from_stock_with_a_normaliser(tmp_path: Path) -> None:
    model = make_ppo(normalize_observations=True).pretrain(dataset(), 2)
    model.to_sb3().save(tmp_path / "stock")
    again = O2OPPO.load(tmp_path / "stock", vec(), dataset=dataset(seed=1), device="cpu")
    again.learn(8)
    assert th.equal(again.policy.features_extractor.mean, model.policy.features_extractor.mean)


def test_the_recipes_functions_that_the_trained_policy_does_not_have() -> None:
    stock = PPO("MlpPolicy", vec(), policy_kwargs={"net_arch": {"pi": [256, 256], "vf": [256] * 3}}, device="cpu")
    with pytest.warns(UserWarning, match="squash_mean: True wanted, False trained") as caught:
        O2OPPO.load_offline(stock, vec(), recipe="o2ppo", device="cpu")
    message = str(caught[0].message)
    assert "activation_fn: 'relu' wanted, 'Tanh' trained" in message
    assert "net_arch" not in message
    assert "value_activation_fn" not in message  # tanh, of the one activation for both


# -- rates -----------------------------------------------------------------------------------------------------------


def test_rates_of_the_offline_phases() -> None:
    rows: list[dict[str, Any]] = []

    class Rows(KVWriter):
        def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
            rows.append(dict(key_values))

        def close(self) -> None:
            pass

    model = make_ppo(
        **IQL,
        learning_rate="lin_3e-5",
        pretrain_learning_rate="lin_1e-3",
        dataset=dataset(),
        finetuning=[PolicyReevaluation(4)],
    )
    model.set_logger(Logger(None, [Rows()]))
    model.pretrain(None, 10, log_interval=5)
    own = model.offline_objective.optimizers
    for optimizer in (model.pretrain_optimizer, own["critic"], own["value"]):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    model.learn(8)
    assert [row["offline/learning_rate"] for row in rows[:2]] == pytest.approx([6e-4, 1e-4])
    assert rows[2]["finetune/reevaluation/learning_rate"] == pytest.approx(1e-4)


def test_linear_rates_count_a_rollout_before_it_is_learned_from() -> None:
    """As the recipes' notes say of four rollouts: 3/4 of the rate in the first, nothing in the last."""
    rates: list[list[float]] = []

    class Rates(FineTuningCallback):
        def on_gradient_step(self) -> None:
            rates.append([group["lr"] for group in model.policy.optimizer.param_groups])

    model = make_ppo(learning_rate="lin_1e-2", value_learning_rate="lin_4e-2", n_epochs=1)
    model.learn(32, callback=Rates())
    np.testing.assert_allclose(rates, np.outer([0.75, 0.5, 0.25, 0.0], [1e-2, 4e-2]))


def test_a_rate_of_v_is_none_of_the_critics() -> None:
    model = make_ppo(objective="iql", objective_kwargs={"value_learning_rate": 1e-5}, pretrain_learning_rate=2e-3)
    model.pretrain(dataset(), 2)
    rates = {name: each.param_groups[0]["lr"] for name, each in model.offline_objective.optimizers.items()}
    assert rates == {"value": 1e-5, "critic": 2e-3}


def test_a_model_saved_inside_an_update_keeps_its_clipping(tmp_path: Path) -> None:
    class Saves(FineTuningCallback):
        def on_gradient_step(self) -> None:
            self.model.save(tmp_path / "inside")

    make_ppo(value_learning_rate=1e-3, max_grad_norm=0.3).learn(8, callback=Saves())
    assert O2OPPO.load(tmp_path / "inside").max_grad_norm == 0.3


def test_an_interrupted_pretraining_is_not_logged_online() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 3

    model = make_ppo(**IQL).pretrain(dataset(), 10, callback=Stop())
    assert model.loop.metrics.sums == {}


def test_values_are_made_on_the_scale_that_rewards_have_online() -> None:
    env, data = VecNormalize(vec()), dataset()
    model = make_ppo(env=env, dataset=data, finetuning=[PolicyReevaluation(1)])
    model.learn(8)
    assert env.ret_rms.count == pytest.approx(len(data) + 8, abs=0.1)


# -- resumption ----------------------------------------------------------------------------------------------------


class SaveAt(BaseCallback):
    """Asks for a bundle and for a stop at one step."""

    def __init__(self, at: int, path: Path):
        super().__init__()
        self.at, self.path = at, path

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            model: Any = self.model
            model.save_resume(self.path)
            model.request_stop()
        return True


def everything(model: Any) -> dict[str, th.Tensor]:
    flat = state(model)
    flat["numpy"] = th.from_numpy(np.random.get_state()[1].astype(np.int64))  # type: ignore[union-attr]
    flat["torch"] = th.get_rng_state()
    flat["counters"] = th.tensor([model.num_timesteps, model._n_updates, model.n_pretrain_steps])
    flat["episode starts"] = th.from_numpy(np.asarray(model._last_episode_starts, dtype=np.int64))
    for callback in model.finetuning:
        if isinstance(callback, AuxiliaryAdvantage):
            flat.update({f"reference/{name}": value for name, value in callback.policy.state_dict().items()})
    return flat


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "three environments": {"n_envs": 3},
    "dictionary": {"dictionary": True},
    "auxiliary advantage": {
        "finetuning": [{"AuxiliaryAdvantage": {"anneal_steps": 40, "reference": "interval", "interval": 16}}]
    },
    "two rates": {"learning_rate": "lin_1e-2", "value_learning_rate": 1e-3, "reward_scale": 0.1},
    "VecNormalize": {"normalize": True},
}


@pytest.mark.parametrize("name", RUNS)
def test_interrupted_equals_uninterrupted_online(name: str, tmp_path: Path) -> None:
    arguments = dict(RUNS[name])
    n_envs, dictionary = arguments.pop("n_envs", 1), arguments.get("dictionary", False)
    normalize = arguments.pop("normalize", False)

    def environments() -> Any:
        env = vec(n_envs, dictionary=dictionary)
        return VecNormalize(env) if normalize else env

    total = 8 * n_envs * 5
    straight = everything(make_ppo(env=environments(), **arguments).learn(total, callback=SaveAt(0, tmp_path)))
    model = make_ppo(env=environments(), **arguments)
    # in the middle of the second rollout and of episodes: it is written, and stopped, where that rollout has been used
    model.learn(total, callback=SaveAt(11, tmp_path / "bundle"))
    assert model.num_timesteps == 16 * n_envs
    resumed = O2OPPO.load_resume(tmp_path / "bundle", vec(n_envs, dictionary=dictionary), device="cpu")
    resumed.learn(total - resumed.num_timesteps, callback=SaveAt(0, tmp_path), reset_num_timesteps=False)
    assert_same(straight, everything(resumed))


@pytest.mark.parametrize("arguments", [{}, {"objective_kwargs": {"loss": "mse"}}, IQL, {**IQL, "dictionary": True}])
def test_interrupted_equals_uninterrupted_offline(arguments: dict[str, Any], tmp_path: Path) -> None:
    dictionary = arguments.get("dictionary", False)
    data = dataset(dictionary=dictionary)
    never = SaveAt(0, tmp_path)
    straight = everything(make_ppo(**arguments).pretrain(data, 9, callback=never).learn(16, callback=never))
    model = make_ppo(**arguments).pretrain(data, 9, callback=SaveAt(4, tmp_path / "bundle"))
    assert model.n_pretrain_steps == 4
    resumed = O2OPPO.load_resume(tmp_path / "bundle", vec(dictionary=dictionary), device="cpu")
    resumed.pretrain(data, 5, callback=never, reset_gradient_steps=False)
    assert_same(straight, everything(resumed.learn(16, callback=never)))


class StopInPhase(FineTuningCallback):
    """Counts the updates of the re-evaluation, and stops after some."""

    def __init__(self, at: int, path: Path):
        super().__init__()
        self.at, self.path, self.n_updates = at, path, 0
        self.phases: list[str] = []

    def on_gradient_step(self) -> None:
        model: Any = self.model
        if model.phase == "reevaluation":
            self.n_updates += 1
            if self.n_updates == self.at:
                model.save_resume(self.path)
                model.request_stop()

    def on_phase_change(self, old: str | None, new: str) -> None:
        self.phases.append(new)


@pytest.mark.parametrize("at", [3, 6])
def test_interrupted_equals_uninterrupted_in_the_reevaluation(at: int, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "dataset": dataset_file(tmp_path),
        "finetuning": [{"PolicyReevaluation": {"gradient_steps": 6, "batch_size": 5}}],
    }
    straight, watch = make_ppo(**arguments).pretrain(None, 2), StopInPhase(0, tmp_path)
    before = state(straight)
    straight.learn(16, callback=watch)
    assert (watch.n_updates, watch.phases) == (6, ["reevaluation", "finetuning"])
    model = make_ppo(**arguments).pretrain(None, 2)
    model.learn(16, callback=StopInPhase(at, tmp_path / "bundle"))
    assert (model.num_timesteps, model.phase_steps) == (0, {"reevaluation": at})
    after = state(model)
    assert differs(before, after, "policy/value_net")
    assert not differs(before, after, "policy/action_net")
    resumed = O2OPPO.load_resume(tmp_path / "bundle", vec(), device="cpu")
    watch = StopInPhase(0, tmp_path)
    resumed.learn(16, callback=watch, reset_num_timesteps=False)
    assert watch.n_updates == 6  # its count goes on as well
    assert_same(everything(straight), everything(resumed))


def test_a_reevaluated_model_skips_the_reevaluation(tmp_path: Path) -> None:
    model = make_ppo(dataset=dataset_file(tmp_path), finetuning=[PolicyReevaluation(4)]).learn(8)
    model.save(tmp_path / "model")
    for load_critic, expected in ((True, 0), (False, 4)):
        again = O2OPPO.load_offline(tmp_path / "model", vec(), load_critic=load_critic, device="cpu")
        watch = StopInPhase(0, tmp_path)
        again.learn(8, callback=watch)
        assert watch.n_updates == expected


@pytest.mark.parametrize(
    "callback",
    [
        ConstrainedFineTuning(reference="interval"),
        OnlinePretraining(),
        PerturbedTargets(),
        ValueAlignment(1),
        PolicyReevaluation(1, ent_coef=0.1),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_what_needs_action_values_or_a_temperature(callback: FineTuningCallback) -> None:
    with pytest.raises(ValueError, match="PPO"):
        make_ppo(dataset=dataset()).learn(8, callback=callback)


# -- online --------------------------------------------------------------------------------------------------------


def test_two_learning_rates_clip_apart() -> None:
    norms: list[list[float]] = []

    class Norms(FineTuningCallback):
        def on_gradient_step(self) -> None:
            groups: list[Any] = self.model.policy.optimizer.param_groups  # type: ignore[attr-defined]
            norms.append([float(th.cat([p.grad.flatten() for p in each["params"]]).norm()) for each in groups])
            rates.append([each["lr"] for each in groups])

    rates: list[list[float]] = []
    # rewards so large that V's gradient would leave nothing of the actor's under one norm
    model = make_ppo(learning_rate=1e-3, value_learning_rate=2e-3, reward_scale=1000.0, max_grad_norm=0.01)
    model.learn(8, callback=Norms())
    assert len(norms) == 2
    assert rates == [[1e-3, 2e-3]] * 2
    assert norms[0] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert model.max_grad_norm == 0.01


def test_rewards_reach_the_rollout_on_the_training_scale() -> None:
    class Rewards(BaseCallback):
        def _on_step(self) -> bool:
            raw.append(float(self.training_env.buf_rews[0]))  # type: ignore[attr-defined]
            return True

    raw: list[float] = []
    model = make_ppo(reward_scale=3.0, reward_shift=-1.0, env=vec(limit=100)).learn(8, callback=Rewards())
    assert model.rollout_buffer.rewards.flatten() == pytest.approx(3.0 * np.array(raw) - 1.0, rel=1e-5)
    with pytest.raises(ValueError, match="cannot be combined with VecNormalize"):
        make_ppo(env=VecNormalize(vec()), reward_scale=2.0).learn(8)


def test_what_comes_before_finetuning_comes_before_the_first_rollout() -> None:
    class First(FineTuningCallback):
        def before_finetuning(self) -> None:
            seen.append(("before", self.model.num_timesteps))

        def _on_rollout_start(self) -> None:
            seen.append(("rollout", self.model.num_timesteps))

        def on_phase_change(self, old: str | None, new: str) -> None:
            seen.append((new, self.model.num_timesteps))

    seen: list[tuple[str, int]] = []
    make_ppo().learn(16, callback=First())
    assert seen == [("finetuning", 0), ("before", 0), ("rollout", 0), ("rollout", 8)]


def test_the_constructor_pretrains_for_rl_zoo(tmp_path: Path) -> None:
    model = make_ppo(dataset=dataset(), pretrain_steps=3, pretrain_batch_size=5, **IQL).learn(8)
    assert (model.n_pretrain_steps, model.num_timesteps) == (3, 8)


# -- what is refused -----------------------------------------------------------------------------------------------


class Unsuitable(gym.Env[Any, Any]):
    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, action_space: spaces.Space):
        self.action_space = action_space


def test_discrete_actions() -> None:
    with pytest.raises(ValueError, match=r"continuous actions \(Box\).*not Discrete\(3\)"):
        make_ppo(env=Unsuitable(spaces.Discrete(3)))


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "gSDE": ({"use_sde": True}, "diagonal Gaussian, which gSDE is not: set use_sde=False"),
    "objective": ({"objective": "cql"}, "Unknown objective for O2OPPO 'cql'"),
    "argument": ({"objective": "iql", "objective_kwargs": {"expectil": 0.5}}, "Did you mean 'expectile'"),
    "tau": ({"objective": "iql", "objective_kwargs": {"tau": 0.0}}, r"tau .*must be a number in \(0, 1\]"),
    "batch": ({"pretrain_batch_size": 0}, "pretrain_batch_size must be a whole number of at least 1, not 0"),
    "schedule": ({"learning_rate": "cos_3e-4"}, "learning_rate must be .* a schedule or a text like 'lin_3e-4'"),
    "activation": ({"policy_kwargs": {"activation_fn": "sine"}}, "must be one of .*not 'sine'"),
    "reward": ({"reward_scale": 0.0}, "reward_scale must be a finite number other than 0, not 0.0"),
    "recipe": ({"recipe": "wsrl"}, "is for O2OSAC, not for O2OPPO"),
    "replay": ({"finetuning": [{"SymmetricReplay": {}}]}, "SymmetricReplay works on a replay buffer, and O2OPPO has"),
    "warm-up": ({"finetuning": [Warmup(3)]}, "Warmup works on a replay buffer.*learns from its last rollout alone"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    arguments, message = ARGUMENTS[name]
    with pytest.raises(ValueError, match=message):
        make_ppo(**arguments)


@pytest.mark.parametrize("callback", [DatasetReplay(), SymmetricReplay()])
def test_replay_is_refused_by_learn_before_anything_happens(callback: FineTuningCallback) -> None:
    model = make_ppo()
    with pytest.raises(ValueError, match="works on a replay buffer, and O2OPPO has none"):
        model.learn(8, callback=callback)
    assert model._last_obs is None


def test_hooks_that_nothing_asks_for_are_refused() -> None:
    class Acting(FineTuningCallback):
        def act(self, observations: Any) -> None:
            return None

    with pytest.raises(ValueError, match="Acting changes act, which PPO's own update never asks for: leave"):
        make_ppo().learn(8, callback=Acting())


def test_gsde_of_a_stock_model_names_the_way(tmp_path: Path) -> None:
    stock(use_sde=True).save(tmp_path / "sde")
    with pytest.raises(ValueError, match="can be cloned: load_offline"):
        O2OPPO.load_offline(tmp_path / "sde", vec(), device="cpu")


def test_offline_optimisers_are_of_the_class_that_was_asked_for() -> None:
    kwargs = {"net_arch": [16], "optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}
    model = make_ppo(policy_kwargs=kwargs, pretrain_learning_rate=0.25)
    for optimizer in (model.pretrain_optimizer, model.reevaluation_optimizer):
        assert type(optimizer) is th.optim.SGD
        assert optimizer.param_groups[0]["momentum"] == 0.5
    before = model.policy.state_dict()["action_net.weight"].clone()
    model.pretrain(dataset(), 1)
    weights = model.policy.action_net.weight
    moved = model.pretrain_optimizer.state[weights]["momentum_buffer"]
    assert moved.abs().max() > 0
    assert th.allclose(weights, before - 0.25 * moved, atol=1e-7)  # plain gradient descent, at the first step


def test_pretrain_kwargs_are_other_names_of_two_arguments() -> None:
    model = make_ppo(pretrain_kwargs={"learning_rate": 0.5, "batch_size": 3})
    assert (model.pretrain_learning_rate, model.pretrain_batch_size) == (0.5, 3)
    assert (model.learning_rate, model.batch_size) == (3e-4, 8)
    other = make_ppo(pretrain_learning_rate=0.5, pretrain_batch_size=3)
    for each in (model, other):
        each.pretrain(dataset(), 4)
    assert_same(state(model), state(other))
    with pytest.raises(
        ValueError, match=r"pretrain_batch_size=4 and pretrain_kwargs=\{'batch_size': 3\} are one argument"
    ):
        make_ppo(pretrain_kwargs={"batch_size": 3}, pretrain_batch_size=4)
    with pytest.raises(ValueError, match="Unknown key of pretrain_kwargs 'gamma'"):
        make_ppo(pretrain_kwargs={"gamma": 0.9})
