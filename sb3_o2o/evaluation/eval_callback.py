"""Evaluation while training, in Stable-Baselines3's layout."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_o2o.checked import checked
from sb3_o2o.evaluation.evaluate import (
    AnyEnvironments,
    Evaluation,
    evaluate,
    preserved_random_state,
    side_by_side,
    spec_id,
    synchronise_normalizer,
)
from sb3_o2o.evaluation.scores import ReferenceScore, reference_score
from sb3_o2o.files import whole_file
from sb3_o2o.kinds import Count, Seed


def is_pretraining(model: Any) -> bool:
    """
    :param model: the model
    :return: whether ``pretrain`` is running. The phase alone does not say: it changes with the first online update
    """
    return getattr(model, "online_counters", None) is not None


class NormalizedEvalCallback(EvalCallback):
    """
    Stable-Baselines3's ``EvalCallback`` that also logs the normalised score, evaluates where a phase begins and ends,
    and leaves the training's random streams alone.

    A call of ``learn`` that counts on (``reset_num_timesteps=False``) goes on with its evaluations. One whose steps
    begin again, or count something else (``learn`` after ``pretrain``), starts afresh, in the file as well: give each
    phase a ``log_path`` of its own.

    :param eval_env: environment that pays raw rewards, or several, whose episodes are then played side by side, not the
        training's own; its id, or a function that makes one; behind ``VecNormalize``, which then gets the training's
        statistics, or without one
    :param reference: references of the normalised score; default: the table's, by the environment's id. Where there are
        none, raw returns are logged and printed, and with ``verbose=1`` the first evaluation says so
    :param at_start: evaluate before the first step as well, so that the curve has its zero; where a nested callback
        stops training there, the first step is the last
    :param seed: seed of every evaluation's episodes: all start from the same states, and an interrupted run evaluates
        as an uninterrupted one would; None leaves them unseeded
    :param n_eval_envs: environments to make, where an id or a function says how; default: one for each episode,
        up to 16
    :param kwargs: ``EvalCallback``'s other arguments; ``log_path`` is a folder here
    """

    @checked
    def __init__(
        self,
        eval_env: AnyEnvironments,
        *,
        reference: ReferenceScore | None = None,
        at_start: bool = True,
        seed: Seed | None = None,
        n_eval_envs: Count | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("warn", False)
        with preserved_random_state():  # making an environment draws numbers
            environments = side_by_side(eval_env, kwargs.get("n_eval_episodes", 5), n_eval_envs)
        super().__init__(environments, **kwargs)
        self.reference = reference or reference_score(spec_id(self.eval_env))
        self.at_start = at_start
        self.seed = seed
        self.last_evaluation: Evaluation | None = None
        # what the steps so far counted, None before the first, and the last of them
        self._counts_offline: bool | None = None
        self._last_step = 0
        # what a nested callback asked for before the first step, which only a step can answer
        self._stops = False

    @property
    def keeps_environments(self) -> bool:
        """Whether resume bundles need the state of the environments: they do where nobody seeds the episodes."""
        return self.seed is None

    def _init_callback(self) -> None:
        with warnings.catch_warnings():
            if unwrap_vec_normalize(self.training_env) is not None and unwrap_vec_normalize(self.eval_env) is None:
                # not the same wrappers, and they need not be: the policy sees what it was trained on
                warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            super()._init_callback()

    def _on_training_start(self) -> None:
        super()._on_training_start()
        is_offline = is_pretraining(self.model)
        if self._counts_offline is not is_offline or self.num_timesteps < self._last_step:
            self._begin()
        self._counts_offline, self._last_step = is_offline, self.num_timesteps
        # A run that goes on has its earlier evaluations, and needs no point where it was interrupted.
        if self.at_start and not self.evaluations_timesteps:
            self._stops = not self._evaluate()

    def _begin(self) -> None:
        """Forget the evaluations of another run; the best model stays the best of all."""
        self.n_calls = 0
        self.evaluations_timesteps, self.evaluations_results = [], []
        self.evaluations_length, self.evaluations_successes = [], []

    def _on_step(self) -> bool:
        self._last_step = self.num_timesteps
        if self._stops:
            self._stops = False
            return False
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0 and not self._evaluated_now():
            return self._evaluate()
        return True

    def _on_training_end(self) -> None:
        # A phase that was cut short gets no last point: going on would repeat it.
        if self.num_timesteps >= self.model._total_timesteps and not self._evaluated_now():
            self._evaluate()

    def _evaluated_now(self) -> bool:
        return bool(self.evaluations_timesteps) and self.evaluations_timesteps[-1] == self.num_timesteps

    def _evaluate(self) -> bool:
        """:return: False if a callback wants training to stop"""
        synchronise_normalizer(self.training_env, self.eval_env)
        result = evaluate(
            self.model,
            self.eval_env,
            self.n_eval_episodes,
            deterministic=self.deterministic,
            reference=self.reference,
            seed=self.seed,
        )
        self.last_evaluation = result
        self._store(result)
        self._log(result)
        return self._announce()

    def _store(self, result: Evaluation) -> None:
        self.last_mean_reward = float(result.returns.mean())
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(result.returns.tolist())
        self.evaluations_length.append(result.lengths.tolist())
        arrays: dict[str, Any] = {
            "timesteps": self.evaluations_timesteps,
            "results": self.evaluations_results,
            "ep_lengths": self.evaluations_length,
        }
        if result.successes is not None:
            self.evaluations_successes.append(result.successes.tolist())
            arrays["successes"] = self.evaluations_successes
        if self.log_path is not None:
            with whole_file(f"{self.log_path}.npz") as file:  # SB3's path has no ending
                np.savez(file, **arrays)

    def _log(self, result: Evaluation) -> None:
        self.logger.record("eval/mean_reward", self.last_mean_reward)
        self.logger.record("eval/mean_ep_length", float(result.lengths.mean()))
        if result.normalized is not None:
            self.logger.record("eval/normalized_score", result.score)
        if result.successes is not None:
            self.logger.record("eval/success_rate", float(result.successes.mean()))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            if len(self.evaluations_timesteps) == 1:
                print(result.note)
            unit = "return" if result.normalized is None else "normalised score"
            print(f"Evaluation at step {self.num_timesteps}: {unit} {result.score:.1f} +/- {result.deviation:.1f}")

    def _announce(self) -> bool:
        """Save a new best model and tell the nested callbacks, as ``EvalCallback`` does."""
        go_on = True
        if self.last_mean_reward > self.best_mean_reward:
            self.best_mean_reward = self.last_mean_reward
            if self.best_model_save_path is not None:
                self.model.save(os.path.join(self.best_model_save_path, "best_model"))
            if self.callback_on_new_best is not None:
                go_on = self.callback_on_new_best.on_step()
        if self.callback is not None:
            go_on = go_on and self._on_event()
        return go_on


@checked
def read_evaluations(folder: str | os.PathLike[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """
    The evaluations that a callback left in a folder.

    :param folder: the folder of an ``evaluations.npz`` in Stable-Baselines3's layout
    :return: steps of shape (evaluations,) and returns of shape (evaluations, episodes); None if there is no such file
    """
    path = Path(folder) / "evaluations.npz"
    if not path.is_file():
        return None
    with np.load(path) as saved:
        return saved["timesteps"].astype(np.int64), saved["results"].astype(np.float64)
