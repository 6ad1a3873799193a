"""Films of evaluations, and what is said where none can be made."""

import sys
from pathlib import Path

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
import tiny
from command_line import fails, succeeds
from stable_baselines3 import SAC

from sb3_o2o.evaluation.video import draw_without_a_screen


class Drawn(tiny.TinyBox):
    """A picture of 33 x 47 pixels, as bright as many steps were made."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def render(self) -> np.ndarray:
        return np.full((33, 47, 3), 20 * self.steps, np.uint8)


class Broken(Drawn):
    def render(self) -> np.ndarray:
        raise RuntimeError("no display")


class Unmade(Drawn):
    def __init__(self, **kwargs: str):
        raise AttributeError("no libGL")


class Text(Drawn):
    def render(self) -> str:  # type: ignore[override]
        return "a point"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MUJOCO_GL", "egl")  # what the command would set, which the other tests must not see
    for kind in (Drawn, Broken, Unmade, Text):
        if f"Tiny{kind.__name__}-v0" not in gym.registry:
            gym.register(f"Tiny{kind.__name__}-v0", entry_point=kind)
    SAC("MlpPolicy", gym.make(tiny.BOX), policy_kwargs={"net_arch": [4]}, seed=0).save("stock")
    return "stock"


def frames_of(path: str) -> tuple[dict, np.ndarray]:
    reader = imageio_ffmpeg.read_frames(path)
    description = next(reader)
    width, height = description["size"]
    return description, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_every_frame_of_every_episode(model: str) -> None:
    options = ("--env", "TinyDrawn-v0", "--episodes", 2, "--seed", 3)
    output = succeeds("evaluate", model, *options, "--video", "films/two.mp4")
    assert "Video: films/two.mp4 (22 frames)" in output
    description, frames = frames_of("films/two.mp4")
    assert description["size"] == (48, 34)  # even
    assert description["fps"] == 10
    # the first observation and ten steps, twice; compression may change a shade of grey by a little
    expected = np.tile(20 * np.arange(tiny.EPISODE + 1), 2)
    assert frames.shape[0] == len(expected)
    assert np.abs(frames.mean(axis=(1, 2, 3)) - expected).max() < 5
    # the episodes are those that are scored
    assert succeeds("evaluate", model, *options) in output
    assert sorted(path.name for path in Path("films").iterdir()) == ["two.mp4"]


@pytest.mark.parametrize(
    ("env", "video", "message"),
    [
        ("TinyDrawn-v0", "film.gif", "--video film.gif: films are .mp4 files"),
        ("TinyDrawn-v0", "folder.mp4", "--video folder.mp4: this is a folder"),
        ("TinyDrawn-v0", "file/film.mp4", "--video file/film.mp4: nothing can be written to"),
        (tiny.BOX, "film.mp4", "TinyBox-v0 cannot be filmed: it has no render_mode 'rgb_array' (its modes: none)"),
        ("TinyText-v0", "film.mp4", "TinyText-v0 cannot be filmed: it draws an array of shape ()"),
        (
            "TinyUnmade-v0",
            "film.mp4",
            "cannot be drawn on this machine (AttributeError: no libGL). MuJoCo draws without",
        ),
        ("TinyBroken-v0", "film.mp4", "TinyBroken-v0 cannot be drawn on this machine (RuntimeError: no display)"),
    ],
)
def test_what_cannot_be_filmed(model: str, env: str, video: str, message: str) -> None:
    Path("file").touch()
    Path("folder.mp4").mkdir()
    assert message in fails("evaluate", model, "--env", env, "--episodes", 1, "--video", video)
    assert not Path("film.mp4").exists()


def test_without_the_extra(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert "pip install 'sb3_o2o[video]'" in fails("evaluate", model, "--env", "TinyDrawn-v0", "--video", "film.mp4")


@pytest.mark.parametrize(("given", "screen", "expected"), [("", "", "egl"), ("osmesa", "", "osmesa"), ("", ":0", "")])
def test_mujoco_draws_without_a_screen(given: str, screen: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", given)
    if not given:
        monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    draw_without_a_screen()
    assert os.environ.pop("MUJOCO_GL", "") == expected
