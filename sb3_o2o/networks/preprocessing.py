"""From observations to what features extractors read, in a way that a compiler can follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

if TYPE_CHECKING:
    _Base = BaseModel
else:
    _Base = object


def image_keys(model: BaseModel) -> frozenset[str]:
    """
    :param model: a network
    :return: keys of its observations that are images, to be divided by 255; the empty one where they are no dictionary
    """
    space = model.observation_space
    named = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    return frozenset(key for key, each in named.items() if model.normalize_images and is_image_space(each))


def extract(model: Any, obs: PyTorchObs, extractor: nn.Module) -> th.Tensor:
    """
    Stable-Baselines3's ``extract_features``. It looks at the bounds of an image's space each time, as arrays of NumPy,
    which no compiled graph can hold: compiled, what was found when the network was made is asked instead.

    :param model: a network with its :func:`image_keys` in ``images``
    :param obs: ``(batch, *obs)``
    :param extractor: a features extractor
    :return: ``(batch, features_dim)``
    """
    if not th.compiler.is_compiling():
        return BaseModel.extract_features(model, obs, extractor)  # type: ignore[arg-type]
    space: Any = model.observation_space
    if isinstance(obs, dict):
        return extractor({key: _read(each, space.spaces[key], key in model.images) for key, each in obs.items()})  # type: ignore[no-any-return]
    return extractor(_read(obs, space, "" in model.images))  # type: ignore[no-any-return]


def _read(values: th.Tensor, space: spaces.Space, is_image: bool) -> Any:
    if not isinstance(space, spaces.Box):
        return preprocess_obs(values, space)
    return values.float() / 255.0 if is_image else values.float()


class Seeing(_Base):
    """A network of Stable-Baselines3's whose way from observations to features can be compiled, images included."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.images = image_keys(self)

    def extract_features(self, obs: PyTorchObs, features_extractor: Any) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param features_extractor: what makes features of them
        :return: ``(batch, features_dim)``
        """
        return extract(self, obs, features_extractor)
