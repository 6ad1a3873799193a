"""Reference returns per environment, and the normalised score they give.

D4RL's convention: ``100 * (return - random) / (expert - random)`` on the undiscounted, unscaled return of an episode,
so that 0 is a random policy and 100 the reference expert. A reference belongs to the environment, not to the dataset:
all datasets of one task are normalised alike. Where no reference is known, the raw return is the answer, with a note.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sb3_o2o.checked import checked
from sb3_o2o.kinds import TEXT, Numbers, number

_D4RL = "D4RL's d4rl/infos.py (github.com/Farama-Foundation/D4RL)"
_OWN = "a convention of sb3_o2o, D4RL has no references for it"

# What changed between the MuJoCo environments' versions. The references were measured in v2 and say how far from home
# they are wherever they are used.
_MUJOCO_VERSIONS = {
    2: "measured in this version (Gym, mujoco-py, MuJoCo 1.50)",
    3: "measured in v2; v3 has the same dynamics and rewards at its default arguments (Gym, mujoco-py)",
    4: "measured in v2; v4 runs on the newer MuJoCo bindings (2.1.3 and later): close to v2 scores, not equal",
    5: "measured in v2; v5 (Gymnasium 1.0, MuJoCo 2.3.3 and later) also changed rewards and models: "
    "compare with other v5 scores, not with published D4RL tables",
}


@dataclass(frozen=True)
class ReferenceScore:
    """
    The two returns between which a task's score is measured.

    :param minimum: return of the random reference policy (undiscounted sum of raw rewards): score 0
    :param maximum: return of the expert reference policy: score 100
    :param provenance: where the two numbers come from, and what they do not cover
    """

    minimum: float
    maximum: float
    provenance: str

    def __post_init__(self) -> None:
        for name in ("minimum", "maximum"):
            number().check(f"{name} of ReferenceScore", getattr(self, name))
        TEXT.check("provenance of ReferenceScore", self.provenance)
        if self.maximum <= self.minimum:
            raise ValueError(
                "The reference maximum must be a finite number above the minimum, "
                f"got minimum={self.minimum} and maximum={self.maximum}."
            )

    @checked
    def normalize(self, returns: Numbers) -> NDArray[np.float64]:
        """
        The normalised score.

        :param returns: undiscounted, unscaled returns, any shape
        :return: scores of the same shape; 0 is the random policy, 100 the expert, below and above are possible
        """
        return 100.0 * (np.asarray(returns, dtype=np.float64) - self.minimum) / (self.maximum - self.minimum)


@dataclass(frozen=True)
class _Entry:
    """
    One row of the table: environments whose id matches ``pattern`` (the whole id, version included), and who says so.
    """

    pattern: str
    minimum: float
    maximum: float
    note: str
    source: str = _D4RL


_MUJOCO: dict[str, tuple[float, float]] = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}

_MAZE2D: dict[str, tuple[float, float]] = {
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
}

_SPARSE_NOTE = (
    "success of an episode that ends at the goal: make the environment with continuing_task=False, "
    "or its reward keeps flowing and the score passes 100"
)
_ADROIT_NOTE = (
    "measured in D4RL's {task}-v0/v1 (mj_envs); Gymnasium-Robotics' hand has other time limits "
    "(200 steps where D4RL's pen has 100), so the scores are not D4RL's"
)

# D4RL's own datasets, by name: other benchmarks have names of the same kind, and other rewards (WSRL's door-binary-v0,
# OGBench's antmaze-large-v0, DeepMind Control's hopper-hop-v0).
_LOCOMOTION = "random|random-expert|medium|medium-replay|medium-expert|full-replay|expert"
_ANTMAZES = "umaze|umaze-diverse|medium-play|medium-diverse|large-play|large-diverse"
_HANDS = "human|cloned|expert"

_TABLE: tuple[_Entry, ...] = (
    # D4RL's own names, for datasets converted from it.
    *(
        _Entry(
            rf"{name.lower()}-({_LOCOMOTION})-v\d+",
            *references,
            "measured in Gym's v2, for every version of the datasets",
        )
        for name, references in _MUJOCO.items()
    ),
    _Entry(rf"(?i)antmaze-({_ANTMAZES})-v\d+", 0.0, 1.0, "success of an episode that ends at the goal"),
    _Entry(r"(?i)kitchen-(complete|partial|mixed)-v\d+", 0.0, 4.0, "number of solved sub-tasks, four at most"),
    _Entry(rf"pen-({_HANDS})-v\d+", 96.262799, 3076.8331017826877, "measured in D4RL's pen-v0/v1"),
    _Entry(rf"hammer-({_HANDS})-v\d+", -274.856578, 12794.134825156867, "measured in D4RL's hammer-v0/v1"),
    _Entry(rf"relocate-({_HANDS})-v\d+", -6.425911, 4233.877797728884, "measured in D4RL's relocate-v0/v1"),
    _Entry(rf"door-({_HANDS})-v\d+", -56.512833, 2880.5693087298737, "measured in D4RL's door-v0/v1"),
    *(_Entry(name, *references, f"measured in D4RL's {name}") for name, references in _MAZE2D.items()),
    # Gymnasium-Robotics.
    _Entry(r"AntMaze_(?!.*Dense).*-v\d+", 0.0, 1.0, f"that of its antmaze-*: {_SPARSE_NOTE}"),
    _Entry(r"PointMaze_(?!.*Dense).*-v\d+", 0.0, 1.0, _SPARSE_NOTE, source=_OWN),
    _Entry(
        r"FrankaKitchen-v\d+",
        0.0,
        4.0,
        "number of solved sub-tasks of D4RL's four; with remove_task_when_completed=False, as in Minari's datasets, "
        "returns are not comparable",
    ),
    _Entry(r"AdroitHandPen-v\d+", 96.262799, 3076.8331017826877, _ADROIT_NOTE.format(task="pen")),
    _Entry(r"AdroitHandHammer-v\d+", -274.856578, 12794.134825156867, _ADROIT_NOTE.format(task="hammer")),
    _Entry(r"AdroitHandRelocate-v\d+", -6.425911, 4233.877797728884, _ADROIT_NOTE.format(task="relocate")),
    _Entry(r"AdroitHandDoor-v\d+", -56.512833, 2880.5693087298737, _ADROIT_NOTE.format(task="door")),
)


def _mujoco_reference(env_id: str) -> ReferenceScore | None:
    match = re.fullmatch(r"([A-Za-z0-9]+)-v(\d+)", env_id)
    if match is None or match[1] not in _MUJOCO or int(match[2]) not in _MUJOCO_VERSIONS:
        return None
    minimum, maximum = _MUJOCO[match[1]]
    return ReferenceScore(minimum, maximum, f"{_D4RL}: {_MUJOCO_VERSIONS[int(match[2])]}")


@checked
def reference_score(env_id: str | None) -> ReferenceScore | None:
    """
    The reference returns of an environment.

    :param env_id: Gymnasium id with its version, such as ``Hopper-v5``; a namespace before ``/`` is ignored
    :return: the reference, or None where no published reference is known (then report raw returns)
    """
    if env_id is None:
        return None
    name = env_id.rsplit("/", maxsplit=1)[-1].rsplit(":", maxsplit=1)[-1]
    mujoco = _mujoco_reference(name)
    if mujoco is not None:
        return mujoco
    for entry in _TABLE:
        if re.fullmatch(entry.pattern, name):
            return ReferenceScore(entry.minimum, entry.maximum, f"{entry.source}: {entry.note}")
    return None


@checked
def normalized_score(env_id: str, returns: Numbers) -> NDArray[np.float64]:
    """
    D4RL's normalised score of an environment's returns.

    :param env_id: Gymnasium id with its version
    :param returns: undiscounted, unscaled returns, any shape
    :return: scores of the same shape, 0 for the random and 100 for the expert reference
    :raises ValueError: no reference is known for this environment
    """
    reference = reference_score(env_id)
    if reference is None:
        raise ValueError(
            f"No reference returns are known for {env_id!r}, so its returns have no normalised score. Report raw "
            "returns, or give your own: ReferenceScore(minimum, maximum, provenance).normalize(returns)."
        )
    return reference.normalize(returns)
