"""PPO's policies: Stable-Baselines3's, with a normaliser inside and an actor that objectives can use."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count
from sb3_o2o.networks.distributions import gaussian_log_prob
from sb3_o2o.networks.layers import sequential
from sb3_o2o.networks.normalizer import NormalizedExtractor
from sb3_o2o.networks.preprocessing import extract, image_keys

#: activation functions by the names that YAML can hold
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "gelu": nn.GELU}


class PPOActor:
    """
    The actor's side of a PPO policy as objectives see all actors: actions on the scale of [-1, 1], whatever the
    bounds of the action space.

    PPO's Gaussian is not squashed: actions outside the bounds are clipped on their way into the environment alone.
    Modes, samples and densities here are those of the Gaussian itself, before that clipping, so that their gradients
    do not vanish outside the bounds.

    :param policy: owns the networks
    """

    #: actions have a density
    stochastic: ClassVar[bool] = True

    @checked
    def __init__(self, policy: O2OPPOPolicy):
        self.policy = policy

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        :param obs: ``(batch, *obs)``
        :return: mean and log standard deviation on the scale of [-1, 1], ``(batch, act)``, and no further arguments
        """
        policy = self.policy
        mean = policy.to_unit_scale(policy.mean_actions(policy.latent(obs)))
        return mean, (policy.log_std - policy.action_half_range.log()).expand_as(mean), {}

    def mode(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: the mean, before the clipping, ``(batch, act)``
        """
        return self.get_action_dist_params(obs)[0]

    def log_prob(self, obs: PyTorchObs, actions: th.Tensor, clip: float | None = None) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: on the scale of [-1, 1], ``(batch, act)``
        :param clip: largest magnitude that is scored; none by default, for nothing is infinite at the bounds
        :return: log-density on the scale of [-1, 1], ``(batch,)``
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        return gaussian_log_prob(mean, log_std, actions if clip is None else actions.clamp(-clip, clip))

    def rsample(self, obs: PyTorchObs, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Reparametrised actions, before the clipping, and their log-densities.

        :param obs: ``(batch, *obs)``
        :param noise: standard normal draws, ``(batch, act)``, or ``(batch, k, act)`` for k actions per state
        :return: actions as ``noise``, and log-densities ``(batch,)`` or ``(batch, k)``
        """
        mean, log_std, _ = self.get_action_dist_params(obs)
        if noise.dim() == 3:
            mean, log_std = mean.unsqueeze(1), log_std.unsqueeze(1)
        actions = mean + log_std.exp() * noise
        return actions, gaussian_log_prob(mean, log_std, actions)

    @th.no_grad()
    def set_std(self, std: float) -> None:
        """
        Give the policy the same standard deviation everywhere.

        :param std: on the scale of [-1, 1], > 0
        :raises ValueError: if it is not positive
        """
        if std <= 0:
            raise ValueError(f"The standard deviation of a policy must be positive, not {std}.")
        self.policy.log_std.copy_(math.log(std) + self.policy.action_half_range.log())

    @th.no_grad()
    def limit_std(self, std: float) -> None:
        """
        Lower the standard deviation where it is larger.

        :param std: on the scale of [-1, 1], > 0
        """
        largest = math.log(std) + self.policy.action_half_range.log()
        self.policy.log_std.copy_(th.minimum(self.policy.log_std, largest))


class O2OPPOPolicy(ActorCriticPolicy):
    """
    Stable-Baselines3's ``ActorCriticPolicy`` for bounded continuous actions. Beside its arguments:

    :param normalize_observations: put a :class:`~sb3_o2o.networks.normalizer.NormalizedExtractor` before the networks
    :param squash_mean: the mean is ``tanh`` of the network's output, within the bounds, as IQL's and O2PPO's is; the
        samples are not squashed
    :param value_activation_fn: of the value network; the actor's by default
    :param separate_value_optimizer: the optimiser holds the value network as a group of its own
    """

    log_std: nn.Parameter
    #: the name that ``net_arch`` has for the network of values
    value_network_name: ClassVar[str] = "vf"

    @checked
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[Count] | dict[str, list[Count]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        *,
        normalize_observations: bool = False,
        squash_mean: bool = False,
        value_activation_fn: type[nn.Module] | None = None,
        separate_value_optimizer: bool = False,
        **kwargs: Any,
    ):
        self.extra_arguments: dict[str, Any] = {
            "normalize_observations": normalize_observations,
            "squash_mean": squash_mean,
            "value_activation_fn": value_activation_fn,
            "separate_value_optimizer": separate_value_optimizer,
        }
        self.squash_mean = squash_mean
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch=net_arch, activation_fn=activation_fn, **kwargs
        )
        self.images = image_keys(self)
        low, high = th.as_tensor(action_space.low), th.as_tensor(action_space.high)
        # buffers that are no weights: a stock policy has none of them
        self.register_buffer("action_center", ((high + low) / 2).flatten().to(th.float32), persistent=False)
        self.register_buffer("action_half_range", ((high - low) / 2).flatten().to(th.float32), persistent=False)
        self.action_center: th.Tensor
        self.action_half_range: th.Tensor
        #: the actor's side of the policy; made once, for no compiled graph can hold a constructor that checks
        self.actor = PPOActor(self)

    @property
    def is_stock(self) -> bool:
        """Whether stock Stable-Baselines3 can hold the same networks in its own policy."""
        other_activation = self.extra_arguments["value_activation_fn"] not in (None, self.activation_fn)
        return not (self.extra_arguments["normalize_observations"] or self.squash_mean or other_activation)

    def is_of_values(self, name: str) -> bool:
        """
        :param name: of a parameter or buffer
        :return: whether it belongs to the value network
        """
        return name.startswith(("value_net.", "mlp_extractor.value_net.", "vf_features_extractor."))

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """:return: the features extractor, behind a normaliser where asked."""
        extractor = super().make_features_extractor()
        return NormalizedExtractor(extractor) if self.extra_arguments["normalize_observations"] else extractor

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        activation, layers = self.extra_arguments["value_activation_fn"], self.mlp_extractor.value_net
        for index, layer in enumerate(layers if activation is not None else ()):
            if not isinstance(layer, nn.Linear):
                layers[index] = activation()

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.extra_arguments["separate_value_optimizer"]:
            groups = [{"params": self.actor_parameters()}, {"params": self.value_parameters()}]
            self.optimizer = self.optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def value_parameters(self) -> list[nn.Parameter]:
        """:return: the parameters that only the value loss trains"""
        modules: list[nn.Module] = [self.mlp_extractor.value_net, self.value_net]
        if not self.share_features_extractor:
            modules.append(self.vf_features_extractor)
        return [parameter for module in modules for parameter in module.parameters()]

    def actor_parameters(self) -> list[nn.Parameter]:
        """:return: all others, a shared features extractor's among them"""
        of_values = {id(parameter) for parameter in self.value_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in of_values]

    def actor_features(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: what the actor's features extractor makes of them, ``(batch, features_dim)``
        """
        return extract(self, obs, self.pi_features_extractor)

    def latent(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: what the actor's last hidden layer makes of them, ``(batch, units)``
        """
        return sequential(self.mlp_extractor.policy_net, self.actor_features(obs))

    def values(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: V, without training a shared features extractor, ``(batch,)``
        """
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            features = extract(self, obs, self.vf_features_extractor)
        return self.value_net(sequential(self.mlp_extractor.value_net, features)).squeeze(-1)

    def mean_actions(self, latent: th.Tensor) -> th.Tensor:
        """
        :param latent: ``(batch, units)``
        :return: the Gaussian's mean in the units of the action space, ``(batch, act)``
        """
        mean = self.action_net(latent)
        return self.action_center + self.action_half_range * th.tanh(mean) if self.squash_mean else mean

    def to_unit_scale(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: in the units of the action space, ``(batch, act)``
        :return: the same, with the space's bounds at -1 and 1
        """
        return (actions - self.action_center) / self.action_half_range

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        if not self.squash_mean:
            return super()._get_action_dist_from_latent(latent_pi)
        return self.action_dist.proba_distribution(self.mean_actions(latent_pi), self.log_std)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.extra_arguments}


class O2OPPOCnnPolicy(O2OPPOPolicy):
    """:class:`O2OPPOPolicy` for images."""

    @checked
    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class O2OPPOMultiInputPolicy(O2OPPOPolicy):
    """:class:`O2OPPOPolicy` for dictionary observations."""

    @checked
    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
