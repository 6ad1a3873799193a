"""Policies asked to act where other things are seen, images among them."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
from command_line import fails, succeeds
from gymnasium import spaces
from stable_baselines3 import SAC

from sb3_o2o.data import OfflineDataset
from sb3_o2o.evaluation import evaluate, select_policy
from sb3_o2o.evaluation.spaces_compared import difference

IMAGE = spaces.Box(0, 255, (3, 40, 40), np.uint8)
CHANNELS_LAST = spaces.Box(0, 255, (40, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (IMAGE, IMAGE, ""),
        (IMAGE, CHANNELS_LAST, ""),
        (CHANNELS_LAST, IMAGE, ""),
        (spaces.Dict(a=IMAGE), spaces.Dict(a=CHANNELS_LAST), ""),
        (IMAGE, spaces.Box(0, 255, (40, 40, 4), np.uint8), "the shapes are (3, 40, 40) and (40, 40, 4)"),
        (spaces.Box(0, 1, (2, 3)), spaces.Box(0, 1, (3, 2)), "the shapes are (2, 3) and (3, 2)"),
        (spaces.Box(0, 1, (2,)), spaces.Box(-5, 5, (2,), np.float64), ""),
        (IMAGE, spaces.Box(0.0, 1.0, IMAGE.shape, np.float32), "one is an image of 0 to 255, the other is not"),
        (spaces.Discrete(3), spaces.Discrete(3), ""),
        (spaces.Discrete(3), spaces.Discrete(4), "the numbers of choices are not the same"),
        (spaces.Discrete(3), IMAGE, "one is a Discrete, the other a Box"),
        (spaces.Dict(a=IMAGE), spaces.Dict(b=IMAGE), "the keys are ['a'] and ['b']"),
        (
            spaces.Dict(a=IMAGE, b=spaces.Box(0, 1, (2,))),
            spaces.Dict(a=IMAGE, b=spaces.Box(0, 1, (3,))),
            "of 'b' the shapes are (2,) and (3,)",
        ),
    ],
)
def test_what_differs(one: spaces.Space, other: spaces.Space, expected: str) -> None:
    assert difference(one, other) == expected


class TinyPictures(tiny.TinyBox):
    """The position as a grey picture, channels last."""

    def __init__(self, size: int = 36):
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)

    def observe(self) -> Any:
        return np.full(self.observation_space.shape, np.clip(100 + 50 * self.position, 0, 255), np.uint8)


@pytest.fixture
def pictures() -> Any:
    names = "TinyPictures-v0", "TinyLargerPictures-v0"
    gym.register(names[0], "test_spaces_compared:TinyPictures")
    gym.register(names[1], "test_spaces_compared:TinyPictures", kwargs={"size": 44})
    yield names
    for name in names:
        del gym.registry[name]


def test_a_policy_that_sees_images(pictures: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own spaces have the channels first, those of the environments have them last."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    here, larger = pictures
    kwargs = {"net_arch": [2], "features_extractor_kwargs": {"features_dim": 2}}
    model = SAC("CnnPolicy", gym.make(here), buffer_size=1, policy_kwargs=kwargs)
    assert model.observation_space.shape == (3, 36, 36)
    model.save("model")
    mean = evaluate(model, here, 2, seed=0).returns.mean()
    assert f"{mean:.2f}" in succeeds("evaluate", "model", "--env", here, "--episodes", 2)
    found = select_policy({"one": model, "other": model}, here, 2)
    assert found.candidates[0].returns.tolist() == found.candidates[1].returns.tolist()
    succeeds("collect", here, "my/pictures/medium-v0", "--policy", "model", "--n-episodes", 2)
    assert OfflineDataset.load("my/pictures/medium-v0").observations.shape == (2 * tiny.EPISODE, 36, 36, 3)
    refused = "was trained with other observations than TinyLargerPictures-v0 has: the shapes are (3, 36, 36)"
    assert refused in fails("evaluate", "model", "--env", larger)
    assert refused in fails("collect", larger, "my/other/medium-v0", "--policy", "model", "--n-episodes", 1)
