"""The density of a dataset's actions: SPOT's conditional variational auto-encoder."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count
from sb3_o2o.networks.layers import heads, sequential


class ConditionalVAE(nn.Module):
    """
    A variational auto-encoder of actions given a state (Sohn et al. 2015), in the shape of BCQ's and SPOT's: two latent
    dimensions for each action dimension, a standard normal prior, reconstructions squashed to [-1, 1].

    :param state_dim: size of a state
    :param action_dim: number of action dimensions
    :param net_arch: units per hidden layer, of encoder and decoder each
    """

    n_updates: th.Tensor

    @checked
    def __init__(self, state_dim: Count, action_dim: Count, net_arch: list[Count]):
        super().__init__()
        self.latent_dim = 2 * action_dim
        width = net_arch[-1]
        self.encoder = nn.Sequential(*create_mlp(state_dim + action_dim, -1, net_arch))
        self.mean, self.log_std = nn.Linear(width, self.latent_dim), nn.Linear(width, self.latent_dim)
        decoder = create_mlp(state_dim + self.latent_dim, action_dim, net_arch, squash_output=True)
        self.decoder = nn.Sequential(*decoder)
        #: gradient steps behind it: they travel with the weights
        self.register_buffer("n_updates", th.zeros((), dtype=th.int64))

    def encode(self, states: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param states: ``(B, state)``
        :param actions: in [-1, 1], ``(B, act)``
        :return: mean and log standard deviation of the posterior, the latter in [-4, 15], ``(B, latent)``
        """
        mean, log_std = heads(sequential(self.encoder, th.cat([states, actions], dim=1)), self.mean, self.log_std)
        return mean, log_std.clamp(-4, 15)

    def decode(self, states: th.Tensor, latents: th.Tensor) -> th.Tensor:
        """
        :param states: ``(B, state)``
        :param latents: ``(B, K, latent)``
        :return: reconstructed actions, ``(B, K, act)``
        """
        repeated = states.unsqueeze(1).expand(-1, latents.shape[1], -1)
        rows = th.cat([repeated, latents], dim=2).flatten(0, 1)
        return sequential(self.decoder, rows).unflatten(0, latents.shape[:2])
