"""Roll out a policy into a new Minari dataset."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import gymnasium as gym
import minari
import numpy as np
import torch as th
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage import get_dataset_path
from rich.console import Console
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_o2o.checked import checked
from sb3_o2o.data.checks import ACTION_TOLERANCE, checked_spaces
from sb3_o2o.data.dataset import OfflineDataset
from sb3_o2o.data.transitions import map_observations
from sb3_o2o.kinds import ENVIRONMENT_OR_ID, FUNCTION, NOTHING, Count, Seed, instance
from sb3_o2o.progress import display_on

Policy = Callable[[Any], Any]
POLICY = instance("an SB3 model", BaseAlgorithm) | FUNCTION | NOTHING


@checked
def collect(
    policy: Annotated[BaseAlgorithm | Policy | None, POLICY],
    env: Annotated[str | gym.Env, ENVIRONMENT_OR_ID],
    dataset_id: str,
    *,
    n_steps: Count | None = None,
    n_episodes: Count | None = None,
    deterministic: bool = False,
    seed: Seed | None = None,
    progress_bar: bool = False,
    env_kwargs: dict[str, Any] | None = None,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    description: str | None = None,
    algorithm_name: str | None = None,
    force: bool = False,
) -> OfflineDataset:
    """
    Run a policy in an environment and write what happens as a Minari dataset, below ``MINARI_DATASETS_PATH``. All is
    held in memory until the end: an interrupted call writes nothing.

    :param policy: an SB3 model (observations pass through its ``VecNormalize``, if it has one), a function from
        observation to action, or None for uniformly random actions
    :param env: Gymnasium id, or an environment (which is left open); not a vectorised one
    :param dataset_id: Minari id of the new dataset, with a version, such as ``me/hopper/mine-v0``
    :param n_steps: environment steps to take; the last episode is truncated there. Give this or ``n_episodes``
    :param n_episodes: episodes to finish
    :param deterministic: whether an SB3 model takes its mean action instead of sampling
    :param seed: of the environment and of the sampled actions; the process's own random streams are left as they were
    :param progress_bar: show a progress bar
    :param env_kwargs: for ``gymnasium.make``, if an id is given
    :param ref_min_score: undiscounted return of a random policy, for normalised scores; with the next or not at all
    :param ref_max_score: undiscounted return of an expert
    :param description: stored with the dataset
    :param algorithm_name: stored with the dataset; by default the class of the policy
    :param force: replace a dataset of this id if there is one
    :return: the new dataset
    :raises ValueError: if an argument is wrong, the policy leaves the action space, or the id is taken
    """
    _check_request(dataset_id, n_steps, n_episodes, ref_min_score, ref_max_score, force)
    if isinstance(env, VecEnv):
        raise ValueError("collect needs a single environment, not a vectorised one: pass its id.")
    if env_kwargs and not isinstance(env, str):
        raise ValueError("env_kwargs are for an environment that is given by its id.")
    environment = gym.make(env, **(env_kwargs or {})) if isinstance(env, str) else env
    try:
        checked_spaces(environment.observation_space, environment.action_space)
        with _forked_torch_rng(seed):
            episodes = _roll_out(
                _as_function(policy, environment, deterministic), environment, n_steps, n_episodes, seed, progress_bar
            )
        if algorithm_name is None:
            algorithm_name = "random" if policy is None else getattr(policy, "__name__", type(policy).__name__)
        scores = {} if ref_min_score is None else {"ref_min_score": ref_min_score, "ref_max_score": ref_max_score}
        _write(dataset_id, episodes, environment, scores, description=description, algorithm_name=algorithm_name)
    finally:
        if isinstance(env, str):
            environment.close()
    return OfflineDataset.load(dataset_id)


def _check_request(
    dataset_id: str,
    n_steps: int | None,
    n_episodes: int | None,
    ref_min_score: float | None,
    ref_max_score: float | None,
    force: bool,
) -> None:
    if (n_steps is None) == (n_episodes is None):
        raise ValueError("collect needs exactly one of n_steps and n_episodes.")
    if (ref_min_score is None) != (ref_max_score is None):
        raise ValueError("ref_min_score and ref_max_score make sense only together: give both or neither.")
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # a TypeError is what an id without a version gets
        raise ValueError(
            f"{dataset_id!r} is not a Minari id: expected a name and a version, as in 'me/mine-v0'."
        ) from error
    if not force:
        refuse_taken(dataset_id)


def refuse_taken(dataset_id: str, advice: str = "force=True") -> None:
    """
    :param dataset_id: of a dataset that is to be made
    :param advice: what replaces one that is there
    :raises ValueError: there is one
    """
    path = get_dataset_path(dataset_id)
    if path.exists():
        raise ValueError(
            f"There is a dataset {dataset_id!r} already, in {path}. Choose another name or version, or pass {advice} "
            "to replace it."
        )


@contextmanager
def _forked_torch_rng(seed: int | None) -> Iterator[None]:
    # SB3's policies sample from torch's global generators
    if seed is None:
        yield
        return
    with th.random.fork_rng():
        th.manual_seed(seed)
        yield


def _as_function(policy: BaseAlgorithm | Policy | None, env: gym.Env, deterministic: bool) -> Policy:
    if policy is None:
        return lambda observation: env.action_space.sample()
    if not isinstance(policy, BaseAlgorithm):
        return policy
    model, normalizer = policy, policy.get_vec_normalize_env()
    if model.get_env() is None:  # a model of ours knows what it was saved with
        normalizer = getattr(model, "saved_normalizer", None)

    def act(observation: Any) -> np.ndarray:
        if normalizer is not None:
            observation = normalizer.normalize_obs(observation)
        return model.predict(observation, deterministic=deterministic)[0]

    return act


def _roll_out(
    act: Policy, env: gym.Env, n_steps: int | None, n_episodes: int | None, seed: int | None, progress_bar: bool
) -> list[EpisodeBuffer]:
    env.action_space.seed(seed)
    episodes: list[EpisodeBuffer] = []
    steps = 0
    display = display_on(Console(stderr=True))
    if progress_bar:
        display.open()

    def show(steps_of_episode: int) -> None:
        if n_steps is not None:
            display.show("collecting", "steps", steps + steps_of_episode, n_steps)
        else:
            display.show("collecting", "episodes", len(episodes), n_episodes or 0)

    try:
        while len(episodes) < n_episodes if n_episodes is not None else steps < (n_steps or 0):
            limit = None if n_steps is None else n_steps - steps
            episode = _roll_out_episode(act, env, limit, seed if not episodes else None, show)
            episodes.append(episode)
            steps += len(episode)
            show(0)
    finally:
        display.close()
    return episodes


def _roll_out_episode(
    act: Policy, env: gym.Env, limit: int | None, seed: int | None, show: Callable[[int], None]
) -> EpisodeBuffer:
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, terminations, truncations = [_copied(observation)], [], [], [], []
    while True:
        action = _checked_action(act(observation), env.action_space)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(_copied(observation))
        actions.append(np.array(action))
        rewards.append(float(reward))
        cut = limit is not None and len(rewards) == limit and not terminated
        terminations.append(bool(terminated))
        truncations.append(bool(truncated) or cut)
        show(len(rewards))
        if terminated or truncations[-1]:
            break
    stacked: Any = np.stack(observations)
    if isinstance(observations[0], dict):
        stacked = {key: np.stack([each[key] for each in observations]) for key in observations[0]}
    return EpisodeBuffer(
        seed=seed,
        observations=stacked,
        actions=np.stack(actions),  # type: ignore[arg-type]
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
    )


def _copied(observation: Any) -> Any:
    # Environments may write the next observation into the same array
    return map_observations(np.array, observation)


def _checked_action(action: Any, space: spaces.Space) -> np.ndarray:
    assert isinstance(space, spaces.Box)
    action = np.asarray(action, dtype=space.dtype)
    if action.shape != space.shape:
        raise ValueError(f"The policy returned an action of shape {action.shape}, the environment wants {space.shape}.")
    if not np.all((action >= space.low - ACTION_TOLERANCE) & (action <= space.high + ACTION_TOLERANCE)):
        raise ValueError(
            f"The policy returned the action {action}, outside of the environment's bounds "
            f"[{space.low}, {space.high}]: clip or rescale its actions."
        )
    return action


def _write(
    dataset_id: str, episodes: list[EpisodeBuffer], env: gym.Env, scores: dict[str, Any], **metadata: Any
) -> None:
    path = get_dataset_path(dataset_id)
    replaced = path.with_name(f"{path.name}.replaced")
    if path.exists():
        path.rename(replaced)
    try:
        with warnings.catch_warnings():
            # About an author, an e-mail address and a code link, which only a published dataset needs
            warnings.filterwarnings("ignore", category=UserWarning, module="minari")
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                episodes,
                env=env if env.spec is not None else None,
                observation_space=env.observation_space,
                action_space=env.action_space,
                jpeg_encoding=False,
                **metadata,
            )
        if scores:
            dataset.storage.update_metadata(scores)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if replaced.exists():
            replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
