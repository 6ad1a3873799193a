"""How the demo's dataset was made: a SAC agent that has only begun to learn, recorded for 20,000 steps.

python examples/make_demo_dataset.py double-pendulum-medium-20k.npz
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from stable_baselines3 import SAC

from sb3_o2o import OfflineDataset
from sb3_o2o.data import collect

ENV_ID = "InvertedDoublePendulum-v5"
#: Return of an agent that balances through all 1000 steps: 10 a step, less for how far and how fast it moves.
BALANCED = 9359.0


def make(target: Path, training_steps: int = 4_000, n_steps: int = 20_000, seed: int = 0) -> OfflineDataset:
    """
    Train for a moment, record, and write one compressed file with spaces, reference scores and provenance.

    :param target: ``.npz`` to write
    :param training_steps: environment steps of the agent
    :param n_steps: transitions to record, actions sampled
    :param seed: of agent and environments
    :return: the dataset
    """
    agent = SAC(
        "MlpPolicy",
        ENV_ID,
        learning_rate=1e-3,
        learning_starts=500,
        buffer_size=training_steps,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
    )
    agent.learn(training_steps)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        random = collect(None, ENV_ID, "demo/random-v0", n_episodes=100, seed=seed)
        reference = float(np.mean(random.episode_returns))
        recorded = collect(
            agent,
            ENV_ID,
            "demo/medium-v0",
            n_steps=n_steps,
            seed=seed + 1,
            ref_min_score=reference,
            ref_max_score=BALANCED,
        )
        recorded.save(target)
    return OfflineDataset.load(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help=".npz to write")
    arguments = parser.parse_args()
    make(arguments.target).summary()
    print(f"{arguments.target}: {arguments.target.stat().st_size / 1e6:.1f} MB")
