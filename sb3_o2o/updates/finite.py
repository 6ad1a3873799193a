"""NaN and infinity: found where they enter or arise, named, and answered by the end of the run or by going back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize

from sb3_o2o.errors import NonFiniteError, warn
from sb3_o2o.evaluation.infos import copy_infos_quickly
from sb3_o2o.files import whole_file
from sb3_o2o.objectives.batch import Batch
from sb3_o2o.updates.trained import Snapshot, first_not_finite, trained_tensors

#: what NaN may end in, somewhere below
TROUBLE = (ValueError, RuntimeError, ArithmeticError)
#: what torch says of a mean that is NaN and of a deviation that is infinite
_OF_DISTRIBUTIONS = ("to satisfy the constraint", "normal expects all elements of std")
#: name of the file with the values among which something was not finite
FILE = "nonfinite.npz"
#: what a model does about NaN and infinity: its argument ``on_nonfinite``
RAISE, ROLLBACK = "raise", "rollback"
#: how often a call goes back before it gives up
MOST_ROLLBACKS = 3
#: updates between two snapshots to go back to
SNAPSHOT_EVERY = 1000
#: updates on another device than the CPU whose losses are read together, and bytes of batches that are held meanwhile
READ_EVERY, HELD_BYTES = 100, 2**26
_ADVICE = "A smaller learning_rate is the usual remedy; on_nonfinite='rollback' goes back to earlier weights, and on."


class FiniteWatch:
    """
    Looks at losses before an optimiser steps on them, and at what environments give and get. On the CPU a loss is read
    in the update that forms it, so that nothing has been made of it yet; on other devices, where reading waits for all
    that was asked for, the losses of many updates are read together.

    :param model: an algorithm; its ``on_nonfinite`` says what is done
    """

    def __init__(self, model: Any):
        self.model = model
        #: rollbacks of the present call
        self.rollbacks = 0
        #: whether losses wait to be read
        self.waits = model.device.type != "cpu"
        self._snapshots: deque[Snapshot] = deque(maxlen=2)
        self._waiting: list[tuple[int, dict[str, th.Tensor], Batch]] = []
        self._held = 0
        self._env: WatchedEnv | None = None

    # -- updates ---------------------------------------------------------------------------------------------------

    def check_losses(self, losses: Mapping[str, th.Tensor], batch: Batch) -> None:
        """
        :param losses: of one step of an update, by the names of their optimisers, before these step
        :param batch: that they were formed on
        :raises NonFiniteError: for NaN or infinity; on another device than the CPU up to ``READ_EVERY`` updates later
        """
        if self.waits:
            self._wait_for(dict(losses), batch)
            return
        for name, loss in losses.items():
            if not math.isfinite(loss.item()):
                raise self._of_loss(name, loss.item(), batch, self.model._n_updates)

    def _wait_for(self, losses: dict[str, th.Tensor], batch: Batch) -> None:
        self._waiting.append((self.model._n_updates, losses, batch))
        self._held += sum(tensor.nbytes for _, tensor in _fields(batch))
        if len(self._waiting) >= READ_EVERY or self._held >= HELD_BYTES:
            self.read()

    def read(self) -> None:
        """
        Read the losses that wait for it.

        :raises NonFiniteError: for the first that is not finite
        """
        waiting, self._waiting, self._held = self._waiting, [], 0
        if not waiting:
            return
        named = [(update, name, loss, batch) for update, losses, batch in waiting for name, loss in losses.items()]
        values = th.stack([loss.detach().reshape(()).float() for _, _, loss, _ in named]).tolist()
        for (update, name, _, batch), value in zip(named, values, strict=True):
            if not math.isfinite(value):
                raise self._of_loss(name, value, batch, update, late=True)

    def check_weights(self) -> None:
        """
        :raises NonFiniteError: if a loss that waits to be read, or anything that training changes, is not finite
        """
        self.read()
        error = self._of_weights()
        if error is not None:
            raise error

    def check_gradients(self, optimizer: th.optim.Optimizer) -> None:
        """
        For an update that forms its losses elsewhere and clips its gradients by their norm, which spreads NaN to all.

        :param optimizer: about to step
        :raises NonFiniteError: if the first gradient of a group is not finite
        """
        for group in optimizer.param_groups:
            gradient = next((each.grad for each in group["params"] if each.grad is not None), None)
            if gradient is not None and not math.isfinite(gradient.flatten()[0].item()):
                raise self._of_weights() or NonFiniteError(
                    f"The gradient is not finite at {self._when()}: the loss was not, or its gradient alone.", _ADVICE
                )

    def explain(self, error: Exception, batch: Batch | None = None) -> None:
        """
        Distributions refuse NaN in torch's words, and simulators fail on it in their own.

        :param error: of an update or of a rollout
        :param batch: of the update
        :raises NonFiniteError: in its place, if something is not finite
        """
        if isinstance(error, NonFiniteError):
            return
        self.read()
        found = (None if batch is None else self._of_batch(batch)) or self._of_weights(batch)
        if found is None and any(words in str(error) for words in _OF_DISTRIBUTIONS):
            text = f"The policy's network gives no distribution of actions at {self._when()} (NaN or too large)."
            found = NonFiniteError(text, _ADVICE, {} if batch is None else arrays_of(batch))
        if found is not None:
            raise found from error

    def _of_loss(self, name: str, value: float, batch: Batch, update: int, late: bool = False) -> NonFiniteError:
        """The loss, or what it was formed from, if that was not finite before."""
        # late, other updates have been made of it: the weights say nothing
        cause = self._of_batch(batch, update) or (None if late else self._of_weights(batch))
        text = f"The loss of the optimiser {name!r} is {value} at {self._when(update)}."
        return cause or NonFiniteError(text, _ADVICE, arrays_of(batch))

    def _of_batch(self, batch: Batch, update: int | None = None) -> NonFiniteError | None:
        for name, tensor in _fields(batch):
            wrong = ~th.isfinite(tensor)
            if wrong.any():
                first = [int(each) for each in wrong.nonzero()[0]]
                value = tensor[wrong].flatten()[0].item()
                text = f"{name}{first} of the batch is {value} at {self._when(update)}."
                advice = "It comes from the dataset or the replay buffer, or from what changes their samples."
                return NonFiniteError(text, advice, arrays_of(batch))
        return None

    def _of_weights(self, batch: Batch | None = None) -> NonFiniteError | None:
        found = first_not_finite(trained_tensors(self.model, self.model.call.callbacks))
        if found is None:
            return None
        text = (
            f"{found[0]} holds {found[1]} at {self._when()}: an earlier gradient was not finite, although its loss was."
        )
        return NonFiniteError(text, _ADVICE, {} if batch is None else arrays_of(batch))

    def _when(self, update: int | None = None) -> str:
        model = self.model
        phase = f", {model.phase}" if model.phase else ""
        steps = "" if model.online_counters is not None else f", environment step {model.num_timesteps}"
        return f"update {model._n_updates if update is None else update}{phase}{steps}"

    # -- environments ----------------------------------------------------------------------------------------------

    def env(self, env: VecEnv) -> VecEnv:
        """
        :param env: the environments of a rollout
        :return: the same, watched
        """
        if self._env is None or self._env.venv is not env:
            self._env = WatchedEnv(env, self)
        return self._env

    def check_first(self, observations: Any) -> None:
        """
        :param observations: after a reset, ``(n_envs, *obs)`` or a dictionary of them
        :raises NonFiniteError: for NaN or infinity
        """
        normalizer = self.model.get_vec_normalize_env()
        self.check_values("observation", getattr(normalizer, "old_obs", observations), {}, 0)

    def check_values(self, what: str, values: Any, others: Mapping[str, Any], steps: int) -> None:
        """
        :param what: ``"observation"``, ``"reward"`` or ``"action"``
        :param values: ``(n_envs, ...)``, or a dictionary of such
        :param others: what is kept beside them
        :param steps: environment steps that this is after the last one counted
        :raises NonFiniteError: naming environment and step
        """
        for key, array in values.items() if isinstance(values, dict) else (("", values),):
            if is_finite(array):
                continue
            first = [int(each) for each in np.argwhere(~np.isfinite(array))[0]]
            entry = f", entry {first[1:]}" if len(first) > 1 else ""
            of = f" ({key!r})" if key else ""
            found = array[tuple(first)]
            text = (
                f"The {what}{of} of environment {first[0]} is {found} at environment step "
                f"{self.model.num_timesteps + steps}{entry}."
            )
            raise NonFiniteError(text, _OF_ENVIRONMENTS[what], named_arrays({f"{what}s": values, **others}))

    # -- what is done about it -------------------------------------------------------------------------------------

    def begin_call(self) -> None:
        """A call of ``learn`` or ``pretrain`` begins."""
        self.rollbacks, self._waiting, self._held = 0, [], 0
        self._snapshots.clear()

    def before_updates(self, every: int | None = None) -> None:
        """
        Keep what can be gone back to, where that is asked for and it is time.

        :param every: updates between two snapshots; ``SNAPSHOT_EVERY`` by default
        :raises NonFiniteError: if something is not finite already
        """
        model = self.model
        if model.on_nonfinite != ROLLBACK:
            return
        if not self._snapshots or model._n_updates >= self._snapshots[-1].n_updates + (every or SNAPSHOT_EVERY):
            self.check_weights()
            self._snapshots.append(Snapshot(model, model.call.callbacks))

    def answer(
        self,
        error: Exception,
        batch: Batch | None = None,
        kept: Callable[[], dict[str, np.ndarray]] | None = None,
    ) -> None:
        """
        Go on in spite of an error, or not.

        :param error: of an update or of a rollout
        :param batch: of the update
        :param kept: gives the values that our error keeps, where it has none
        :raises Exception: this error, or ours in its place, unless the run has gone back
        """
        try:
            self.explain(error, batch)
            found = error
        except NonFiniteError as ours:
            found = ours
        if not isinstance(found, NonFiniteError):
            raise found
        if kept is not None and not found.arrays:
            found.arrays = kept()
        self.roll_back(found)

    def roll_back(self, error: NonFiniteError) -> None:
        """
        Go back to earlier weights, where that is asked for. Data and counters stay, and random streams go on, so that
        the next updates are others.

        :param error: why
        :raises NonFiniteError: this error, where it is not asked for, or once too often
        """
        model = self.model
        if model.on_nonfinite != ROLLBACK or not self._snapshots:
            raise error
        if self.rollbacks >= MOST_ROLLBACKS:
            error.what += f" (The run has gone back {self.rollbacks} times.)"
            raise error
        self.rollbacks, self._waiting, self._held = self.rollbacks + 1, [], 0
        snapshot = self._snapshots.pop() if len(self._snapshots) > 1 else self._snapshots[0]
        snapshot.restore(model)
        self._snapshots = deque([self._snapshots[0]], maxlen=2)
        model.loop.metrics.clear()
        model.logger.record("train/rollbacks", self.rollbacks)
        warn(
            f"{error.what} Going back to the weights of update {snapshot.n_updates}, rollback {self.rollbacks} of at "
            f"most {MOST_ROLLBACKS}.",
        )


class WatchedEnv(VecEnvWrapper):
    """
    Environments whose observations, rewards and actions are looked at on their way.

    :param venv: environments
    :param watch: who looks
    """

    def __init__(self, venv: VecEnv, watch: FiniteWatch):
        super().__init__(venv)
        self._watch = watch
        self._normalizer: Any = unwrap_vec_normalize(venv)
        self._actions: Any = None
        copy_infos_quickly(venv)

    def reset(self) -> Any:
        """See ``VecEnv.reset``."""
        return self.venv.reset()

    def step(self, actions: np.ndarray) -> Any:
        """See ``VecEnv.step``."""
        if not is_finite(actions):
            self._watch.check_weights()  # where it comes from, most often
            self._watch.check_values("action", actions, {}, self.num_envs)
        self._actions = actions
        result = self.venv.step(actions)
        observations: Any
        observations, rewards, dones, infos = result
        if self._normalizer is not None:  # which clips what is infinite
            observations, rewards = self._normalizer.old_obs, self._normalizer.old_reward
        seen = tuple(observations.values()) if isinstance(observations, dict) else (observations,)
        # each of these takes a microsecond, and a step of a small environment a hundred
        if any(dones.tolist()) or not is_finite(rewards) or not all(map(is_finite, seen)):
            self._look(observations, rewards, dones, infos)
        return result

    def step_wait(self) -> Any:
        """See ``VecEnv.step_wait``; rollouts step at once."""
        return self.venv.step_wait()

    def _look(self, observations: Any, rewards: np.ndarray, dones: np.ndarray, infos: Any) -> None:
        kept = {"rewards": rewards, "observations": observations, "actions": self._actions}
        self._watch.check_values("observation", observations, kept, self.num_envs)
        self._watch.check_values("reward", rewards, kept, self.num_envs)
        for index in np.flatnonzero(dones).tolist():
            last = infos[index].get("terminal_observation")
            if last is None:
                continue
            # the others' values are finite: only this environment's last observation is asked about
            spread = {key: _at(value, index, self.num_envs) for key, value in _by_key(last).items()}
            self._watch.check_values("observation", spread.get("", spread), kept, self.num_envs)


_OF_ENVIRONMENTS = {
    "observation": "The transition is not stored. Let the environment end its episode before, or clip what it sees.",
    "reward": "The transition is not stored. Let the environment pay a finite reward.",
    "action": "The policy's weights are finite, so it comes from its layers (a features extractor, say), or from the "
    "callback or the noise that decides actions.",
}


def _by_key(observation: Any) -> Mapping[str, Any]:
    return observation if isinstance(observation, dict) else {"": observation}


def _at(value: Any, index: int, n_envs: int) -> np.ndarray:
    array = np.asarray(value)
    spread = np.zeros((n_envs, *array.shape), dtype=array.dtype)
    spread[index] = array
    return spread


def is_finite(array: np.ndarray) -> bool:
    """
    :param array: numbers
    :return: whether none is NaN or infinite; a microsecond for the few numbers of an environment
    """
    if array.dtype.kind != "f":
        return True
    flat = array.ravel()
    # large numbers overflow here, and are looked at one by one
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(array).all())


# -- what is kept --------------------------------------------------------------------------------------------------


def _fields(batch: Batch) -> Iterator[tuple[str, th.Tensor]]:
    """The tensors of floating-point numbers in a batch, with their names."""
    for name, value in batch._asdict().items():
        for key, tensor in value.items() if isinstance(value, dict) else ((None, value),):
            if isinstance(tensor, th.Tensor) and tensor.is_floating_point():
                yield (name if key is None else f"{name}/{key}"), tensor


def arrays_of(batch: Batch) -> dict[str, np.ndarray]:
    """
    :param batch: transitions on any device
    :return: all of it as arrays by name; what is in a dictionary as ``name/key``
    """
    return named_arrays({name: value for name, value in batch._asdict().items() if value is not None})


def named_arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """
    :param values: tensors, arrays, and dictionaries of them, by name
    :return: arrays of their own; what is in a dictionary as ``name/key``
    """
    found = {}
    for name, value in values.items():
        for key, each in value.items() if isinstance(value, dict) else ((None, value),):
            array = each.detach().cpu().numpy() if isinstance(each, th.Tensor) else np.array(each)
            found[name if key is None else f"{name}/{key}"] = array
    return found


def keep(error: NonFiniteError, folder: str | Path | None) -> None:
    """
    Write the values among which something was not finite, if there is a folder for them.

    :param error: has the values, and is told where they are
    :param folder: of the run; None for none
    """
    if folder is None or not error.arrays:
        return
    path = Path(folder) / FILE
    try:
        with whole_file(path) as file:
            np.savez(file, what=np.array(error.what), **error.arrays)  # type: ignore[arg-type]
    except OSError as reason:
        warn(f"{path} could not be written: {reason}.")
        return
    if error.path is not None and Path(error.path) != path:
        Path(error.path).unlink(missing_ok=True)  # written before, into another folder of the run
    error.path = str(path)


def log_folder(model: Any) -> str | None:
    """
    :param model: an algorithm
    :return: where its logger writes; None where it was not told
    """
    is_told = model.tensorboard_log is not None or model._custom_logger
    return model.logger.dir if is_told and hasattr(model, "_logger") else None  # type: ignore[no-any-return]
