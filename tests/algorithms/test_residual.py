"""A frozen base policy of any kind and its learned correction: what is executed, seen, saved and refused, by hand."""

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toy_tasks import FAST, FAST_PPO, Drift, assert_same, dataset, differs, make, make_td3, state, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3, ResidualActions, ResidualPolicy
from sb3_o2o.evaluation import evaluate
from sb3_o2o.finetuning import Warmup
from sb3_o2o.runs.environments import Environment

SMALL: dict[str, Any] = {**FAST, "policy_kwargs": {"net_arch": [8]}, "learning_starts": 0}


def constant(*action: float) -> Any:
    """A base that does the same everywhere, for one observation."""
    return lambda observations: np.array([action], np.float32)


def residual_vec(base: Any, n_envs: int = 1, dictionary: bool = False, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(ResidualActions(Drift(dictionary), base, **kwargs)) for _ in range(n_envs)])


class Counting:
    """A base with a memory: it pushes by how many steps it has seen of the episode."""

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True):
        state = np.where(episode_start, 0, 0 if state is None else state) + 1
        return np.stack([0.1 * state, 0 * state + 1.0], axis=1), state


def test_what_is_executed_by_hand() -> None:
    """Bounds are [-2, 2] and [-1, 3]: the base's (1, 2.6) is (0.5, 0.8) of the range."""
    env = ResidualActions(Drift(), constant(1.0, 2.6), scale=0.25)
    observation, _ = env.reset(seed=0)
    assert observation[3:] == pytest.approx([0.5, 0.8])
    assert env.observation_space.shape == (5,)
    assert (env.action_space.low == -1).all()
    assert (env.action_space.high == 1).all()
    for residual, executed in (
        ((0.0, 0.0), (1.0, 2.6)),
        ((-1.0, 0.4), (0.5, 2.8)),  # 0.5 - 0.25 and 0.8 + 0.1, back on the scale of the environment
        ((1.0, 1.0), (1.5, 3.0)),  # 1.05 is clipped
        ((-9.0, 0.0), (0.5, 2.6)),  # no further than the scale
    ):
        bare = Drift()
        bare.reset(seed=0)
        env.reset(seed=0)
        seen, reward, _, _, info = env.step(np.array(residual, np.float32))
        assert info["executed_action"] == pytest.approx(executed)
        expected, expected_reward, *_ = bare.step(np.array(executed, np.float32))
        assert seen[:3] == pytest.approx(expected, abs=1e-6)
        assert reward == pytest.approx(expected_reward, abs=1e-6)


def test_the_observation_of_a_step_has_the_next_action_of_the_base() -> None:
    env = ResidualActions(Drift(), lambda observations: np.clip(observations[:, :2], -1, 2), scale=1.0)
    for observation in (env.reset(seed=3)[0], env.step(np.zeros(2, np.float32))[0]):
        low, high = np.array([-2.0, -1.0]), np.array([2.0, 3.0])
        base = np.clip(observation[:2], -1, 2)
        assert observation[3:] == pytest.approx(2 * (base - low) / (high - low) - 1, abs=1e-6)


def test_a_memory_begins_anew_with_each_episode() -> None:
    env = ResidualActions(Drift(), Counting(), scale=0.5)
    for _ in range(2):
        env.reset(seed=1)
        pushes = [env.step(np.zeros(2, np.float32))[-1]["executed_action"][0] for _ in range(3)]
        assert pushes == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_accepts_it_and_dictionaries_and_images_have_an_entry(tmp_path: Path) -> None:
    make().save(tmp_path / "base")
    check_env(ResidualActions(Drift(), tmp_path / "base"), skip_render_check=True)
    env = ResidualActions(Drift(dictionary=True), constant(0.0, 1.0))
    check_env(env, skip_render_check=True)
    assert set(env.reset()[0]) == {"goal", "place", "base_action"}

    class Picture(gym.Env):
        observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        action_space = spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.full((36, 36, 1), 7, np.uint8), {}

    seen, _ = ResidualActions(Picture(), constant(0.5)).reset()
    assert seen["observation"].shape == (36, 36, 1)
    assert seen["base_action"] == pytest.approx([0.5])
    photographer = SAC("MlpPolicy", Picture(), buffer_size=10, policy_kwargs={"net_arch": [4]}, device="cpu")
    ResidualActions(Picture(), photographer).reset()


