"""``sb3-o2o inspect`` says what is in a file and runs nothing of it; datasets and recipes import nothing by name."""

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import tiny
from command_line import fails, succeeds
from plain import hostile
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import dataset, make, vec

from sb3_o2o import O2OSAC, OfflineDataset, ResumeBundle, UntrustedError
from sb3_o2o.networks.sac_policies import O2OSACPolicy
from sb3_o2o.plain.allowlist import trusting
from sb3_o2o.runs.environments import Environment, environment_of
from sb3_o2o.runs.inspection import inspect

#: what is refused for what they call or change, not for the names: inspect says the names
HARMLESS_BY_NAME = (
    *("getattr of a listed class", "the constructor of a listed class", "a state of a function"),
    *("a harmless state of a class", "a pickle in a tensor's storage"),
)


# -- inspect -------------------------------------------------------------------------------------------------------


def test_a_model_of_ours(tmp_path: Path) -> None:
    make(finetuning=[{"Warmup": {"steps": 5}}], objective="cql").pretrain(dataset(), 2).save(tmp_path / "ours")
    output = succeeds("inspect", str(tmp_path / "ours.zip"))
    for text in ("a model of O2OSAC", "cql", "Warmup", "Box(", "n_pretrain_steps", "It opens without running code"):
        assert text in output


def test_a_model_with_code_of_the_users(tmp_path: Path) -> None:
    make(learning_rate=lambda remaining: 0.1).save(tmp_path / "ours")
    found = inspect(tmp_path / "ours.zip")
    assert found.needs_trust == [
        "test_inspection.test_a_model_with_code_of_the_users.<locals>.<lambda> (its 'learning_rate')"
    ]
    assert found.facts["pickled code"].startswith("1 parts")


def test_folders_of_bundles(tmp_path: Path) -> None:
    """A run's, of which the newest counts."""
    path = tmp_path / "run" / "resume"
    make().learn(6, callback=ResumeBundle(path, every=3, min_seconds=0.0, max_share=None))
    for folder in (path, path.parent):
        found = inspect(folder)
        assert found.kind == "2 resume bundles, of which bundle_000002 is the newest"
        assert str(found.facts["goes on from"]).startswith("6 environment steps")
        assert "all whole" in found.facts["files"]


def test_a_run_that_has_finished_has_no_bundles(tmp_path: Path) -> None:
    """The model that ``evaluate`` would take; before there is one, the error says what to give."""
    run = tmp_path / "run"
    (run / "offline").mkdir(parents=True)
    (run / "config.yml").write_text(json.dumps({"sb3_o2o": "0.1.0", "command": "pretrain", "environment": {}}))
    assert "nor is it a run with a model" in fails("inspect", str(run))
    model = make(objective="cql").pretrain(dataset(), 2)
    model.save(run / "offline" / "model")
    assert "a run folder, of which offline/model.zip is a model of O2OSAC" in succeeds("inspect", str(run))
    (run / "online").mkdir()
    model.learn(6).save(run / "online" / "model")
    found = inspect(run)
    assert found.kind.startswith("a run folder, of which online/model.zip")
    assert found.facts["num_timesteps"] == 6


def test_a_table_and_a_zip_that_is_cut(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('place,"a, b",reward\n1,2,3\n')
    assert inspect(tmp_path / "table.csv").facts == {"columns": "place, a, b, reward", "bytes": "26"}
    make().save(tmp_path / "model")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "model.zip").read_bytes()[:3000])
    assert "cut.zip is no zip, or one that is cut or damaged" in fails("inspect", str(tmp_path / "cut.zip"))


def test_a_stock_model_and_what_a_stranger_put_into_it(marker: Path, tmp_path: Path) -> None:
    model = SAC("MlpPolicy", vec(), device="cpu", policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "stock")
    found = inspect(tmp_path / "stock.zip")
    assert found.needs_trust == []
    assert "stable_baselines3.sac.policies.SACPolicy" in found.names
    model.ep_info_buffer = hostile.Calls(exec, hostile.touching(marker))  # type: ignore[assignment]
    model.save(tmp_path / "hostile")
    output = succeeds("inspect", str(tmp_path / "hostile.zip"))
    assert "needs --trust" in output
    assert "builtins.exec (its 'ep_info_buffer')" in output
    assert not marker.exists()


