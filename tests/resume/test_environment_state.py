"""Resume bundles of environments in the middle of an episode, and bundles that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor
from toy_tasks import Drift, assert_same, dataset, dataset_file, make, make_td3, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.data import OfflineDataset
from sb3_o2o.evaluation import NormalizedEvalCallback
from sb3_o2o.finetuning import ConstrainedFineTuning, PolicyReevaluation, ValueAlignment

from .test_bundle import SaveAt, everything, never

# -- environments --------------------------------------------------------------------------------------------------


class Stateful(Drift):
    """Keeps what it must under names that mean something else in simulators."""

    def reset(self, **kwargs: Any) -> Any:
        self.data, self.model = {"drift": float(np.random.default_rng(0).normal())}, [1.0]
        return super().reset(**kwargs)

    def step(self, action: np.ndarray) -> Any:
        self.data["drift"] += 0.1
        self.model.append(self.data["drift"])
        return super().step(action + self.data["drift"] + len(self.model))


def gymnasium_env(env_id: str, **kwargs: Any) -> Callable[[], DummyVecEnv]:
    return lambda: DummyVecEnv([lambda: Monitor(gym.make(env_id, **kwargs))])


ENVIRONMENTS: dict[str, Callable[[], DummyVecEnv]] = {
    "stateful": lambda: DummyVecEnv([lambda: Monitor(Stateful())]),
    "Hopper": gymnasium_env("Hopper-v5", max_episode_steps=13),
    "Ant": gymnasium_env("Ant-v5", max_episode_steps=13),  # observes contact forces
    "Pendulum": gymnasium_env("Pendulum-v1", max_episode_steps=13),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_go_on_in_the_middle_of_an_episode(name: str, tmp_path: Path) -> None:
    make_env = ENVIRONMENTS[name]
    straight = make(env=make_env(), ent_coef=0.1)
    expected = everything(straight.learn(20))
    make(env=make_env(), ent_coef=0.1).learn(20, callback=SaveAt(9, tmp_path / "bundle", stop=True))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", make_env(), device="cpu")
    resumed.learn(11, never(tmp_path), reset_num_timesteps=False)
    assert_same(expected, everything(resumed))
    episodes = [[info["r"] for info in model.ep_info_buffer] for model in (straight, resumed)]  # type: ignore[union-attr]
    assert episodes[0] == episodes[1] != []


def test_environments_out_of_reach_begin_new_episodes(tmp_path: Path) -> None:
    env = SubprocVecEnv([Drift], start_method="fork")
    try:
        make(env=env).learn(9).save_resume(tmp_path / "bundle")
        with pytest.warns(UserWarning, match="out of reach"):
            resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
        assert resumed.learn(5, reset_num_timesteps=False).num_timesteps == 14
    finally:
        env.close()


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    class Holding(Drift):
        def reset(self, **kwargs: Any) -> Any:
            self.handle = (number for number in range(3))
            return super().reset(**kwargs)

    make(env=Holding()).learn(6).save_resume(tmp_path / "bundle")
    with pytest.warns(UserWarning, match=r"Holding\.handle"):
        O2OSAC.load_resume(tmp_path / "bundle", Holding(), device="cpu")


def test_nothing_is_named_for_a_simulated_robot(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    make(env=ENVIRONMENTS["Hopper"]()).learn(6).save_resume(tmp_path / "bundle")
    O2OSAC.load_resume(tmp_path / "bundle", ENVIRONMENTS["Hopper"](), device="cpu")
    assert not [str(each.message) for each in recwarn if "not restored" in str(each.message)]


# -- bad bundles ---------------------------------------------------------------------------------------------------


def rewritten(bundle: Path, **changes: Any) -> None:
    """Another manifest."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a bundle that is refused may be opened."""

    def read(*_: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("sb3_o2o.resume.bundle.read_document", read)


def test_a_bundle_of_another_version_is_refused(unread: None, tmp_path: Path) -> None:
    make().learn(6).save_resume(tmp_path / "bundle")
    rewritten(tmp_path / "bundle", sb3_o2o="0.0.0")
    with pytest.raises(ValueError, match=r"written by sb3_o2o 0\.0\.0.*same version"):
        O2OSAC.load_resume(tmp_path / "bundle", vec())
    assert O2OSAC.load(tmp_path / "bundle" / "model.zip", device="cpu").num_timesteps == 6


def test_a_bundle_of_another_class_is_refused(unread: None, tmp_path: Path) -> None:
    make().learn(6).save_resume(tmp_path / "bundle")
    with pytest.raises(ValueError, match=r"bundle is of O2OSAC, not of O2OTD3: read it with O2OSAC\.load_resume"):
        O2OTD3.load_resume(tmp_path / "bundle", vec())


@pytest.mark.parametrize("library", ["torch", "stable_baselines3"])
def test_other_versions_of_the_libraries_are_named_once(library: str, tmp_path: Path) -> None:
    make().learn(6).save_resume(tmp_path / "bundle")
    rewritten(tmp_path / "bundle", **{library: "1.0.0"})
    with pytest.warns(UserWarning, match=rf"{library} 1\.0\.0 .*not promised to go on bit for bit") as caught:
        resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert len(caught) == 1
    assert resumed.num_timesteps == 6


def test_a_manifest_that_leaves_something_out_is_refused(unread: None, tmp_path: Path) -> None:
    """What it does not name was not compared with anything."""
    bundle = tmp_path / "bundle"
    make().learn(6).save_resume(bundle)
    files = json.loads((bundle / "manifest.json").read_text())["files"]

    def refused(words: str, **changes: Any) -> None:
        rewritten(bundle, **changes)
        with pytest.raises(ValueError, match=words):
            O2OSAC.load_resume(bundle, vec())

    left = {name: each for name, each in files.items() if name not in ("state.zip", "replay_buffer.rows.000000")}
    refused(r"state\.zip is not named in manifest\.json, replay_buffer\.rows\.000000 is none of its files", files=left)
    refused("model.zip is not named in manifest.json, state.zip is not named", files={})
    refused("manifest.json is incomplete: TypeError: 'x' is no number of steps", files=files, environment_steps="x")
    rewritten(bundle, environment_steps=6)
    (bundle / "other.zip").write_text("")
    refused("other.zip is none of its files", files=files)


def test_other_environments_are_refused_by_what_differs(tmp_path: Path) -> None:
    make().learn(6).save_resume(tmp_path / "bundle")
    with pytest.raises(ValueError, match=r"The saved run had 1 side by side \(n_envs\), these are 2"):
        O2OSAC.load_resume(tmp_path / "bundle", vec(2))
    with pytest.raises(
        ValueError, match=r"had 0 wrappers of .* these have 1 \(VecMonitor\): wrap them in the same way"
    ):
        O2OSAC.load_resume(tmp_path / "bundle", VecMonitor(vec()))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("manifest.json", None, r"is no resume bundle \(it has no manifest\.json\) and holds none"),
        ("manifest.json", b"", "manifest.json cannot be read: JSONDecodeError"),
        ("manifest.json", b"[1, 2]", "manifest.json cannot be read: TypeError"),
        ("state.zip", None, "is damaged: state.zip is missing"),
        ("state.zip", b"cut", r"is damaged: state.zip has 3 bytes instead of [\d,]+\."),
        ("replay_buffer.rows.000000", None, "is damaged: replay_buffer.rows.000000 is missing"),
        ("replay_buffer.rows.000000", "flipped", "rows.000000 holds something else than was written"),
        ("model.zip", "flipped", "model.zip holds something else than was written"),
    ],
)
def test_a_damaged_bundle_is_refused(
    name: str, content: bytes | str | None, words: str, unread: None, tmp_path: Path
) -> None:
    make().learn(6).save_resume(tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        changed = bytearray(path.read_bytes())
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
    with pytest.raises(ValueError, match=words):
        O2OSAC.load_resume(tmp_path / "bundle", vec())


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no resume bundle .* and holds none"):
        O2OSAC.load_resume(tmp_path, vec())


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make().learn(6).save_resume(tmp_path / "file" / "bundle")


def test_an_environment_of_another_kind_is_refused(tmp_path: Path) -> None:
    make().learn(6).save_resume(tmp_path / "bundle")
    with pytest.raises(ValueError, match="spaces do not match"):
        O2OSAC.load_resume(tmp_path / "bundle", vec(dictionary=True))


def test_a_changed_dataset_is_refused(tmp_path: Path) -> None:
    path = dataset_file(tmp_path)
    make().pretrain(path, 3).save_resume(tmp_path / "bundle")
    Path(path).unlink()
    dataset(seed=1).save(path)
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    with pytest.raises(ValueError, match="has changed"):
        resumed.pretrain(None, 2, reset_gradient_steps=False)
    assert isinstance(resumed.load_dataset(path), OfflineDataset)


# -- evaluations ---------------------------------------------------------------------------------------------------


def seeded(seed: int, n_envs: int = 1) -> DummyVecEnv:
    """Environments whose first episode is seeded, as a user's are; nobody seeds those after it."""
    env = vec(n_envs)
    env.seed(seed)
    return env


@pytest.mark.parametrize("n_envs", [1, 2])
def test_evaluations_that_nobody_seeds_go_on_where_they_were(n_envs: int, tmp_path: Path) -> None:
    def evaluation(seed: int) -> EvalCallback:
        return EvalCallback(seeded(seed, n_envs), n_eval_episodes=3, eval_freq=3, log_path=str(tmp_path), verbose=0)

    straight, resumed = evaluation(1), evaluation(2)
    make().learn(20, callback=[never(tmp_path), straight])
    make().learn(20, callback=[SaveAt(10, tmp_path / "bundle", stop=True), evaluation(1)])
    model = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    model.learn(10, callback=[never(tmp_path), resumed], reset_num_timesteps=False)
    assert len(straight.evaluations_results) == 6
    assert len({tuple(each) for each in straight.evaluations_results}) > 1
    assert straight.evaluations_results == resumed.evaluations_results


def test_another_number_of_environments_is_said(tmp_path: Path) -> None:
    def evaluation(n_envs: int) -> EvalCallback:
        return EvalCallback(seeded(1, n_envs), n_eval_episodes=1, eval_freq=3, verbose=0)

    make().learn(8, callback=[SaveAt(6, tmp_path / "bundle"), evaluation(2)])
    model = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    with pytest.warns(UserWarning, match=r"EvalCallback\.eval_env has other environments than before"):
        model.learn(2, callback=[never(tmp_path), evaluation(1)], reset_num_timesteps=False)


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("phase", ["reevaluation", "alignment"])
def test_a_reference_is_scored_as_without_the_interruption(
    build: Callable[..., Any], stock: bool, phase: str, tmp_path: Path
) -> None:
    class Stopping(BaseCallback):
        """In a phase without environment steps, after half of it."""

        keeps_no_state = True

        def __init__(self, phase: str):
            super().__init__()
            self.phase = phase

        def _on_step(self) -> bool:
            return True

        def on_phase_step(self, name: str, done: int, *_: Any) -> None:
            if (name, done) == (self.phase, 2):
                self.model.save_resume(tmp_path / "bundle")  # type: ignore[attr-defined]
                self.model.request_stop()  # type: ignore[attr-defined]

    def evaluation() -> EvalCallback:
        if stock:
            return EvalCallback(seeded(1), n_eval_episodes=2, eval_freq=5, verbose=0)
        return NormalizedEvalCallback(vec(), seed=7, n_eval_episodes=2, eval_freq=5, verbose=0)

    def made() -> Any:
        phases = [PolicyReevaluation(gradient_steps=4), ValueAlignment(gradient_steps=4)]
        constraint = ConstrainedFineTuning(anneal_steps=20)
        return build(finetuning=[*phases, constraint], learning_rate=0.05).pretrain(dataset_file(tmp_path), 3)

    straight = made().learn(12, callback=[evaluation(), Stopping("")])
    made().learn(12, callback=[evaluation(), Stopping(phase)])
    resumed = type(straight).load_resume(tmp_path / "bundle", vec(), device="cpu")
    resumed.learn(12, callback=[evaluation(), Stopping("")], reset_num_timesteps=False)
    assert_same(everything(straight), everything(resumed))
    one, other = straight.finetuning[2], resumed.finetuning[2]
    assert (one.best_score, one.n_taken, one.taken_at) == (other.best_score, other.n_taken, other.taken_at)
    assert one.best_score > -np.inf
