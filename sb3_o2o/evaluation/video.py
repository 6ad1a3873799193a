"""Episodes as a film: every frame of an environment, written to one .mp4."""

import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sb3_o2o.errors import missing_package
from sb3_o2o.files import write_whole

#: Frames per second where the environment does not say how fast it is.
DEFAULT_FPS = 30


class Film(gym.Wrapper[Any, Any, Any, Any]):
    """
    Writes each frame of an environment to a file, one episode after another.

    A first observation becomes a frame only when a step follows: vectorised environments reset after the last episode.

    :param env: environment with ``render_mode="rgb_array"``
    :param path: of the .mp4
    """

    def __init__(self, env: gym.Env[Any, Any], path: Path):
        super().__init__(env)
        self.path = path
        self.n_frames = 0
        self._first: NDArray[np.uint8] | None = None
        self._writer: Generator[None, Any, None] | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(**kwargs)
        self._first = self._frame()
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._first is not None:
            self._write(self._first)
            self._first = None
        result = self.env.step(action)
        self._write(self._frame())
        return result

    def finish(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _frame(self) -> NDArray[np.uint8]:
        try:
            frame = np.asarray(self.env.render())
        except Exception as error:  # graphics libraries raise whatever they like
            raise _not_drawn(_name(self.env), error) from error
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"{_name(self.env)} cannot be filmed: it draws an array of shape {frame.shape} and type {frame.dtype}, "
                "expected (height, width, 3) of uint8."
            )
        # the codec wants even sizes
        return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")

    def _write(self, frame: NDArray[np.uint8]) -> None:
        if self._writer is None:
            import imageio_ffmpeg

            fps = self.env.metadata.get("render_fps") or DEFAULT_FPS
            size = (frame.shape[1], frame.shape[0])
            writer: Any = imageio_ffmpeg.write_frames(
                str(self.path), size, fps=fps, macro_block_size=2, ffmpeg_log_level="error"
            )
            writer.send(None)
            self._writer = writer
        assert self._writer is not None
        self._writer.send(np.ascontiguousarray(frame))
        self.n_frames += 1


def check_video(path: Path) -> None:
    """
    Refuse what cannot become a film, before an episode is played.

    :param path: of the .mp4
    :raises ValueError: another ending, or nothing can be written there
    :raises ImportError: the extra is not installed
    """
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"--video {path}: films are .mp4 files.")
    if path.is_dir():
        raise ValueError(f"--video {path}: this is a folder, give a file in it.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"--video {path}: nothing can be written to {above}.")
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise missing_package("--video needs", "imageio-ffmpeg", "video", error) from error


@contextmanager
def filmed(env: gym.Env[Any, Any], path: Path) -> Iterator[Film]:
    """
    Film all that happens in an environment. The file is there when all of it is, and not after an error.

    :param env: environment that was made with ``render_mode="rgb_array"``
    :param path: of the .mp4, which is replaced; its folder is made if need be
    :return: the environment to act in
    :raises ValueError: the environment draws no frames
    """
    modes = env.metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        drawn = ", ".join(map(str, modes)) or "none"
        raise ValueError(f"{_name(env)} cannot be filmed: it has no render_mode 'rgb_array' (its modes: {drawn}).")
    with tempfile.TemporaryDirectory() as folder:
        film = Film(env, Path(folder) / "film.mp4")
        try:
            yield film
        finally:
            film.finish()
        write_whole(path, film.path.read_bytes())


def made_to_be_drawn(make: Callable[..., gym.Env[Any, Any]], name: str) -> gym.Env[Any, Any]:
    """
    An environment that draws frames.

    :param make: makes it, takes ``render_mode``
    :param name: of the environment, for errors
    :raises ValueError: it cannot be made, such as where MuJoCo does not find its graphics library
    """
    try:
        return make(render_mode="rgb_array")
    except ValueError:
        raise
    except Exception as error:
        raise _not_drawn(name, error) from error


def draw_without_a_screen() -> None:
    """Has MuJoCo draw by the graphics driver where there is no screen and nobody said otherwise."""
    has_screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not has_screen:
        os.environ.setdefault("MUJOCO_GL", "egl")


def _not_drawn(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{name} cannot be drawn on this machine ({type(error).__name__}: {error}). MuJoCo draws without a screen "
        "where the environment variable MUJOCO_GL is egl (graphics driver) or osmesa (software, if OSMesa is "
        f"installed); here it is {os.environ.get('MUJOCO_GL', 'not set')}."
    )


def _name(env: gym.Env[Any, Any]) -> str:
    return "The environment" if env.spec is None else env.spec.id
