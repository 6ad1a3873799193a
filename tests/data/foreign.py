"""Writes episodes in other projects' layouts, after their documentation; none of these projects is needed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np


@dataclass
class Episode:
    """T steps with T + 1 observations; ``terminated`` or cut by a time limit."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool

    @property
    def ends(self) -> np.ndarray:
        return np.arange(len(self.actions)) == len(self.actions) - 1


def make(lengths: list[int], terminated: list[bool]) -> list[Episode]:
    """Episodes whose values say where they belong; observations ``(episode, step)``, float32 holds all exactly."""
    result = []
    for index, (length, ended) in enumerate(zip(lengths, terminated, strict=True)):
        rows = np.stack([np.full(length + 1, index), np.arange(length + 1)], axis=1).astype(np.float32)
        actions = np.float32([[(index % 5) / 8, step / 64] for step in range(length)])
        result.append(Episode(rows, actions, np.float32(10 * index + np.arange(length)), ended))
    return result


def joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts)


def flat(episodes: list[Episode]) -> dict[str, np.ndarray]:
    """One row a step, the last observation of each episode left out, D4RL's names."""
    return {
        "observations": joined([each.observations[:-1] for each in episodes]),
        "actions": joined([each.actions for each in episodes]),
        "rewards": joined([each.rewards for each in episodes]),
        "terminals": joined([each.ends & each.terminated for each in episodes]),
        "timeouts": joined([each.ends & (not each.terminated) for each in episodes]),
    }


# --------------------------------------------------------------------------------------------------------- OGBench


def ogbench(episodes: list[Episode]) -> dict[str, np.ndarray]:
    """A file of OGBench: a row for each of the T + 1 observations, with an action that leads nowhere at the last."""
    pad = np.zeros((1, 2), np.float32)
    return {
        "observations": joined([each.observations for each in episodes]),
        "actions": joined([np.concatenate([each.actions, pad]) for each in episodes]),
        "terminals": joined([np.arange(len(each.observations)) == len(each.actions) for each in episodes]),
        "qpos": np.zeros((sum(len(each.observations) for each in episodes), 3)),
    }


def ogbench_compact(episodes: list[Episode]) -> dict[str, np.ndarray]:
    """What ``make_env_and_datasets(compact_dataset=True)`` returns for a single-task environment."""
    arrays = ogbench(episodes)
    last = arrays["terminals"].astype(np.float32)
    zero = np.zeros(1, np.float32)
    masks = [np.append(np.float32(1 - (each.ends & each.terminated)), np.float32(1)) for each in episodes]
    return {
        "observations": arrays["observations"],
        "actions": arrays["actions"],
        "terminals": np.minimum(last + np.append(last[1:], 1), 1).astype(np.float32),
        "valids": 1 - last,
        "rewards": joined([np.concatenate([each.rewards, zero]) for each in episodes]),
        "masks": joined(masks),
    }


def ogbench_single_task(episodes: list[Episode]) -> dict[str, np.ndarray]:
    """What ``make_env_and_datasets`` returns for a single-task environment: masks are 0 at a success."""
    arrays = flat(episodes)
    return {
        **{name: arrays[name] for name in ("observations", "actions", "rewards")},
        "next_observations": joined([each.observations[1:] for each in episodes]),
        "terminals": joined([each.ends.astype(np.float32) for each in episodes]),
        "masks": 1 - arrays["terminals"].astype(np.float32),
    }


# --------------------------------------------------------------------------------------------------------------- HDF5


