"""What O2OSAC and its siblings share: what users call, what Stable-Baselines3 asks for, and what is saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_o2o.algorithms import attempts, learn_setup
from sb3_o2o.algorithms.constructors import Constructor
from sb3_o2o.algorithms.nested import check_nested_arguments
from sb3_o2o.algorithms.overrides import warn_of_overridden_arguments
from sb3_o2o.algorithms.pretrain_kwargs import apply_pretrain_kwargs, arguments_of_finetuning
from sb3_o2o.algorithms.resumable import ResumableAlgorithm
from sb3_o2o.algorithms.transferable import TransferableAlgorithm
from sb3_o2o.checked import checked
from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.data.normalization import Normalizer
from sb3_o2o.data.sources import AnyDataset, Dataset
from sb3_o2o.errors import warn
from sb3_o2o.finetuning import build_finetuning
from sb3_o2o.kinds import Count
from sb3_o2o.objectives import Batch, Draws, Objective, make_objective
from sb3_o2o.recipes.counts import RecipeCount, recipe_count
from sb3_o2o.updates import gradient_phases, sampling
from sb3_o2o.updates.call import Call
from sb3_o2o.updates.finetuning_run import FineTuningRun
from sb3_o2o.updates.finite import RAISE
from sb3_o2o.updates.hooks import AnyCallback, Hooks, as_list, overrides
from sb3_o2o.updates.loop import UpdateLoop
from sb3_o2o.updates.phases import FINETUNING, PRETRAINING

if TYPE_CHECKING:
    from typing import Self


class OfflineToOnlineAlgorithm(TransferableAlgorithm, ResumableAlgorithm):
    """
    Turns an SB3 algorithm into an offline-to-online one. The work is done by objects and functions that are given the
    model: updates by :mod:`sb3_o2o.updates`, resumption by :mod:`sb3_o2o.resume`.
    """

    stock_class: ClassVar[type[BaseAlgorithm]]
    stock_policies: ClassVar[dict[type, type]]
    #: constructor arguments that are arguments of the policy
    policy_arguments: ClassVar[tuple[str, ...]]
    #: constructor arguments of a model that only acts
    acting_arguments: ClassVar[dict[str, Any]] = {}
    available_objectives: ClassVar[dict[str, type[Objective]]]
    qf_lr_schedule: Schedule
    actor: Any
    critic: Any
    critic_target: Any
    replay_buffer: Any  # of off-policy algorithms
    #: what the constructor takes, see :func:`~sb3_o2o.algorithms.constructors.takes_arguments`
    constructor: ClassVar[Constructor]
    #: names of the arguments that the caller gave, and not a recipe
    explicit_arguments: tuple[str, ...]
    #: gradient steps that the recipe wants on the dataset
    recipe_pretrain_steps: int
    #: what the recipe counts for each of its environments, unless a user says it; and which argument that is
    recipe_count: RecipeCount | None = None
    counted_argument: ClassVar[str] = "gradient_steps"
    # constructor arguments, described in :mod:`~sb3_o2o.algorithms.arguments`
    #: where its recipe can be found
    recipe: str | None
    objective: str
    objective_kwargs: dict[str, Any] | None
    finetuning: list[Any]
    gamma: float
    batch_size: int
    normalize_observations: bool
    reward_scale: float
    reward_shift: float
    dataset: Any
    dataset_kwargs: dict[str, Any] | None
    pretrain_steps: int
    #: arguments that have another value while pre-training, and which may
    pretrain_kwargs: dict[str, Any] | None = None
    pretrain_keys: ClassVar[tuple[str, ...]] = ()
    compile: bool
    on_nonfinite: str = RAISE  # of models that were saved without
    #: where SAC's temperature starts and why, if the policy that was handed over came with none
    temperature_note: str | None = None
    actor_batch: str = "minibatch"
    #: off-policy algorithms only
    actor_max_grad_norm: float | None = None
    # state
    #: its policy came from elsewhere, by ``load_offline``
    policy_was_given: bool = False
    #: settings and statistics of ``VecNormalize`` when this model was last saved; None where it had none
    saved_normalizer: Normalizer | None = None
    hooks: Hooks
    call: Call
    loop: UpdateLoop
    offline_objective: Objective
    finetuning_objective: Objective

    # -- set-up ----------------------------------------------------------------------------------------------------

    def __init__(self, *args: Any, **kwargs: Any):
        algorithm, constructor = type(self), self.constructor
        given = constructor.accepted(algorithm, constructor.bind(algorithm.__name__, args, kwargs))
        self.explicit_arguments = tuple(name for name in given if name not in ("policy", "env"))
        given, recipe = constructor.filled_in(algorithm, given)
        self.recipe_pretrain_steps = 0 if recipe is None else recipe.pretrain_steps
        default = constructor.defaults[self.counted_argument]
        self.recipe_count = recipe_count(recipe, self.counted_argument, given, default, self.explicit_arguments)
        arguments = {**constructor.defaults, **given}
        self._check_together(arguments)
        stock = {name: arguments.pop(name) for name in constructor.stock}
        super().__init__(**{**stock, "_init_setup_model": False})
        self._init_offline_to_online(**arguments)
        if stock["_init_setup_model"]:
            self._setup_model()

    @staticmethod
    def _check_together(arguments: Mapping[str, Any]) -> None:
        """:raises ValueError: for arguments that do not go together, before anything is built"""

    def _init_offline_to_online(self, **arguments: Any) -> None:
        """Store the arguments under their own names, as ``load(**kwargs)`` needs, and start the counters."""
        for name, value in arguments.items():
            setattr(self, name, value)
        self.policy_kwargs.pop("use_sde", None)  # SB3 puts it there: what the user gave stays what the user gave
        # saved with the model, see :class:`~sb3_o2o.updates.trainee.Trainee`
        self.phase: str | None = None
        self.n_pretrain_steps = 0
        #: the arguments of fine-tuning, where those of pre-training are in their place
        self.online_arguments: dict[str, Any] = {}
        self.phase_steps: dict[str, int] = {}
        self.finished_phases: list[str] = []
        self.has_statistics = False
        self.n_offline_buffers = 0
        #: reward of failure in the sparse datasets seen so far, for Monte-Carlo returns
        self.negative_reward: float | None = None
        self.online_counters: tuple[int, int, float] | None = None
        self.finetuning_run = FineTuningRun()
        # not saved
        self.offline_buffer: OfflineReplayBuffer | None = None
        self.pretrained_on: Any = None
        self.phase_in_progress: tuple[Objective, OfflineReplayBuffer] | None = None
        #: where updates draw their random numbers
        self.draws = Draws(self.device)
        self.hooks = Hooks()
        self.call = Call()
        self.loop = UpdateLoop(self)
        apply_pretrain_kwargs(self)

    def _setup_model(self) -> None:
        given = self.policy_kwargs
        self.policy_class = self.stock_policies.get(self.policy_class, self.policy_class)
        self.policy_kwargs = self.full_policy_kwargs()
        try:
            check_nested_arguments(self, self.policy_kwargs)
            super()._setup_model()  # type: ignore[safe-super]
        finally:
            self.policy_kwargs = given  # what the user gave: ``load(policy_kwargs=…)`` compares it
        self._setup_objectives()

    def full_policy_kwargs(self) -> dict[str, Any]:
        """:return: the policy's arguments: the user's, and those that are arguments of the algorithm"""
        return {**{name: getattr(self, name) for name in self.policy_arguments}, **self.policy_kwargs}

    def _setup_objectives(self) -> None:
        """Create the objectives, which may own parameters, and the fine-tuning callbacks."""
        self.loop.forget_graphs()
        self.finetuning = build_finetuning(self.finetuning)
        for callback in self.finetuning:
            callback.model = self  # type: ignore[assignment]  # one that acts does so before any ``learn`` as well
        self.offline_objective = make_objective(self.objective, self.objective_kwargs, self, self.available_objectives)
        with arguments_of_finetuning(self):
            self.finetuning_objective = self._make_finetuning_objective()
            warn_of_overridden_arguments(self)

    def networks_replaced(self) -> None:
        """The policy is another object: whatever names its networks has to name the new ones."""

    def _make_finetuning_objective(self) -> Objective:
        """What ``learn`` minimises; the offline objective itself where it goes on."""
        raise NotImplementedError

    def _schedule_or_default(self, learning_rate: Any) -> Any:
        return self.lr_schedule if learning_rate is None else FloatSchedule(learning_rate)

    @property
    def action_dim(self) -> int:
        """Number of action dimensions."""
        return math.prod(self.action_space.shape)  # type: ignore[arg-type]

    # -- update ----------------------------------------------------------------------------------------------------

    @property
    def active_objective(self) -> Objective:
        if self.phase_in_progress is not None:
            return self.phase_in_progress[0]
        return self.offline_objective if self.phase == PRETRAINING else self.finetuning_objective

    @checked
    def update(self, batch: Batch) -> dict[str, th.Tensor]:
        """
        Make one update of the present phase on a given batch, as ``pretrain`` and ``learn`` make it on batches that
        they sample: learning rates, losses, optimisers, target networks and hooks included.

        :param batch: transitions; :meth:`to_batch` makes one of a buffer's samples
        :return: losses (``actor_loss``, ``critic_loss`` ...) and metrics of any shape, detached, on the device
        """
        self.policy.set_training_mode(True)
        self.loop.update_learning_rates()
        return self.loop.update(batch)

    def to_batch(self, samples: Any) -> Batch:
        """
        :param samples: what a buffer returned
        :return: the same as objectives take it
        """
        return sampling.to_batch(self, samples)

    @checked
    def sample_batch(self, batch_size: Count) -> Batch:
        """
        :param batch_size: number of transitions
        :return: what an update of the present phase would be made on
        """
        return sampling.sample(self, batch_size)

    @checked
    def set_phase(self, phase: str) -> None:
        """
        Enter a phase and tell the callbacks.

        :param phase: ``"pretraining"``, ``"warmup"`` or ``"finetuning"``
        """
        if phase != self.phase:
            old, self.phase = self.phase, phase
            self.hooks.call("on_phase_change", old, phase)

    def start_finetuning(self) -> None:
        """Enter the phase, and let callbacks do once what comes before it."""
        self.set_phase(FINETUNING)
        if not self.finetuning_run.started:
            self.finetuning_run.started = True
            self.hooks.call("before_finetuning")

    # what is an algorithm's own; :class:`~sb3_o2o.updates.trainee.Trainee` describes it

    def sample_online(self, batch_size: int) -> Any:
        raise NotImplementedError

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        raise NotImplementedError

    def learning_rates(self) -> dict[str, Schedule]:
        raise NotImplementedError

    def draws_blocks(self, gradient_steps: int) -> bool:
        return False

    def is_actor_step(self) -> bool:
        return True

    def is_target_step(self, step: int, is_actor_step: bool) -> bool:
        return True

    def target_pairs(self) -> list[tuple[th.nn.Module, th.nn.Module]]:
        """:return: every network that has a target network, with it"""
        raise NotImplementedError

    def update_targets(self) -> None:
        raise NotImplementedError

    @checked
    def copy_to_targets(self, critics: bool = True) -> None:
        """
        Make target networks equal to their networks.

        :param critics: the critics' as well
        """
        for network, target in self.target_pairs():
            if critics or network is not self.critic:
                target.load_state_dict(network.state_dict())

    # -- acting ----------------------------------------------------------------------------------------------------

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """
        Stable-Baselines3's, unless a fine-tuning callback acts beside the policy (hook ``predict``).

        :param observation: one, or several
        :param state: of a recurrent policy; handed on
        :param episode_start: likewise
        :param deterministic: the most likely action instead of a sample
        :return: actions within the action space, and the state
        """
        for callback in dict.fromkeys((*self.hooks.listening("predict"), *self.finetuning)):
            actions = callback.predict(observation, deterministic) if overrides(callback, "predict") else None
            if actions is not None:
                return actions, state
        return super().predict(observation, state, episode_start, deterministic)  # type: ignore[safe-super]

    # -- logging ---------------------------------------------------------------------------------------------------

    def dump_logs(self, *args: Any) -> None:
        """Write log data."""
        self.loop.record("offline" if self.phase == PRETRAINING else "train")
        super().dump_logs(*args)  # type: ignore[misc]

    # -- pre-training ----------------------------------------------------------------------------------------------

    @checked
    def pretrain(
        self,
        dataset: AnyDataset = None,
        gradient_steps: Count | None = None,
        callback: AnyCallback = None,
        log_interval: Count = 1000,
        progress_bar: bool = False,
        tb_log_name: str = "offline",
        reset_gradient_steps: bool = True,
    ) -> Self:
        """
        Minimise the offline objective on a fixed dataset; the environment is not touched.

        SB3 callbacks run, one ``on_step`` per gradient step. While they do, ``num_timesteps`` counts gradient
        steps, so that checkpoints and evaluations are numbered; afterwards it is what it was.

        A ``VecNormalize`` that has seen nothing yet starts with the statistics of the dataset, observations and
        discounted sums of rewards, as if it had been shown it. With its ``training=True`` they move on online from
        there, slowly because the dataset counts; with ``training=False`` they stay.

        :param dataset: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts; the constructor's by default
        :param gradient_steps: updates to make, > 0; by default the constructor's ``pretrain_steps``, else the recipe's
        :param callback: as in ``learn``
        :param log_interval: gradient steps between two logs
        :param progress_bar: show a progress bar
        :param tb_log_name: name of the TensorBoard run
        :param reset_gradient_steps: count from zero; False goes on, as after an interruption
        :return: this model
        :raises ValueError: if the dataset does not fit, or there is nothing to do
        :raises NonFiniteError: if a loss or a weight is NaN or infinite, see ``on_nonfinite``
        """
        if self.pretrain_kwargs and not self.online_arguments:
            warn(
                "This model has begun to fine-tune, and pre-trains with the arguments of that: pretrain_kwargs held "
                "until then.",
            )
        if reset_gradient_steps:
            self.temperature_note = None
        attempts.pretrain(
            self, dataset, gradient_steps, callback, log_interval, progress_bar, tb_log_name, reset_gradient_steps
        )
        return self

    @checked
    def gradient_phase(
        self,
        name: str,
        objective: Objective,
        gradient_steps: Count,
        buffer: OfflineReplayBuffer,
        log_interval: Count = 1000,
        batch_size: Count | None = None,
    ) -> bool:
        """
        A phase of fine-tuning that makes updates and no environment steps, such as the reconstruction of a critic.
        Callbacks call it inside ``learn``. It logs under ``finetune/<name>/``, shows a progress bar where ``learn``
        does, and can be interrupted by :meth:`request_stop`; called again, it goes on where it was. Hooks that change
        updates are not asked: they belong to the online updates.

        :param name: of the phase, which callbacks hear of by ``on_phase_change``
        :param objective: what to minimise
        :param gradient_steps: updates in all, those of an interrupted call included, > 0
        :param buffer: where transitions come from
        :param log_interval: updates between two logs
        :param batch_size: transitions per update; the model's by default
        :return: whether the phase is complete; False where a stop was asked for
        """
        return gradient_phases.run_phase(self, name, objective, gradient_steps, buffer, log_interval, batch_size)

    @checked
    def load_dataset(self, source: Dataset) -> OfflineDataset:
        """
        Open a dataset, check it against the spaces of this model, and put its rewards on the training scale.

        :param source: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts
        :return: the dataset
        :raises ValueError: if it does not fit
        """
        return sampling.load_dataset(self, source)

    @checked
    def open_offline_buffer(
        self, source: AnyDataset = None, for_whom: str = "pretrain", *, whole_episodes: bool = False
    ) -> OfflineReplayBuffer:
        """
        A buffer with a random generator of its own on a dataset.

        :param source: a dataset; the one of the last ``pretrain``, or of the constructor, by default
        :param for_whom: who asks, for the error message
        :param whole_episodes: a transition leads to the end of its episode, for Monte-Carlo returns
        :return: the buffer
        :raises ValueError: if there is no dataset
        """
        return sampling.open_offline_buffer(self, source, for_whom, whole_episodes)

    @property
    def offline_batch_size(self) -> int:
        return self.batch_size

    @property
    def offline_n_steps(self) -> int:
        return 1

    def check_reward_scale(self) -> None:
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0) and self._vec_normalize_env is not None:
            raise ValueError(
                "reward_scale and reward_shift cannot be combined with VecNormalize, which stores and scales raw "
                "rewards itself: leave them at 1 and 0, or do without VecNormalize."
            )

    def dataset_opened(self, dataset: OfflineDataset) -> None:
        pass

    def act_from_the_first_step(self) -> None:
        pass

    # -- fine-tuning -----------------------------------------------------------------------------------------------

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        learn_setup.before_learn(self, callback, progress_bar, total_timesteps)
        # of a ``learn``, whose noise SB3 resets as if an episode had ended; one that begins after an interrupted
        # ``pretrain`` begins with noise of its own
        goes_on = self.call.interrupted is not None and not self.call.interrupted.offline
        noise = copy.deepcopy(self.action_noise) if goes_on else None
        resets = reset_num_timesteps or self._last_obs is None
        with self.finetuning_run.counting_on(self, reset_num_timesteps):
            total_timesteps, callback = super()._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        if noise is not None:
            self.action_noise = noise
        learn_setup.begin_learn(self, callback, resets, progress_bar)
        return total_timesteps, callback

    def note_on_counts(self) -> str | None:
        """:return: what is done about counts of the recipe with another number of environments; None for nothing"""
        raise NotImplementedError

    @property
    def n_finetuning_steps(self) -> int:
        """Environment steps of this fine-tuning run, over all environments, calls of ``learn`` and saves."""
        # while pre-training, ``num_timesteps`` counts gradient steps
        return self.finetuning_run.steps(
            self.num_timesteps if self.online_counters is None else self.online_counters[0]
        )

    def begin_new_run(self) -> None:
        self.finetuning_run = FineTuningRun()
        self.finetuning_run.bring_in(self.finetuning)

    def refuse_unused_hooks(self, hooks: Hooks) -> None:
        """
        :param hooks: of a run
        :raises ValueError: if a callback changes what is never asked for, and so would do nothing
        """
        hooks.refuse(self.finetuning_objective.unused_hooks, type(self.finetuning_objective).__name__)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        own = {id(each) for each in self.finetuning}
        given = [each for each in as_list(callback) if id(each) not in own]  # an event is one, whoever names it twice
        return super()._init_callback([*self.finetuning, *given], progress_bar)

    def _begin_new_episodes(self) -> None:
        """Reset the environments in the middle of a call, after a step that was not stored."""
        learn_setup.begin_new_episodes(self)

    def episodes_cut(self) -> None:
        """The environments begin new episodes, whether the last ones have ended or not."""

    def may_collect(self) -> bool:
        """:return: whether a rollout may begin, after callbacks did what comes before it"""
        return gradient_phases.may_collect(self)
