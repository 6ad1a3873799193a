"""Where batches come from: the dataset offline, callbacks or the replay buffer online."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch as th

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.data.normalization import fit, is_fresh
from sb3_o2o.objectives.batch import Batch
from sb3_o2o.updates.phases import PRETRAINING
from sb3_o2o.updates.trainee import Trainee


def sample(model: Trainee, batch_size: int) -> Batch:
    """
    :param model: the algorithm
    :param batch_size: number of transitions
    :return: from the buffer of a gradient-only phase, from the dataset of ``pretrain``, or from what the algorithm
        learns from online
    """
    if model.phase_in_progress is not None:
        buffer: Any = model.phase_in_progress[1]
    elif model.phase == PRETRAINING:
        buffer = model.offline_buffer
    else:
        return to_batch(model, model.sample_online(batch_size))
    assert buffer is not None
    return to_batch(model, buffer.sample(batch_size, env=model.get_vec_normalize_env()))


def to_batch(model: Trainee, samples: Any) -> Batch:
    """
    :param model: the algorithm
    :param samples: what a buffer returned
    :return: the same as objectives take it
    """
    objective = model.offline_objective if model.phase == PRETRAINING else model.finetuning_objective
    discounts = samples.discounts
    rewards = samples.rewards.flatten()
    returns = getattr(samples, "returns_to_go", None)
    return Batch(
        samples.observations,
        samples.actions,
        samples.next_observations,
        rewards,
        samples.dones.flatten(),
        _constant(objective.gamma, rewards.device).expand(len(rewards)) if discounts is None else discounts.flatten(),
        None if returns is None else returns.flatten(),
        next_actions=getattr(samples, "next_actions", None),
    )


@lru_cache(maxsize=16)
def _constant(value: float, device: th.device) -> th.Tensor:
    """A number on a device, to be expanded: torch refuses to write into that."""
    with th.inference_mode(False):  # whoever asks first, others will differentiate
        return th.tensor(value, dtype=th.float32, device=device)


# -- datasets ------------------------------------------------------------------------------------------------------


def load_dataset(model: Trainee, source: Any) -> OfflineDataset:
    """
    Open a dataset, check it against the spaces of a model, and put its rewards on the training scale.

    :param model: the algorithm
    :param source: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts
    :return: the dataset
    :raises ValueError: if it does not fit
    """
    dataset = OfflineDataset.load(
        source,
        observation_space=model.observation_space,
        action_space=model.action_space,
        **(model.dataset_kwargs or {}),
    )
    dataset.check_compatible(model.observation_space, model.action_space)
    if (model.reward_scale, model.reward_shift) != (1.0, 0.0):
        dataset = dataset.with_rewards(model.reward_scale, model.reward_shift)
    return dataset


def open_offline_buffer(model: Trainee, source: Any, for_whom: str, whole_episodes: bool) -> OfflineReplayBuffer:
    """
    A buffer with a random generator of its own on a dataset. How many a model has opened is saved with it, so that a
    run that goes on draws other streams than before.

    :param model: the algorithm
    :param source: a dataset; the one of the last ``pretrain``, or of the constructor, by default
    :param for_whom: who asks, for the error message
    :param whole_episodes: a transition leads to the end of its episode, for Monte-Carlo returns
    :return: the buffer
    :raises ValueError: if there is no dataset
    """
    if source is None and model.offline_buffer is not None:
        dataset = model.offline_buffer.dataset
    else:
        source = model.dataset if source is None else source
        if source is None:
            raise ValueError(
                f"{for_whom} needs a dataset: pass dataset=… to it, to the constructor or to load_offline."
            )
        dataset = load_dataset(model, source)
    model.dataset_opened(dataset)
    # each buffer a stream of its own, all fixed by the model's seed
    seed = (
        None
        if model.seed is None
        else int(np.random.SeedSequence([model.seed, model.n_offline_buffers]).generate_state(1)[0])
    )
    model.n_offline_buffers += 1
    objectives = (model.offline_objective, model.finetuning_objective)
    return OfflineReplayBuffer(
        dataset,
        model.observation_space,
        model.action_space,
        model.device,
        n_steps=None if whole_episodes else model.offline_n_steps,
        gamma=model.gamma,
        seed=seed,
        returns_to_go=any(objective.needs_returns for objective in objectives),
        next_actions=any(objective.needs_next_actions for objective in objectives),
    )


def is_same(model: Trainee, source: Any, opened: OfflineReplayBuffer) -> bool:
    """
    Whether a buffer is on a dataset. If it is one of a resumed run, it is given its data.

    :param model: the algorithm
    :param source: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts
    :param opened: the buffer
    :raises ValueError: if the buffer's file has changed since the run was interrupted
    """
    dataset = load_dataset(model, source)
    reference = opened._reference or opened.dataset.reference
    if dataset.fingerprint != reference.fingerprint:
        if opened._reference is not None and reference.source == dataset.source:
            reference.open()  # refuses a file that has changed since the run was interrupted
        return False
    opened.dataset = dataset  # a resumed run has to be given back what is in no file
    return True


# -- normalisation -------------------------------------------------------------------------------------------------


def fit_normalizer(model: Trainee, dataset: OfflineDataset) -> None:
    """
    Give a ``VecNormalize`` that has seen nothing the statistics of what is trained on. One that is frozen and in which
    the model has acted is the identity by choice.

    :param model: the algorithm
    :param dataset: on the training scale of rewards
    :raises ValueError: if its observations have other keys or shapes
    """
    env = model.get_vec_normalize_env()
    if env is None or (not env.training and model.num_timesteps > 0):
        return
    fitted = fit(env, dataset)
    if fitted and model.verbose >= 1:
        print(
            f"VecNormalize starts with the statistics of the {' and '.join(fitted)} of {dataset.source!r} "
            f"({len(dataset)} transitions)."
        )


def fit_normalizer_to_callbacks(model: Trainee, callbacks: Iterable[Any]) -> None:
    """
    The same with the first dataset that a callback draws from. To be called before the environment is reset, because
    ``VecNormalize`` counts what it shows then.

    :param model: the algorithm
    :param callbacks: all of a run
    """
    env = model.get_vec_normalize_env()
    if env is None or not is_fresh(env):
        return
    asked = (each.drawn_from(model.dataset) for each in callbacks if hasattr(each, "drawn_from"))
    source = next((each for each in asked if each is not None), None)
    if source is not None:
        fit_normalizer(model, load_dataset(model, source))
