"""PPO, offline to online."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common import policies as stock
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_o2o.algorithms.arguments import fills_in_recipe
from sb3_o2o.algorithms.on_policy import O2OOnPolicyAlgorithm
from sb3_o2o.networks.ppo_policies import O2OPPOCnnPolicy, O2OPPOMultiInputPolicy, O2OPPOPolicy
from sb3_o2o.objectives import PPO_OBJECTIVES
from sb3_o2o.recipes.reading import Recipe
from sb3_o2o.transfer.archive import opens_family


@opens_family
class O2OPPO(O2OOnPolicyAlgorithm, PPO):
    """
    Proximal policy optimisation that pre-trains on a fixed dataset and fine-tunes online. ``learn`` is
    Stable-Baselines3's own: with the arguments below at their defaults it is followed bit for bit. PPO learns online
    from its last rollout alone, so the dataset is for the time before. Arguments of PPO as there, of which
    ``learning_rate`` may also be ``"lin_3e-4"``: falling linearly to 0, which it reaches in the last rollout, as in
    Stable-Baselines3 (the release of O2PPO ends at 1/n of the rate, n being the number of rollouts). Beside them:

    :param objective: what ``pretrain`` minimises: ``"bc"`` or ``"iql"``
    :param objective_kwargs: its arguments
    :param finetuning: fine-tuning callbacks: objects, names, or ``{name: arguments}``
    :param recipe: a recipe, its name or the path of one, which fills in every argument left out
    :param value_learning_rate: learning rate of the value network, which then has an Adam and a clipping of its
        gradients by ``max_grad_norm`` apart from the actor's, as in O2PPO; one for both by default
    :param pretrain_learning_rate: of ``pretrain``, which has an optimiser of its own; ``learning_rate`` by default
    :param pretrain_batch_size: transitions per gradient step of ``pretrain``
    :param normalize_observations: normalise observations by the dataset's mean and standard deviation, which
        become part of the policy
    :param reward_scale: training rewards are ``reward_scale * r + reward_shift``, offline and online;
        evaluation sees ``r``
    :param reward_shift: see ``reward_scale``
    :param dataset: dataset for ``pretrain`` and for callbacks: an id, a path, or an ``OfflineDataset``
    :param dataset_kwargs: arguments of ``OfflineDataset.load``
    :param pretrain_steps: gradient steps that ``learn`` makes on ``dataset`` first, if they have not been made
    :param compile: compile the loss functions of the offline phases with ``torch.compile``
    :raises ValueError: for an argument out of range, an unknown name, actions that are not continuous and bounded, or
        gSDE
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": O2OPPOPolicy,
        "CnnPolicy": O2OPPOCnnPolicy,
        "MultiInputPolicy": O2OPPOMultiInputPolicy,
    }
    available_objectives: ClassVar = PPO_OBJECTIVES  # type: ignore[misc]
    stock_class: ClassVar = PPO
    stock_policies: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {
        stock.ActorCriticPolicy: O2OPPOPolicy,
        stock.ActorCriticCnnPolicy: O2OPPOCnnPolicy,
        stock.MultiInputActorCriticPolicy: O2OPPOMultiInputPolicy,
    }
    policy: O2OPPOPolicy

    @fills_in_recipe
    def __init__(
        self,
        policy: str | type[stock.ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        objective: str = "bc",
        objective_kwargs: dict[str, Any] | None = None,
        finetuning: list[Any] | None = None,
        recipe: str | Recipe | None = None,
        value_learning_rate: float | str | Schedule | None = None,
        pretrain_learning_rate: float | str | Schedule | None = None,
        pretrain_batch_size: int = 256,
        normalize_observations: bool = False,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        dataset: Any = None,
        dataset_kwargs: dict[str, Any] | None = None,
        pretrain_steps: int = 0,
        compile: bool = False,
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy=policy,
            env=env,  # type: ignore[arg-type]
            learning_rate=learning_rate,  # type: ignore[arg-type]
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
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
            objective_kwargs=objective_kwargs,
            finetuning=finetuning,
            recipe=recipe,
            value_learning_rate=value_learning_rate,
            pretrain_learning_rate=pretrain_learning_rate,
            pretrain_batch_size=pretrain_batch_size,
            normalize_observations=normalize_observations,
            reward_scale=reward_scale,
            reward_shift=reward_shift,
            dataset=dataset,
            dataset_kwargs=dataset_kwargs,
            pretrain_steps=pretrain_steps,
            compile=compile,
        )
        if _init_setup_model:
            self._setup_model()
