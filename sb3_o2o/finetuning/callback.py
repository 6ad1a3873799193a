"""The fine-tuning callback: Stable-Baselines3's ``BaseCallback`` with hooks into the update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.data import ReplaySamples
from sb3_o2o.finetuning.fine_tuned_learner import FineTunedLearner
from sb3_o2o.plain import add_safe_globals
from sb3_o2o.search_space import SearchSpace

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch, Penalty, Step

Function = TypeVar("Function", bound=Callable[..., Any])


def hook(function: Function) -> Function:
    """Mark a method that does nothing until a sub-class overrides it, so that the update can skip it."""
    function.is_no_op = True  # type: ignore[attr-defined]
    return function


#: what several of ours decide, each in its own way
FIRST_UPDATE = "when the first online update comes"
MIXTURE = "how the dataset is mixed with the online transitions"


class FineTuningCallback(BaseCallback):
    """
    An SB3 callback that may also change how updates are made. Override any of the hooks below beside SB3's own
    (``_on_training_start``, ``_on_step``, …); the rest costs nothing. Given to the constructor or to
    ``load_offline`` it is saved with the model; given to ``learn(callback=…)`` it lives as long as the call.

    Keep what must survive saving in plain attributes or tensors of the callback. ``_init_callback`` is called where
    ``learn`` checks its callbacks, when nothing has been logged yet, and again by Stable-Baselines3: look there, and
    begin in ``_on_training_start``.
    """

    #: the algorithm; many of ours look at more of it than this and say so with ``Any``
    model: FineTunedLearner  # type: ignore[assignment]
    #: optimisers of what the callback trains in ``critic_steps`` and ``actor_penalty``, by the names of their losses
    optimizers: Mapping[str, th.optim.Optimizer] = MappingProxyType({})
    #: for such an optimiser the name of that of the algorithm's, such as ``"critic"``, whose learning rate it has;
    #: others keep the one that they were made with
    follows: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: :meth:`after_update` is called in pre-training and gradient-only phases as well
    hears_offline_updates: ClassVar[bool] = False
    #: what only one callback of a run may decide: two that name the same are refused. Each text completes "would both
    #: decide". Whoever answers ``act`` or ``sample`` need not say so
    exclusive: Sequence[str] = ()
    #: works on a replay buffer, which on-policy algorithms do not have
    needs_replay_buffer: ClassVar[bool] = False
    #: what its arguments are tuned in, by name; those that are missing are not tuned unless the user says in what
    search_space: ClassVar[SearchSpace] = MappingProxyType({})
    registry: ClassVar[dict[str, type[FineTuningCallback]]] = {}
    #: of the fine-tuning run that this callback has been in; empty before the first
    run_id: str = ""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):  # what others build on
            FineTuningCallback.registry[cls.__name__] = cls
        add_safe_globals(cls)  # defined in this process, by whoever runs it

    def __getstate__(self) -> dict[str, Any]:
        # the model holds this callback: pickling it back would drag environment and buffers into the zip
        references = ("model", "parent", "locals", "globals")
        return {name: value for name, value in self.__dict__.items() if name not in references}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.parent, self.locals, self.globals = None, {}, {}

    def _on_step(self) -> bool:
        return True

    def renews_critics(self, finished_phases: Sequence[str]) -> bool:
        """
        :param finished_phases: gradient-only phases that the model has behind it
        :return: whether this callback throws the offline critics away before it fine-tunes, so that ``load_offline``
            need not keep them
        """
        return False

    def starts_ent_coef(self, finished_phases: Sequence[str]) -> float | None:
        """
        :param finished_phases: see :meth:`renews_critics`
        :return: its ``ent_coef``, the temperature from which it has fine-tuning go on; None where it sets none
        """
        return None

    def begin_new_run(self) -> None:
        """
        Called where another fine-tuning run begins: ``load_offline`` takes this callback over from a saved model,
        ``pretrain`` starts again, or ``learn`` is given it for another run than the last. All else goes on with the
        run: every further ``learn``, and what was saved, resumed or copied. Schedules count the run's environment steps
        (``model.n_finetuning_steps``), not ``num_timesteps``, which ``learn`` may set to zero.
        """

    def exported_actor(self) -> th.nn.Module | None:
        """
        Asked by ``to_sb3`` and ``load_offline``, of callbacks that are saved with the model or in its ``learn``.

        :return: the network that acts for users in place of the one that learns, of the same class, or None
        """
        return None

    @classmethod
    def exports_another_actor(cls) -> bool:
        """Whether callbacks of this class may ever have another network act for users than the one that learns."""
        return cls.exported_actor is not FineTuningCallback.exported_actor

    def drawn_from(self, dataset: Any) -> Any:
        """
        Asked before a run begins.

        :param dataset: the model's, as it was given, or None
        :return: the dataset that this callback will draw transitions from, or None
        """
        return None

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """
        Called where each ``learn`` begins, before anything has changed and before its own pre-training. Raise what this
        callback cannot work beside, or without.

        :param callbacks: all of the run, which know their model
        """

    def check_length(self, n_steps: int) -> None:
        """
        Called before a run begins, and before the pre-training that comes first in it. Raise what does not fit into the
        run.

        :param n_steps: environment steps of it, over all environments
        """

    # -- environment -----------------------------------------------------------------------------------------------

    @hook
    def on_new_episodes(self) -> None:
        """
        Called where all environments were reset, whether their episodes had ended or not: when ``learn`` begins with
        that, as it does unless it goes on where the last one stopped, and after a step that could not be used. What a
        callback keeps of the episodes that were under way is over.
        """

    @hook
    def act(self, observations: np.ndarray | dict[str, np.ndarray]) -> np.ndarray | None:
        """
        Asked when the environment needs an action.

        :param observations: ``(n_envs, *obs)``, normalised as the policy sees them
        :return: actions within the action space, ``(n_envs, act)``, or None to let the policy act. It also acts in
            environments whose row is NaN. Only one callback of a run may answer
        """
        return None

    @hook
    def predict(self, observations: np.ndarray | dict[str, np.ndarray], deterministic: bool) -> np.ndarray | None:
        """
        Asked by ``model.predict``: while collecting, where no callback answers :meth:`act`, in every evaluation, and by
        users, of a model that was loaded to act as well. Of callbacks that are saved with the model, or in its last
        ``learn``.

        :param observations: one, ``(*obs)``, or several, ``(n, *obs)``
        :param deterministic: the most likely action instead of a sample, without drawing a random number
        :return: actions within the action space, one or several as the observations; None for the policy's own. Only
            one callback of a run may answer
        """
        return None

    @hook
    def allow_update(self) -> bool:
        """
        Asked after each rollout.

        :return: whether gradient steps may follow; all callbacks must agree
        """
        return True

    @hook
    def allow_actor_update(self) -> bool:
        """
        Asked in each update in which it is the actor's turn.

        :return: whether actor and temperature step; all callbacks must agree. Critics and target networks move anyway
        """
        return True

    # -- update ----------------------------------------------------------------------------------------------------

    @hook
    def before_collecting(self) -> None:
        """
        Called in each ``learn``, before its first environment step. Gradient-only phases that need no online data run
        here (``model.gradient_phase``); those that are complete are listed in ``model.finished_phases``.
        """

    @hook
    def before_rollout(self) -> None:
        """
        Called before each rollout. Gradient-only phases that need online data run here (``model.gradient_phase``):
        when they are interrupted, nothing else is half-done.
        """

    @hook
    def before_finetuning(self) -> None:
        """Called once, before the first online update."""

    @hook
    def before_updates(self) -> None:
        """
        Called before the updates that follow a rollout; where those of a recipe are made for each of several
        environments, before each of these rounds. What happens once for an environment step belongs here.
        """

    @hook
    def defer_updates(self, gradient_steps: int, batch_size: int) -> bool | None:
        """
        Asked when updates are due.

        :param gradient_steps: how many
        :param batch_size: transitions in each
        :return: True if this callback will make them itself, later, by ``model.make_updates``. Only one callback of a
            run may answer
        """
        return None

    @hook
    def sample(self, batch_size: int) -> ReplaySamples | None:
        """
        Asked when an update needs transitions.

        :param batch_size: number of transitions
        :return: a batch, or None for the online buffer. Only one callback of a run may answer
        """
        return None

    @hook
    def prepare(self, batch: Batch) -> Batch:
        """
        Asked before the losses of an update are formed. Random draws of the hooks below belong here: losses may be
        compiled, and draw nothing themselves.

        :param batch: the critics' transitions; where the actor has others, asked for these as well
        :return: the same, or with tensors added (``batch.with_extras``), as the hooks below are given it
        """
        return batch

    @hook
    def critic_steps(self, batch: Batch) -> Iterable[Step]:
        """
        Asked at the beginning of each update for what further critics minimise on its batch. The steps are made
        before the objective's own, so that the actor sees all critics after theirs. Their optimisers are the
        callback's ``optimizers``.

        :param batch: the critics' transitions
        :return: steps, in the order of the updates
        """
        return ()

    @hook
    def next_actions(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """
        Asked when the TD target is built.

        :param actions: of the policy at the next observations, ``(B, act)`` or ``(B, K, act)``; samples of a Gaussian
            that is not squashed may lie beyond [-1, 1], here and below: critics clip what they are asked
        :param log_prob: their log-probability, ``(B,)`` or ``(B, K)``; None where the policy is deterministic
        :param batch: the transitions
        :return: the actions to evaluate, as ``actions``
        """
        return actions

    @hook
    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """
        Asked when the TD target is built, after the minimum over critics and the entropy term.

        :param values: ``(B,)``, or ``(N, B)`` where each critic has a target of its own
        :param actions: the next actions as :meth:`next_actions` was given them, so that the log-probability is theirs,
            ``(B, act)``; of several per state, the one whose value is backed up
        :param log_prob: their log-probability, ``(B,)``; None where the policy is deterministic
        :param batch: the transitions
        :return: the values to back up, as ``values``
        """
        return values

    @hook
    def td_target(self, target: th.Tensor, batch: Batch) -> th.Tensor:
        """
        Asked when the TD target is finished: reward and discounted next value.

        :param target: ``(B,)``, or ``(N, B)`` where each critic has a target of its own
        :param batch: the transitions
        :return: what the critics are fitted to, as ``target``
        """
        return target

    @hook
    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """
        Asked when the policy objective is built.

        :param values: Q of the policy's actions, ``(B,)``
        :param actions: the policy's actions, ``(B, act)``
        :param batch: the transitions
        :return: the values to maximise, as ``values``
        """
        return values

    @hook
    def imitated_actions(self, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """
        Asked where the policy imitates actions, weighted by their advantages, as in IQL and AWAC. Its actor then steps
        after values and critics have.

        :param actions: the batch's, ``(B, act)``
        :param batch: the actor's transitions
        :return: actions to imitate instead, without gradient, as ``actions``
        """
        return actions

    @hook
    def advantages(self, advantages: th.Tensor, batch: Batch) -> th.Tensor:
        """
        Asked where the policy imitates the batch's actions, weighted by their advantages, as in IQL: what
        ``actor_values`` is to objectives that maximise values.

        :param advantages: of the batch's actions, without gradient, ``(B,)``
        :param batch: the actor's transitions
        :return: the advantages to weight by, as ``advantages``
        """
        return advantages

    @hook
    def actor_penalty(
        self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch
    ) -> th.Tensor | float | Penalty:
        """
        Asked when the policy objective is built.

        :param actions: the policy's actions, ``(B, act)``
        :param log_prob: their log-probability, ``(B,)``; None where the policy is deterministic
        :param batch: the transitions
        :return: a term to add to the actor's loss, per sample, ``(B,)``; with losses of parameters of its own, a
            :class:`~sb3_o2o.objectives.Penalty`, their optimisers in the callback's ``optimizers``
        """
        return 0.0

    @hook
    def update_targets(self, tau: float) -> None:
        """
        Called where the algorithm's target networks have followed their networks.

        :param tau: how far they moved, in (0, 1]
        """

    @hook
    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        """
        Called after each online update: multipliers, priorities, extra critics. With :attr:`hears_offline_updates`
        after those of pre-training as well.

        :param batch: the critics' transitions
        :param metrics: losses and metrics of the update, on the device; those of more than one number are not logged
        """

    @hook
    def on_gradient_step(self) -> None:
        """Called after each update, offline and online. Any SB3 callback that defines it gets it."""

    @hook
    def on_phase_change(self, old: str | None, new: str) -> None:
        """
        Called when pre-training, warm-up or fine-tuning begins. Any SB3 callback that defines it gets it.

        :param old: the phase that ends; None at the first
        :param new: the phase that begins
        """

    @hook
    def on_phase_step(self, name: str, done: int, total: int, metrics: dict[str, float]) -> None:
        """
        Called after each update of a phase that makes no environment steps (``model.gradient_phase``). Any SB3 callback
        that defines it gets it.

        :param name: of the phase
        :param done: updates made
        :param total: updates to be made
        :param metrics: means of losses and other scalars since the last log, at every hundredth update and before each
            log; empty in between, because reading them waits for the device
        """

    @hook
    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        """
        Called after each gradient step that an objective makes on the dataset before pre-training, such as those of
        SPOT's density model. Any SB3 callback that defines it gets it.

        :param name: of what is trained
        :param done: steps made
        :param total: steps to be made
        """


def exported_actor(model: Any) -> Any:
    """
    :param model: of ours or a stock one
    :return: the actor that a callback has act where ``predict`` is called, in place of the one that learns; None where
        none does
    """
    heard = model.hooks.listening("predict") if hasattr(model, "hooks") else ()
    callbacks = dict.fromkeys((*heard, *(getattr(model, "finetuning", None) or ())))
    found = (each.exported_actor() for each in callbacks if isinstance(each, FineTuningCallback))
    return next((each for each in found if each is not None), None)


def actor_for_users(model: Any) -> Any:
    """
    :param model: of ours or a stock one, with an actor
    :return: the actor that acts where ``predict`` is called
    """
    exported = exported_actor(model)
    return model.actor if exported is None else exported
