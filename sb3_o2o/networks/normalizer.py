"""Observation statistics of the dataset as part of the policy, so that they travel with it."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Positive

Statistics = np.ndarray | dict[str, np.ndarray]


class NormalizedExtractor(BaseFeaturesExtractor):
    """
    Normalises observations with fixed statistics, then applies another features extractor.
    Until :meth:`set_statistics` is called it changes nothing. Images pass unchanged.

    :param extractor: the features extractor behind the normalisation
    :param epsilon: added to the standard deviation; 1e-3 as in CORL
    """

    @checked
    def __init__(self, extractor: BaseFeaturesExtractor, epsilon: Positive = 1e-3):
        space = extractor._observation_space
        super().__init__(space, extractor.features_dim)
        self.extractor = extractor
        self.epsilon = epsilon
        for key, subspace in self._vector_spaces(space).items():
            self.register_buffer(f"mean{key}", th.zeros(subspace.shape))
            # scale 1 exactly, until statistics are given
            self.register_buffer(f"scale{key}", th.ones(subspace.shape))

    @staticmethod
    def _vector_spaces(space: spaces.Space) -> dict[str, spaces.Box]:
        """The sub-spaces to normalise, by the suffix of their buffers; a Box has the empty suffix."""
        named = {f"_{key}": sub for key, sub in space.items()} if isinstance(space, spaces.Dict) else {"": space}
        return {
            key: sub
            for key, sub in named.items()
            if isinstance(sub, spaces.Box)
            and not is_image_space(sub)
            and not is_image_space(sub, normalized_image=True)
        }

    @checked
    def set_statistics(self, mean: Statistics, std: Statistics) -> None:
        """
        :param mean: mean of the observations, ``(*obs,)`` or a dict of them
        :param std: standard deviation, likewise
        """
        for key in self._vector_spaces(self._observation_space):
            m, s = (mean[key[1:]], std[key[1:]]) if isinstance(mean, dict) and isinstance(std, dict) else (mean, std)
            target_mean, target_scale = getattr(self, f"mean{key}"), getattr(self, f"scale{key}")
            target_mean.copy_(th.as_tensor(m))
            target_scale.copy_(1.0 / (th.as_tensor(s, device=target_scale.device) + self.epsilon))

    def forward(self, observations: th.Tensor | dict[str, th.Tensor]) -> th.Tensor:
        """
        :param observations: ``(batch, *obs)`` or a dict of them
        :return: ``(batch, features_dim)``
        """
        return self.extractor(self.normalize(observations))

    def normalize(self, observations: th.Tensor | dict[str, th.Tensor]) -> th.Tensor | dict[str, th.Tensor]:
        """
        :param observations: ``(batch, *obs)`` or a dict of them
        :return: likewise, by the dataset's statistics
        """
        if isinstance(observations, dict):
            return {key: self._normalize(value, f"_{key}") for key, value in observations.items()}
        return self._normalize(observations, "")

    def _normalize(self, values: th.Tensor, key: str) -> th.Tensor:
        mean, scale = self._buffers.get(f"mean{key}"), self._buffers.get(f"scale{key}")
        return values if mean is None or scale is None else (values - mean) * scale


def needs_statistics(module: nn.Module) -> bool:
    """
    :param module: a policy
    :return: whether there is something in it to normalise
    """
    return any(
        any(True for _ in child.buffers()) for child in module.modules() if isinstance(child, NormalizedExtractor)
    )


def has_statistics(module: nn.Module) -> bool:
    """
    :param module: a policy
    :return: whether statistics were given to what normalises in it
    """
    extractors = [child for child in module.modules() if isinstance(child, NormalizedExtractor)]
    return any(
        bool((buffer != (1.0 if name.startswith("scale") else 0.0)).any())
        for child in extractors
        for name, buffer in child.named_buffers(recurse=False)
    )


def copy_statistics(source: nn.Module, target: nn.Module) -> bool:
    """
    Give the statistics of one module, all of whose networks have the same, to whatever normalises in another.

    :param source: a policy or features extractor
    :param target: a policy
    :return: whether there were some
    """
    statistics = next(
        (
            dict(child.named_buffers(recurse=False))
            for child in source.modules()
            if isinstance(child, NormalizedExtractor)
        ),
        None,
    )
    found = [child for child in target.modules() if isinstance(child, NormalizedExtractor)]
    if statistics is None or not found:
        return False
    for child in found:
        child.load_state_dict({**child.state_dict(), **statistics})
    return True


@checked
def set_observation_statistics(module: nn.Module, mean: Statistics, std: Statistics) -> None:
    """
    Give the dataset's statistics to every :class:`NormalizedExtractor` inside ``module``.

    :param module: a policy
    :param mean: mean of the observations, ``(*obs,)`` or a dict of them
    :param std: standard deviation, likewise
    """
    for child in module.modules():
        if isinstance(child, NormalizedExtractor):
            child.set_statistics(mean, std)
