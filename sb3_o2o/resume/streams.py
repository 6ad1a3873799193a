"""Another random stream, for a run that would otherwise fail in the same way again."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from stable_baselines3.common.utils import set_random_seed

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count
from sb3_o2o.objectives.objective import MODEL
from sb3_o2o.resume.copying import offline_buffers

#: buffers that are opened later draw other streams as well
_APART = 1000


@checked
def draw_other_numbers(model: Annotated[Any, MODEL], number: Count) -> None:
    """
    Let everything that a model draws from go on elsewhere: the global generators, those of its buffers on datasets, and
    its action space. The environments keep theirs.

    :param model: an algorithm
    :param number: which of the other streams, > 0; the same one gives the same numbers
    """
    seeds = np.random.SeedSequence([model.seed or 0, _APART, number])
    first, second, *others = (int(each) for each in seeds.generate_state(2 + len(offline_buffers(model))))
    set_random_seed(first, using_cuda=model.device.type == "cuda")
    model.action_space.seed(second)
    for buffer, seed in zip(offline_buffers(model), others, strict=True):
        buffer.rng = np.random.default_rng(seed)
    model.n_offline_buffers += _APART * number
