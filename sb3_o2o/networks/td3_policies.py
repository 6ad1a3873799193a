"""TD3's policies: Stable-Baselines3's, with batched critic ensembles, layer normalisation and a normaliser inside."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Positive
from sb3_o2o.networks.ensemble import EnsembleCritic, initialize
from sb3_o2o.networks.ensemble_policy import EnsemblePolicyMixin
from sb3_o2o.networks.layers import Details, Dropout, Precision, sequential
from sb3_o2o.networks.preprocessing import Seeing
from sb3_o2o.networks.short_way import features, in_turn, is_plain


class O2OTD3Actor(Seeing, Actor):
    """
    Stable-Baselines3's TD3 actor with layer normalisation where asked.

    :param layer_norm: normalise each hidden layer before its activation
    :param orthogonal_gain: see :func:`~sb3_o2o.networks.ensemble.initialize`
    :param last_hidden_gain: likewise
    :param precision: ``"bf16"`` runs the matrix products in bfloat16
    :param details: of hidden and output layers
    """

    #: there is no density, only an action
    stochastic: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        *args: Any,
        layer_norm: bool = False,
        orthogonal_gain: Positive | None = None,
        last_hidden_gain: Positive | None = None,
        precision: Precision = "fp32",
        details: Details | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        details, n_hidden = details or Details(), len(self.net_arch)
        self.layer_norm = layer_norm
        self.precision = precision
        if details.norms(layer_norm):
            layers = create_mlp(
                self.features_dim,
                get_action_dim(self.action_space),  # type: ignore[arg-type]
                self.net_arch,
                self.activation_fn,
                squash_output=True,
                post_linear_modules=details.norms(layer_norm),
            )
            self.mu = nn.Sequential(*layers)
        initialize([*self.mu], orthogonal_gain, last_hidden_gain)
        details.initialize([*self.mu], n_hidden)
        self.mu = nn.Sequential(*details.complete([*self.mu], n_hidden, layer_norm))

    def forward(self, obs: PyTorchObs) -> th.Tensor:  # type: ignore[override]
        """
        :param obs: ``(batch, *obs)``
        :return: the action, in [-1, 1], ``(batch, act)``, float32
        """
        with th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.precision == "bf16"):
            return sequential(self.mu, self.extract_features(obs, self.features_extractor)).float()

    def act_at_once(self, rows: th.Tensor, deterministic: bool) -> th.Tensor | None:
        """
        The action that :meth:`forward` gives, by the layers alone, in float32 whatever the precision of updates.

        :param rows: observations, ``(batch, obs)``, float32
        :param deterministic: makes no difference
        :return: actions in [-1, 1], ``(batch, act)``; None where more is needed than layers in turn: dropout, images,
            an actor of the user's
        """
        if type(self) is not O2OTD3Actor or self._forward_hooks:
            return None
        if not is_plain(self.mu):
            return None
        inputs = features(self.features_extractor, rows.to(next(self.mu.parameters()).device))
        return None if inputs is None else in_turn(self.mu, inputs)

    def mode(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: the same as :meth:`forward`, under the name that all actors have
        """
        return self(obs)


class O2OTD3Policy(EnsemblePolicyMixin, TD3Policy):  # type: ignore[misc]
    """
    Stable-Baselines3's ``TD3Policy`` with a batched critic ensemble. Beside its arguments:

    :param critic_layer_norm: layer normalisation in the critics, before each activation
    :param actor_layer_norm: the same in the actor
    :param normalize_observations: put a :class:`~sb3_o2o.networks.normalizer.NormalizedExtractor` before each network
    :param orthogonal_gain: see :func:`~sb3_o2o.networks.ensemble.initialize`
    :param last_hidden_gain: likewise
    :param norm_after_activation: normalise layers after each activation instead, as ReBRAC does
    :param critic_dropout: share of the critics' hidden units that an update leaves out, in [0, 1)
    :param actor_dropout: the same in the actor; 0.1 in IQL's and SPOT's code on some tasks
    :param hidden_bias: what biases of hidden layers start at; 0.1 in SAC-N, EDAC and ReBRAC
    :param critic_head_init: the critics' output layer starts uniform within +- this; 3e-3 in the same
    :param actor_head_init: the same for the actor's; 1e-3
    :param precision: ``"fp32"`` or ``"bf16"`` (matrix products only)
    """

    actor: O2OTD3Actor
    actor_target: O2OTD3Actor
    critic: EnsembleCritic  # type: ignore[assignment]
    critic_target: EnsembleCritic  # type: ignore[assignment]

    @checked
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        critic_layer_norm: bool = False,
        actor_layer_norm: bool = False,
        normalize_observations: bool = False,
        orthogonal_gain: Positive | None = None,
        last_hidden_gain: Positive | None = None,
        norm_after_activation: bool = False,
        critic_dropout: Dropout = 0.0,
        actor_dropout: Dropout = 0.0,
        hidden_bias: float | None = None,
        critic_head_init: Positive | None = None,
        actor_head_init: Positive | None = None,
        precision: Precision = "fp32",
        **kwargs: Any,
    ):
        extra = {
            "critic_layer_norm": critic_layer_norm,
            "actor_layer_norm": actor_layer_norm,
            "normalize_observations": normalize_observations,
            "orthogonal_gain": orthogonal_gain,
            "last_hidden_gain": last_hidden_gain,
            "norm_after_activation": norm_after_activation,
            "critic_dropout": critic_dropout,
            "actor_dropout": actor_dropout,
            "hidden_bias": hidden_bias,
            "critic_head_init": critic_head_init,
            "actor_head_init": actor_head_init,
            "precision": precision,
        }
        self._prepare(extra, kwargs)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> O2OTD3Actor:
        """
        :param features_extractor: the extractor to use; a new one by default
        """
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return O2OTD3Actor(**kwargs, **self.layer_arguments("actor")).to(self.device)


class O2OTD3CnnPolicy(O2OTD3Policy):
    """:class:`O2OTD3Policy` for images."""

    @checked
    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class O2OTD3MultiInputPolicy(O2OTD3Policy):
    """:class:`O2OTD3Policy` for dictionary observations."""

    @checked
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
