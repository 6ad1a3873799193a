"""What a run came to: its evaluations in the unit of the score, and the switch in numbers."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_o2o.evaluation import ReferenceScore, drop_at_switch, steps_to_recover
from sb3_o2o.runs.folder import RunConfig, plain

#: Environment steps after the switch within which the lowest score is looked for.
EARLY = 10_000
#: Evaluations at the end whose mean says where a run ends.
LAST = 5


@dataclass(frozen=True)
class Curve:
    """
    The evaluations of one phase.

    :param steps: of each evaluation, shape (evaluations,)
    :param returns: of each episode, shape (evaluations, episodes)
    :param successes: whether each episode was one, of the same shape; None where the environment does not say
    :param seconds: after the run's start, shape (evaluations,), NaN where unknown
    """

    steps: NDArray[np.int64]
    returns: NDArray[np.float64]
    successes: NDArray[np.float64] | None = None
    seconds: NDArray[np.float64] | None = None

    def scores(self, reference: ReferenceScore | None) -> NDArray[np.float64]:
        """
        :param reference: None for raw returns
        :return: of each episode, shape (evaluations, episodes)
        """
        return self.returns if reference is None else reference.normalize(self.returns)


def read_curve(folder: Path, times: Mapping[str, float] | None = None) -> Curve | None:
    """
    :param folder: of an ``evaluations.npz`` in Stable-Baselines3's layout
    :param times: step -> seconds after the run's start
    :return: the evaluations; None where there is no such file, or none in it
    :raises ValueError: the file is damaged, or something else
    """
    path = folder / "evaluations.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path) as saved:
            steps, returns = saved["timesteps"].astype(np.int64), saved["results"].astype(np.float64)
            successes = saved["successes"].astype(np.float64) if "successes" in saved else None
    except Exception as error:  # NumPy's own are many: of zip, of pickle, of its header
        raise ValueError(f"{path} holds no evaluations in Stable-Baselines3's layout ({error}).") from error
    if returns.ndim != 2 or steps.shape != returns.shape[:1]:
        raise ValueError(f"{path} has evaluations at {steps.shape} steps with returns of shape {returns.shape}.")
    if len(steps) == 0:
        return None
    if returns.shape[1] == 0:
        raise ValueError(f"{path} holds evaluations of no episodes.")
    if not np.isfinite(returns).all():
        raise ValueError(f"{path} holds returns that are not finite.")
    check_order(steps, str(path))
    known = times or {}
    seconds = np.array([known.get(str(step), math.nan) for step in steps])
    return Curve(steps, returns, successes if successes is not None and len(successes) == len(steps) else None, seconds)


def check_order(steps: NDArray[np.int64], where: str) -> None:
    """
    :param steps: of evaluations, shape (evaluations,)
    :param where: they stand, for the message
    :raises ValueError: one does not come after the one before
    """
    wrong = np.flatnonzero(np.diff(steps) <= 0)
    if len(wrong):
        before, after = steps[wrong[0] : wrong[0] + 2]
        raise ValueError(
            f"{where} has an evaluation at step {after} behind one at step {before}. Two trainings may have written "
            "it, such as two calls of learn with one callback: give each a folder of its own."
        )


@dataclass(frozen=True)
class Summary:
    """
    A run's online curve in numbers, in the unit of the score.

    :param switch: score of the policy that fine-tuning started from
    :param lowest: lowest mean score within :data:`EARLY` environment steps
    :param drop: how far below the switch the score fell, at any time
    :param recovered: environment steps until it was back; 0 where it never fell, infinity where it did not come back
    :param last: score of the last evaluation
    :param last_mean: mean of the last :data:`LAST` evaluations
    :param regret: CORL's: part of the training episodes that failed; where the environment does not report success,
        1 - mean score / 100 over the evaluations (trapezoids over the steps); None for raw returns
    :param regret_of: ``episodes`` or ``scores``: which of the two; empty for neither
    """

    switch: float
    lowest: float
    drop: float
    recovered: float
    last: float
    last_mean: float
    regret: float | None = None
    regret_of: str = ""


def summarise(curve: Curve, reference: ReferenceScore | None, episodes: int = 0, successes: int = 0) -> Summary:
    """
    :param curve: evaluations of fine-tuning, the first at step 0
    :param reference: None for raw returns
    :param episodes: training episodes that reported success or failure
    :param successes: of these, the successful ones
    :return: the numbers
    """
    steps, scores = curve.steps, curve.scores(reference).mean(axis=1)
    early = scores[steps <= EARLY] if (steps <= EARLY).any() else scores[:1]
    regret, regret_of = None, ""
    if episodes:
        regret, regret_of = 1 - successes / episodes, "episodes"
    elif reference is not None:
        regret, regret_of = 1 - _mean_over(steps, scores) / 100, "scores"
    return Summary(
        switch=float(scores[0]),
        lowest=float(early.min()),
        drop=drop_at_switch(steps, scores, scores[0]),
        recovered=steps_to_recover(steps, scores, scores[0]),
        last=float(scores[-1]),
        last_mean=float(scores[-LAST:].mean()),
        regret=regret,
        regret_of=regret_of,
    )


def _mean_over(steps: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Mean of a line through the evaluations."""
    if len(steps) == 1:
        return float(scores[0])
    return float(np.trapezoid(scores, steps) / (steps[-1] - steps[0]))


