"""
Whole updates of SAC in one compiled graph, optimisers and target networks included, beside updates as they are made:
two graphs, with torch's fused Adam and the target networks after them. Both draw the same batches and the same noise.

    python benchmarks/one_graph.py --updates 1 4

Times are of the processor, in turn within a round, and contain drawing the batches, reading the losses and adding them
to the metrics; ratios are the medians over rounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger

from sb3_o2o import O2OSAC
from sb3_o2o.benchmarking.peers.worker_protocol import environment, fill_replay_buffer
from sb3_o2o.benchmarking.work import ROWS
from sb3_o2o.objectives import Batch
from sb3_o2o.updates.gradients import losses_and_gradients
from sb3_o2o.updates.graphs import whole_graph
from sb3_o2o.updates.loop import parameters_of
from sb3_o2o.updates.sampling import sample

BATCH_SIZE = 256


def make_model(precision: str = "fp32") -> O2OSAC:
    """:return: a model as in row ``sac``, after three updates, so that its optimisers have their moments"""
    row = asdict(ROWS["sac"])
    model = O2OSAC(
        "MlpPolicy",
        environment(row),
        batch_size=BATCH_SIZE,
        buffer_size=ROWS["sac"].n_transitions,
        policy_kwargs={"net_arch": list(ROWS["sac"].hidden)},
        seed=0,
        device="cpu",
        compile=True,
        precision=precision,
    )
    model.set_logger(Logger(None, []))
    fill_replay_buffer(model.replay_buffer, row)
    model.train(3, BATCH_SIZE)
    return model


class WholeUpdates:
    """
    Several updates in one graph.

    :param model: whose updates
    :param n: how many
    """

    def __init__(self, model: Any, n: int):
        self.model, self.n = model, n
        optimizers = model.optimizers()
        self.parameters = {name: parameters_of(optimizer) for name, optimizer in optimizers.items()}
        self.states = {
            name: [optimizer.state[each] for each in self.parameters[name]] for name, optimizer in optimizers.items()
        }
        self.learning_rate = model.lr_schedule(1.0)
        self.graph = whole_graph(lambda arguments: self.updates(*arguments), model.device)

    def updates(self, batches: Sequence[Batch], noise: Sequence[tuple[th.Tensor, th.Tensor]]) -> list[th.Tensor]:
        """:return: the losses, in order"""
        model, found = self.model, []
        objective = model.finetuning_objective
        for batch, (policy_noise, next_noise) in zip(batches, noise, strict=True):
            ent_coef = model.log_ent_coef.detach().exp()
            for function, arguments in (
                (objective.critic_losses, (batch, next_noise, None, ent_coef)),
                (objective.actor_losses, (batch, policy_noise, None, ent_coef)),
            ):
                losses, _, gradients = losses_and_gradients(function, self.parameters, arguments)
                for name, values in zip(losses, gradients, strict=True):
                    self.adam(name, values)
                found += losses.values()
            with th.no_grad():
                for target, source in zip(model.critic_target.parameters(), model.critic.parameters(), strict=True):
                    target.lerp_(source, model.tau)
        return found

    @th.no_grad()
    def adam(self, name: str, gradients: Sequence[Any]) -> None:
        """Adam's formula, which the compiler makes kernels of."""
        states = self.states[name]
        step = states[0]["step"].add_(1)  # shared by all
        size, scale = self.learning_rate / (1 - 0.9**step), (1 - 0.999**step).sqrt()
        for parameter, gradient, state in zip(self.parameters[name], gradients, states, strict=True):
            average, square = state["exp_avg"], state["exp_avg_sq"]
            average.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            parameter.sub_(size * average / (square.sqrt() / scale + 1e-8))

    def run(self) -> None:
        """Draw, update, and look at the losses."""
        shape = (BATCH_SIZE, self.model.action_dim)
        batches = [sample(self.model, BATCH_SIZE) for _ in range(self.n)]
        losses = self.graph((batches, [(th.randn(shape), th.randn(shape)) for _ in range(self.n)]))
        assert math.isfinite(sum(losses).item())  # type: ignore[union-attr,arg-type]
        for index in range(0, len(losses), 3):
            names = ("critic_loss", "actor_loss", "ent_coef_loss")
            self.model.loop.metrics.add(dict(zip(names, losses[index : index + 3], strict=True)))


def difference(one: Any, other: Any) -> float:
    """:return: the largest distance of two models' parameters, relative to the largest parameter of its tensor"""
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return max(((a - b).abs().max() / a.abs().max().clamp(min=1e-3)).item() for a, b in pairs)


def seed(number: int) -> None:
    """Let both draw the same."""
    np.random.seed(number)
    th.manual_seed(number)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, nargs="+", default=[1, 4], help="in one graph")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    for n in args.updates:
        usual, other = make_model(args.precision), make_model(args.precision)
        whole = WholeUpdates(other, n)
        runs = (lambda n=n, usual=usual: usual.train(n, BATCH_SIZE), whole.run)  # type: ignore[misc]
        for run in runs:
            seed(1)
            started = time.process_time()
            run()
        compile_seconds = time.process_time() - started
        drift = difference(usual, other)
        times: list[list[float]] = [[], []]
        calls = max(24 // n, 1)
        for number in range(args.rounds):
            for index, run in enumerate(runs):
                seed(number)
                started = time.process_time()
                for _ in range(calls):
                    run()
                times[index].append((time.process_time() - started) / calls / n)
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        print(
            f"{n} in a graph: {1e3 * statistics.median(times[0]):.2f} ms as they are, "
            f"{1e3 * statistics.median(times[1]):.2f} in one graph, ratio {ratio:.3f}; compiling it took "
            f"{compile_seconds:.0f} s; weights differ by {drift:.1e} after {n}",
            flush=True,
        )


if __name__ == "__main__":
    main()
