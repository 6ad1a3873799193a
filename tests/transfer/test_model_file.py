"""Files of models open without running anything: ours, Stable-Baselines3's, and what strangers make of either."""

import io
import json
import shutil
import stat
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from plain import hostile
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from toy_tasks import assert_same, dataset, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3, UntrustedError, add_safe_globals
from sb3_o2o.plain.encoder import FORMAT
from sb3_o2o.transfer.model_file import HEADER, attributes_as_json, for_stock_load, header, read_attributes


def small() -> dict[str, Any]:
    """Arguments of stock models, which write into them."""
    return {"device": "cpu", "policy_kwargs": {"net_arch": [4]}}


def rewritten(source: Path, target: Path, **changed: Any) -> Path:
    """A copy of a model's file with other contents: bytes, or what becomes of its JSON."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content: Any = changed.pop(name.partition(".")[0], None)
            if content is None:
                content = old.read(name)
            elif callable(content):
                content = json.dumps(content(json.loads(old.read(name))))
            new.writestr(name, content)
    return target


def with_attribute(source: Path, target: Path, name: str, value: Any) -> Path:
    """A copy of a model's file with another attribute."""
    return rewritten(source, target, data=lambda data: {**data, name: value})


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours, trained a little."""
    path = tmp_path_factory.mktemp("ours") / "model.zip"
    make(finetuning=[{"Warmup": {"steps": 2}}]).pretrain(dataset(), 2).save(path)
    return path


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Stable-Baselines3."""
    path = tmp_path_factory.mktemp("theirs") / "model.zip"
    SAC("MlpPolicy", vec(), **small()).save(path)
    return path


# -- what is ours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_a_model_of_ours_holds_no_pickle_and_comes_back(build: Callable[..., Any], tmp_path: Path) -> None:
    model = build().pretrain(dataset(), 3)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert not [name for name in archive.namelist() if name.startswith("code/")]
        assert ":serialized:" not in archive.read("data").decode()
        assert json.loads(archive.read(HEADER))["algorithm"] == type(model).__name__
    again = type(model).load(tmp_path / "model", env=vec())
    assert_same(state(model), state(again))
    assert again.action_space == model.action_space
    assert again.lr_schedule(0.5) == model.lr_schedule(0.5)


def test_a_stock_model_of_ours_is_stocks_file(tmp_path: Path) -> None:
    model = make()
    model.to_sb3().save(tmp_path / "stock")
    assert header(tmp_path / "stock.zip") is None
    seen = dataset().observations
    assert np.array_equal(
        SAC.load(tmp_path / "stock").predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0]
    )


class Steep:
    """A schedule of a user."""

    def __call__(self, remaining: float) -> float:
        return 0.25 * remaining


def test_what_is_the_users_needs_trust_unless_it_is_given_anew(tmp_path: Path) -> None:
    make(learning_rate=lambda remaining: 0.5 * remaining).save(tmp_path / "function")
    with pytest.raises(UntrustedError, match=r"function\.zip, its 'learning_rate', needs .*<lambda>.*trust=True"):
        O2OSAC.load(tmp_path / "function")
    assert O2OSAC.load(tmp_path / "function", trust=True).lr_schedule(0.5) == 0.25
    assert O2OSAC.load(tmp_path / "function", learning_rate=0.125).lr_schedule(0.5) == 0.125
    assert O2OSAC.load(tmp_path / "function", custom_objects={"learning_rate": 0.5}).lr_schedule(0.5) == 0.5
    make(learning_rate=Steep()).save(tmp_path / "object")
    with pytest.raises(UntrustedError, match=r"test_model_file\.Steep"):
        O2OSAC.load_offline(tmp_path / "object", vec())
    assert O2OSAC.load_offline(tmp_path / "object", vec(), trust=True).lr_schedule(0.5) == 0.125


def test_what_is_vouched_for_needs_no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_o2o.plain.allowlist._VOUCHED", {})
    make(learning_rate=Steep()).save(tmp_path / "object")
    add_safe_globals(Steep)
    assert O2OSAC.load(tmp_path / "object").lr_schedule(0.5) == 0.125


def test_a_live_model_needs_no_trust() -> None:
    """What is in this process already has come in on another way."""
    model = O2OSAC.load_offline(
        SAC("MlpPolicy", vec(), learning_rate=lambda remaining: 0.5 * remaining, **small()), vec()
    )
    assert model.lr_schedule(0.5) == 0.25


def test_trust_is_true_or_false(ours: Path) -> None:
    with pytest.raises(ValueError, match=r"trust.* must be True or False, not 'yes'"):
        O2OSAC.load(ours, trust="yes")
    with pytest.raises(ValueError, match="trust must be True or False, not 1"):
        O2OSAC.load_offline(ours, vec(), trust=1)  # type: ignore[arg-type]


