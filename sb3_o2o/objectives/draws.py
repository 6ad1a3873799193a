"""Random numbers of updates, all from one source that can be replaced."""

from __future__ import annotations

import torch as th


class Draws:
    """
    Where updates draw their random numbers: noise of actions and densities, and which critics make a target. Whoever
    compares with another code base, or wants other streams, gives the model an object of their own::

        class Recorded(Draws):
            def normal(self, name, shape):
                return recorded[name]

        model.draws = Recorded(model.device)

    Each draw has a name, so that it can be told from others of its shape. Objectives of one's own choose theirs.

    :param device: of the tensors
    """

    def __init__(self, device: th.device):
        self.device = device

    def normal(self, name: str, shape: tuple[int, ...]) -> th.Tensor:
        """
        :param name: ``"policy"`` (actions that the actor's loss is formed on), ``"next_policy"`` (next actions of TD
            targets), ``"entropy"`` (the temperature's, where it has draws of its own), ``"target_smoothing"`` (TD3),
            ``"cql_policy"``, ``"density"`` (SPOT), ``"perturbation"`` (SO2), ``"offline_policy"`` (what
            a frozen policy does in the environment), ``"expansion_policy"`` (PEX), ``"champion_policy"``
        :param shape: of the draws
        :return: standard normal
        """
        return th.randn(shape, device=self.device)

    def uniform(self, name: str, shape: tuple[int, ...]) -> th.Tensor:
        """
        :param name: ``"cql_actions"``, ``"expansion_choice"`` (PEX)
        :param shape: of the draws
        :return: uniform in [-1, 1]
        """
        return th.empty(shape, device=self.device).uniform_(-1, 1)

    def members(self, name: str, n_members: int, size: int, replacement: bool) -> th.Tensor:
        """
        :param name: ``"target_critics"``, or ``"cql_critics"`` for those that CQL's penalty is formed on
        :param n_members: critics in the ensemble
        :param size: how many to draw
        :param replacement: one may be drawn several times
        :return: indices, ``(size,)``
        """
        if replacement:
            return th.randint(n_members, (size,), device=self.device)
        return th.randperm(n_members, device=self.device)[:size]
