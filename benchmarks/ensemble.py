"""
Forward and backward of a critic ensemble on a CPU: one batched product per layer against member after member.

    python benchmarks/ensemble.py --threads 1

prints milliseconds (median) and their ratio for the shapes that updates have: 256 rows (a minibatch), 1024 (a block of
four), 7936 (CQL's 31 actions for each of 256 states).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch as th

from sb3_o2o.networks.ensemble import EnsembleMLP


def milliseconds(forward: object, inputs: th.Tensor, repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        forward(inputs).sum().backward()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--inputs", type=int, default=14)
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    print("critics   rows  layer norm  batched ms  one by one ms  ratio")
    for n_members, rows in ((2, 256), (10, 256), (10, 1024), (2, 7936)):
        for layer_norm in (False, True):
            net = EnsembleMLP(args.inputs, [args.hidden] * 2, n_members, layer_norm=layer_norm)
            inputs = th.randn(rows, args.inputs)
            repeated = inputs.expand(n_members, *inputs.shape)
            batched = milliseconds(lambda x, net=net: net._forward_batched(x, net.layers, None), repeated, args.repeats)
            single = milliseconds(lambda x, net=net: net._forward_one_by_one(x, None), inputs, args.repeats)
            row = f"{n_members:7d} {rows:6d}  {layer_norm!s:>10}  {batched:10.2f}  {single:13.2f}"
            print(f"{row}  {batched / single:5.2f}", flush=True)


if __name__ == "__main__":
    main()
