"""Small datasets. Nothing here reads the network, or a dataset that is not written by the test itself."""

import warnings
from typing import Any

import minari
import pytest
from gymnasium import spaces
from minari import MinariDataset
from minari.data_collector import EpisodeBuffer

from .toys import ACTIONS, BOX, DICT, make_episode


@pytest.fixture(autouse=True)
def folders(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep datasets and cache of each test to itself."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SB3_O2O_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_minari() -> Any:
    """Write a Minari dataset: ``write_minari(id, episodes, observation_space, **metadata)``."""

    def write(
        dataset_id: str,
        episodes: list[EpisodeBuffer],
        observation_space: spaces.Space = BOX,
        action_space: spaces.Space = ACTIONS,
        **metadata: Any,
    ) -> MinariDataset:
        with warnings.catch_warnings():
            # About an author, an e-mail address and a code link
            warnings.simplefilter("ignore", UserWarning)
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                episodes,
                observation_space=observation_space,
                action_space=action_space,
                jpeg_encoding=False,
            )
        if metadata:
            dataset.storage.update_metadata(metadata)
        return dataset

    return write


@pytest.fixture
def two_episodes(write_minari: Any) -> str:
    """Id of a dataset of 3 transitions that terminate and 4 that do not, rewards 0 1 2, 10 11 12 13."""
    episodes = [make_episode(0, 3, True), make_episode(1, 4, False)]
    write_minari("test/two-v0", episodes, ref_min_score=3.0, ref_max_score=46.0)
    return "test/two-v0"


@pytest.fixture
def two_dict_episodes(write_minari: Any) -> str:
    """The same with dictionary observations."""
    write_minari("test/dict-v0", [make_episode(0, 3, True, True), make_episode(1, 4, False, True)], DICT)
    return "test/dict-v0"
