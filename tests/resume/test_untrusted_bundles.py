"""Resume bundles open without running code, whoever wrote them."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from plain import hostile
from plain.test_codec import assert_same
from toy_tasks import make, vec

from sb3_o2o import O2OSAC, UntrustedError
from sb3_o2o.finetuning import SymmetricReplay
from sb3_o2o.plain.documents import read_document, write_document
from sb3_o2o.resume.manifest import Manifest


class Wind:
    """State of a user's environment."""

    def __init__(self, strength: float):
        self.strength = strength


class Windy(gym.Wrapper):
    """An environment with an object of the user's own."""

    wind: Wind | None = None

    def step(self, action: Any) -> Any:
        self.wind = Wind(0.5)
        return super().step(action)


def windy() -> Any:
    """The toy task in the wind."""
    return Windy(vec().envs[0].unwrapped)


def signed(folder: Path) -> Path:
    """A bundle whose manifest agrees with its files again."""
    manifest = Manifest.read(folder)
    manifest.files.clear()
    for each in sorted(folder.iterdir()):
        if each.name != "manifest.json":
            manifest.add(folder, each.name)
    manifest.write(folder)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Of a run that has just begun."""
    make().learn(6).save_resume(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_no_file_of_a_bundle_is_a_pickle(bundle: Path) -> None:
    names = {each.name for each in bundle.iterdir()}
    assert {"manifest.json", "model.zip", "state.zip", "replay_buffer.zip"} <= names
    for name in names - {"manifest.json"}:
        if name.endswith(".zip"):
            with zipfile.ZipFile(bundle / name) as archive:
                assert not [entry for entry in archive.namelist() if entry.startswith("code/")]


def test_objects_of_the_users_environment_need_trust(tmp_path: Path) -> None:
    make(env=windy()).learn(6).save_resume(tmp_path / "bundle")
    with pytest.raises(UntrustedError, match=r"state\.zip needs resume\.test_untrusted_bundles\.Wind"):
        O2OSAC.load_resume(tmp_path / "bundle", windy(), device="cpu")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", windy(), device="cpu", trust=True)
    assert resumed.get_env().envs[0].get_wrapper_attr("wind").strength == 0.5


@pytest.mark.parametrize("name", ["state.zip", "replay_buffer.zip"])
def test_a_strangers_code_is_refused(name: str, bundle: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    write_document(bundle / name, {"normalizer": None, "callback": lambda: None})
    with zipfile.ZipFile(bundle / name) as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    contents["code/0.pkl"] = hostile.pickles(marker)["os.system"]
    with zipfile.ZipFile(bundle / name, "w") as archive:
        for entry, content in contents.items():
            archive.writestr(entry, content)
    with pytest.raises(UntrustedError, match=name):
        O2OSAC.load_resume(signed(bundle), vec(), device="cpu")
    assert not marker.exists()
    with pytest.raises(ValueError, match="is no part of a resume bundle"):
        O2OSAC.load_resume(bundle, vec(), device="cpu", trust=True)
    assert marker.exists(), "or else nothing was tested"


def test_rows_are_no_python_objects(bundle: Path) -> None:
    """Their bytes would be places in memory."""
    saved = read_document(bundle / "replay_buffer.zip")
    saved["arrays"] = [(place, shape, "|O") for place, shape, _ in saved["arrays"]]
    write_document(bundle / "replay_buffer.zip", saved)
    with pytest.raises(ValueError, match="no dtype of plain values"):
        O2OSAC.load_resume(signed(bundle), vec(), device="cpu")


def test_generators_stand_inside_their_numbers(bundle: Path) -> None:
    state = read_document(bundle / "state.zip")
    kind, numbers, _, *rest = state["random"]["numpy"]
    state["random"]["numpy"] = (kind, numbers, 60_000, *rest)
    write_document(bundle / "state.zip", state)
    with pytest.raises(ValueError, match="stands beyond its numbers"):
        O2OSAC.load_resume(signed(bundle), vec(), device="cpu")


def test_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.zip"
    os.replace(bundle / "state.zip", target)
    (bundle / "state.zip").symlink_to(target)
    with pytest.raises(ValueError, match=r"state\.zip is a link"):
        O2OSAC.load_resume(bundle, vec(), device="cpu")


def test_names_that_lead_out_are_refused(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    document["files"]["../outside"] = document["files"]["state.zip"]
    (bundle / "manifest.json").write_text(json.dumps(document))
    (bundle.parent / "outside").write_bytes((bundle / "state.zip").read_bytes())
    with pytest.raises(ValueError, match=r"is damaged: \.\./outside is missing"):
        O2OSAC.load_resume(bundle, vec(), device="cpu")


def test_another_format_is_refused(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / "state.zip") as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    contents["value.json"] = json.dumps({"format": 99, "value": None}).encode()
    with zipfile.ZipFile(bundle / "state.zip", "w") as archive:
        for entry, content in contents.items():
            archive.writestr(entry, content)
    with pytest.raises(ValueError, match="format 99"):
        O2OSAC.load_resume(signed(bundle), vec(), device="cpu")


def test_infos_of_hindsight_take_no_place(tmp_path: Path) -> None:
    infos = np.array([[{}] for _ in range(10_000)])
    infos[3, 0] = {}
    write_document(tmp_path / "infos.zip", {"infos": infos, "some": np.array([{}, {"a": 1}], object)})
    assert (tmp_path / "infos.zip").stat().st_size < 2_000
    again = read_document(tmp_path / "infos.zip")
    assert_same(infos, again["infos"])
    assert again["infos"][0, 0] is not again["infos"][1, 0]
    assert again["some"].tolist() == [{}, {"a": 1}]


def test_a_callback_of_the_users_own_needs_no_trust_where_it_is_defined(tmp_path: Path) -> None:
    class Mine(SymmetricReplay):
        """Known to this process."""

    make(finetuning=[Mine(0.5)]).save(tmp_path / "own")
    assert type(O2OSAC.load(tmp_path / "own").finetuning[0]) is Mine
