"""RL Zoo with our algorithms: ``python -m sb3_o2o.zoo.train``, ``enjoy`` and ``plot`` are its own programs."""
