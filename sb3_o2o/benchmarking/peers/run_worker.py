"""
Whole runs as contestants: ours, stock Stable-Baselines3's and SBX's, with the same schedule. Run by path, with the
interpreter of an environment that has the library.

    python run_worker.py ours|stable_baselines3|sbx
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from worker_protocol import Contestant, serve, timed

#: what of a run is timed apart; the rest is storing, logging and the loop itself
PARTS = ("environment", "acting", "updates", "evaluation")
LIBRARIES = {"ours": ("sb3_o2o", "torch"), "stable_baselines3": ("torch",), "sbx": ("sbx-rl", "jax")}


def model_and_evaluation(name: str, work: dict[str, Any], options: dict[str, Any]) -> tuple[Any, EvalCallback]:
    """
    :param name: of a library
    :param work: a run
    :param options: ``compile``, ``precision``, ``device``, and a ``folder`` for evaluations
    :return: its SAC, ready to learn, and its evaluation as its users have it
    """
    networks: dict[str, Any] = {"net_arch": list(work["hidden"]), "n_critics": work["n_critics"]}
    arguments: dict[str, Any] = {
        "gradient_steps": work["gradient_steps"],
        "learning_starts": work["learning_starts"],
        "buffer_size": work["steps"] + 10_000,
        "seed": 0,
    }
    env = make_vec_env(work["env_id"], work["n_envs"], seed=0)
    every: dict[str, Any] = {
        "eval_freq": work["eval_freq"] // work["n_envs"],
        "n_eval_episodes": work["n_eval_episodes"],
        "verbose": 0,
    }
    if name == "ours":
        from sb3_o2o import O2OSAC
        from sb3_o2o.evaluation import NormalizedEvalCallback

        model: Any = O2OSAC(
            "MlpPolicy",
            env,
            n_critics=networks.pop("n_critics"),
            policy_kwargs=networks,
            compile=options["compile"],
            precision=options["precision"],
            device=options["device"],
            **arguments,
        )
        return model, NormalizedEvalCallback(work["env_id"], at_start=False, seed=1, **every)
    if name == "sbx":
        from sbx import SAC
    else:
        from stable_baselines3 import SAC

        arguments["device"] = options["device"]
    model = SAC("MlpPolicy", env, policy_kwargs=networks, **arguments)
    # without a folder stock evaluations do not say how long their episodes were
    return model, EvalCallback(make_vec_env(work["env_id"], seed=1), log_path=options["folder"], **every)


def build(work: dict[str, Any], options: dict[str, Any]) -> Contestant:
    """
    :param work: a run
    :param options: see :func:`model_and_evaluation`
    :return: the contestant; it is asked for environment steps, a whole number of evaluations apart
    """
    model, evaluation = model_and_evaluation(sys.argv[1], work, options)
    model.set_logger(Logger(None, []))
    spent = dict.fromkeys(PARTS, 0.0)

    def watch(owner: Any, method: str, part: str, wait: Callable[[], Any] = lambda: None) -> None:
        inner = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                wait()
                spent[part] += time.perf_counter() - started

        setattr(owner, method, watched)

    def wait_for_jax() -> None:
        import jax

        jax.block_until_ready((model.policy.qf_state.params, model.policy.actor_state.params))

    watch(model.get_env().unwrapped, "step_wait", "environment")
    watch(model, "_sample_action", "acting")
    watch(model, "train", "updates", wait_for_jax if sys.argv[1] == "sbx" else lambda: None)
    watch(evaluation, "on_step", "evaluation")
    finished: dict[str, float] = {}

    def run(steps: int) -> tuple[int, float]:
        evaluation.n_calls = 0  # the warm-up's steps must not shift the evaluations: one, at the end
        before, evaluated = dict(spent), sum(map(sum, evaluation.evaluations_length))
        seconds = timed(lambda: model.learn(steps, callback=evaluation, reset_num_timesteps=False))
        finished.update({part: spent[part] - before[part] for part in PARTS})
        finished["rest"] = seconds - sum(finished[part] for part in PARTS)
        finished["evaluated_steps"] = float(sum(map(sum, evaluation.evaluations_length)) - evaluated)
        if evaluation.evaluations_results:
            finished["score"] = float(evaluation.last_mean_reward)
        return steps, seconds

    return Contestant(run, parts=lambda: dict(finished))


if __name__ == "__main__":
    serve(build, {name: version(name) for name in (*LIBRARIES[sys.argv[1]], "stable-baselines3", "gymnasium")})
