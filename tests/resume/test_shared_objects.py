"""Environments whose attributes refer to each other, or to the environment, go on as the objects that they were."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnvWrapper
from toy_tasks import Drift, assert_same, make, vec

from sb3_o2o import O2OSAC
from sb3_o2o.plain.documents import read_document, write_document

from .test_bundle import SaveAt, everything, never
from .test_untrusted_bundles import signed


class Sampler:
    """Draws from the generator of the environment that it belongs to."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng


class SharedGenerator(Drift):
    """Both draw from one generator."""

    def reset(self, **kwargs: Any) -> Any:
        found = super().reset(**kwargs)
        if kwargs.get("seed") is not None or not hasattr(self, "sampler"):
            self.sampler = Sampler(self.np_random)
        return found

    def step(self, action: np.ndarray) -> Any:
        return super().step(action + 0.1 * self.sampler.rng.normal())


class Robot:
    """Moves the environment that it is a part of."""

    def __init__(self, env: Any):
        self.env, self.moved = env, 0.0

    def move(self, action: np.ndarray) -> None:
        self.moved += 0.1
        self.env.position = self.env.position + 0.3 * action + self.moved


class Composed(Drift):
    """Refers to itself by a part of it, and to its own method in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.robot, self.moves = Robot(self), {"back": self.back}

    def back(self) -> None:
        self.position = 0.9 * self.position

    def step(self, action: np.ndarray) -> Any:
        self.robot.move(action)
        self.moves["back"]()
        return super().step(action)


class Bound(Composed):
    """Has the method of a part as an attribute, which only code makes again."""

    def __init__(self) -> None:
        super().__init__()
        self.act = self.robot.move

    def step(self, action: np.ndarray) -> Any:
        self.act(action)
        return super().step(action)


class Plain(Drift):
    """Two attributes share a list, and a third one has the environment: all of it is plain data."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[float] = []
        self.parts = {"moved": self.moved, "team": [self]}

    def step(self, action: np.ndarray) -> Any:
        self.moved.append(0.1)
        return self.parts["team"][0].push(action + sum(self.parts["moved"]))  # type: ignore[attr-defined]

    def push(self, action: np.ndarray) -> Any:
        return super().step(action)