@pytest.mark.parametrize("build", [make, make_td3])
def test_bases_of_every_kind_act_alike(build: Any, tmp_path: Path) -> None:
    base = build()
    base.save(tmp_path / "base")
    kinds = [base, base.policy, str(tmp_path / "base"), tmp_path / "base.zip", base.to_sb3()]
    kinds.append(lambda observations: base.predict(observations, deterministic=True)[0])
    actions = []
    for kind in kinds:
        env = ResidualActions(Drift(), kind)
        env.reset(seed=4)
        actions.append(env.step(np.zeros(2, np.float32))[-1]["executed_action"])
    for each in actions:
        assert each == pytest.approx(actions[0], abs=1e-6)
    module = th.nn.Linear(3, 2)
    ResidualActions(Drift(), module).reset(seed=0)


def test_a_saved_base_sees_by_its_own_statistics(tmp_path: Path) -> None:
    normalized = VecNormalize(vec())
    model = make(env=normalized)
    model.learn(12)
    model.save(tmp_path / "base")
    env, bare = ResidualActions(Drift(), tmp_path / "base"), Drift()
    env.reset(seed=2)
    observation, _ = bare.reset(seed=2)
    expected, _ = model.predict(normalized.normalize_obs(observation), deterministic=True)
    assert env.step(np.zeros(2, np.float32))[-1]["executed_action"] == pytest.approx(expected, abs=1e-5)


def test_a_recipe_names_its_base(tmp_path: Path) -> None:
    make(env=DummyVecEnv([tiny.TinyBox])).save(tmp_path / "base")
    wrappers = [{"sb3_o2o.ResidualActions": {"base": str(tmp_path / "base"), "scale": 0.2}}]
    env: Any = Environment(tiny.BOX, wrappers=wrappers).make()
    assert (type(env), env.scale) == (ResidualActions, 0.2)
    # the specification has it too, so that a dataset that is recorded here finds its environment
    again: Any = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert np.allclose(again.reset(seed=1)[0], env.reset(seed=1)[0])


@pytest.mark.parametrize("dictionary", [False, True], ids=["box", "dict"])
def test_learning_moves_the_residual_and_never_the_base(dictionary: bool, tmp_path: Path) -> None:
    base = make(dictionary=dictionary)
    before = state(base)
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    env = residual_vec(base, 2, dictionary, scale=0.2)
    model = O2OSAC(policy, env, finetuning=[Warmup(4)], critic_layer_norm=True, **SMALL)
    start = state(model)
    model.learn(12)
    assert_same(before, state(base))
    assert differs(start, state(model), "policy/actor.")
    assert differs(start, state(model), "policy/critic.")
    # what the critics see is what the agent did, and the base's action is in the observation
    actions = model.replay_buffer.actions[:6]
    assert (np.abs(actions) <= 1).all()
    assert actions.std() > 0.1
    model.save(tmp_path / "residual")
    loaded = O2OSAC.load(tmp_path / "residual", env=residual_vec(base, 2, dictionary, scale=0.2), device="cpu")
    observation = env.reset()
    assert np.array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )
    with pytest.raises(ValueError, match=r"[Oo]bservation"):  # the bare environment is refused
        O2OSAC.load(tmp_path / "residual", env=vec(dictionary=dictionary), device="cpu")


def test_other_algorithms_learn_residuals_too() -> None:
    base = make()
    for model in (
        O2OTD3("MlpPolicy", residual_vec(base), **SMALL),
        O2OPPO("MlpPolicy", residual_vec(base), **FAST_PPO),
        SAC("MlpPolicy", residual_vec(base), **FAST),
    ):
        start = state(model)
        model.learn(16)
        assert differs(start, state(model))


def test_interrupted_equals_uninterrupted(tmp_path: Path) -> None:
    def start() -> Any:
        return O2OSAC("MlpPolicy", residual_vec(Counting(), 2, scale=0.3), **SMALL)

    whole = start()
    whole.learn(24)
    half = start()
    half.learn(10)  # in the middle of an episode, and so of the base's memory
    half.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", residual_vec(Counting(), 2, scale=0.3))
    resumed.learn(14, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))