def test_a_bundle_its_parts_and_pickles(marker: Path, tmp_path: Path) -> None:
    model = make(env=VecNormalize(vec())).learn(6)
    model.save_resume(tmp_path / "bundle")
    found = inspect(tmp_path / "bundle")
    assert found.kind == "a resume bundle"
    assert found.facts["files"].endswith("all whole")
    assert found.needs_trust == []
    assert "normalizer" in inspect(tmp_path / "bundle" / "state.zip").facts["holds"]
    model.get_env().save(str(tmp_path / "normalize.pkl"))
    assert "VecNormalize" in inspect(tmp_path / "normalize.pkl").kind
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    found = inspect(tmp_path / "buffer.pkl")
    assert found.facts["pos"] == 6
    assert found.needs_trust == []
    for name, pickled in hostile.pickles(marker).items():
        (tmp_path / "hostile.pkl").write_bytes(pickled)
        with contextlib.suppress(ValueError):  # some are no pickles
            assert inspect(tmp_path / "hostile.pkl").needs_trust or name in HARMLESS_BY_NAME, name
    assert not marker.exists()


def test_datasets(tmp_path: Path, tiny_dataset: Any) -> None:
    name = tiny_dataset()
    assert inspect(name).facts["environment"] == tiny.BOX
    assert "tiny:TinyBox" in inspect(name).facts["entry point"]
    np.savez(tmp_path / "arrays.npz", rewards=np.zeros(3), infos=np.array([{}], object))
    facts = inspect(tmp_path / "arrays.npz").facts
    assert facts["rewards"] == "float64, (3,)"
    assert "never read" in facts["infos"]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06"])
