"""O2PPO's auxiliary advantage."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn
from torch.distributions import Normal

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.reference import Choice, _ReferenceCallback
from sb3_o2o.kinds import Count, Positive
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.search_space import Range, SearchSpace


class AuxiliaryAdvantage(_ReferenceCallback):
    """
    Mix what a reliable reference policy thinks of an action into PPO's advantages, while its own value network, which
    knows only returns of the dataset, cannot be trusted (OCR-CFT, eq. 17, 18 and 51): ``(A + w A_ref) / (1 + w)``
    with ``w`` falling linearly from 1 to 0. See :func:`~sb3_o2o.objectives.finetuning_functional.auxiliary_advantage`.

    Actions are scored as PPO stores them, before they are clipped at the bounds.

    The released code adds advantages of shape (N, 1) and (N,), so that every advantage meets every auxiliary one and
    these carry no signal of a sample. Here each sample has its own, as in the paper.

    :param anneal_steps: steps of the fine-tuning run until ``w`` is 0, > 0; 250 000 for medium, medium-replay and
        AntMaze datasets, 500 000 for medium-expert and expert ones
    :param per_dimension: bound each dimension of the action by itself, as in the paper, and not their sum, as in the
        released code
    :param normalize: normalise the mixed advantages over the whole rollout, as in the released code; set
        ``normalize_advantage=False`` for PPO not to do so again in each minibatch
    :param max_std: standard deviation, on the scale of [-1, 1], to which larger ones are lowered once, at the start;
        0.05 for Hopper's medium-expert and expert datasets. None leaves it alone
    :param reference: ``"best"``: whenever the run's evaluation callback finds a better mean return than ever before,
        the policy that earned it becomes the reference (2500 steps apart in the released code); ``"interval"``: every
        ``interval`` steps the current policy does
    :param interval: environment steps, > 0
    :raises ValueError: for a number out of range, or a reference that follows evaluations where there are none
    """

    exclusive = ("what is mixed into the advantages",)
    search_space: ClassVar[SearchSpace] = {"anneal_steps": Range(50_000, 500_000, log=True)}

    @checked
    def __init__(
        self,
        anneal_steps: Count = 250_000,
        per_dimension: bool = False,
        normalize: bool = True,
        max_std: Positive | None = None,
        reference: Choice = "best",
        interval: Count = 2500,
    ):
        super().__init__(reference, interval)
        self.anneal_steps = anneal_steps
        self.per_dimension = per_dimension
        self.normalize = normalize
        self.max_std = max_std

    def _init_callback(self) -> None:
        if not hasattr(self.model, "rollout_buffer"):
            raise ValueError(
                f"AuxiliaryAdvantage changes the advantages of a rollout, and {type(self.model).__name__} has none: "
                "use it with O2OPPO."
            )

    def _take_policy(self, network: nn.Module | None = None) -> None:
        if self.policy is None and self.max_std is not None:
            model: Any = self.model
            model.actor.limit_std(self.max_std)
        super()._take_policy(network)

    def _network(self) -> nn.Module:
        return self.model.policy  # its actor is a view of it

    @property
    def weight(self) -> float:
        """Weight of the auxiliary advantage in the present rollout, from 1 to 0."""
        return max(1.0 - self.model.n_finetuning_steps / self.anneal_steps, 0.0)

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        advantages = th.as_tensor(buffer.advantages).flatten()
        auxiliary = FF.auxiliary_advantage(*self._reference_terms(buffer), advantages.std(), self.per_dimension)
        mixed = FF.blended_advantages(advantages, auxiliary, th.tensor(self.weight))
        if self.normalize:
            mixed = (mixed - mixed.mean()) / (mixed.std() + 1e-5)
        buffer.advantages = mixed.reshape(buffer.advantages.shape).numpy()
        self.logger.record("finetune/auxiliary_weight", self.weight)
        self.logger.record("finetune/auxiliary_advantage", float(auxiliary.mean()))

    @th.no_grad()
    def _reference_terms(self, buffer: Any) -> tuple[th.Tensor, th.Tensor]:
        """:return: log-density of the rollout's actions under the reference and its entropy, ``(N, act)`` each"""
        device, observations = self.model.device, buffer.observations
        if isinstance(observations, dict):
            inputs: Any = {key: obs_as_tensor(_rows(value), device) for key, value in observations.items()}
        else:
            inputs = obs_as_tensor(_rows(observations), device)
        # on the scale of [-1, 1]: density and entropy change by the same amount, and only their sum is used
        actions = th.as_tensor(_rows(buffer.actions), device=device)
        mean, log_std, _ = self.policy.actor.get_action_dist_params(inputs)
        normal = Normal(mean, log_std.exp())
        return normal.log_prob(self.policy.to_unit_scale(actions)).cpu(), normal.entropy().cpu()


def _rows(array: np.ndarray) -> np.ndarray:
    """``(n_steps, n_envs, …)`` as ``(n_steps * n_envs, …)``, in the order of the flat advantages."""
    return array.reshape(-1, *array.shape[2:])
