"""OPT's third phase: two pairs of critics, of which the policy maximises a mix."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor

from sb3_o2o.checked import checked
from sb3_o2o.data.rewards import scaled_rewards
from sb3_o2o.finetuning.callback import FineTuningCallback
from sb3_o2o.finetuning.kappa import LinearSchedule, accuracy_weight, observed_returns, read_kappa
from sb3_o2o.finetuning.second_critics import SecondCritics
from sb3_o2o.kinds import Count, whole
from sb3_o2o.objectives import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.objectives import functional as F
from sb3_o2o.search_space import Choice, SearchSpace


class DualCritic(FineTuningCallback):
    """
    Two pairs of critics learn on the same batches, each towards target networks of its own, and the policy follows a
    mix of them (OPT; Shin et al. 2025). With :class:`OnlinePretraining` the second pair is the one that it has trained;
    alone, it is a fresh one or a copy.

    - TD3 and what is built on it: ``Q = (1 - kappa) Q_off + kappa Q_on`` at the actor's action takes the place of
      ``Q_off`` in the actor's loss (the paper's equation). ``y_i = r + gamma (1 - d) min Qb_i(s', a')`` for pair i.
    - SAC (ours): the same mix of the two pairs' minima, ``L_pi = alpha log pi - Q``. Both targets hold the same entropy
      term, ``y_i = r + gamma (1 - d) (min Qb_i(s', a') - alpha log pi(a'|s'))``.
    - IQL (ours; the paper has results and no equations): the policy imitates with the weights ``exp(beta A)`` of the
      mixed advantages ``A = (1 - kappa) A_off + kappa A_on``, ``A_i = min Qb_i(s, a) - V_i(s)``. Each pair has
      its own V. The second pair steps first, so A_on is of V_on after its step, A_off of V_off before.

    An online objective that is conservative, such as CQL, stays so for the first pair alone. AWAC is refused: its
    advantages come from a sample of the policy, which the second pair would not see.

    ``kappa="auto"`` (ours) asks how well each pair knows the last ``auto_window`` online steps, every
    ``auto_interval`` of them, and needs to know nothing of the dataset. ``e_i`` is the variance of the pair's error,
    ``Q_i(s, a)`` minus the discounted return that followed; a constant error has no influence on the policy, and
    none on ``e_i``. Where an episode is cut off, the average of both pairs stands for the rest, so that neither is
    favoured; SAC's entropy is left out of the returns. Then ``kappa = e_off / (e_off + e_on)``: 1/2 where both are as
    good, 1 where the second makes no error, and the weight that gives the mix the smallest variance if their errors are
    independent.

    The pair is this callback's, and saved with it: weights, target networks and moments, kappa and the count of steps.
    The window of ``"auto"`` is in resume bundles alone. Another fine-tuning run, and another online objective, begin
    with another pair.

    :param kappa: weight of the second pair: a number in [0, 1]; a :class:`LinearSchedule` over online environment
        steps, or its arguments as a dictionary; the schedule that the paper's code has for a kind of dataset
        (``"random"``, ``"medium"``, ``"medium-replay"``, ``"antmaze"``, ``"antmaze-large-diverse"``,
        ``"adroit-cloned"``); or ``"auto"``
    :param second: the second pair without :class:`OnlinePretraining`: ``"fresh"``, or a ``"copy"`` of the first
    :param auto_window: online steps, of each environment, that ``"auto"`` looks back on, > 1
    :param auto_interval: online steps, over all environments, between two looks, > 0
    :raises ValueError: for an argument out of range, and for a schedule that decreases
    """

    exclusive = ("the second pair of critics",)
    search_space: ClassVar[SearchSpace] = {"second": Choice(("fresh", "copy"))}

    @checked
    def __init__(
        self,
        kappa: Any = "medium-replay",
        second: Literal["fresh", "copy"] = "fresh",
        auto_window: Annotated[int, whole(2)] = 2000,
        auto_interval: Count = 1000,
    ):
        super().__init__()
        self.schedule = read_kappa(kappa)
        self.kappa = kappa
        self.second = second
        self.auto_window = auto_window
        self.auto_interval = auto_interval
        self.recent: deque[tuple[Any, ...]] = deque(maxlen=auto_window)
        self.weight: th.Tensor | None = None
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        #: the second pair, once training has begun; the phases that made another run's stay behind the model
        self.critics: SecondCritics | None = None
        #: environment steps of the run at the first update
        self.first_update: int | None = None
        #: the present weight of the second pair
        self.value = self._scheduled(0) if self.schedule is not None else 0.5
        self.recent.clear()

    def __getstate__(self) -> dict[str, Any]:
        # observations are no weights; resume bundles keep them
        state = {**super().__getstate__(), "weight": None, "recent": deque(maxlen=self.auto_window)}
        if self.critics is not None and self.critics.critic.device.type != "cpu":
            state["critics"] = copy.deepcopy(self.critics).cpu()
        return state

    def init_callback(self, model: Any) -> None:
        """See ``BaseCallback``. Another model's pair is left behind."""
        if getattr(self, "model", model) is not model:
            self.begin_new_run()
        super().init_callback(model)

    # -- the second pair -------------------------------------------------------------------------------------------

    follows: ClassVar[Mapping[str, str]] = {"second_critic": "critic"}

    @property
    def optimizers(self) -> Mapping[str, th.optim.Optimizer]:  # type: ignore[override]
        """Those of the second pair, by the names of their losses."""
        return {} if self.critics is None else self.critics.optimizers

    def update_targets(self, tau: float) -> None:
        """
        :param tau: how far the pair's target networks move
        """
        self._pair.update_targets(tau)

    @property
    def _pair(self) -> SecondCritics:
        assert self.critics is not None, "training has not begun"
        return self.critics

    # -- kappa -----------------------------------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        model: Any = self.model
        if model.phase == "pretraining" and model.online_counters is not None:
            return  # given to ``pretrain``, where there is nothing to mix
        if self.critics is None or not self.critics.attach_to(model.finetuning_objective):
            self.critics = SecondCritics(model.finetuning_objective, copy=self.second == "copy")
        # a tensor, whose value may change without compiling anew
        self.weight = th.full((), self.value, device=model.device)

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """See :meth:`FineTuningCallback.check_run`."""
        objective = self.model.finetuning_objective
        if "advantages" not in objective.unused_hooks and not hasattr(objective, "advantages"):
            raise ValueError(
                f"DualCritic mixes the advantages of two pairs, and {type(objective).__name__} forms its own from a "
                "sample of the policy: choose online_objective='iql' or one whose policy maximises values, or leave "
                "the callback out."
            )

    def _scheduled(self, step: int) -> float:
        if isinstance(self.schedule, LinearSchedule):
            return self.schedule(step, step if self.first_update is None else self.first_update)
        assert self.schedule is not None
        return self.schedule

    def _set(self, value: float) -> None:
        assert self.weight is not None
        self.value = value
        self.weight.fill_(value)

    def _on_step(self) -> bool:
        if self.weight is None:
            return True
        steps = self.model.n_finetuning_steps
        if self.schedule is None:
            self._remember()
            before = steps - self.training_env.num_envs
            is_due = steps // self.auto_interval > before // self.auto_interval
            if is_due and self.first_update is not None:
                self._measure()
        elif self.first_update is not None:
            self._set(self._scheduled(steps))
        self.logger.record("finetune/kappa", self.value)
        return True

    def on_new_episodes(self) -> None:
        """See :meth:`FineTuningCallback.on_new_episodes`."""
        if self.recent:
            *kept, ends = self.recent[-1]
            self.recent[-1] = (*kept, np.ones_like(ends))

    def _remember(self) -> None:
        """One step of all environments, before SB3 stores it."""
        model: Any = self.model
        seen, ends = self.locals, np.asarray(self.locals["dones"], dtype=bool)
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in seen["infos"]], dtype=bool)
        rewards = scaled_rewards(seen["rewards"], model.reward_scale, model.reward_shift)
        observations = model._last_obs
        observations = dict(observations) if isinstance(observations, dict) else observations
        actions = np.asarray(seen["buffer_actions"], dtype=np.float32)
        self.recent.append((observations, actions, rewards, ends & ~truncated, ends))

    def _measure(self) -> None:
        """Set kappa to what the recent steps say."""
        first, second = self._pair_values()
        rewards, terminals, ends = (np.stack([row[column] for row in self.recent]) for column in (2, 3, 4))
        tails = (first + second) / 2
        returns, observed = observed_returns(rewards, terminals, ends, tails, self.model.finetuning_objective.gamma)
        if observed.sum() < 2:
            return
        errors = [float(np.var((values - returns)[observed])) for values in (first, second)]
        self._set(accuracy_weight(*errors))
        for name, error in zip(("first", "second"), errors, strict=True):
            self.logger.record(f"finetune/{name}_pair_error", error)

    @th.no_grad()
    def _pair_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Q of both pairs at the recent steps, ``(T, n_envs)`` each."""
        model: Any = self.model
        first, actions = self.recent[0][0], np.concatenate([row[1] for row in self.recent])
        observations: Any
        if isinstance(first, dict):
            observations = {key: np.concatenate([row[0][key] for row in self.recent]) for key in first}
        else:
            observations = np.concatenate([row[0] for row in self.recent])
        tensors = obs_as_tensor(observations, model.device), th.as_tensor(actions, device=model.device)
        shape = len(self.recent), -1
        return tuple(  # type: ignore[return-value]
            F.reduce_ensemble(critic.q_values(*tensors), model.actor_critics).cpu().double().numpy().reshape(shape)
            for critic in (model.critic, self._pair.critic)
        )

    # -- update ----------------------------------------------------------------------------------------------------

    def critic_steps(self, batch: Batch) -> Iterator[Step]:
        """
        :param batch: the critics' transitions
        :return: the second pair's step on them
        """
        if self.first_update is None:
            self.first_update = self.model.n_finetuning_steps
            if self.schedule is None and self.recent:
                self._measure()
        draws = self.model.finetuning_objective.second_draws(batch)
        yield Step(self.second_losses, (batch, draws))

    def second_losses(self, batch: Batch, draws: tuple[Any, ...]) -> LossesAndMetrics:
        """
        :param batch: the critics' transitions
        :param draws: random numbers and temperature
        :return: the second pair's losses
        """
        model: Any = self.model
        return model.finetuning_objective.second_losses(self._pair, batch, *draws)

    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param values: of the first pair, ``(B,)``
        :param actions: the policy's, ``(B, act)``
        :param batch: the actor's transitions
        :return: mixed with those of the second
        """
        model: Any = self.model
        critic = self._pair.critic
        if model.actor_critics == "first":
            second = critic.q1_forward(batch.observations, actions).squeeze(1)
        else:
            second = F.reduce_ensemble(critic.q_values(batch.observations, actions), model.actor_critics)
        assert self.weight is not None
        return FF.mixed_values(values, second, self.weight)

    def advantages(self, advantages: th.Tensor, batch: Batch) -> th.Tensor:
        """
        :param advantages: of the first pair, ``(B,)``
        :param batch: the actor's transitions
        :return: mixed with those of the second
        """
        model: Any = self.model
        second = model.finetuning_objective.advantages(batch, self._pair).detach()
        assert self.weight is not None
        return FF.mixed_values(advantages, second, self.weight)
