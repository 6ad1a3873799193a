"""SAC's policies: Stable-Baselines3's, with batched critic ensembles, layer normalisation and a normaliser inside."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor, SACPolicy
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, Positive
from sb3_o2o.networks.distributions import (
    gaussian_log_prob,
    mixture_moments,
    squashed_gaussian,
    squashed_log_prob,
)
from sb3_o2o.networks.ensemble import EnsembleCritic, initialize
from sb3_o2o.networks.ensemble_policy import EnsemblePolicyMixin
from sb3_o2o.networks.layers import Details, Dropout, Precision, heads, linear, sequential
from sb3_o2o.networks.preprocessing import Seeing
from sb3_o2o.networks.short_way import features, gaussian_actions, head, in_turn, is_plain

#: what tanh is applied to: sampled actions as in SAC, the mean alone as in IQL, or nothing as in AWAC
Squash = Literal["samples", "mean", "none"]


class O2OActor(Seeing, Actor):
    """
    Stable-Baselines3's SAC actor with layer normalisation, a state-independent standard deviation, a Gaussian that is
    not squashed and several actions per state where asked.

    Samples of a Gaussian that is not squashed may lie beyond [-1, 1]: environment and critics clip them, each by
    itself, and densities are those of the sample, so that those of two policies compare. Neither their gradients nor
    those of the deterministic action with ``squash="none"`` vanish outside the bounds.

    :param layer_norm: normalise each hidden layer before its activation
    :param state_dependent_std: predict the log standard deviation from the state, or learn one vector (initially 0)
    :param squash: what tanh is applied to: ``"samples"``, the ``"mean"`` alone, or ``"none"``
    :param orthogonal_gain: see :func:`~sb3_o2o.networks.ensemble.initialize`
    :param last_hidden_gain: likewise
    :param precision: ``"bf16"`` runs the matrix products in bfloat16
    :param details: of hidden and output layers
    """

    #: actions have a density
    stochastic: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        *args: Any,
        layer_norm: bool = False,
        state_dependent_std: bool = True,
        squash: Squash = "samples",
        orthogonal_gain: Positive | None = None,
        last_hidden_gain: Positive | None = None,
        precision: Precision = "fp32",
        details: Details | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if squash != "samples" and self.use_sde:
            raise ValueError(
                f"policy_kwargs['squash'] = {squash!r} is a plain Gaussian, which gSDE is not: set use_sde=False."
            )
        self.layer_norm = layer_norm
        self.squash = squash
        self.state_dependent_std = state_dependent_std
        self.precision = precision
        details, n_hidden = details or Details(), len(self.net_arch)
        if details.norms(layer_norm):
            post = details.norms(layer_norm)
            layers = create_mlp(self.features_dim, -1, self.net_arch, self.activation_fn, post_linear_modules=post)
            self.latent_pi = nn.Sequential(*layers)
        if not self.use_sde:
            initialize([*self.latent_pi, self.mu], orthogonal_gain, last_hidden_gain)
            if not state_dependent_std:
                self.log_std = nn.Parameter(th.zeros(get_action_dim(self.action_space)))  # type: ignore[assignment]
            elif orthogonal_gain is not None:
                initialize([self.log_std], orthogonal_gain, None)  # type: ignore[list-item]
        details.initialize(
            [*self.latent_pi, *(each for each in (self.mu, self.log_std) if isinstance(each, nn.Linear))], n_hidden
        )
        self.latent_pi = nn.Sequential(*details.complete([*self.latent_pi], n_hidden, layer_norm))

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        :param obs: ``(batch, *obs)``
        :return: mean and log standard deviation before the squashing of samples, ``(batch, act)``, and gSDE's arguments
        """
        with th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.precision == "bf16"):
            if self.use_sde:
                mean, log_std, kwargs = super().get_action_dist_params(obs)
                return mean.float(), log_std.float(), kwargs
            latent = sequential(self.latent_pi, self.extract_features(obs, self.features_extractor))
            if self.state_dependent_std:
                mean, log_std = heads(latent, self.mu, self.log_std)  # type: ignore[arg-type]
            else:
                mean = linear(self.mu, latent)
                log_std = self.log_std.expand_as(mean)  # type: ignore[operator]
        mean = th.tanh(mean.float()) if self.squash == "mean" else mean.float()
        return mean, th.clamp(log_std.float(), LOG_STD_MIN, LOG_STD_MAX), {}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param deterministic: the most likely action instead of a sample
        :return: actions for the environment, in [-1, 1], ``(batch, act)``
        """
        if self.squash == "samples":
            return super().forward(obs, deterministic)
        mean, log_std, _ = self.get_action_dist_params(obs)
        return (mean if deterministic else mean + log_std.exp() * th.randn_like(mean)).clamp(-1.0, 1.0)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: ``(batch, *obs)``
        :return: sampled actions as :meth:`sample` has them, ``(batch, act)``, and their log-probabilities, ``(batch,)``
        """
        if self.squash == "samples":
            return super().action_log_prob(obs)
        mean, log_std, _ = self.get_action_dist_params(obs)
        return self.sample(mean, log_std, th.randn_like(mean))

    def mode(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: the deterministic action: tanh of the mean, or the mean as it is, ``(batch, act)``
        """
        # without the head of the standard deviation: an objective that leaves it out must not touch it
        with th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.precision == "bf16"):
            latent = sequential(self.latent_pi, self.extract_features(obs, self.features_extractor))
            mean = linear(self.mu, latent)
        return mean.float() if self.squash == "none" else th.tanh(mean.float())

    def act_at_once(self, rows: th.Tensor, deterministic: bool) -> th.Tensor | None:
        """
        The action that :meth:`forward` gives, the same draws included, by the layers alone. It is formed in float32
        whatever the precision of updates: products of a few rows wait for the weights, which are float32, and casting
        these takes longer than the product.

        :param rows: observations, ``(batch, obs)``, float32
        :param deterministic: the mode of the policy, or a sample
        :return: actions in [-1, 1], ``(batch, act)``; None where more is needed than layers in turn: gSDE, dropout,
            a Gaussian that is not squashed, images, an actor of the user's
        """
        if type(self) is not O2OActor or self.use_sde or self._forward_hooks:
            return None
        if self.squash != "samples" or not is_plain(self.latent_pi):
            return None
        inputs = features(self.features_extractor, rows.to(self.mu.weight.device))  # type: ignore[arg-type]
        if inputs is None:
            return None
        latent = in_turn(self.latent_pi, inputs)
        mean = head(self.mu, latent)
        if deterministic:
            return th.tanh(mean)
        return gaussian_actions(mean, head(self.log_std, latent) if self.state_dependent_std else self.log_std)  # type: ignore[operator,arg-type]

    def log_prob(self, obs: PyTorchObs, actions: th.Tensor, clip: float = 1 - 1e-5) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :param clip: see :func:`~sb3_o2o.networks.distributions.squashed_log_prob`
        :return: log-probability of the actions, ``(batch,)``
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        return self.density(mean, log_std, actions, clip)

    def density(self, mean: th.Tensor, log_std: th.Tensor, actions: th.Tensor, clip: float = 1 - 1e-5) -> th.Tensor:
        """
        :param mean: of :meth:`get_action_dist_params`, ``(batch, act)``
        :param log_std: likewise
        :param actions: as :meth:`sample` has them, ``(batch, act)``
        :param clip: largest magnitude that is scored where samples are squashed; nothing is infinite elsewhere
        :return: log-probability of the actions, ``(batch,)``
        """
        if self.squash == "samples":
            return squashed_log_prob(mean, log_std, actions, clip)
        return gaussian_log_prob(mean, log_std, actions)

    def sample(self, mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param mean: of :meth:`get_action_dist_params`, ``(..., act)``
        :param log_std: likewise
        :param noise: standard normal draws, likewise
        :return: reparametrised actions, within [-1, 1] if squashed, ``(..., act)``, and log-probabilities ``(...)``
        """
        if self.squash == "samples":
            return squashed_gaussian(mean, log_std, noise)
        actions = mean + log_std.exp() * noise
        return actions, gaussian_log_prob(mean, log_std, actions)

    @th.no_grad()
    def set_std(self, std: float) -> None:
        """
        Give the policy the same standard deviation everywhere.

        :param std: before the squashing, > 0
        :raises ValueError: if it is not positive
        """
        if std <= 0:
            raise ValueError(f"The standard deviation of a policy must be positive, not {std}.")
        log_std: Any = self.log_std
        if isinstance(log_std, nn.Linear):
            log_std.weight.zero_()
            log_std.bias.fill_(math.log(std))
        else:  # one vector, or gSDE's matrix
            log_std.fill_(math.log(std))

    def rsample(self, obs: PyTorchObs, noise: th.Tensor | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        Reparametrised actions and their log-probabilities. The network runs once per state, however many actions.

        :param obs: ``(batch, *obs)``
        :param noise: standard normal draws, ``(batch, act)``, or ``(batch, k, act)`` for k actions per state;
            ``None`` with gSDE, which has its own
        :return: actions as ``noise``, see :meth:`sample`, and log-probabilities ``(batch,)`` or ``(batch, k)``
        """
        if noise is None:
            return self.action_log_prob(obs)
        mean, log_std, _ = self.get_action_dist_params(obs)
        if noise.dim() == 3:
            mean, log_std = mean.unsqueeze(1), log_std.unsqueeze(1)
        return self.sample(mean, log_std, noise)


class _Member(nn.Module):
    """Layers of one actor of an ensemble, under an actor's names."""

    def __init__(self, actor: O2OActor):
        super().__init__()
        self.latent_pi, self.mu, self.log_std = actor.latent_pi, actor.mu, actor.log_std


class EnsembleActor(O2OActor):
    """
    Several actors that act as one Gaussian with the mean and variance of their mixture, before the squashing (Off2On;
    Lee et al. 2021). The first has the names of a single actor, the others follow in ``others``; all share a features
    extractor.

    :param n_actors: how many, at least 1
    """

    def __init__(self, *args: Any, n_actors: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.use_sde:
            raise ValueError("policy_kwargs['n_actors'] mixes plain Gaussians, which gSDE is not: set use_sde=False.")
        self.others = nn.ModuleList(_Member(O2OActor(*args, **kwargs)) for _ in range(n_actors - 1))

    @property
    def members(self) -> list[Any]:
        """Each actor's layers."""
        return [self, *self.others]

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """See :meth:`O2OActor.get_action_dist_params`; of the mixture."""
        moments = []
        with th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.precision == "bf16"):
            features = self.extract_features(obs, self.features_extractor)
            for member in self.members:
                latent = sequential(member.latent_pi, features)
                mean = linear(member.mu, latent).float()
                log_std = linear(member.log_std, latent) if self.state_dependent_std else member.log_std.expand_as(mean)
                mean = th.tanh(mean) if self.squash == "mean" else mean
                moments.append((mean, log_std.float().clamp(LOG_STD_MIN, LOG_STD_MAX)))
        means, log_stds = (th.stack(each) for each in zip(*moments, strict=True))
        return *mixture_moments(means, log_stds), {}

    def mode(self, obs: PyTorchObs) -> th.Tensor:
        """See :meth:`O2OActor.mode`; of the mixture."""
        mean, _, _ = self.get_action_dist_params(obs)
        return th.tanh(mean) if self.squash == "samples" else mean

    @th.no_grad()
    def set_std(self, std: float) -> None:
        """See :meth:`O2OActor.set_std`; of each member."""
        super().set_std(std)
        first: Any = self.log_std
        for member in self.others:
            own: Any = member.log_std
            if isinstance(own, nn.Linear):
                own.load_state_dict(first.state_dict())
            else:
                own.copy_(first)


class O2OSACPolicy(EnsemblePolicyMixin, SACPolicy):  # type: ignore[misc]
    """
    Stable-Baselines3's ``SACPolicy`` with a batched critic ensemble. Beside its arguments:

    :param critic_layer_norm: layer normalisation in the critics, before each activation
    :param actor_layer_norm: the same in the actor
    :param normalize_observations: put a :class:`~sb3_o2o.networks.normalizer.NormalizedExtractor` before each network
    :param state_dependent_std: see :class:`O2OActor`
    :param squash: likewise
    :param n_actors: actors that act as one, see :class:`EnsembleActor`
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
        state_dependent_std: bool = True,
        squash: Squash = "samples",
        n_actors: Count = 1,
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
            "state_dependent_std": state_dependent_std,
            "squash": squash,
            "n_actors": n_actors,
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

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> O2OActor:
        """
        :param features_extractor: the extractor to use; a new one by default
        """
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        extra = self.extra_arguments
        arguments = {
            **kwargs,
            "state_dependent_std": extra["state_dependent_std"],
            "squash": extra["squash"],
            **self.layer_arguments("actor"),
        }
        n_actors = extra["n_actors"]
        actor = O2OActor(**arguments) if n_actors == 1 else EnsembleActor(n_actors=n_actors, **arguments)
        return actor.to(self.device)


class O2OSACCnnPolicy(O2OSACPolicy):
    """:class:`O2OSACPolicy` for images."""

    @checked
    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class O2OSACMultiInputPolicy(O2OSACPolicy):
    """:class:`O2OSACPolicy` for dictionary observations."""

    @checked
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