def test_a_live_base_is_not_in_the_bundle(tmp_path: Path) -> None:
    """Nothing of it needs trust, or is copied."""
    base = make()
    model = O2OSAC("MlpPolicy", residual_vec(base), **SMALL)
    model.learn(4)
    model.save_resume(tmp_path / "bundle")
    O2OSAC.load_resume(tmp_path / "bundle", residual_vec(base))


@pytest.mark.parametrize("dictionary", [False, True], ids=["box", "dict"])
def test_as_one_policy_it_does_in_the_bare_environment_what_it_did(dictionary: bool, tmp_path: Path) -> None:
    base = make(dictionary=dictionary)
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    model = O2OSAC(policy, residual_vec(base, dictionary=dictionary, scale=0.4), **SMALL)
    model.learn(8)
    model.save(tmp_path / "residual")
    inside = evaluate(model, residual_vec(base, dictionary=dictionary, scale=0.4), 3, seed=5)
    for residual in (model, tmp_path / "residual"):
        whole = ResidualPolicy(base, residual, vec(dictionary=dictionary), scale=0.4)
        bare = evaluate(whole, vec(dictionary=dictionary), 3, seed=5)
        assert bare.returns == pytest.approx(inside.returns, abs=1e-4)
    assert evaluate(base, vec(dictionary=dictionary), 3, seed=5).returns != pytest.approx(inside.returns, abs=1e-3)
    observation, _ = Drift(dictionary).reset(seed=0)
    one, _ = whole.predict(observation, deterministic=True)
    assert one.shape == (2,)
    # by hand: base and residual on the scale of [-1, 1]
    low, high = np.array([-2.0, -1.0]), np.array([2.0, 3.0])
    unit = 2 * (base.predict(observation, deterministic=True)[0] - low) / (high - low) - 1
    seen = {**observation, "base_action": unit} if dictionary else np.concatenate([observation, unit])
    mixed = np.clip(unit + 0.4 * model.predict(seen, deterministic=True)[0], -1, 1)
    assert one == pytest.approx(low + (mixed + 1) / 2 * (high - low), abs=1e-5)
    # and is a source like any other
    clone = O2OSAC.load_offline(
        whole, vec(dictionary=dictionary), dataset=dataset(dictionary=dictionary), pretrain_steps=2, device="cpu"
    )
    assert clone.clone_report is not None
    assert clone.clone_report.source == "ResidualPolicy"


def test_a_memory_travels_with_the_policy() -> None:
    model = O2OSAC("MlpPolicy", residual_vec(Counting(), scale=0.1), **SMALL)
    inside, _ = evaluate_policy(model, residual_vec(Counting(), scale=0.1), 2, warn=False)
    whole, memory = ResidualPolicy(Counting(), model, Drift(), scale=0.1), None
    pushes = []
    for start in (True, False, True):
        unit, memory = whole.predict(np.zeros((1, 3), np.float32), memory, np.array([start]), deterministic=True)
        pushes.append(unit[0, 0])
    assert pushes[0] == pytest.approx(pushes[2]) != pytest.approx(pushes[1])
    assert np.isfinite(inside)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base of ResidualActions.*None"):
        ResidualActions(Drift(), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no saved model at this path"):
        ResidualActions(Drift(), tmp_path / "nowhere.zip")
    with pytest.raises(ValueError, match="scale of ResidualActions"):
        ResidualActions(Drift(), constant(0.0, 0.0), scale=0.0)
    with pytest.raises(ValueError, match="observations: "):
        ResidualActions(Drift(dictionary=True), make())
    with pytest.raises(ValueError, match=r"gave actions of shape \(1, 3\); expected \(batch, 2\)"):
        ResidualActions(Drift(), constant(0.0, 0.0, 0.0)).reset()
    with pytest.raises(ValueError, match="not finite"):
        ResidualActions(Drift(), constant(np.nan, 0.0)).reset()
    with pytest.raises(ValueError, match="'base_action' already"):
        ResidualActions(ResidualActions(Drift(dictionary=True), constant(0.0, 0.0)), constant(0.0, 0.0))
    unbounded = Drift()
    unbounded.action_space = spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match="share of the range of actions"):
        ResidualActions(unbounded, constant(0.0, 0.0))
    with pytest.raises(ValueError, match="residual of ResidualPolicy"):  # it was never trained beside a base
        ResidualPolicy(make(), make(), Drift())
    assert pickle.loads(pickle.dumps(ResidualActions(Drift(), Counting()))).scale == 0.1
