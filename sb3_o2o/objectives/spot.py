"""SPOT: a support constraint by an explicit density of the dataset's actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, Fraction, NotNegative, Positive
from sb3_o2o.networks.density import ConditionalVAE
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives.learner import TD3Learner
from sb3_o2o.objectives.objective import CriticReduction, TargetReduction
from sb3_o2o.objectives.td3_objective import TD3Objective
from sb3_o2o.search_space import Range, SearchSpace


class SPOTObjective(TD3Objective):
    """
    SPOT (Wu et al. 2022, "Supported policy optimization for offline reinforcement learning"), wired as in the official
    code: TD3 whose actor also pays for actions that are unlikely in the dataset, ``-Q / mean |Q| + lambda (-log
    beta(a|s))``. The density is a conditional VAE, trained before everything else and frozen from then on. Online
    lambda falls with the environment steps, ``lambda max(floor, 1 - t / cooldown_steps)``; the official code counts
    updates, of which it makes one in each step.

    An online objective ``"spot"`` with other arguments shares the VAE of the offline one, which has to be ``"spot"``
    as well. The VAE reads the critics' features, so observations are normalised where the policy's are.

    :param model: the algorithm whose networks are trained
    :param weight: lambda, >= 0; 0.025 to 1 in the papers, by environment and dataset
    :param cooldown_steps: environment steps of the fine-tuning run in which lambda would fall to 0, > 0
    :param cooldown_floor: part of lambda that stays, in [0, 1]; 1 keeps all of it
    :param density: ``"elbo"``, or ``"iwae"`` for the importance-weighted bound. That is a log-density over all
        dimensions where the other is a mean over them: lambda has another scale
    :param n_samples: latent samples per action, at least 1
    :param beta: weight of the VAE's divergence, > 0
    :param density_steps: gradient steps of the VAE, at least 1
    :param density_learning_rate: its learning rate, > 0
    :param density_net_arch: units per hidden layer of its encoder and its decoder; two layers of 750 by default
    :param online_gamma: discount factor while fine-tuning, in [0, 1]; the model's by default
    :param flatten_observations: let the VAE read dictionary observations, as one vector
    :param critic_reduction: see :class:`~sb3_o2o.objectives.td3_objective.TD3Objective`
    :param target_reduction: likewise
    :raises ValueError: for an argument out of range, or observations that the VAE cannot read
    """

    preparation: ClassVar[str] = "density (VAE)"
    penalty_weight: th.Tensor
    density: ConditionalVAE
    density_steps: int
    search_space: ClassVar[SearchSpace] = {"weight": Range(0.02, 2.0, log=True), "cooldown_floor": Range(0.0, 1.0)}

    @checked
    def __init__(
        self,
        model: TD3Learner,
        *,
        weight: NotNegative = 0.1,
        cooldown_steps: Count = 1_000_000,
        cooldown_floor: Fraction = 0.2,
        density: Literal["elbo", "iwae"] = "elbo",
        n_samples: Count = 1,
        beta: Positive = 0.5,
        density_steps: Count = 100_000,
        density_learning_rate: Positive = 1e-3,
        density_net_arch: list[Count] | None = None,
        online_gamma: Fraction | None = None,
        flatten_observations: bool = False,
        critic_reduction: CriticReduction = "sum",
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(model, critic_reduction=critic_reduction, target_reduction=target_reduction)
        if online_gamma is not None and model.n_steps > 1:
            raise ValueError(
                f"online_gamma of objective 'spot' needs n_steps=1, not {model.n_steps}: longer returns are discounted "
                "by the buffers. Give load_offline another gamma instead."
            )
        self.weight = weight
        self.cooldown_steps = cooldown_steps
        self.cooldown_floor = cooldown_floor
        self.density_form = density
        self.n_samples = n_samples
        self.beta = beta
        self.online_gamma = online_gamma
        # a tensor that is filled anew, so that what is compiled sees the same object
        self.register_buffer("penalty_weight", th.full((1,), float(weight), device=model.device), persistent=False)
        offline = getattr(model, "offline_objective", None)
        if isinstance(offline, SPOTObjective):
            self.density, self.density_steps = offline.density, offline.density_steps
            self.optimizers["density"] = offline.optimizers["density"]
            return
        self.density_steps = density_steps
        state_dim = _state_dim(model, flatten_observations)
        net_arch = [750, 750] if density_net_arch is None else list(density_net_arch)
        self.density = ConditionalVAE(state_dim, model.action_dim, net_arch).to(model.device)
        self.optimizers["density"] = FusedAdam(self.density.parameters(), lr=density_learning_rate)

    @property
    def gamma(self) -> float:
        """See :attr:`Objective.gamma`."""
        is_offline = self.model.phase == "pretraining"
        return self.model.gamma if is_offline or self.online_gamma is None else self.online_gamma

    # -- density ---------------------------------------------------------------------------------------------------

    def preparation_progress(self) -> tuple[int, int]:
        """See :meth:`Objective.preparation_progress`."""
        return int(self.density.n_updates), self.density_steps

    def preparation_steps(self, batch: Batch) -> Iterator[Step]:
        """See :meth:`Objective.preparation_steps`."""
        yield Step(self.density_losses, (batch, self.latent_noise(batch)))
        self.density.n_updates += 1

    def check_prepared(self) -> None:
        """See :meth:`Objective.check_prepared`."""
        done, total = self.preparation_progress()
        if done < total:
            raise ValueError(
                f"Online objective 'spot' needs its density model, of which {done} of {total} gradient steps are made: "
                "call pretrain with objective='spot' first."
            )

    def latent_noise(self, batch: Batch) -> th.Tensor:
        """
        :param batch: transitions
        :return: standard normal draws for the latent samples, ``(B, K, latent)``
        """
        return self.model.draws.normal("density", (len(batch), self.n_samples, self.density.latent_dim))

    def density_losses(self, batch: Batch, noise: th.Tensor) -> LossesAndMetrics:
        """
        :param batch: transitions of the dataset
        :param noise: standard normal draws, ``(B, K, latent)``
        :return: the VAE's loss
        """
        loss = self.negative_log_density(batch.observations, batch.actions, noise, "elbo")
        return {"density": loss.mean()}, {}

    def negative_log_density(
        self, observations: PyTorchObs, actions: th.Tensor, noise: th.Tensor, form: str
    ) -> th.Tensor:
        """
        :param observations: ``(B, *obs)``
        :param actions: in [-1, 1], ``(B, act)``
        :param noise: standard normal draws, ``(B, K, latent)``
        :param form: ``"elbo"`` or ``"iwae"``
        :return: ``(B,)``
        """
        with th.no_grad():
            states = self.model.critic.features(observations)
        mean, log_std = self.density.encode(states, actions)
        latents = mean[:, None] + log_std.exp()[:, None] * noise
        reconstructions = self.density.decode(states, latents)
        if form == "elbo":
            return F.negative_elbo(reconstructions, actions, mean, log_std, self.beta)
        return F.importance_weighted_bound(reconstructions, actions, mean, log_std, noise, self.beta)

    # -- actor -----------------------------------------------------------------------------------------------------

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        yield from super().steps(batch, None)
        if actor_batch is not None:
            self.penalty_weight.fill_(self.current_weight())
            yield Step(self.actor_losses, (actor_batch, self.latent_noise(actor_batch), self.penalty_weight))

    def current_weight(self) -> float:
        """:return: lambda: constant while pre-training, then falling with the environment steps"""
        if self.model.phase == "pretraining":
            return self.weight
        return self.weight * max(self.cooldown_floor, 1 - self.model.n_finetuning_steps / self.cooldown_steps)

    def actor_losses(self, batch: Batch, noise: th.Tensor, weight: th.Tensor) -> LossesAndMetrics:  # type: ignore[override]
        """
        :param batch: the actor's transitions
        :param noise: standard normal draws for the latent samples, ``(B, K, latent)``
        :param weight: lambda, ``(1,)``
        :return: the actor's loss
        """
        actions, values = self.policy_values(batch)
        penalty = self.negative_log_density(batch.observations, actions, noise, self.density_form)
        loss = F.spot_loss(values, penalty, weight)
        losses, metrics = self.model.hooks.actor_losses(loss, actions, None, batch)
        return losses, {**metrics, "density_penalty": penalty.detach().mean(), "density_weight": weight.clone()}


def _state_dim(model: TD3Learner, flatten_observations: bool) -> int:
    """
    :param model: whose critics' features the VAE reads
    :param flatten_observations: whether dictionaries may be read as one vector
    :return: number of features
    :raises ValueError: if they are not the observations themselves
    """
    space = model.observation_space
    if isinstance(space, spaces.Dict) and not flatten_observations:
        raise ValueError(
            f"The density model of objective 'spot' reads vectors, and the observations are a dictionary "
            f"({', '.join(space.spaces)}): flatten them, in the environment and the dataset, with "
            "sb3_o2o.wrappers.FlattenGoalObservation, or let the model alone read them as one vector with "
            "objective_kwargs={'flatten_observations': True}."
        )
    entries = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    extractor = model.critic.features_extractor
    if any(is_image_space(entry) for entry in entries) or any(True for _ in extractor.parameters()):
        raise ValueError(
            "The density model of objective 'spot' reads vectors: images, and features that are trained, would change "
            "under it."
        )
    return extractor.features_dim