def settings_of(config: RunConfig) -> dict[str, Any]:
    """
    :param config: of a run
    :return: what seeds of one method have in common: recipe and dataset without the folders that they lie in, where it
        acts, how long, with how many environments, and the arguments that replace the recipe's
    """
    asked = {
        "recipe": config.recipe and Path(config.recipe).name,
        "dataset": config.dataset and "/".join(Path(config.dataset).parts[-2:]),
        "environment": asdict(config.environment),
        "steps": config.online_steps,
        "n_envs": config.n_envs,
    }
    return dict(plain({**asked, **config.overrides}))


@dataclass(frozen=True)
class RunRecord:
    """
    What is known of a run, whoever made it.

    :param path: its folder
    :param label: what its line is called: the recipe, or the algorithm
    :param task: what it is compared on: the dataset, or the environment
    :param env_id: Gymnasium id; empty where it is not known
    :param seed: None where it is not known
    :param offline: evaluations of pre-training, over gradient steps
    :param online: evaluations of fine-tuning, or of a run without anything else, over environment steps
    :param reference: of scores; None for raw returns
    :param seconds: that it took, without its pre-training; None where unknown
    :param offline_seconds: that its pre-training took
    :param episodes: training episodes that reported success or failure
    :param successes: of these, the successful ones
    :param regret: part of its training episodes that failed, where no more is known of them; None to work it out
    :param finished: False for one that was interrupted, failed or goes on
    :param versions: of what it ran with
    :param settings: what it was asked for, see :func:`settings_of`; empty where that is not known
    """

    path: Path
    label: str
    task: str
    env_id: str
    seed: int | None
    offline: Curve | None
    online: Curve | None
    reference: ReferenceScore | None = None
    seconds: float | None = None
    offline_seconds: float | None = None
    episodes: int = 0
    successes: int = 0
    regret: float | None = None
    finished: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """``score`` or ``return``."""
        return "return" if self.reference is None else "score"

    def curve(self, phase: str) -> Curve | None:
        """
        :param phase: ``offline`` or ``online``
        :return: its evaluations
        """
        return self.offline if phase == "offline" else self.online

    def score_after(self, steps: int) -> float | None:
        """
        :param steps: environment steps of fine-tuning
        :return: mean score of the first evaluation from there on; None where there is none
        """
        if self.online is None or not (self.online.steps >= steps).any():
            return None
        index = int(np.argmax(self.online.steps >= steps))
        return float(self.online.scores(self.reference)[index].mean())

    def summary(self) -> Summary | None:
        """:return: the numbers of its fine-tuning; None before its first evaluation"""
        if self.online is None:
            return None
        found = summarise(self.online, self.reference, self.episodes, self.successes)
        return found if self.regret is None else replace(found, regret=self.regret, regret_of="episodes")
