"""What the critics are fitted to: SO2's perturbed value update."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.finetuning.callback import FineTuningCallback
from sb3_o2o.kinds import NotNegative
from sb3_o2o.search_space import Range, SearchSpace

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch


class PerturbedTargets(FineTuningCallback):
    """
    SO2's perturbed value update (Zhang et al. 2024, eq. 3): the TD target is evaluated at the policy's next action plus
    clipped noise, which smooths out the sharp peaks that a pre-trained critic has. The noise is added to the squashed
    action, and the sum clipped to the bounds, as in the official code; entropy is that of the action without noise.
    Objectives that compare several next actions (``max_target_backup``) perturb all of one state alike.

    In the paper every critic has a target of its own: that is the objective's ``target_reduction="none"``.

    TD3 smooths its target actions already: this noise comes on top of that of ``target_policy_noise`` (0.2, clipped at
    ``target_noise_clip=0.5``). Set ``target_policy_noise=0`` for this one alone.

    :param sigma: standard deviation of the noise, in units of the scaled action, >= 0 (the paper's text calls it a
        variance, the official code draws with it as a standard deviation)
    :param clip: largest magnitude of the noise, >= 0
    """

    exclusive = ("the noise of the target actions",)
    search_space: ClassVar[SearchSpace] = {"sigma": Range(0.1, 0.6), "clip": Range(0.2, 1.0)}

    @checked
    def __init__(self, sigma: NotNegative = 0.3, clip: NotNegative = 0.6):
        super().__init__()
        self.sigma = sigma
        self.clip = clip

    def prepare(self, batch: Batch) -> Batch:
        """
        :param batch: the critics' transitions
        :return: the same with the noise of their next actions, ``(B, act)``
        """
        return batch.with_extras(target_noise=self._noise(batch))

    def _noise(self, batch: Batch) -> th.Tensor:
        return (self.sigma * self.model.draws.normal("perturbation", tuple(batch.actions.shape))).clamp(
            -self.clip, self.clip
        )

    def next_actions(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """
        :param actions: the policy's, ``(B, act)`` or ``(B, K, act)``
        :param log_prob: not used: it stays that of the unperturbed actions
        :param batch: the transitions, with the noise; without, as where a target is asked for outside of an update,
            it is drawn here
        :return: perturbed actions in [-1, 1], as ``actions``
        """
        extras = batch.extras or {}
        noise = extras["target_noise"] if "target_noise" in extras else self._noise(batch)
        actions = actions.clamp(-1.0, 1.0)  # those of a Gaussian that is not squashed may lie beyond
        return (actions + (noise if actions.dim() == 2 else noise.unsqueeze(1))).clamp(-1.0, 1.0)
