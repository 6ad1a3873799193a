"""
Speed of one update, side by side with Stable-Baselines3, SBX, d3rlpy and the time of the matrix products alone.

Each contestant is a process of its own, in its own environment, and all are asked in turn, round by round.
"""
