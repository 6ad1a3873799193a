"""
Updates while a slow environment steps: seconds of a run with ``AsynchronousUpdates``, beside those of the environment
and of the updates alone.

    python benchmarks/asynchronous.py --steps 400 --control-period 0.05 --updates 4
"""

import argparse
import time
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import AsynchronousUpdates


class FixedRate(gym.Wrapper):
    """
    An environment that answers at a fixed rate, as a robot does.

    :param env: the environment
    :param period: seconds of a step
    """

    def __init__(self, env: gym.Env, period: float):
        super().__init__(env)
        self.period = period

    def step(self, action: Any) -> Any:
        """Sleeps until the period is over."""
        now = time.perf_counter()
        result = self.env.step(action)
        until = now + self.period
        time.sleep(max(until - time.perf_counter(), 0.0))
        return result


def seconds_of(model: O2OSAC, steps: int, callback: Any = None) -> float:
    """:return: seconds of ``learn``"""
    started = time.perf_counter()
    model.learn(steps, callback=callback, reset_num_timesteps=False)
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--control-period", type=float, default=0.05, help="seconds of an environment step")
    parser.add_argument("--updates", type=int, default=4, help="after each step")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--max-lag", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    th.set_num_threads(arguments.threads)
    found: dict[str, float] = {}
    for name in ("environment", "updates", "one after the other", "asynchronous"):
        period = 0.0 if name == "updates" else arguments.control_period
        env = make_vec_env("Hopper-v5", wrapper_class=FixedRate, wrapper_kwargs={"period": period})
        model = O2OSAC(
            "MlpPolicy",
            env,
            gradient_steps=0 if name == "environment" else arguments.updates,
            learning_starts=0,
            policy_kwargs={"net_arch": arguments.hidden},
            compile=arguments.compile,
            buffer_size=10_000,
            seed=0,
        )
        model.learn(20)  # compiles, and leaves something to sample
        callback = AsynchronousUpdates(arguments.max_lag) if name == "asynchronous" else None
        found[name] = seconds_of(model, arguments.steps, callback)
        print(f"{name:<22} {found[name]:6.2f} s")
        if callback is not None:
            print(f"{'longest wait':<22} {callback.longest_wait:6.3f} s")
    slower = max(found["environment"], found["updates"])
    print(f"{'asynchronous / slower':<22} {found['asynchronous'] / slower:6.2f}")


if __name__ == "__main__":
    main()