def test_what_is_nothing_known_is_an_error_for_people(content: bytes, tmp_path: Path) -> None:
    for name in ("file.zip", "file.pkl", "file.npz", "file.hdf5"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            inspect(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file, folder or Minari dataset"):
        inspect(tmp_path / "nothing.zip")


# -- pickles as datasets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(hostile.pickles(Path("/nowhere"))))
def test_no_pickle_runs_as_a_dataset_or_normaliser(name: str, marker: Path, tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(hostile.pickles(marker)[name])
    with pytest.raises(ValueError, match=r"data\.pkl"):
        OfflineDataset.load(tmp_path / "data.pkl")
    with pytest.raises(ValueError, match=r"data\.pkl"):
        O2OSAC.load_offline(lambda seen: seen, vec(), dataset=dataset(), vec_normalize=tmp_path / "data.pkl")
    assert not marker.exists()


class Own(ReplayBuffer):
    """A user's buffer."""


def test_a_buffer_of_the_users_class_needs_trust(tmp_path: Path) -> None:
    env = vec()
    buffer = Own(8, env.observation_space, env.action_space)
    first = env.reset()
    action = np.zeros((1, *env.action_space.shape), np.float32)  # type: ignore[misc]
    for _ in range(4):
        following, reward, done, infos = env.step(action)
        buffer.add(first, following, action, reward, done, infos)
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(buffer))
    with pytest.raises(UntrustedError, match=r"own\.pkl needs test_inspection\.Own"):
        OfflineDataset.load(tmp_path / "own.pkl")
    trusted = OfflineDataset.load(tmp_path / "own.pkl", trust=True)
    assert len(trusted) == 4
    assert "trust" not in trusted.options, "or a saved model would trust for whoever opens it"


def test_a_replay_buffer_is_loaded_without_running_code(marker: Path, tmp_path: Path) -> None:
    model = make().learn(6)
    model.save_replay_buffer(tmp_path / "buffer")
    again = make()
    for source in (tmp_path / "buffer", open(tmp_path / "buffer.pkl", "rb")):  # noqa: SIM115
        again.load_replay_buffer(source)
        assert again.replay_buffer.pos == 6
        assert np.array_equal(again.replay_buffer.observations, model.replay_buffer.observations)
    (tmp_path / "hostile.pkl").write_bytes(hostile.pickles(marker)["exec"])
    with pytest.raises(UntrustedError, match=r"hostile\.pkl needs builtins\.exec"):
        again.load_replay_buffer(tmp_path / "hostile.pkl")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"list\.pkl holds a list, expected a replay buffer"):
        again.load_replay_buffer(tmp_path / "list.pkl")
    assert not marker.exists()


# -- names of environments and wrappers ----------------------------------------------------------------------------


def rewritten_metadata(name: str, spec: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    """A Minari dataset that says something else of its environment."""
    path = Path(minari.storage.get_dataset_path(name)) / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["env_spec"] = json.dumps({**json.loads(metadata["env_spec"]), **spec})
    path.write_text(json.dumps({key: value for key, value in metadata.items() if key not in without}))
    return path.parent


def test_an_entry_point_of_a_dataset_is_not_imported(marker: Path, tiny_dataset: Any) -> None:
    name = tiny_dataset()
    rewritten_metadata(name, {"id": "Strange-v0", "entry_point": "this_module_marks:Env"})
    assert OfflineDataset.load(name).env_id == "Strange-v0"
    with pytest.raises(UntrustedError, match=r"this_module_marks:Env of the environment 'Strange-v0'"):
        O2OSAC.load_offline(name, pretrain_steps=1)
    environment = environment_of(name)
    assert environment is not None
    with pytest.raises(ValueError, match="Strange-v0"):
        environment.make()
    rewritten_metadata(name, {"id": "this_module_marks:Strange-v0"})
    environment = environment_of(name)
    assert environment is not None
    with pytest.raises(UntrustedError, match="the module this_module_marks"):
        environment.make()
    assert not marker.exists()


def test_a_dataset_without_spaces_does_not_make_its_environment(marker: Path, tiny_dataset: Any) -> None:
    name = tiny_dataset()
    folder = rewritten_metadata(name, {"entry_point": "this_module_marks:Env"}, ("observation_space",))
    for source in (name, folder.parent):
        with pytest.raises(UntrustedError, match=r"this_module_marks:Env, to know the spaces"):
            OfflineDataset.load(source)
    with pytest.raises(UntrustedError, match="to know the spaces"):
        environment_of(name)
    assert inspect(name).needs_trust == ["this_module_marks:Env, to know the spaces"]
    assert not marker.exists()
    with pytest.raises(ValueError, match="this_module_marks"):
        OfflineDataset.load(name, trust=True)
    assert marker.exists(), "or else nothing was tested"


def test_a_registered_environment_is_made_by_its_id_whatever_its_entry_point(marker: Path, tiny_dataset: Any) -> None:
    name = tiny_dataset()
    rewritten_metadata(name, {"entry_point": "this_module_marks:Env"})
    model = O2OSAC.load_offline(name, pretrain_steps=1, device="cpu", policy_kwargs={"net_arch": [4]})
    assert isinstance(model.get_env().envs[0].unwrapped, tiny.TinyBox)  # type: ignore[union-attr]
    assert gym.spec(tiny.BOX).kwargs == {}, "the registered one stays as it was"
    assert not marker.exists()


def test_wrappers_of_a_recipe_are_of_known_packages(marker: Path) -> None:
    known = Environment(
        tiny.BOX,
        wrappers=["sb3_o2o.wrappers.RewardScaleShift", {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 3}}],
    )
    known.make().close()
    for name in ("this_module_marks.Wrapper", "gymnasium.wrappers.RecordVideo", "os.system"):
        with pytest.raises(UntrustedError, match=f"The recipe needs the wrapper {name}"):
            Environment(tiny.BOX, wrappers=[name]).make()
    assert not marker.exists()
    with trusting(), pytest.raises(ValueError, match=r"no environment wrapper 'this_module_marks\.Wrapper'"):
        Environment(tiny.BOX, wrappers=["this_module_marks.Wrapper"]).make()
    assert marker.exists(), "or else nothing was tested"


def test_a_user_who_names_a_module_is_taken_at_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tasks.py").write_text(
        "import gymnasium\ngymnasium.register('MyTiny-v0', entry_point='tiny:TinyBox')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    succeeds("collect", "my_tasks:MyTiny-v0", "my/data-v0", "--n-episodes", "2")
    assert len(OfflineDataset.load("my/data-v0")) == 20


def own_model(tmp_path: Path) -> Path:
    """A model whose policy is a user's, on the tiny task."""
    model = O2OSAC(OwnPolicy, gym.make(tiny.BOX), device="cpu", policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "own")
    return tmp_path / "own.zip"


class OwnPolicy(O2OSACPolicy):
    """A user's."""


def test_the_ending_of_a_model_may_be_left_out(tmp_path: Path) -> None:
    """As in ``load``, and for every other command that takes a model."""
    make(objective="cql").save(tmp_path / "model")
    assert "a model of O2OSAC" in succeeds("inspect", str(tmp_path / "model"))
    assert "There is no file" in fails("inspect", str(tmp_path / "mode"))


def test_trust_on_the_command_line_ends_with_the_command(tmp_path: Path) -> None:
    path = own_model(tmp_path)
    arguments = ("evaluate", path, "--env", tiny.BOX, "--episodes", "1")
    error = fails(*arguments)
    assert "test_inspection.OwnPolicy" in error
    assert "--trust" in error
    assert "1 episode" in succeeds(*arguments, "--trust")
    with pytest.raises(UntrustedError):
        O2OSAC.load(path)
