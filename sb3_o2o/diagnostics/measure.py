"""Measurements of a model on transitions: values and errors, distance to what it was."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch as th
from stable_baselines3 import SAC, TD3, HerReplayBuffer
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.data import MixedReplayBuffer
from sb3_o2o.data.online import can_be_sampled
from sb3_o2o.diagnostics.drift import gaussian_kl, softmax_kl
from sb3_o2o.evaluation import preserved_random_state
from sb3_o2o.evaluation.eval_callback import is_pretraining
from sb3_o2o.kinds import Seed, instance, is_whole, kind
from sb3_o2o.objectives import Batch
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.objective import MODEL

AnyModel = Annotated[Any, MODEL]
#: actions per state, half of them from either policy
Candidates = Annotated[
    int, kind("an even number of at least 2", lambda value: is_whole(value) and value >= 2 and value % 2 == 0)
]
_NETWORK = instance("a network", nn.Module)
OBSERVATIONS = instance("a tensor of observations", th.Tensor) | kind(
    "a dictionary of them",
    lambda value: isinstance(value, dict) and all(isinstance(each, th.Tensor) for each in value.values()),
)


def check_model(model: Any, for_whom: str) -> None:
    """
    :param model: an algorithm
    :param for_whom: who looks at it, for the error message
    :raises ValueError: if it has no ensemble of critics to look at
    """
    if not hasattr(getattr(model, "critic", None), "q_values"):
        use = "O2OSAC or O2OTD3"
        for stock in (SAC, TD3):
            if type(model) is stock:
                use = f"O2O{stock.__name__} (O2O{stock.__name__}.load also opens models of stock {stock.__name__})"
        raise ValueError(
            f"{for_whom} looks at Q-values, and {type(model).__name__} has no critics of this library: use it with "
            f"{use}."
        )


@contextmanager
def looking(model: Any, seed: int) -> Iterator[None]:
    """
    A look at a model that leaves no trace: random streams and training mode are given back as they were, and what is
    drawn inside follows the seed alone.

    :param model: the model
    :param seed: of everything drawn inside
    """
    training = model.policy.training
    with preserved_random_state(), th.no_grad():
        random.seed(seed)
        np.random.seed(seed)
        th.manual_seed(seed)
        model.policy.set_training_mode(False)
        try:
            yield
        finally:
            model.policy.set_training_mode(training)


def policy_actions(actor: Any, observations: PyTorchObs, n_actions: int | None = None) -> tuple[th.Tensor, Any]:
    """
    :param actor: a stochastic policy, or a deterministic one
    :param observations: ``(B, *obs)`` or a dict of them
    :param n_actions: sampled actions per state, K; one without the extra axis by default
    :return: scaled actions ``(B, act)`` or ``(B, K, act)``; log-probabilities ``(B,)`` or ``(B, K)``, None for a
        deterministic policy
    """
    if not is_stochastic(actor):
        return actor(observations), None
    if actor.use_sde:
        return actor.rsample(observations, None)
    rows = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
    action_dim = int(np.prod(actor.action_space.shape))
    shape = (rows, action_dim) if n_actions is None else (rows, n_actions, action_dim)
    return actor.rsample(observations, th.randn(shape, device=actor.device))


def reduced_q(model: Any, critic: Any, observations: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """
    :param model: says what the actor maximises: the minimum over critics, their mean, or the first
    :param critic: its critic, target critic, or a copy of an earlier one
    :param observations: ``(B, *obs)``
    :param actions: ``(B, act)`` or ``(B, K, act)``
    :return: Q as the actor sees it, ``(B,)`` or ``(B, K)``
    """
    return F.reduce_ensemble(critic.q_values(observations, actions), _reduction(model))


def _reduction(model: Any) -> str:
    # some decide by themselves, such as those whose actor follows advantages, whatever ``actor_critics`` says
    return str(getattr(_objective(model), "actor_reduction", model.actor_critics))


def _objective(model: Any) -> Any:
    """Whose values the critic has."""
    return model.offline_objective if _has_offline_values(model) else model.finetuning_objective


def _has_offline_values(model: Any) -> bool:
    """Whether the critic's values are the offline objective's: after the switch until something else has trained it."""
    others_trained = model.finetuning_run.started or model.phase_steps
    return (model.n_pretrain_steps > 0 and not others_trained) or is_pretraining(model)


def discount_factor(model: Any) -> float:
    """
    :param model: the model
    :return: of the targets that its critic was trained on: an objective may have another one online
    """
    return float(model.gamma if _has_offline_values(model) else model.finetuning_objective.gamma)


def entropy_bonus(model: Any, log_prob: th.Tensor | None) -> th.Tensor | None:
    """
    :param model: the model
    :param log_prob: of the policy's actions, ``(B,)``
    :return: ``-alpha log pi``, ``(B,)``, if what trained its critic has the entropy in its values, else None
    """
    if log_prob is None or not getattr(_objective(model), "entropy_backup", False):
        return None
    return -model.current_ent_coef() * log_prob


# -- batches -------------------------------------------------------------------------------------------------------


def online_buffer(model: Any) -> Any:
    """
    :param model: the model
    :return: where its environment steps go; None before there is one
    """
    buffer = model.replay_buffer
    return buffer.online if isinstance(buffer, MixedReplayBuffer) else buffer


def newest_transitions(model: Any, n: int, n_rows: int) -> Batch | None:
    """
    The last transitions that were collected. (Of ``HerReplayBuffer``, which relabels them, any of finished episodes.)
    Call it inside :func:`looking`: buffers draw from the global stream.

    :param model: the model
    :param n: how many
    :param n_rows: the newest rows of the buffer, one for each step of all environments together, that count; older
        ones may have been a dataset's
    :return: the transitions, at most one for each row; None where there is none yet
    """
    buffer = online_buffer(model)
    rows = min(n, n_rows, 0 if buffer is None else buffer.size())
    if rows == 0:
        return None
    env = model.get_vec_normalize_env()
    if isinstance(buffer, HerReplayBuffer):
        return model.to_batch(buffer.sample(n, env=env)) if can_be_sampled(buffer) else None
    return model.to_batch(buffer._get_samples((buffer.pos - 1 - np.arange(rows)) % buffer.buffer_size, env=env))


@checked
def mean_q_and_td_error(model: AnyModel, batch: Batch, seed: Seed = 0) -> tuple[float, float]:
    """
    Mean Q and mean squared TD error on given transitions (WSRL, Zhou et al. 2024, figures 3 and 11). The target is the
    plain one, ``r + gamma (1 - d) (min_i Qb_i(s', a') - alpha log pi(a'|s'))`` with a' of the present policy, whatever
    callbacks make of it in the update, so that methods can be compared; the error is averaged over critics. Falling
    values on both kinds of data, and a rising error on the dataset once it is no longer trained on, are the signs of a
    bad hand-over. The training's random streams are left as they were.

    :param model: an O2OSAC or O2OTD3
    :param batch: transitions
    :param seed: of the next actions
    :return: mean Q as the actor sees it, and mean squared TD error
    :raises ValueError: for another model
    """
    check_model(model, "mean_q_and_td_error")
    with looking(model, seed):
        actions, log_prob = policy_actions(model.actor, batch.next_observations)
        following = F.reduce_ensemble(model.critic_target.q_values(batch.next_observations, actions), "min")
        bonus = entropy_bonus(model, log_prob)
        target = F.bellman_target(
            batch.rewards, batch.dones, batch.discounts, following if bonus is None else following + bonus
        )
        values = model.critic.q_values(batch.observations, batch.actions)
        mean_q = F.reduce_ensemble(values, _reduction(model)).mean()
        return mean_q.item(), (values - target).pow(2).mean().item()


# -- drift ---------------------------------------------------------------------------------------------------------


@checked
def policy_and_q_drift(
    model: AnyModel,
    actor: Annotated[Any, _NETWORK],
    critic: Annotated[Any, _NETWORK],
    observations: Annotated[PyTorchObs, OBSERVATIONS],
    n_candidates: Candidates = 20,
    seed: Seed = 0,
) -> tuple[float, float]:
    """
    ``KL(pi_pre || pi)`` and ``KL(softmax Q_pre || softmax Q)`` averaged over states (WSRL, Zhou et al. 2024, app. E).
    The Q-values are those of candidate actions, half of them drawn from either policy, as the actor sees them (the
    paper leaves number, temperature and ensemble open; see :func:`~sb3_o2o.diagnostics.drift.softmax_kl`). A
    deterministic policy has no KL; its candidates are its actions with the smoothing noise of TD3's targets, on which
    the critics are trained. The training's random streams are left as they were.

    :param model: the model now
    :param actor: its actor before (:func:`~sb3_o2o.networks.frozen_copy`)
    :param critic: its critic before
    :param observations: ``(B, *obs)``
    :param n_candidates: actions per state, K, even
    :param seed: of the candidates
    :return: both divergences; NaN for the first where the policy is deterministic
    :raises ValueError: for another model, for gSDE, or for a number of candidates that is odd or below 2
    """
    check_drift(model, "policy_and_q_drift")
    policy_kl = math.nan
    with looking(model, seed):
        if is_stochastic(actor):
            mean, log_std, _ = actor.get_action_dist_params(observations)
            now = model.actor.get_action_dist_params(observations)[:2]
            policy_kl = gaussian_kl(mean, log_std, *now).mean().item()
        both = [_candidates(model, each, observations, n_candidates // 2) for each in (actor, model.actor)]
        candidates = th.cat(both, dim=1)
        q_before, q_now = (reduced_q(model, each, observations, candidates) for each in (critic, model.critic))
        return policy_kl, softmax_kl(q_before, q_now).mean().item()


def check_drift(model: Any, for_whom: str) -> None:
    """
    :param model: an algorithm
    :param for_whom: who looks at it, for the error message
    :raises ValueError: if its drift cannot be measured
    """
    check_model(model, for_whom)
    if getattr(model.actor, "use_sde", False):
        raise ValueError(
            f"{for_whom} measures the drift of squashed Gaussians and of deterministic policies, and this policy is "
            "gSDE."
        )


def is_stochastic(actor: Any) -> bool:
    return hasattr(actor, "rsample")


def _candidates(model: Any, actor: Any, observations: PyTorchObs, n_actions: int) -> th.Tensor:
    """Scaled actions ``(B, n_actions, act)``."""
    if is_stochastic(actor):
        return policy_actions(actor, observations, n_actions)[0]
    mode, _ = policy_actions(actor, observations)
    noise = model.target_policy_noise * th.randn(len(mode), n_actions, mode.shape[1], device=mode.device)
    clip = model.target_noise_clip
    return (mode[:, None] + noise.clamp(-clip, clip)).clamp(-1.0, 1.0)