def test_another_format_is_refused_by_both_versions(ours: Path, tmp_path: Path) -> None:
    path = rewritten(
        ours, tmp_path / "new.zip", sb3_o2o=lambda about: {**about, "format": FORMAT + 1, "sb3_o2o": "9.0"}
    )
    with pytest.raises(ValueError, match=rf"new\.zip is in format {FORMAT + 1} of sb3_o2o 9\.0.*reads format {FORMAT}"):
        O2OSAC.load(path)


# -- what is Stable-Baselines3's -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("stock", "own"), [(SAC, O2OSAC), (TD3, O2OTD3), (PPO, O2OPPO)])
def test_an_ordinary_stock_model_needs_no_trust(stock: Any, own: Any, tmp_path: Path) -> None:
    extra: dict[str, Any] = {"n_steps": 8, "batch_size": 8} if stock is PPO else {"learning_starts": 4}
    if stock is TD3:
        extra["action_noise"] = NormalActionNoise(np.zeros(1), np.ones(1))
    model = stock("MlpPolicy", vec(), **small(), **extra).learn(16)
    model.save(tmp_path / "stock")
    loaded = own.load(tmp_path / "stock", env=vec())
    seen = dataset().observations
    expected = model.predict(seen, deterministic=True)[0]
    assert np.allclose(loaded.predict(seen, deterministic=True)[0], expected, atol=1e-6)
    loaded.learn(16)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_clip_range_of_older_versions_is_read_and_not_run(wrapped: bool, tmp_path: Path) -> None:
    """Before 2.6 it was a function, which cloudpickle saves with its code."""
    module: Any = types.ModuleType("stable_baselines3.common.utils")
    exec(
        "def constant_fn(val):\n    def func(_):\n        return val\n    return func\n"
        "def get_schedule_fn(value):\n    return lambda progress_remaining: float(value(progress_remaining))\n",
        module.__dict__,
    )
    function = module.constant_fn(0.3)
    function = module.get_schedule_fn(function) if wrapped else function
    model = PPO("MlpPolicy", vec(), n_steps=8, batch_size=8, **small())
    model.clip_range, model.lr_schedule = function, function
    model.save(tmp_path / "old")
    assert for_stock_load(tmp_path / "old.zip")[1]["clip_range"] == 0.3
    loaded = O2OPPO.load(tmp_path / "old", env=vec())
    assert loaded.clip_range(0.5) == 0.3  # type: ignore[operator]


def test_the_linear_learning_rate_of_rl_zoo_is_read_and_not_run(tmp_path: Path) -> None:
    module: Any = types.ModuleType("rl_zoo3.utils")
    exec(
        "def linear_schedule(initial_value):\n    def func(progress_remaining):\n"
        "        return progress_remaining * initial_value\n    return func\n",
        module.__dict__,
    )
    SAC("MlpPolicy", vec(), learning_rate=module.linear_schedule(0.5), **small()).save(tmp_path / "zoo")
    loaded = O2OSAC.load(tmp_path / "zoo")
    assert [loaded.lr_schedule(remaining) for remaining in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]


def test_any_other_function_needs_trust_to_train_but_not_to_act(tmp_path: Path) -> None:
    from sb3_o2o.transfer.foreign import open_saved

    model = SAC("MlpPolicy", vec(), learning_rate=lambda remaining: 0.5 * remaining, **small())
    model.save(tmp_path / "theirs")
    with pytest.raises(UntrustedError, match=r"'learning_rate', needs a function or class that brings its code along"):
        O2OSAC.load(tmp_path / "theirs")
    assert O2OSAC.load(tmp_path / "theirs", trust=True).lr_schedule(0.5) == 0.25
    acting: Any = open_saved("SAC", tmp_path / "theirs.zip")
    seen = dataset().observations
    assert np.array_equal(acting.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])


# -- what is hostile -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(hostile.pickles(Path("/nowhere"))))
def test_no_pickle_in_a_stock_model_runs(name: str, theirs: Path, marker: Path, tmp_path: Path) -> None:
    pickled = hostile.pickles(marker)[name]
    value = {":type:": "<class 'numpy.ndarray'>", ":serialized:": hostile.encoded(pickled)}
    path = with_attribute(theirs, tmp_path / "model.zip", "_last_obs", value)
    for load in (O2OSAC.load, lambda it: O2OSAC.load_offline(it, vec()), lambda it: O2OTD3.load_offline(it, vec())):
        with pytest.raises(ValueError, match=r"model\.zip, its '_last_obs',"):
            load(path)
    assert not marker.exists()
    assert "this_module_marks" not in sys.modules


