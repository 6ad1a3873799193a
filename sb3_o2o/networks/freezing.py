"""Copies of networks that stay as they are."""

from __future__ import annotations

import copy
from typing import Annotated, Any

from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import instance


@checked
def frozen_copy(network: Annotated[Any, instance("a network", nn.Module)]) -> Any:
    """
    :param network: a policy or a critic
    :return: a copy that nothing trains, without optimiser, gradients and the last sample of its distribution
    """
    distribution = getattr(network, "action_dist", None)
    # memo: the optimiser's moments are twice the size of the network; and with gSDE a last sample cannot be copied
    memo = {id(getattr(network, "optimizer", None)): None, id(distribution): copy.copy(distribution)}
    copied = copy.deepcopy(network, memo)
    if distribution is not None:
        copied.action_dist = None
    for parameter in copied.parameters():
        parameter.grad = None
    return copied.train(False).requires_grad_(False)
