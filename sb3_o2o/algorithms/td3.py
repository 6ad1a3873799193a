"""TD3, offline to online."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.td3 import policies as stock

from sb3_o2o.algorithms.arguments import fills_in_recipe
from sb3_o2o.algorithms.off_policy import O2OOffPolicyAlgorithm
from sb3_o2o.networks.ensemble import EnsembleCritic
from sb3_o2o.networks.td3_policies import O2OTD3Actor, O2OTD3CnnPolicy, O2OTD3MultiInputPolicy, O2OTD3Policy
from sb3_o2o.objectives import TD3_OBJECTIVES
from sb3_o2o.recipes.reading import Recipe
from sb3_o2o.transfer.archive import opens_family


@opens_family
class O2OTD3(O2OOffPolicyAlgorithm, TD3):
    """
    Twin delayed deterministic policy gradient that pre-trains on a fixed dataset and fine-tunes online. With the
    arguments below at their defaults it follows Stable-Baselines3's TD3. Arguments of TD3 as there, of which
    ``policy_delay`` holds offline as well: every ``policy_delay``-th update moves the actor and both target networks.
    Beside them:

    :param action_noise: as there, or a number: the standard deviation of Gaussian noise on the scale of [-1, 1]
    :param objective: what ``pretrain`` minimises: ``"td3"``, ``"bc"``, ``"td3_bc"``, ``"iql"`` or ``"spot"``
    :param online_objective: what ``learn`` minimises; ``"td3"`` by default
    :param objective_kwargs: arguments of the offline objective
    :param online_objective_kwargs: arguments of the online objective; an online objective of the same name goes
        on as the offline one, value network included, unless its arguments differ
    :param finetuning: fine-tuning callbacks: objects, names, or ``{name: arguments}``
    :param recipe: a recipe, its name or the path of one, which fills in every argument left out
    :param n_critics: critics in the ensemble, N
    :param critic_layer_norm: layer normalisation in the critics, before each activation
    :param actor_layer_norm: the same in the actor
    :param actor_batch: where it steps, the actor does so on its last ``"minibatch"`` or on the whole ``"block"`` of
        ``gradient_steps * batch_size`` transitions, which are then drawn at once
    :param qf_learning_rate: the critics' learning rate; ``learning_rate`` by default
    :param critic_subset: target critics drawn at each update, of which the minimum is taken (REDQ); all by default
    :param subset_replacement: draw them with replacement
    :param actor_critics: the actor maximises the ``"first"`` critic, or the ``"min"`` or ``"mean"`` over all
    :param normalize_observations: normalise observations by the dataset's mean and standard deviation, which
        become part of the policy
    :param reward_scale: training rewards are ``reward_scale * r + reward_shift``, offline and online;
        evaluation sees ``r``
    :param reward_shift: see ``reward_scale``
    :param dataset: dataset for ``pretrain`` and for callbacks: an id, a path, or an ``OfflineDataset``
    :param dataset_kwargs: arguments of ``OfflineDataset.load``
    :param pretrain_steps: gradient steps that ``learn`` makes on ``dataset`` first, if they have not been made
    :param pretrain_kwargs: arguments of this list that have another value while pre-training: learning rates,
        ``batch_size``, ``tau``, and all that concerns the critics (of ``policy_kwargs`` ``{"net_arch": {"qf": […]}}``).
        Those of fine-tuning hold from the first ``learn`` or ``load_offline`` on, with fresh critics where their
        architecture is another one. An argument given beside a ``recipe`` holds in both phases
    :param compile: compile the loss functions with ``torch.compile``
    :param precision: ``"bf16"`` runs the matrix products in bfloat16; weights, targets and optimisers stay float32
    :raises ValueError: for an argument out of range or an unknown name
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": O2OTD3Policy,
        "CnnPolicy": O2OTD3CnnPolicy,
        "MultiInputPolicy": O2OTD3MultiInputPolicy,
    }
    available_objectives: ClassVar = TD3_OBJECTIVES  # type: ignore[misc]
    default_online_objective: ClassVar[str] = "td3"
    pretrain_keys: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "qf_learning_rate", "batch_size", "tau"),
        *("policy_delay", "target_policy_noise", "target_noise_clip"),
        *("n_critics", "critic_layer_norm", "policy_kwargs", "critic_subset", "subset_replacement", "actor_critics"),
    )
    stock_class: ClassVar = TD3
    stock_policies: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {
        stock.TD3Policy: O2OTD3Policy,
        stock.CnnPolicy: O2OTD3CnnPolicy,
        stock.MultiInputPolicy: O2OTD3MultiInputPolicy,
    }
    policy: O2OTD3Policy
    actor: O2OTD3Actor
    actor_target: O2OTD3Actor
    critic: EnsembleCritic  # type: ignore[assignment]
    critic_target: EnsembleCritic  # type: ignore[assignment]

    @fills_in_recipe
    def __init__(
        self,
        policy: str | type[stock.TD3Policy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | float | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        objective: str = "td3",
        online_objective: str | None = None,
        objective_kwargs: dict[str, Any] | None = None,
        online_objective_kwargs: dict[str, Any] | None = None,
        finetuning: list[Any] | None = None,
        recipe: str | Recipe | None = None,
        n_critics: int = 2,
        critic_layer_norm: bool = False,
        actor_layer_norm: bool = False,
        actor_batch: str = "minibatch",
        qf_learning_rate: float | Schedule | None = None,
        critic_subset: int | None = None,
        subset_replacement: bool = False,
        actor_critics: str = "first",
        normalize_observations: bool = False,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        dataset: Any = None,
        dataset_kwargs: dict[str, Any] | None = None,
        pretrain_steps: int = 0,
        pretrain_kwargs: dict[str, Any] | None = None,
        compile: bool = False,
        precision: str = "fp32",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy=policy,
            env=env,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,  # type: ignore[arg-type]
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_delay=policy_delay,
            target_policy_noise=target_policy_noise,
            target_noise_clip=target_noise_clip,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self._init_offline_to_online(
            objective=objective,
            online_objective=online_objective,
            objective_kwargs=objective_kwargs,
            online_objective_kwargs=online_objective_kwargs,
            finetuning=finetuning,
            recipe=recipe,
            n_critics=n_critics,
            critic_layer_norm=critic_layer_norm,
            actor_layer_norm=actor_layer_norm,
            actor_batch=actor_batch,
            qf_learning_rate=qf_learning_rate,
            critic_subset=critic_subset,
            subset_replacement=subset_replacement,
            actor_critics=actor_critics,
            normalize_observations=normalize_observations,
            reward_scale=reward_scale,
            reward_shift=reward_shift,
            dataset=dataset,
            dataset_kwargs=dataset_kwargs,
            pretrain_steps=pretrain_steps,
            pretrain_kwargs=pretrain_kwargs,
            compile=compile,
            precision=precision,
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.target_policy_noise < 0 or self.target_noise_clip < 0:
            raise ValueError(
                "target_policy_noise and target_noise_clip must be >= 0, not "
                f"{self.target_policy_noise} and {self.target_noise_clip}."
            )
        super()._setup_model()
        # under the names by which the shared update copies them
        self.batch_norm_stats = [*self.critic_batch_norm_stats, *self.actor_batch_norm_stats]
        self.batch_norm_stats_target = [*self.critic_batch_norm_stats_target, *self.actor_batch_norm_stats_target]

    def draws_blocks(self, gradient_steps: int) -> bool:
        """Only for an actor that steps on them: stock TD3 draws each minibatch by itself."""
        return self.actor_batch == "block" and gradient_steps > 1

    def is_actor_step(self) -> bool:
        return self._n_updates % self.policy_delay == 0

    def is_target_step(self, step: int, is_actor_step: bool) -> bool:
        return is_actor_step

    def target_pairs(self) -> list[tuple[th.nn.Module, th.nn.Module]]:
        return [*super().target_pairs(), (self.actor, self.actor_target)]
