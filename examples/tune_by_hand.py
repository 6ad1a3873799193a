"""Tuning without our command: the objective that people write for Optuna, with a callback that prunes.

python examples/tune_by_hand.py
"""

from pathlib import Path
from typing import Any

import optuna
import typer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC, NonFiniteError
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT


class PruningEvalCallback(EvalCallback):
    """Tells a trial of each evaluation, and ends training when Optuna says so; RL Zoo's does the same."""

    def __init__(self, trial: optuna.Trial, **kwargs: Any):
        super().__init__(**{"verbose": 0} | kwargs)
        self.trial, self.is_pruned = trial, False

    def _on_step(self) -> bool:
        go_on = super()._on_step()
        if self.eval_freq > 0 and self.n_calls % self.eval_freq == 0:
            self.trial.report(float(self.last_mean_reward), self.num_timesteps)
            self.is_pruned = self.trial.should_prune()
        return go_on and not self.is_pruned


def main(
    dataset: str = str(DEMO_DATASET),
    env_id: str = DEMO_ENVIRONMENT,
    gradient_steps: int = 5_000,
    steps: int = 5_000,
    eval_episodes: int = 5,
    n_trials: int = 10,
    n_jobs: int = 2,
    folder: Path = Path("runs/tune_by_hand"),
) -> optuna.Study:
    # Once: what all trials start from.
    model = O2OSAC("MlpPolicy", make_vec_env(env_id), recipe="wsrl", seed=0)
    model.pretrain(dataset, gradient_steps)
    model.save(folder / "offline_model")

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("qf_learning_rate", 1e-5, 1e-3, log=True)
        updates = trial.suggest_categorical("gradient_steps", [1, 2, 4])
        model = O2OSAC.load_offline(
            folder / "offline_model", make_vec_env(env_id), recipe="wsrl", qf_learning_rate=rate, gradient_steps=updates
        )
        evaluation = PruningEvalCallback(
            trial, eval_env=make_vec_env(env_id), eval_freq=max(steps // 5, 1), n_eval_episodes=eval_episodes
        )
        model.learn(steps, callback=evaluation)
        if evaluation.is_pruned:
            raise optuna.TrialPruned
        model.save(folder / f"trial_{trial.number}")
        return float(evaluation.last_mean_reward)

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    # a run that is made of NaN ends as a failed trial, and the study goes on
    study.optimize(objective, n_trials=n_trials, n_jobs=n_jobs, catch=NonFiniteError)

    best = O2OSAC.load(folder / f"trial_{study.best_trial.number}", env=make_vec_env(env_id))
    pruned = len(study.get_trials(states=(optuna.trial.TrialState.PRUNED,)))
    print(f"{len(study.trials)} trials, {pruned} pruned. Best: {study.best_value:.1f} with {study.best_params}")
    print(f"Its model makes {best.gradient_steps} updates a step.")
    return study


if __name__ == "__main__":
    typer.run(main)
