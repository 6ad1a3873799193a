"""SAC, offline to online."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.sac import policies as stock

from sb3_o2o.algorithms.arguments import fills_in_recipe
from sb3_o2o.algorithms.off_policy import O2OOffPolicyAlgorithm
from sb3_o2o.networks.ensemble import EnsembleCritic
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.networks.policies import O2OActor, O2OSACCnnPolicy, O2OSACMultiInputPolicy, O2OSACPolicy
from sb3_o2o.objectives import SAC_OBJECTIVES
from sb3_o2o.recipes.reading import Recipe
from sb3_o2o.transfer.archive import opens_family
from sb3_o2o.transfer.temperature import stated_start
from sb3_o2o.updates.phases import PRETRAINING


@opens_family
class O2OSAC(O2OOffPolicyAlgorithm, SAC):
    """
    Soft actor-critic that pre-trains on a fixed dataset and fine-tunes online. With the arguments below at their
    defaults it follows Stable-Baselines3's SAC. Arguments of SAC as there; beside them:

    :param ent_coef: as there. Where pre-training has tuned no temperature (``"iql"``, ``"bc"``), fine-tuning starts
        where ``"auto_0.1"`` says, and with plain ``"auto"`` at 0.2 (Luo et al. 2024)
    :param action_noise: as there, or a number: the standard deviation of Gaussian noise on the scale of [-1, 1]
    :param objective: what ``pretrain`` minimises: ``"sac"``, ``"bc"``, ``"cql"``, ``"calql"``, ``"iql"``,
        ``"sac_n"`` or ``"edac"``
    :param online_objective: what ``learn`` minimises; ``"sac"`` by default
    :param objective_kwargs: arguments of the offline objective
    :param online_objective_kwargs: arguments of the online objective; an online objective of the same name goes
        on as the offline one, multiplier included, unless its arguments differ
    :param finetuning: fine-tuning callbacks: objects, names, or ``{name: arguments}``
    :param recipe: a recipe, its name or the path of one, which fills in every argument left out
    :param n_critics: critics in the ensemble, N
    :param critic_layer_norm: layer normalisation in the critics, before each activation
    :param actor_layer_norm: the same in the actor
    :param policy_delay: critic updates per actor and temperature update when fine-tuning; pre-training updates all
    :param actor_batch: with a delay, the actor steps on its last ``"minibatch"`` (RLPD) or on the whole
        ``"block"`` of ``gradient_steps * batch_size`` transitions (WSRL)
    :param qf_learning_rate: the critics' learning rate; ``learning_rate`` by default
    :param ent_coef_learning_rate: the temperature's; ``learning_rate`` by default
    :param critic_subset: target critics drawn at each update, of which the minimum is taken (REDQ); all by default
    :param subset_replacement: draw them with replacement, as the official WSRL code does
    :param actor_critics: the actor maximises the ``"min"`` or the ``"mean"`` over all critics, or the ``"first"``
    :param entropy_backup: include the entropy in the TD target
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
        "MlpPolicy": O2OSACPolicy,
        "CnnPolicy": O2OSACCnnPolicy,
        "MultiInputPolicy": O2OSACMultiInputPolicy,
    }
    policy_arguments: ClassVar[tuple[str, ...]] = (*O2OOffPolicyAlgorithm.policy_arguments, "use_sde")
    available_objectives: ClassVar = SAC_OBJECTIVES  # type: ignore[misc]
    default_online_objective: ClassVar[str] = "sac"
    pretrain_keys: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "qf_learning_rate", "ent_coef_learning_rate", "ent_coef"),
        *("batch_size", "tau", "target_update_interval"),
        *("n_critics", "critic_layer_norm", "policy_kwargs"),
        *("critic_subset", "subset_replacement", "actor_critics", "entropy_backup"),
    )
    stock_class: ClassVar = SAC
    stock_policies: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {
        stock.SACPolicy: O2OSACPolicy,
        stock.CnnPolicy: O2OSACCnnPolicy,
        stock.MultiInputPolicy: O2OSACMultiInputPolicy,
    }
    ent_coef_learning_rate: float | Schedule | None
    entropy_backup: bool
    policy: O2OSACPolicy
    actor: O2OActor
    critic: EnsembleCritic  # type: ignore[assignment]
    critic_target: EnsembleCritic  # type: ignore[assignment]

    @fills_in_recipe
    def __init__(
        self,
        policy: str | type[stock.SACPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
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
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        objective: str = "sac",
        online_objective: str | None = None,
        objective_kwargs: dict[str, Any] | None = None,
        online_objective_kwargs: dict[str, Any] | None = None,
        finetuning: list[Any] | None = None,
        recipe: str | Recipe | None = None,
        n_critics: int = 2,
        critic_layer_norm: bool = False,
        actor_layer_norm: bool = False,
        policy_delay: int = 1,
        actor_batch: str = "minibatch",
        qf_learning_rate: float | Schedule | None = None,
        ent_coef_learning_rate: float | Schedule | None = None,
        critic_subset: int | None = None,
        subset_replacement: bool = False,
        actor_critics: str = "min",
        entropy_backup: bool = True,
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
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
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
            policy_delay=policy_delay,
            actor_batch=actor_batch,
            qf_learning_rate=qf_learning_rate,
            ent_coef_learning_rate=ent_coef_learning_rate,
            critic_subset=critic_subset,
            subset_replacement=subset_replacement,
            actor_critics=actor_critics,
            entropy_backup=entropy_backup,
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
        if isinstance(self.ent_coef, str):
            _automatic("ent_coef", self.ent_coef)
        self._resolve_target_entropy()
        super()._setup_model()
        if self.ent_coef_optimizer is not None:
            self.ent_coef_optimizer = FusedAdam([self.log_ent_coef], lr=self.lr_schedule(1))

    def _resolve_target_entropy(self) -> None:
        """``"auto_0.5"`` is half of SAC's ``-|A|``, as RLPD has it; written as SB3 writes ``ent_coef="auto_0.1"``."""
        if isinstance(self.target_entropy, str):
            number = _automatic("target_entropy", self.target_entropy)
            if self.target_entropy.startswith("auto"):
                self.target_entropy = -number * self.action_dim

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.ent_coef_lr_schedule = self._schedule_or_default(self.ent_coef_learning_rate)

    def fix_ent_coef(self, ent_coef: float) -> None:
        """
        Stop tuning the temperature.

        :param ent_coef: its value from now on
        """
        self.ent_coef = ent_coef
        self.ent_coef_tensor = th.tensor(float(ent_coef), device=self.device)
        self.log_ent_coef, self.ent_coef_optimizer = None, None

    def tune_ent_coef(self, ent_coef: str) -> None:
        """
        Tune the temperature from now on.

        :param ent_coef: ``"auto"``, or ``"auto_0.1"`` to start there; else it starts at 1
        """
        self.ent_coef = ent_coef
        self.log_ent_coef = th.full((1,), math.log(stated_start(ent_coef) or 1.0), device=self.device).requires_grad_()
        self.ent_coef_optimizer = FusedAdam([self.log_ent_coef], lr=self.ent_coef_lr_schedule(1))

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        optimizers = super().optimizers()
        if self.ent_coef_optimizer is not None:
            optimizers["ent_coef"] = self.ent_coef_optimizer
        return optimizers

    def learning_rates(self) -> dict[str, Schedule]:
        return {**super().learning_rates(), "ent_coef": self.ent_coef_lr_schedule}

    def draws_blocks(self, gradient_steps: int) -> bool:
        return self.policy_delay > 1 and gradient_steps > 1

    def is_actor_step(self) -> bool:
        """Pre-training updates the actor at every step; fine-tuning counts its own, so that blocks stay aligned."""
        if self.phase == PRETRAINING:
            return True
        self.finetuning_run.n_updates += 1
        return self.finetuning_run.n_updates % self.policy_delay == 0

    def is_target_step(self, step: int, is_actor_step: bool) -> bool:
        counter = self._n_updates - 1 if self.phase == PRETRAINING else step
        return counter % self.target_update_interval == 0

    def set_ent_coef(self, ent_coef: float) -> None:
        """
        Start afresh with another temperature; one that is tuned goes on from there.

        :param ent_coef: temperature alpha, > 0
        """
        with th.no_grad():
            if self.log_ent_coef is None:
                self.ent_coef_tensor.fill_(ent_coef)
            else:
                self.log_ent_coef.fill_(math.log(ent_coef))
        if self.ent_coef_optimizer is not None:
            self.ent_coef_optimizer.state.clear()

    def current_ent_coef(self) -> th.Tensor:
        """:return: the temperature alpha, without gradient"""
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()


def _automatic(name: str, text: str) -> float:
    """
    :param name: of the argument, for the error
    :param text: ``"auto"``, ``"auto_0.1"``, or a number as text
    :return: the number, 1 for ``"auto"`` alone
    :raises ValueError: if there is another text
    """
    try:
        return float(text.removeprefix("auto").removeprefix("_") or 1.0)
    except ValueError:
        raise ValueError(f"{name} must be a number, 'auto' or one like 'auto_0.5', not {text!r}.") from None