def robomimic(path: Path, episodes: list[Episode], next_obs: bool = True, env_type: int = 1) -> Path:
    """A file of robomimic; ``dones`` are set at a termination."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(len(each.actions) for each in episodes)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift-v1", "env_type": env_type, "env_kwargs": {}})
        for index, each in enumerate(episodes):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = len(each.actions)
            demo["states"] = np.zeros((len(each.actions), 5))
            demo["actions"], demo["rewards"] = each.actions, each.rewards
            demo["dones"] = (each.ends & each.terminated).astype(np.int64)
            for group, rows in (("obs", each.observations[:-1]), ("next_obs", each.observations[1:])):
                if group == "obs" or next_obs:
                    demo[f"{group}/object"], demo[f"{group}/eef_pos"] = rows[:, :1], rows[:, 1:]
        file["mask/train"] = np.array([b"demo_0"])
    return path


def d3rlpy_1(path: Path, episodes: list[Episode], version: str | None = "1.0", discrete: bool = False) -> Path:
    """What ``MDPDataset.dump`` of d3rlpy 1 writes."""
    arrays = flat(episodes)
    timeouts = arrays.pop("timeouts")
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values.astype(np.float32)
        file["episode_terminals"] = (arrays["terminals"] | timeouts).astype(np.float32)
        file["discrete_action"] = discrete
        if version is not None:
            file["version"] = version
    return path


def d3rlpy_2(path: Path, episodes: list[Episode]) -> Path:
    """What ``ReplayBuffer.dump`` of d3rlpy 2 writes."""
    with h5py.File(path, "w") as file:
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        file["num_episodes"] = len(episodes)
        for index, each in enumerate(episodes):
            file[f"observations_{index}"] = each.observations[:-1]
            file[f"actions_{index}"] = each.actions
            file[f"rewards_{index}"] = each.rewards[:, None]
            file[f"terminated_{index}"] = each.terminated
        file["version"] = "2.1"
    return path


# ------------------------------------------------------------------------------------------------------------- tables


def columns(episodes: list[Episode], next_observations: bool = False) -> dict[str, np.ndarray]:
    """A table with one column for each number."""
    arrays = flat(episodes)
    table = {"x": arrays["observations"][:, 0], "v": arrays["observations"][:, 1]}
    if next_observations:
        following = joined([each.observations[1:] for each in episodes])
        table |= {"next_x": following[:, 0], "next_v": following[:, 1]}
    table |= {"a0": arrays["actions"][:, 0], "a1": arrays["actions"][:, 1], "r": arrays["rewards"]}
    table["end"] = arrays["terminals"]
    table["trial"] = np.repeat(np.arange(len(episodes)), [len(each.actions) for each in episodes])
    return table


COLUMNS: dict[str, Any] = {
    "observations": ["x", "v"],
    "actions": ["a0", "a1"],
    "rewards": "r",
    "terminations": "end",
    "episode": "trial",
}
NEXT_COLUMNS = {**COLUMNS, "next_observations": ["next_x", "next_v"]}


def csv(path: Path, table: dict[str, np.ndarray], delimiter: str = ",") -> Path:
    rows = [delimiter.join(table)]
    rows += [delimiter.join(str(value) for value in row) for row in zip(*table.values(), strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return path


def parquet(path: Path, table: dict[str, np.ndarray]) -> Path:
    """Two-dimensional arrays become lists."""
    import pyarrow.parquet

    arrays = {name: values.tolist() if values.ndim > 1 else values for name, values in table.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)
    return path


def lerobot(folder: Path, episodes: list[Episode], version: str = "v3.0", rewards: bool = True) -> Path:
    """A LeRobot dataset in two data files, of one picture and two observations."""
    half = (len(episodes) + 1) // 2
    shapes = {"observation.state": 2, "observation.environment_state": 1, "action": 2}
    features = {name: {"dtype": "float32", "shape": [size]} for name, size in shapes.items()}
    features["observation.note"] = {"dtype": "string", "shape": [1]}
    features["observation.images.top"] = {"dtype": "video", "shape": [3, 8, 8]}
    for number, part in enumerate((episodes[:half], episodes[half:])):
        if not part:
            continue
        arrays = flat(part)
        first = 0 if number == 0 else half
        index = np.repeat(np.arange(first, first + len(part)), [len(each.actions) for each in part])
        table = {
            "observation.state": arrays["observations"],
            "observation.environment_state": arrays["observations"][:, :1],
            "observation.note": np.full(len(index), "none", dtype=object),
            "action": arrays["actions"],
            "episode_index": index,
            "frame_index": joined([np.arange(len(each.actions)) for each in part]),
            "timestamp": np.zeros(len(index), np.float32),
            "next.done": arrays["terminals"],
        }
        if rewards:
            table["next.reward"] = arrays["rewards"]
        parquet(folder / "data" / "chunk-000" / f"file-{number:03d}.parquet", table)
    (folder / "meta").mkdir(exist_ok=True)
    info = {"codebase_version": version, "total_episodes": len(episodes), "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return folder


# ---------------------------------------------------------------------------------------------------------- imitation


@dataclass(frozen=True)
class Trajectory:
    """What imitation's ``TrajectoryWithRew`` looks like."""

    obs: Any
    acts: np.ndarray
    infos: Any
    terminal: bool
    rews: np.ndarray | None = None


def trajectories(episodes: list[Episode], infos: bool = True) -> list[Trajectory]:
    """As a rollout in Stable-Baselines3's vectorised environments gives them: ``terminal`` is a done."""
    return [
        Trajectory(
            each.observations,
            each.actions,
            np.array([{"TimeLimit.truncated": bool(end and not each.terminated)} for end in each.ends])
            if infos
            else None,
            True,
            each.rewards,
        )
        for each in episodes
    ]


def imitation_folder(folder: Path, episodes: list[Episode]) -> Path:
    """What ``imitation.data.serialize.save`` writes, with Hugging Face's datasets: a stream of Arrow, a row each."""
    import pyarrow.ipc

    folder.mkdir(parents=True, exist_ok=True)
    flags = [[{"TimeLimit.truncated": bool(end and not each.terminated)} for end in each.ends] for each in episodes]
    table = pyarrow.table(
        {
            "obs": [each.observations.tolist() for each in episodes],
            "acts": [each.actions.tolist() for each in episodes],
            "infos": [[json.dumps(info) for info in infos] for infos in flags],
            "terminal": [True] * len(episodes),
            "rews": [each.rewards.tolist() for each in episodes],
        }
    )
    name = "data-00000-of-00001.arrow"
    with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def imitation_npz(path: Path, episodes: list[Episode]) -> Path:
    """What older versions of imitation wrote; the infos are objects."""
    lengths = [len(each.actions) for each in episodes]
    np.savez_compressed(
        path,
        obs=joined([each.observations for each in episodes]),
        acts=joined([each.actions for each in episodes]),
        infos=np.array([{}] * sum(lengths)),
        terminal=np.array([each.terminated for each in episodes]),
        rews=joined([each.rewards for each in episodes]),
        indices=np.cumsum(lengths)[:-1],
    )
    return path
