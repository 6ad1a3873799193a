"""What a loaded dataset holds."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_o2o.data import OfflineDataset

from .toys import ACTIONS, BOX, DICT, make_arrays, make_episode, observation


def test_minari_values(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    assert len(dataset) == 7
    expected = [observation(0, step) for step in range(3)] + [observation(1, step) for step in range(4)]
    following = [observation(0, step + 1) for step in range(3)] + [observation(1, step + 1) for step in range(4)]
    np.testing.assert_array_equal(dataset.observations, np.float32(expected))
    np.testing.assert_array_equal(dataset.next_observations, np.float32(following))
    np.testing.assert_array_equal(dataset.rewards, np.float32([0, 1, 2, 10, 11, 12, 13]))
    np.testing.assert_array_equal(dataset.terminations, [False, False, True, False, False, False, False])
    # The second episode ended with no flag: it was cut
    np.testing.assert_array_equal(dataset.truncations, [False] * 6 + [True])
    np.testing.assert_array_equal(dataset.episode_starts, [0, 3])
    np.testing.assert_array_equal(dataset.episode_ends, [3, 7])
    assert dataset.source == two_episodes
    assert repr(dataset) == "OfflineDataset('test/two-v0', 7 transitions, 2 episodes)"
    assert (dataset.observation_space, dataset.action_space) == (BOX, ACTIONS)


def test_actions_are_scaled_and_clipped(two_episodes: str) -> None:
    # Bounds [-2, 2] and [-1, 3]: -2, 0, 2 become -1, 0, 1, and the middle 1 becomes 0
    inside = 1.0 - 1e-5
    actions = OfflineDataset.load(two_episodes).actions
    np.testing.assert_allclose(actions[:3], [[-inside, 0.0], [0.0, 0.0], [inside, 0.0]], atol=1e-7)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() < 1.0
    unclipped = OfflineDataset.load(two_episodes, action_clip=1.0).actions
    np.testing.assert_array_equal(unclipped[:3], np.float32([[-1, 0], [0, 0], [1, 0]]))


def test_scaling_is_that_of_sb3() -> None:
    from stable_baselines3.sac.policies import SACPolicy

    policy = SACPolicy(BOX, ACTIONS, lambda _: 1e-3, net_arch=[4])
    raw = np.random.default_rng(0).uniform(ACTIONS.low, ACTIONS.high, size=(20, 2)).astype(np.float32)
    arrays = {**make_arrays(20), "actions": raw}
    dataset = OfflineDataset.load(arrays, action_space=ACTIONS)
    np.testing.assert_allclose(dataset.actions, np.clip(policy.scale_action(raw), -1 + 1e-5, 1 - 1e-5), atol=3e-7)


def test_dictionary_observations(two_dict_episodes: str) -> None:
    dataset = OfflineDataset.load(two_dict_episodes)
    observations, following = dataset.observations, dataset.next_observations
    assert isinstance(observations, dict)
    assert isinstance(following, dict)
    np.testing.assert_array_equal(observations["state"][3], np.float32(observation(1, 0)))
    np.testing.assert_array_equal(following["state"][2], np.float32(observation(0, 3)))
    np.testing.assert_array_equal(observations["goal"][:, 0], np.float32([0.5] * 3 + [1.5] * 4))
    assert {array.dtype for array in observations.values()} == {np.dtype(np.float32)}
    assert dataset.observation_space == DICT


def test_flags_within_a_minari_episode_end_it(write_minari: Any) -> None:
    episode = make_episode(0, 5, True)
    episode.truncations[1] = True
    write_minari("test/flags-v0", [episode])
    dataset = OfflineDataset.load("test/flags-v0")
    np.testing.assert_array_equal(dataset.episode_starts, [0, 2])
    np.testing.assert_array_equal(dataset.next_observations[1], np.float32(observation(0, 2)))


def test_get_gathers_in_the_given_order(two_episodes: str) -> None:
    batch = OfflineDataset.load(two_episodes).get(np.array([6, 0, 2]))
    expected = [observation(1, 3), observation(0, 0), observation(0, 2)]
    following = [observation(1, 4), observation(0, 1), observation(0, 3)]
    np.testing.assert_array_equal(batch.observations, np.float32(expected))
    np.testing.assert_array_equal(batch.next_observations, np.float32(following))
    np.testing.assert_array_equal(batch.rewards, [13, 0, 2])
    np.testing.assert_array_equal(batch.terminations, [False, False, True])
    np.testing.assert_array_equal(batch.truncations, [True, False, False])


def test_episodes(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    np.testing.assert_array_equal(dataset.episode_of(np.array([0, 2, 3, 6])), [0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.episode_lengths, [3, 4])
    np.testing.assert_array_equal(dataset.episode_returns, [3, 46])


def test_nothing_can_be_written(two_episodes: str) -> None:
    for dataset in (OfflineDataset.load(two_episodes), OfflineDataset.load(make_arrays())):
        for name in ("actions", "rewards", "terminations", "truncations", "episode_starts"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(dataset, name)[0] = 0


def test_changing_the_arrays_afterwards_does_not_change_the_dataset() -> None:
    arrays = {name: np.array(values, dtype=np.float32) for name, values in make_arrays().items()}
    dataset = OfflineDataset.load(arrays)
    before = pickle.dumps([dataset.observations, dataset.actions, dataset.rewards])
    for values in arrays.values():
        values[:] = 0.5
    assert pickle.dumps([dataset.observations, dataset.actions, dataset.rewards]) == before


def test_images_keep_their_dtype_and_turn_channel_first() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, size=(5, 40, 36, 3), dtype=np.uint8)
    arrays = {**make_arrays(4), "observations": rows[:-1], "next_observations": rows[1:]}
    dataset = OfflineDataset.load(arrays)
    assert isinstance(dataset.observations, np.ndarray)
    assert dataset.observations.dtype == np.uint8
    environment = spaces.Box(0, 255, (3, 40, 36), np.uint8)
    turned = dataset.adapted_to(environment, dataset.action_space)
    np.testing.assert_array_equal(turned.observations, rows[:-1].transpose(0, 3, 1, 2))
    assert turned.observation_space.shape == (3, 40, 36)
    assert dataset.adapted_to(dataset.observation_space, dataset.action_space) is dataset
    with pytest.raises(ValueError, match=r"the shapes are \(40, 36, 3\) and \(3, 36, 40\)"):
        dataset.adapted_to(spaces.Box(0, 255, (3, 36, 40), np.uint8), dataset.action_space)
    dictionary = {"image": rows, "state": np.arange(5.0)[:, None]}
    arrays.update(
        observations={key: value[:-1] for key, value in dictionary.items()},
        next_observations={key: value[1:] for key, value in dictionary.items()},
    )
    wanted = spaces.Dict({"image": environment, "state": spaces.Box(-1, 1, (1,))})
    both = OfflineDataset.load(arrays, action_space=dataset.action_space).adapted_to(wanted, dataset.action_space)
    assert isinstance(both.observations, dict)
    np.testing.assert_array_equal(both.observations["image"], rows[:-1].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(both.observations["state"][:, 0], np.float32([0, 1, 2, 3]))


def test_observation_stats_leave_out_last_rows(two_episodes: str) -> None:
    mean, std = OfflineDataset.load(two_episodes).observation_stats()
    # Episode numbers 0 0 0 1 1 1 1; steps 0 1 2 0 1 2 3, plus a quarter
    np.testing.assert_allclose(mean, [4 / 7, 9 / 7 + 0.25], rtol=1e-6)
    np.testing.assert_allclose(std, [np.sqrt(4 / 7 * 3 / 7), np.sqrt(19 / 7 - (9 / 7) ** 2)], rtol=1e-6)
    assert isinstance(mean, np.ndarray)
    assert mean.dtype == np.float32


def test_observation_stats_of_dictionaries(two_dict_episodes: str) -> None:
    mean, std = OfflineDataset.load(two_dict_episodes).observation_stats()
    assert isinstance(mean, dict)
    assert isinstance(std, dict)
    np.testing.assert_allclose(mean["goal"], [4 / 7 + 0.5], rtol=1e-6)
    np.testing.assert_allclose(std["state"][0], np.sqrt(4 / 7 * 3 / 7), rtol=1e-6)


def test_observation_stats_keep_the_digits_of_large_numbers() -> None:
    arrays = make_arrays(4)
    arrays["observations"] = np.array([[4096.0, 1.0], [4097.0, 1.0], [4096.0, 1.0], [4097.0, 1.0]])
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    mean, std = OfflineDataset.load(arrays).observation_stats()
    np.testing.assert_array_equal(mean, np.float32([4096.5, 1.0]))
    np.testing.assert_array_equal(std, np.float32([0.5, 0.0]))


def test_normalized_score(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    assert dataset.normalized_score(3.0) == 0.0
    assert dataset.normalized_score(46.0) == 100.0
    np.testing.assert_allclose(dataset.normalized_score(np.array([24.5, 89.0])), [50.0, 200.0])


def test_normalized_score_needs_references() -> None:
    with pytest.raises(ValueError, match=r"no reference scores. Set its ref_min_score and ref_max_score"):
        OfflineDataset.load(make_arrays()).normalized_score(1.0)


def test_summary(two_episodes: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = OfflineDataset.load(two_episodes).summary()
    assert numbers["transitions"] == 7
    assert (numbers["episodes"], numbers["terminated"], numbers["truncated"]) == (2, 1, 1)
    assert (numbers["return_mean"], numbers["return_min"], numbers["return_max"]) == (24.5, 3.0, 46.0)
    assert (numbers["return_std"], numbers["length_mean"]) == (21.5, 3.5)
    assert numbers["reward_mean"] == 7.0
    assert numbers["score_mean"] == 50.0
    printed = capsys.readouterr().out
    for part in ("test/two-v0", "episode return", "24.5", "normalised score", "50.0", "7 transitions", "1 terminated"):
        assert part in printed


def test_summary_gives_no_score_for_changed_rewards(two_episodes: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = OfflineDataset.load(two_episodes, reward_scale=10.0).summary(print_table=False)
    assert "score_mean" not in numbers
    assert capsys.readouterr().out == ""


def test_a_saved_dataset_knows_the_scale_of_its_rewards(two_episodes: str, tmp_path: Path) -> None:
    raw, path = OfflineDataset.load(two_episodes), tmp_path / "scaled.npz"
    raw.with_rewards(2.0, 1.0).with_rewards(5.0, -10.0).save(path)  # 10 r - 5
    saved = OfflineDataset.load(path)
    assert (saved.reward_scale, saved.reward_shift) == (10.0, -5.0)
    assert "score_mean" not in saved.summary(print_table=False)
    again = OfflineDataset.load(path, reward_scale=0.5)  # half of what is there
    np.testing.assert_array_equal(again.rewards, saved.rewards / 2)
    assert pickle.loads(pickle.dumps(again)).fingerprint == again.fingerprint
    for dataset in (saved, again, again.subset(fraction=1.0)):
        found = dataset.with_raw_rewards()
        np.testing.assert_allclose(found.rewards, raw.rewards, atol=1e-6)
        assert found.summary(print_table=False)["score_mean"] == pytest.approx(50.0)
        assert found.options.keys() & {"reward_scale", "reward_shift"} == set()
    assert raw.with_raw_rewards() is raw


def test_a_saved_dataset_with_a_scale_that_is_none(two_episodes: str, tmp_path: Path) -> None:
    path = tmp_path / "scaled.npz"
    OfflineDataset.load(two_episodes).save(path)
    with np.load(path) as saved:
        arrays = dict(saved)
    description = {**json.loads(str(arrays["sb3_o2o_dataset"])), "reward_scale": 0.0}
    np.savez(path, **{**arrays, "sb3_o2o_dataset": np.array(json.dumps(description))})
    with pytest.raises(ValueError, match=r"scaled\.npz: reward_scale of OfflineDataset must be"):
        OfflineDataset.load(path)


def test_fingerprint_is_of_the_content(two_episodes: str, two_dict_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    assert dataset.fingerprint == OfflineDataset.load(two_episodes, cache=False).fingerprint
    others = [
        OfflineDataset.load(two_dict_episodes),
        dataset.with_rewards(2.0),
        dataset.subset(indices=[0, 1, 2]),
        OfflineDataset.load(two_episodes, action_clip=0.9),
    ]
    fingerprints = [dataset.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(fingerprints)) == len(fingerprints)


def test_pickled_by_name_if_it_can_be_opened_again(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes, reward_scale=2.0)
    pickled = pickle.dumps(dataset)
    again = pickle.loads(pickled)
    assert again.fingerprint == dataset.fingerprint
    assert again.options == {"reward_scale": 2.0, "reward_shift": 0.0}
    assert dataset.rewards.tobytes() not in pickled


def test_pickled_with_its_data_otherwise() -> None:
    dataset = OfflineDataset.load(make_arrays())
    again = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint
    with pytest.raises(ValueError, match="read-only"):
        again.rewards[0] = 1.0


def test_a_changed_source_is_not_taken_for_the_old_one(two_episodes: str, write_minari: Any) -> None:
    import minari

    pickled = pickle.dumps(OfflineDataset.load(two_episodes))
    minari.delete_dataset(two_episodes)
    write_minari(two_episodes, [make_episode(2, 3, True)])
    with pytest.raises(ValueError, match=r"'test/two-v0' has changed since it was saved"):
        pickle.loads(pickled)
