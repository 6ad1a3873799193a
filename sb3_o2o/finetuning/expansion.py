"""Policy expansion: the offline policy beside one that learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.reference import _FrozenPolicyCallback
from sb3_o2o.kinds import Positive
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.objectives import functional as F

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch


class PolicyExpansion(_FrozenPolicyCallback):
    """
    PEX (Zhang et al. 2023): the offline policy is frozen, a new one learns beside it, and in every state the critics
    choose between an action of each, ``P(k) ~ exp(Q(s, a_k) / T)`` with the minimum over critics. So it is while
    collecting, and in ``predict``: every evaluation sees both. Where the policy imitates (IQL, AWAC), it imitates what
    the two would do in the batch's states, weighted by its advantage; the actions in the batch train values alone.

    The offline policy offers its most likely action, the new one a sample; deterministically both offer their most
    likely one, and the better is taken. (The official code keeps a tenth of the chance there. In its update the target
    critics have moved before the advantage is formed; here they move at the end of the update.)

    ``to_sb3`` exports the new policy alone. Given to ``learn(callback=...)`` and not to the constructor or
    ``load_offline``, both act as long as the call: what an evaluation callback saves as ``best_model.zip`` is then the
    new policy alone, and the score is that of both.

    :param inverse_temperature: 1 / T, > 0; 10 in the official code
    :param fresh_policy: the policy that learns starts anew; False goes on with a copy of the offline one
    :raises ValueError: for gSDE, or a shared features extractor where the policy starts anew
    """

    needs_replay_buffer = True

    @checked
    def __init__(self, inverse_temperature: Positive = 10.0, fresh_policy: bool = True):
        super().__init__()
        self.inverse_temperature = inverse_temperature
        self.fresh_policy = fresh_policy
        self.begin_new_run()

    def _init_callback(self) -> None:
        policy: Any = self.model.policy
        if self.model.use_sde:
            raise ValueError("PolicyExpansion samples one action per state, which gSDE does not: set use_sde=False.")
        if self.fresh_policy and policy.share_features_extractor:
            raise ValueError(
                "PolicyExpansion starts a policy anew, and its features extractor is the critics' as well: set "
                "share_features_extractor=False, or fresh_policy=False."
            )

    @property
    def renews_policy(self) -> bool:
        """See :class:`~sb3_o2o.finetuning.reference._FrozenPolicyCallback`."""
        return self.fresh_policy

    def _begin(self) -> None:
        if self.fresh_policy:
            self.model.renew_actor()

    @th.no_grad()
    def predict(self, observations: np.ndarray | dict[str, np.ndarray], deterministic: bool) -> np.ndarray | None:
        """See :meth:`FineTuningCallback.predict`; None before there are two policies."""
        if self.policy is None:
            return None
        policy: Any = self.model.policy
        policy.set_training_mode(False)
        self.policy.to(self.model.device)
        inputs, are_several = policy.obs_to_tensor(observations)
        rows = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
        chosen = self.choose(inputs, *((None, None) if deterministic else self._draw(rows)))
        actions = self._unscaled(chosen.cpu().numpy())
        return actions if are_several else actions[0]

    def choose(self, observations: Any, noise: th.Tensor | None, chance: th.Tensor | None) -> th.Tensor:
        """
        :param observations: ``(B, *obs)``
        :param noise: standard normal draws of the new policy's actions, ``(B, act)``; None for its most likely ones
        :param chance: uniform in [0, 1], ``(B,)``; None takes the better action
        :return: actions in [-1, 1], ``(B, act)``
        """
        actor = self.model.actor
        offline = self.policy.mode(observations).clamp(-1.0, 1.0)
        if noise is None or not actor.stochastic:
            online = actor.mode(observations)
        else:
            online, _ = actor.rsample(observations, noise)
        online = online.clamp(-1.0, 1.0)
        critic: Any = self.model.critic  # type: ignore[attr-defined]
        values = F.reduce_ensemble(critic.q_values(observations, th.stack([offline, online], dim=1)), "min")
        probability = FF.expansion_probability(values[:, 0], values[:, 1], self.inverse_temperature)
        takes_offline = probability > (0.5 if chance is None else chance)
        return th.where(takes_offline[:, None], offline, online)

    def _draw(self, rows: int) -> tuple[th.Tensor, th.Tensor]:
        """:return: noise and chance of :meth:`choose`"""
        noise = self.model.draws.normal("expansion_policy", (rows, self.model.action_dim))
        return noise, (self.model.draws.uniform("expansion_choice", (rows,)) + 1) / 2

    def prepare(self, batch: Batch) -> Batch:
        """
        :param batch: transitions
        :return: the same with the draws of :meth:`choose`
        """
        noise, chance = self._draw(len(batch))
        return batch.with_extras(expansion_noise=noise, expansion_chance=chance)

    def imitated_actions(self, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param actions: the batch's, ``(B, act)``
        :param batch: the actor's transitions
        :return: what the two policies do in its states, ``(B, act)``
        """
        assert batch.extras is not None
        return self.choose(batch.observations, batch.extras["expansion_noise"], batch.extras["expansion_chance"])