NODES: dict[str, Any] = {
    "a class": {"!": "class", "name": "this_module_marks:Thing"},
    "an object": {"!": "object", "class": {"!": "class", "name": "subprocess:Popen"}, "state": {}},
    "a function": {"!": "function", "name": "os:system"},
    "an attribute of a class": {"!": "class", "name": "stable_baselines3.sac.policies:SACPolicy.load"},
    "what a module of ours imports": {"!": "class", "name": "sb3_o2o.networks.ratio:Any"},
    "an algorithm": {"!": "class", "name": "sb3_o2o.algorithms.sac:O2OSAC"},
    "an environment": {"!": "class", "name": "stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv"},
    "a callback that writes files": {"!": "class", "name": "stable_baselines3.common.callbacks:CheckpointCallback"},
    "an opener": {"!": "opened", "by": "os:system", "arguments": ["touch marker"]},
    "code": {"!": "code", "name": "builtins:function", "code": 0},
    "a class with code": {"!": "class", "name": "__main__:Mine", "code": 0},
    "a default that is called": {"!": "defaultdict", "factory": {"!": "function", "name": "os:getpid"}, "pairs": []},
}


@pytest.mark.parametrize("name", NODES)
def test_no_node_names_what_is_not_listed(name: str, ours: Path, marker: Path, tmp_path: Path) -> None:
    path = with_attribute(ours, tmp_path / "model.zip", "learning_rate", NODES[name])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("code/0.pkl", hostile.pickles(marker)["os.system"])
    for load in (O2OSAC.load, lambda it: O2OSAC.load_offline(it, vec())):
        with pytest.raises(UntrustedError, match=r"model\.zip, its 'learning_rate', needs "):
            load(path)
    assert not marker.exists()
    assert "this_module_marks" not in sys.modules


deep: Any = "bottom"
for _ in range(400):
    deep = [deep]
DAMAGED: dict[str, Any] = {
    "an unknown kind": {"!": "surprise"},
    "a kind that is no text": {"!": ["object"]},
    "no reference": {"!": "ref", "#": 7},
    "an object without class": {"!": "object"},
    "an object of a value": {"!": "object", "class": 3},
    "an array that is not there": {"!": "array", "part": 10_000},
    "an array outside": {"!": "array", "part": "../../secret"},
    "a tensor out of its storage": {
        **{"!": "tensor", "dtype": "float32", "shape": [2**40], "stride": [1], "offset": 0, "device": "cpu"},
        **{"requires_grad": False, "parameter": False, "storage": 0},
    },
    "a tensor that goes backwards": {
        **{"!": "tensor", "dtype": "float32", "shape": [2], "stride": [-1], "offset": 0, "device": "cpu"},
        **{"requires_grad": False, "parameter": False, "storage": 0},
    },
    "a dtype of objects": {"!": "scalar", "dtype": "O", "base64": "AAAAAAAAAAA="},
    "depth": deep,
    "a member that is none": {
        "!": "enum",
        "class": {"!": "class", "name": "stable_baselines3.common.type_aliases:TrainFrequencyUnit"},
        "name": "mro",
    },
    "a state of a class": {"!": "object", "class": {"!": "class", "name": "builtins:dict"}, "state": [1]},
    "a dataset by other options": {
        "!": "opened",
        "by": "sb3_o2o.data.dataset:DatasetReference.open",
        "arguments": [
            {
                "!": "object",
                "class": {"!": "class", "name": "sb3_o2o.data.dataset:DatasetReference"},
                "state": {"source": "x.pkl", "options": {"trust": True, "cache": "/"}, "reopenable": True},
            }
        ],
    },
}


@pytest.mark.parametrize("name", DAMAGED)
def test_nonsense_is_called_damage(name: str, ours: Path, tmp_path: Path) -> None:
    path = with_attribute(ours, tmp_path / "model.zip", "_last_obs", DAMAGED[name])
    with pytest.raises(ValueError, match=r"model\.zip cannot be opened: of its '_last_obs', it is damaged"):
        O2OSAC.load(path)


def test_names_in_place_of_environments_and_objectives_import_nothing(ours: Path, marker: Path, tmp_path: Path) -> None:
    path = with_attribute(ours, tmp_path / "env.zip", "env", "this_module_marks:Env-v0")
    assert O2OSAC.load(path).env is None
    for attribute in ("objective", "online_objective"):
        path = with_attribute(ours, tmp_path / "objective.zip", attribute, "this_module_marks.Mine")
        with pytest.raises(UntrustedError, match=f"its '{attribute}', needs this_module_marks.Mine"):
            O2OSAC.load(path)
    path = with_attribute(ours, tmp_path / "callback.zip", "finetuning", ["this_module_marks.Mine"])
    with pytest.raises(ValueError, match=r"Unknown fine-tuning callback 'this_module_marks\.Mine'"):
        O2OSAC.load(path)
    assert not marker.exists()


