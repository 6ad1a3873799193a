"""From one kind of policy to another: what fits is copied, the rest is cloned and its distance told."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.envs.registration import EnvSpec
from sb3_contrib import TQC
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import FAST, assert_same, dataset, differs, make, make_td3, state, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.networks import NormalizedExtractor

SMALL: dict[str, Any] = {"seed": 3, "device": "cpu"}
OBS = dataset().observations
NO_TIMEOUTS = {"handle_timeout_termination": False}


def stock(algorithm: Any, dictionary: bool = False, **kwargs: Any) -> Any:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    rest = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"buffer_size": 50, "learning_starts": 4}
    arguments: dict[str, Any] = {"policy_kwargs": {"net_arch": [16, 8]}, **rest, **SMALL, **kwargs}
    return algorithm(policy, vec(dictionary=dictionary), **arguments)


def act(model: Any, obs: Any = OBS) -> np.ndarray:
    return model.predict(obs, deterministic=True)[0]


# -- copying -------------------------------------------------------------------------------------------------------

COPIES: dict[str, tuple[Any, Any]] = {
    "SAC to TD3": (lambda **kwargs: stock(SAC, **kwargs), O2OTD3),
    "TQC to TD3": (lambda **kwargs: stock(TQC, **kwargs), O2OTD3),
    "O2OSAC to TD3": (lambda **kwargs: make(objective="iql", n_critics=3, **kwargs), O2OTD3),
    "TD3 to SAC": (lambda **kwargs: stock(TD3, **kwargs), O2OSAC),
    "DDPG to SAC": (lambda **kwargs: stock(DDPG, **kwargs), O2OSAC),
    "O2OTD3 to SAC": (lambda **kwargs: make_td3(objective="td3_bc", n_critics=3, **kwargs), O2OSAC),
}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    "kwargs", [{"n_steps": 3}, {"optimize_memory_usage": True, "replay_buffer_kwargs": NO_TIMEOUTS}]
)
def test_the_sources_buffer_does_not_matter(kwargs: dict[str, Any], saved: bool, tmp_path: Path) -> None:
    source = stock(SAC, **kwargs).learn(8)
    if saved:
        source.save(tmp_path / "theirs")
        source = tmp_path / "theirs.zip"
    report = O2OTD3.load_offline(source, vec(), buffer_size=100, **SMALL).clone_report
    assert report is not None
    assert report.copied == ("actor", "critics")


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", COPIES)
def test_what_fits_is_copied_without_a_dataset(
    name: str, saved: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, algorithm = COPIES[name]
    theirs = build().learn(12)
    source: Any = theirs
    if saved:
        theirs.save(tmp_path / "theirs")
        source = tmp_path / "theirs.zip"
    model = algorithm.load_offline(source, vec(), verbose=1, buffer_size=100, **SMALL)
    assert np.allclose(act(model), act(theirs), atol=1e-5)
    assert model.learning_starts == 0
    assert model.policy.net_arch == theirs.policy.net_arch
    expected = ("actor",) if "TQC" in name else ("actor", "critics")
    assert model.clone_report.copied == expected
    assert model.clone_report.action_distance <= 1e-5
    out = capsys.readouterr().out
    assert "load_offline: copied the actor" in out
    assert ("the critics are fresh" in out) == ("TQC" in name)
    if "TQC" not in name:
        obs, actions = th.from_numpy(OBS), th.rand(len(OBS), 2)
        for mine, other in ((model.critic, theirs.critic), (model.critic_target, theirs.critic_target)):
            for value, wanted in zip(mine(obs, actions), other(obs, actions), strict=True):
                assert th.allclose(value, wanted, atol=1e-5)
    model.learn(8)


@pytest.mark.parametrize(("build", "algorithm"), [(make, O2OTD3), (make_td3, O2OSAC)])
@pytest.mark.parametrize("dictionary", [False, True])
def test_layer_norm_and_statistics_come_along(build: Any, algorithm: Any, dictionary: bool) -> None:
    data = dataset(dictionary=dictionary)
    theirs = build(
        dictionary=dictionary,
        actor_layer_norm=True,
        critic_layer_norm=True,
        normalize_observations=True,
        reward_scale=2.0,
        gamma=0.9,
        objective="iql",
        policy_kwargs={"net_arch": {"pi": [16, 8], "qf": [8]}},
    ).pretrain(data, 4)
    model = algorithm.load_offline(theirs, vec(dictionary=dictionary), buffer_size=100, **SMALL)
    assert (model.actor_layer_norm, model.critic_layer_norm, model.normalize_observations) == (True, True, True)
    assert (model.reward_scale, model.gamma) == (2.0, 0.9)
    assert model.clone_report.copied == ("actor", "critics")
    assert np.allclose(act(model, data.observations), act(theirs, data.observations), atol=1e-5)
    for module in model.policy.modules():
        if isinstance(module, NormalizedExtractor):
            for mine, wanted in zip(module.buffers(), theirs.actor.features_extractor.buffers(), strict=True):
                assert th.equal(mine, wanted)
    model.learn(6)  # needs no dataset for its statistics


def test_a_copied_deterministic_policy_gets_the_standard_deviation() -> None:
    model = O2OSAC.load_offline(stock(TD3), vec(), buffer_size=100, clone_std=0.25, **SMALL)
    _, log_std, _ = model.actor.get_action_dist_params(th.from_numpy(OBS))
    assert th.allclose(log_std.exp(), th.tensor(0.25))


def test_a_target_actor_begins_where_the_actor_does() -> None:
    model = O2OTD3.load_offline(stock(SAC).learn(12), vec(), buffer_size=100, **SMALL)
    for own, target in zip(model.actor.parameters(), model.actor_target.parameters(), strict=True):
        assert th.equal(own, target)


def test_fresh_critics_where_they_are_not_wanted() -> None:
    theirs = stock(SAC).learn(12)
    kept, fresh = (O2OTD3.load_offline(theirs, vec(), buffer_size=100, load_critic=on, **SMALL) for on in (True, False))
    assert not differs(state(kept), state(fresh), "policy/actor.")
    assert differs(state(kept), state(fresh), "policy/critic.")
    assert fresh.clone_report is not None
    assert fresh.clone_report.copied == ("actor",)
    for own, target in zip(fresh.critic.parameters(), fresh.critic_target.parameters(), strict=True):
        assert th.equal(own, target)


def point_maze() -> Any:
    """Named as an environment for which ``o2sac`` has a reward scale and shift."""
    env = vec()
    env.envs[0].unwrapped.spec = EnvSpec("PointMaze_UMaze-v3", entry_point="toy_tasks:Drift")
    return env


def crossed(**kwargs: Any) -> tuple[Any, str]:
    """From TD3 to the recipe ``o2sac``, and what was warned of."""
    source = stock(TD3, gamma=0.9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # the recipe cuts episodes at a success, which these dense rewards do not name
        arguments = {"buffer_size": 50, "dataset_kwargs": {}, **SMALL, **kwargs}
        model = O2OSAC.load_offline(source, point_maze(), recipe="o2sac", dataset=dataset(), **arguments)
    return model, " ".join(str(each.message) for each in caught)


def test_critics_keep_the_scale_of_their_values_against_a_recipe() -> None:
    model, warned = crossed(load_critic=True)
    assert model.clone_report.copied == ("actor", "critics")
    assert (model.reward_scale, model.reward_shift, model.gamma) == (1.0, 0.0, 0.9)
    for expected in ("reward_scale: 10.0 wanted, 1.0", "reward_shift: -5.0 wanted, 0.0", "gamma: 0.99 wanted, 0.9"):
        assert expected in warned
    model, warned = crossed(load_critic=True, gamma=0.8)
    assert (model.reward_scale, model.gamma) == (1.0, 0.8)
    assert "gamma" not in warned


def test_the_scale_of_fresh_critics_is_the_recipes() -> None:
    fresh, warned = crossed(load_critic=False)
    assert fresh.clone_report.copied == ("actor",)
    by_default, warned_by_default = crossed()  # the recipe's reevaluation would throw TD3's away
    assert by_default.clone_report.copied == ("actor",)
    other, warned_of_other = crossed(load_critic=True, critic_layer_norm=True)  # no critics of TD3's
    assert other.clone_report.copied == ("actor",)
    cloned, warned_of_clone = crossed(policy_kwargs={"net_arch": [4]}, pretrain_steps=1)
    assert cloned.clone_report.copied == ()
    pairs = ((fresh, warned), (by_default, warned_by_default), (other, warned_of_other), (cloned, warned_of_clone))
    for model, text in pairs:
        assert (model.reward_scale, model.reward_shift, model.gamma) == (10.0, -5.0, 0.99)
        assert "gamma" not in text
        assert "reward" not in text


@pytest.mark.parametrize("given", [{}, {"n_critics": 1}])
def test_a_smaller_ensemble_is_cut_from_the_trained_one(given: dict[str, int]) -> None:
    theirs = make_td3(n_critics=3).pretrain(dataset(), 3)
    obs, actions = th.from_numpy(OBS), th.rand(len(OBS), 2)
    if given:
        model = O2OSAC.load_offline(theirs, vec(), buffer_size=50, **SMALL, **given)
    else:
        kwargs = {"recipe": "o2sac", "dataset": dataset(), "load_critic": True, **SMALL}
        with pytest.warns(UserWarning, match="the first 1 of the 3 trained ones go on"):
            model = O2OSAC.load_offline(theirs, point_maze(), buffer_size=50, **kwargs)
    assert model.n_critics == 1
    assert model.clone_report is not None
    assert model.clone_report.copied == ("actor", "critics")
    assert th.allclose(model.critic(obs, actions)[0], theirs.critic(obs, actions)[0], atol=1e-6)
    assert len(model.critic(obs, actions)) == len(model.critic_target(obs, actions)) == 1


def test_the_source_is_left_alone() -> None:
    theirs = stock(SAC).learn(12)
    before = state(theirs)
    O2OTD3.load_offline(theirs, vec(), buffer_size=100, **SMALL).learn(8)
    assert_same(before, state(theirs))


# -- cloning -------------------------------------------------------------------------------------------------------


def constant(observations: Any) -> np.ndarray:
    return np.tile(np.array([1.0, 2.0], np.float32), (len(observations), 1))


def clone(source: Any, algorithm: Any, **kwargs: Any) -> Any:
    arguments = {
        "dataset": dataset(),
        "pretrain_steps": 150,
        "learning_rate": 0.01,
        "policy_kwargs": {"net_arch": [16]},
    }
    return algorithm.load_offline(source, vec(), **{**arguments, **FAST, **kwargs})


@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
@pytest.mark.parametrize(
    "kind", ["PPO", "PPO in a zip", "other networks", "other activations", "a callable", "a policy"]
)
def test_what_does_not_fit_is_cloned(kind: str, algorithm: Any, tmp_path: Path) -> None:
    other = SAC if algorithm is O2OTD3 else TD3
    activations = {"policy_kwargs": {"net_arch": [16], "activation_fn": th.nn.Tanh}}
    theirs: Any = {
        "other networks": lambda: stock(other),
        "other activations": lambda: stock(other, **activations),
        "a callable": lambda: constant,
    }.get(kind, lambda: stock(PPO))()
    source = theirs
    if kind == "PPO in a zip":
        theirs.save(tmp_path / "theirs")
        source = tmp_path / "theirs.zip"
    elif kind == "a policy":
        source = theirs.policy
    model = clone(source, algorithm)
    wanted = constant(OBS) if kind == "a callable" else act(theirs)
    untrained = act(make() if algorithm is O2OSAC else make_td3())
    assert np.abs(act(model) - wanted).mean() < 0.5 * np.abs(untrained - wanted).mean()
    report = model.clone_report
    assert "actor" not in report.copied
    # actions lie in [-2, 2] x [-1, 3]: two units of each are one on the scale of [-1, 1]
    expected = np.linalg.norm((act(model) - wanted) / 2, axis=1).mean()
    assert report.action_distance == pytest.approx(expected, rel=1e-4)
    assert (report.source_return, report.own_return) == (None, None)
    assert model.n_pretrain_steps == 0
    model.learn(6)


def test_cloning_needs_a_dataset() -> None:
    with pytest.raises(ValueError, match="PPO do not fit O2OSAC: pass dataset="):
        O2OSAC.load_offline(stock(PPO), vec(), **FAST)
    with pytest.raises(ValueError, match="SAC do not fit O2OTD3: pass dataset="):
        O2OTD3.load_offline(stock(SAC), vec(), policy_kwargs={"net_arch": [4]}, **FAST)


def deviation(model: Any) -> float:
    with th.no_grad():
        return float(model.actor.get_action_dist_params(th.from_numpy(OBS))[1].exp().mean())


def test_a_likelihood_clones_the_standard_deviation_of_a_source_that_samples() -> None:
    data, found = dataset(600), []
    for std in (0.05, 0.6):
        source = make()
        source.actor.set_std(std)
        kwargs = {"dataset": data, "pretrain_steps": 250, "batch_size": 64}
        model = clone(source.policy, O2OSAC, clone_loss="likelihood", **kwargs)
        found.append(deviation(model))
        difference = act(model, data.observations) - act(source, data.observations)  # modes, whatever was imitated
        expected = np.linalg.norm(difference / 2, axis=1).mean()
        assert model.clone_report.action_distance == pytest.approx(expected, rel=1e-4)
    assert found[0] < 0.2
    assert 0.4 < found[1] < 0.9


def test_of_a_deterministic_source_the_entropy_term_decides_the_deviation() -> None:
    by_distance = clone(constant, O2OSAC, clone_std=0.3)
    by_likelihood = clone(constant, O2OSAC, clone_std=0.3, clone_loss="likelihood")
    assert deviation(by_distance) == pytest.approx(0.3)
    deviations = by_likelihood.actor.get_action_dist_params(th.from_numpy(OBS))[1].exp()
    assert deviations.std() > 0
    assert by_likelihood.clone_report.action_distance < 0.5


@pytest.mark.parametrize(
    ("algorithm", "loss", "message"),
    [(O2OSAC, "l1", "clone_loss must be 'mse' or 'likelihood', not 'l1'"), (O2OTD3, "likelihood", "is deterministic")],
)
def test_losses_that_do_not_exist(algorithm: Any, loss: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clone(constant, algorithm, clone_loss=loss)


@pytest.mark.parametrize("normalized", [False, True])
def test_scores_of_both(normalized: bool, tmp_path: Path) -> None:
    env: Any = VecNormalize(vec()) if normalized else vec()
    source = stock(SAC)
    if normalized:
        source.set_env(VecNormalize(vec()))
        source.learn(12)
    model = O2OTD3.load_offline(source, env, buffer_size=100, report_episodes=3, **SMALL)
    before = source.env.obs_rms.count if normalized else None
    report = model.clone_report
    assert report is not None
    assert report.source_return is not None
    assert report.own_return is not None
    assert report.source_return < 0
    assert report.own_return < 0  # every reward is minus a distance
    if normalized:
        assert env.obs_rms.count == before
        assert env.training
    model.save(tmp_path / "model")
    assert O2OTD3.load(tmp_path / "model", device="cpu").clone_report == report
    assert "return" in str(report)
