"""Models that are linear and updates whose random numbers are given, so that they can be worked out by hand."""

from typing import Any

import torch as th
from toy_tasks import make, make_td3

from sb3_o2o.objectives import Batch, Draws

#: without hidden layers, and with gradients that are subtracted as they are
LINEAR: dict[str, Any] = {"net_arch": [], "optimizer_class": th.optim.SGD}


class Given(Draws):
    """Standard normal draws that are stated, by name."""

    def __init__(self, **values: list[list[float]]):
        super().__init__(th.device("cpu"))
        self.values = {name: th.tensor(value) for name, value in values.items()}

    def normal(self, name: str, shape: tuple[int, ...]) -> th.Tensor:
        value = self.values[name]
        assert tuple(value.shape) == shape
        return value


def linear_sac(policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """SAC on three observations and two actions, all of it linear."""
    return make(policy_kwargs={**LINEAR, **(policy_kwargs or {})}, **kwargs)


def linear_td3(policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """The same for TD3."""
    return make_td3(policy_kwargs={**LINEAR, **(policy_kwargs or {})}, **kwargs)


@th.no_grad()
def set_critic(critic: Any, *members: tuple[float, float, float]) -> None:
    """Member i becomes ``Q_i(s, a) = x a_1 + y a_2 + b`` for its (x, y, b)."""
    (layer,) = critic.ensemble.layers
    layer.weight.zero_()
    for index, (first, second, bias) in enumerate(members):
        layer.weight[index, 3:, 0] = th.tensor([first, second])
        layer.bias[index, 0, 0] = bias


def get_critic(critic: Any, index: int) -> list[float]:
    """(x, y, b) of a member."""
    (layer,) = critic.ensemble.layers
    return [*layer.weight[index, 3:, 0].tolist(), layer.bias[index, 0, 0].item()]


@th.no_grad()
def set_mean(layer: Any, *mean: float) -> None:
    """The layer says the same everywhere."""
    layer.weight.zero_()
    layer.bias.copy_(th.tensor(mean))


def one_transition(action: tuple[float, float], reward: float = 1.0, **extras: list[list[float]]) -> Batch:
    """A transition between two observations of zeros, discounted by 1/2."""
    zeros = th.zeros(1, 3)
    one = th.ones(1)
    tensors = {name: th.tensor(value) for name, value in extras.items()}
    return Batch(zeros, th.tensor([action]), zeros, reward * one, 0 * one, one / 2, **tensors)