def zip_with(source: Path, target: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    """A copy of a model's file, with more in it."""
    shutil.copy(source, target)
    with zipfile.ZipFile(target, "a") as archive, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *arguments, **others: None)  # of names that come twice
        change(archive)
    return target


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("a_link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def bomb(archive: zipfile.ZipFile) -> None:
    with archive.open(zipfile.ZipInfo("bomb.pth"), "w") as file:
        for _ in range(200):
            file.write(b"\0" * 2**20)


ARCHIVES: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "a way out": (lambda archive: archive.writestr("../outside.pth", "x"), "leads out of it"),
    "an absolute name": (lambda archive: archive.writestr("/outside.pth", "x"), "leads out of it"),
    "a way out of Windows": (lambda archive: archive.writestr("..\\outside.pth", "x"), "leads out of it"),
    "data twice": (lambda archive: archive.writestr("data", "{}"), "holds 'data' twice"),
    "weights twice": (lambda archive: archive.writestr("policy.pth", "x"), r"holds 'policy\.pth' twice"),
    "a link": (link, "holds a link"),
}


@pytest.mark.parametrize("of_ours", [True, False])
@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_nobody_writes_are_refused(
    name: str, of_ours: bool, ours: Path, theirs: Path, tmp_path: Path
) -> None:
    change, message = ARCHIVES[name]
    path = zip_with(ours if of_ours else theirs, tmp_path / "model.zip", change)
    with pytest.raises(ValueError, match=message):
        O2OSAC.load(path)
    assert not (tmp_path.parent / "outside.pth").exists()


def test_a_bomb_is_not_unpacked(ours: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(ours) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("bomb.pth", b"\0" * 2**28, compress_type=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"would unpack from [\d,]+ to 26\d,[\d,]+ bytes"):
        O2OSAC.load(path)


def test_weights_bring_no_code_and_no_bombs(ours: Path, theirs: Path, marker: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    th.save({"weights": hostile.Calls(print, "x")}, stream)
    for source in (ours, theirs):
        path = rewritten(source, tmp_path / "model.zip", policy=stream.getvalue())
        with pytest.raises(ValueError, match=r"weights cannot be read, or are more than tensors"):
            O2OSAC.load(path)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * 2**28)
    path = rewritten(ours, tmp_path / "bomb.zip", policy=inner.getvalue())
    with pytest.raises(ValueError, match=r"bomb\.zip: policy\.pth would unpack"):
        O2OSAC.load(path)


@pytest.mark.parametrize("whose", ["ours", "theirs"])
@pytest.mark.parametrize("how", ["missing", "empty", "other"])
@pytest.mark.parametrize("part", ["policy.pth", "actor.optimizer.pth", "pytorch_variables.pth", HEADER])
def test_a_damaged_part_is_named_with_its_file(
    part: str, how: str, whose: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Without its variables a model was loaded with another temperature; the rest ended with torch's or Gym's words."""
    if part == HEADER and whose == "theirs":
        return
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(request.getfixturevalue(whose)) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            if name != part:
                new.writestr(name, old.read(name))
            elif how != "missing":
                new.writestr(name, b"" if how == "empty" else b"[1, 2]")
    for load in (O2OSAC.load, O2OSAC.load_offline):
        with pytest.raises(ValueError, match=r"damaged\.zip is (damaged|not a model)") as caught:
            load(str(damaged), vec(), device="cpu")
        assert "weights_only" not in str(caught.value)  # which torch advises to turn off


def test_arrays_promise_no_more_than_they_hold(ours: Path, tmp_path: Path) -> None:
    header_of_a_terabyte = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header_of_a_terabyte, {"descr": "<f8", "fortran_order": False, "shape": (2**37,)}
    )
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(ours) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, header_of_a_terabyte.getvalue() if name.startswith("arrays/") else old.read(name))
    with pytest.raises(ValueError, match="promises 137,438,953,472 numbers"):
        O2OSAC.load(path)


def test_reading_a_part_leaves_the_rest_alone(theirs: Path, marker: Path, tmp_path: Path) -> None:
    value = {":serialized:": hostile.encoded(hostile.pickles(marker)["exec"])}
    path = with_attribute(theirs, tmp_path / "model.zip", "_last_obs", value)
    assert read_attributes(path, ("gamma",)) == {"gamma": 0.99}
    assert attributes_as_json(path)["_last_obs"] == value
    assert not marker.exists()
