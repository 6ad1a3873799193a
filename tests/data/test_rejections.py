"""Bad data get one clear error, which names the field, the first bad index and what was found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_o2o.data import OfflineDataset

from .toys import ACTIONS, BOX, DICT, make_arrays, make_episode

Change = Callable[[dict[str, Any]], None]


def put(field: str, index: Any, value: Any) -> Change:
    """A change to arrays: one value."""

    def change(arrays: dict[str, Any]) -> None:
        arrays[field] = arrays[field].astype(np.float64)
        arrays[field][index] = value

    return change


def replace(field: str, value: Any) -> Change:
    """A change to arrays: a whole field."""
    return lambda arrays: arrays.update({field: value})


def test_rewards_that_a_scale_makes_too_large() -> None:
    dataset = OfflineDataset.load(make_arrays(6))  # rewards 0 to 5
    assert dataset.with_rewards(2e8).rewards[-1] == 1e9
    for scale, found in (
        (3e8, "rewards\\[4\\] is 4.0, and 12"),
        (1e38, "rewards\\[1\\] is 1.0"),
        (1e300, "and inf with"),
    ):
        with pytest.raises(ValueError, match=f"{found}.*at most 1e\\+09"):
            OfflineDataset.load(make_arrays(6), reward_scale=scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda arrays: arrays.pop("rewards"),
            r"no field 'rewards': it has actions \(6, 2\), next_observations \(6, 2\).*pass reward=0.0",
        ),
        (
            lambda arrays: (arrays.pop("next_observations"), arrays.pop("truncations")),
            "no field 'timeouts' and no 'next_observations': without one of them it is unknown where episodes end",
        ),
        (lambda arrays: arrays.clear(), "no field 'observations', 'actions', .*: it has nothing"),
        (replace("rewards", np.zeros(5)), "rewards has 5 rows, expected 6 to go with actions"),
        (replace("observations", np.zeros((7, 2))), "observations has 7 rows, expected 6"),
        (
            replace("next_observations", np.zeros((6, 3))),
            r"next_observations has rows of shape \(3,\), expected \(2,\)",
        ),
        (replace("terminations", np.zeros(7)), "terminations has 7 rows, expected 6"),
        (replace("truncations", np.zeros(0)), "truncations has 0 rows, expected 6"),
        (replace("rewards", 1.0), r"rewards has no rows \(a single number\)"),
        (replace("rewards", np.zeros((6, 2))), r"rewards has rows of shape \(2,\), expected \(\)"),
        (put("observations", (3, 1), np.nan), r"observations\[3\], entry \[1\] is nan: .* in 1 of 6 rows"),
        (put("next_observations", (5, 0), -np.inf), r"next_observations\[5\], entry \[0\] is -inf"),
        (
            put("observations", (2, 0), 1e39),
            r"observations\[2\], entry \[0\] is 1e\+39: .* at most 1e\+09.* larger unit",
        ),
        (put("rewards", 3, 1e30), r"rewards\[3\] is 1e\+30: expected a finite number of at most 1e\+09"),
        (put("next_observations", (5, 1), -2e9), r"next_observations\[5\], entry \[1\] is -2000000000.0"),
        (put("rewards", [2, 4], np.nan), r"rewards\[2\] is nan: expected a finite number .* in 2 of 6 rows"),
        (put("actions", (4, 1), np.inf), r"actions\[4\], entry \[1\] is inf"),
        (
            put("actions", (1, 0), 1.001),
            r"actions\[1\], entry 0 is 1.001: outside of .*\[-1.0, 1.0\] by more than 0.0001",
        ),
        (put("actions", (5, 1), -1.2), r"actions\[5\], entry 1 is -1.2.*pass action_space=env.action_space"),
        (put("terminations", 3, 0.5), r"terminations\[3\] is 0.5: expected False or True"),
        (put("truncations", 0, np.nan), r"truncations\[0\] is nan"),
        (replace("rewards", np.array(["a"] * 6)), "rewards has dtype <U1: expected numbers"),
        (replace("actions", np.full((6, 2), None)), r"actions has dtype object"),
        (replace("observations", [[1.0], [1.0, 2.0]]), "observations: not a rectangular array of numbers"),
        (replace("observations", np.zeros((6, 2), dtype=complex)), "observations has dtype complex128"),
        (replace("actions", np.zeros(6)), r"actions has the shape \(6,\): expected \(N, action_dim\)"),
        (replace("next_observations", {"state": np.zeros((6, 2))}), r"next_observations is a dictionary with the keys"),
    ],
)
def test_arrays(change: Change, message: str) -> None:
    arrays = make_arrays(6)
    change(arrays)
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(arrays)


def test_an_action_within_the_tolerance_is_clipped() -> None:
    arrays = make_arrays(6)
    arrays["actions"][5, 1] = 1.0 + 0.9e-4
    assert OfflineDataset.load(arrays).actions.max() == np.float32(1.0 - 1e-5)


def test_empty_arrays() -> None:
    arrays = {name: values[:0] for name, values in make_arrays(6).items()}
    with pytest.raises(ValueError, match="holds no transitions: expected at least one episode"):
        OfflineDataset.load(arrays)


def test_dictionary_keys() -> None:
    arrays = {
        **make_arrays(6),
        "observations": {"state": np.zeros((6, 2))},
        "next_observations": {"goal": np.zeros((6, 2))},
    }
    with pytest.raises(ValueError, match=r"next_observations has the keys \['goal'\], expected \['state'\]"):
        OfflineDataset.load(arrays)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rewards", [10.0, np.nan, 12.0], r"rewards\[5\] \(episode 1, step 1\) is nan"),
        ("actions", np.full((3, 2), 3.5), r"actions\[4\] \(episode 1, step 0\), entry 0 is 3.5: .*\[-2.0, 2.0\]"),
        (
            "observations",
            np.zeros((3, 2)),
            "observations in episode 1 has 3 rows, expected 4 to go with actions and a last",
        ),
        ("rewards", [10.0, 11.0], "rewards in episode 1 has 2 rows, expected 3"),
        ("terminations", [False, False], "terminations in episode 1 has 2 rows"),
    ],
)
def test_minari_episodes(field: str, value: Any, message: str, write_minari: Any) -> None:
    from dataclasses import replace as replaced

    write_minari("test/bad-v0", [make_episode(0, 4, True), replaced(make_episode(1, 3, True), **{field: value})])
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load("test/bad-v0")


def test_a_minari_dataset_without_episodes(write_minari: Any) -> None:
    write_minari("test/empty-v0", [])
    with pytest.raises(ValueError, match="holds no transitions"):
        OfflineDataset.load("test/empty-v0")


def test_a_truncated_minari_file(two_episodes: str, tmp_path: Path) -> None:
    path = tmp_path / "minari" / two_episodes / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"'test/two-v0' is damaged at episode 0: .*truncated"):
        OfflineDataset.load(two_episodes)
    assert not list((tmp_path / "cache").iterdir())


def test_a_minari_field_that_is_missing(two_episodes: str, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "minari" / two_episodes / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(ValueError, match=r"damaged at episode 1: .*rewards"):
        OfflineDataset.load(two_episodes)


def test_a_broken_minari_description(two_episodes: str, tmp_path: Path) -> None:
    (tmp_path / "minari" / two_episodes / "data" / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a Minari dataset that can be read"):
        OfflineDataset.load(two_episodes)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (BOX, spaces.Discrete(3), r"action space is Discrete\(3\): only continuous actions \(Box\)"),
        (BOX, spaces.Box(-np.inf, np.inf, (2,)), "finite bounds are needed"),
        (BOX, spaces.Box(np.zeros(2, np.float32), np.zeros(2, np.float32)), "must lie below its upper bound"),
        (spaces.Discrete(4), ACTIONS, r"observation space is Discrete\(4\): only Box and flat Dict"),
        (spaces.Dict({"a": DICT}), ACTIONS, r"under 'a': only Box entries are supported. Wrap .*FlattenObservation"),
    ],
)
def test_spaces(observation_space: spaces.Space, action_space: spaces.Space, message: str, write_minari: Any) -> None:
    write_minari("test/spaces-v0", [], observation_space, action_space)
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load("test/spaces-v0")


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (
            spaces.Box(-1, 1, (3,)),
            ACTIONS,
            r"observations: the shapes are \(2,\) and \(3,\).*Dataset: Box.*environment: Box",
        ),
        (DICT, ACTIONS, "one is a dictionary, the other is not.*FlattenObservation"),
        (BOX, spaces.Box(-1, 1, (3,)), r"actions: the shapes are \(2,\) and \(3,\)"),
        (BOX, spaces.Box(-1, 1, (2,)), r"bounds are \[-2.0, 3.0\] and \[-1.0, 1.0\], so the same scaled action"),
        (BOX, spaces.Discrete(2), "the environment's actions are not continuous"),
    ],
)
def test_a_dataset_of_another_environment(
    observation_space: spaces.Space, action_space: spaces.Space, message: str, two_episodes: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(two_episodes).check_compatible(observation_space, action_space)
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(two_episodes, observation_space=observation_space, action_space=action_space)


def test_a_dictionary_dataset_of_another_environment(two_dict_episodes: str) -> None:
    dataset = OfflineDataset.load(two_dict_episodes)
    with pytest.raises(ValueError, match=r"the keys are \['goal', 'state'\] and \['state'\]"):
        dataset.check_compatible(spaces.Dict({"state": BOX}), ACTIONS)
    other = spaces.Dict({"goal": BOX, "state": BOX})
    with pytest.raises(ValueError, match=r"the shapes of 'goal' are \(1,\) and \(2,\)"):
        dataset.check_compatible(other, ACTIONS)


def test_bounds_and_dtype_of_observations_may_differ(two_episodes: str) -> None:
    OfflineDataset.load(two_episodes).check_compatible(spaces.Box(-1, 1, (2,), np.float32), ACTIONS)


def test_one_array_in_place_of_a_dictionary() -> None:
    with pytest.raises(ValueError, match=r"observations: expected a dictionary with the keys \['goal', 'state'\]"):
        OfflineDataset.load(make_arrays(6), observation_space=DICT)


def test_names_that_lead_nowhere(two_episodes: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"minari download test/three-v0.*Here are: test/two-v0"):
        OfflineDataset.load("test/three-v0")
    with pytest.raises(ValueError, match="neither a file, nor a folder, nor a Minari id"):
        OfflineDataset.load("not an id")
    with pytest.raises(ValueError, match="neither a file, nor a folder, nor a Minari id"):
        OfflineDataset.load("no/version")
    (tmp_path / "mine.npz").touch()  # the ending was left out
    with pytest.raises(ValueError, match=r"Cannot load .*Did you mean '.*mine\.npz'\?"):
        OfflineDataset.load(str(tmp_path / "mine"))
    with pytest.raises(FileNotFoundError, match=r"There is no file .*missing.npz"):
        OfflineDataset.load(tmp_path / "missing.npz")
    with pytest.raises(ValueError, match="is not a Minari dataset that can be read"):
        OfflineDataset.load(tmp_path)
    with pytest.raises(ValueError, match=r"source of OfflineDataset.load must be a Minari id"):
        OfflineDataset.load([1, 2])