class Drawing(Drift):
    """Draws its goals from a space of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.goals = spaces.Dict(x=spaces.Box(-1.0, 1.0, (2,)))
        self.goals.seed(3)

    def step(self, action: np.ndarray) -> Any:
        return super().step(action + self.goals.sample()["x"])


class Pushing(gym.Wrapper[Any, Any, Any, Any]):
    """Shares an object with the environment inside it."""

    def __init__(self, env: Any):
        super().__init__(env)
        self.shared = env.unwrapped.shared = {"push": 0.0}

    def step(self, action: np.ndarray) -> Any:
        self.shared["push"] += 0.1
        return super().step(action + self.env.unwrapped.shared["push"])  # type: ignore[attr-defined]


class Sensor:
    """Reads and moves the simulator itself."""

    def __init__(self, data: Any):
        self.data = data


class Simulated(gym.Wrapper[Any, Any, Any, Any]):
    """A part holds the simulator, an attribute a view of its memory."""

    def __init__(self, env: Any):
        super().__init__(env)
        self.sensor, self.speeds = Sensor(env.unwrapped.data), env.unwrapped.data.qvel

    def step(self, action: np.ndarray) -> Any:
        return super().step(np.clip(action + 0.01 * self.sensor.data.qpos[0] + 0.01 * self.speeds[0], -1.0, 1.0))


#: and whether their bundles open without trust
ENVIRONMENTS: dict[str, tuple[Any, bool]] = {
    "a generator": (SharedGenerator, False),
    "the environment": (Composed, False),
    "a method": (Bound, False),
    "plain data": (Plain, True),
    "a space": (Drawing, True),
    "a wrapper": (lambda: Pushing(Drift()), True),
    "a simulator": (lambda: Simulated(gym.make("Hopper-v5", max_episode_steps=13)), False),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_attributes_share_stays_one(name: str, tmp_path: Path) -> None:
    make_env, is_plain = ENVIRONMENTS[name]
    straight = make(env=make_env(), ent_coef=0.1)
    straight.learn(20)
    make(env=make_env(), ent_coef=0.1).learn(20, callback=SaveAt(9, tmp_path / "bundle", stop=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = O2OSAC.load_resume(tmp_path / "bundle", make_env(), device="cpu", trust=not is_plain)
    resumed.learn(11, never(tmp_path), reset_num_timesteps=False)
    assert_same(everything(straight), everything(resumed))


def test_the_environment_of_an_evaluation(tmp_path: Path) -> None:
    def evaluation() -> EvalCallback:
        env = Monitor(Composed())
        env.reset(seed=1)
        return EvalCallback(env, n_eval_episodes=2, eval_freq=3, verbose=0)

    straight, resumed = evaluation(), evaluation()
    make().learn(14, callback=[never(tmp_path), straight])
    make().learn(14, callback=[SaveAt(7, tmp_path / "bundle", stop=True), evaluation()])
    model = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu", trust=True)
    model.learn(7, callback=[never(tmp_path), resumed], reset_num_timesteps=False)
    assert straight.last_mean_reward == resumed.last_mean_reward
    robot: Any = resumed.eval_env.envs[0].unwrapped.robot  # type: ignore[attr-defined]
    assert robot.env is resumed.eval_env.envs[0].unwrapped  # type: ignore[attr-defined]


# -- what does not go on is named ----------------------------------------------------------------------------------


class Model(Drift, EzPickle):
    """A pickle of it is a new one."""

    def __init__(self) -> None:
        EzPickle.__init__(self)
        Drift.__init__(self)


def with_attributes(**attributes: Any) -> Any:
    env = Drift()
    vars(env).update(attributes)
    return env


def views() -> Any:
    state = np.zeros(4)
    return with_attributes(state=state, place=state[:2], other=np.zeros(4)[:2])


class Handle(VecEnvWrapper):
    """Around several environments."""

    def reset(self) -> Any:
        self.handle = (each for each in "abc")
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


NAMED: dict[str, tuple[Any, str]] = {
    "a new one": (lambda: with_attributes(models=[Model()]), r"not restored: Drift\.models\."),
    "a method": (lambda: with_attributes(draw=np.random.default_rng(0).normal), r"not restored: Drift\.draw\."),
    "views": (views, r"shared memory are apart now.*: Drift\.place, Drift\.state\."),
    "a simulator that is no environment": (
        lambda: with_attributes(env=SimpleNamespace(handle=(each for each in "abc"))),
        r"not restored: Drift\.env\.",
    ),
    "of a wrapper of several": (lambda: Handle(vec()), r"not restored: Handle\.handle\."),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_does_not_go_on_is_named(name: str, tmp_path: Path) -> None:
    make_env, words = NAMED[name]
    make(env=make_env()).learn(6).save_resume(tmp_path / "bundle")
    with pytest.warns(UserWarning, match=words) as caught:
        O2OSAC.load_resume(tmp_path / "bundle", make_env(), device="cpu")
    assert len(caught) == 1


def test_the_environment_of_an_evaluation_is_named(tmp_path: Path) -> None:
    def evaluation() -> EvalCallback:
        return EvalCallback(Monitor(with_attributes(models=[Model()])), n_eval_episodes=1, eval_freq=3, verbose=0)

    make().learn(8, callback=[SaveAt(6, tmp_path / "bundle"), evaluation()])
    model = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    with pytest.warns(UserWarning, match=r"EvalCallback\.eval_env: Not in the bundle, so not restored: Drift\.models"):
        model.learn(2, callback=[never(tmp_path), evaluation()], reset_num_timesteps=False)


# -- other bundles -------------------------------------------------------------------------------------------------


def test_a_bundle_from_before_goes_on(tmp_path: Path) -> None:
    straight = make()
    straight.learn(14)
    make().learn(14, callback=SaveAt(9, tmp_path / "bundle", stop=True))
    state = read_document(tmp_path / "bundle" / "state.zip")
    del state["environment"]["spaces"], state["environment"]["apart"]
    write_document(tmp_path / "bundle" / "state.zip", state)
    resumed = O2OSAC.load_resume(signed(tmp_path / "bundle"), vec(), device="cpu")
    resumed.learn(5, never(tmp_path), reset_num_timesteps=False)
    assert_same(everything(straight), everything(resumed))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"place": "envs/0/other"}, "had a part 'envs/0/other', these have not"),
        ({"method": "__class__"}, "had a method __class__ at envs/0/env"),
    ],
)
def test_a_part_that_is_not_there_is_said(change: dict[str, str], words: str, tmp_path: Path) -> None:
    make(env=Plain()).learn(6).save_resume(tmp_path / "bundle")
    state = read_document(tmp_path / "bundle" / "state.zip")
    attributes = state["environment"]["envs"][0]["children"]["env"]["attributes"]
    vars(attributes["parts"]["team"][0]).update(change)
    write_document(tmp_path / "bundle" / "state.zip", state)
    with pytest.raises(ValueError, match=words):
        O2OSAC.load_resume(signed(tmp_path / "bundle"), Plain(), device="cpu")
