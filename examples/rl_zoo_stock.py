"""A hyper-parameter file for RL Zoo's own command and stock SAC, with nothing of ours but a buffer and a callback.

python -m rl_zoo3.train --algo sac --env InvertedDoublePendulum-v5 --conf-file examples/rl_zoo_stock.py
python -m rl_zoo3.enjoy --algo sac --env InvertedDoublePendulum-v5 -f logs
"""

from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT

hyperparams = {
    DEMO_ENVIRONMENT: {
        "policy": "MlpPolicy",
        "n_timesteps": 20_000,
        "learning_starts": 0,  # the policy has seen the dataset when it begins to act
        # Half of every batch comes from the dataset (RLPD). A text, which the zoo evaluates: `enjoy` reads it again.
        "replay_buffer_class": "__import__('sb3_o2o.data').data.MixedReplayBuffer",
        "replay_buffer_kwargs": {"dataset": str(DEMO_DATASET), "offline_fraction": 0.5},
        # Updates on the dataset alone before the first step.
        "callback": [{"sb3_o2o.zoo.stock.OfflineUpdates": {"gradient_steps": 2_000}}],
        "policy_kwargs": {"net_arch": [64, 64]},
    }
}

if __name__ == "__main__":
    print(f"{', '.join(hyperparams)}: give this file to python -m rl_zoo3.train --conf-file")
