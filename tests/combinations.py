"""
What goes with what: a tiny run of every combination, which works or is refused. The tests of combinations and the
tables of the documentation are made of the same runs.

Nothing is known here about which combinations are refused: that is asked of the code. ``make combinations`` asks it of
all, and writes ``docs/combinations.json``; the tests ask of some whether it is still so.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from toy_tasks import arrays, dataset, dataset_file, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.data import OfflineDataset
from sb3_o2o.finetuning import (
    ActorCriticAlignment,
    AdaptiveBC,
    AsynchronousUpdates,
    AuxiliaryAdvantage,
    BalancedReplay,
    ChampionChallenger,
    ConstrainedFineTuning,
    DatasetReplay,
    DualCritic,
    FIFOReplay,
    FineTuningCallback,
    JumpStart,
    OnlinePretraining,
    PerturbedTargets,
    PolicyExpansion,
    PolicyReevaluation,
    SymmetricReplay,
    TrustRegion,
    ValueAlignment,
    Warmup,
)
from sb3_o2o.recipes import Recipe, list_recipes, load_recipe

TABLE = Path(__file__).resolve().parent.parent / "docs" / "combinations.json"
#: our algorithms, and how tests make a small one
FAMILIES: dict[str, tuple[Any, Callable[..., Any]]] = {
    "sac": (O2OSAC, make),
    "td3": (O2OTD3, make_td3),
    "ppo": (O2OPPO, make_ppo),
}
#: every callback, with phases and networks that fit a test
SMALL: dict[str, Callable[[], FineTuningCallback]] = {
    "ActorCriticAlignment": ActorCriticAlignment,
    "AdaptiveBC": lambda: AdaptiveBC(references=(-10.0, 0.0)),
    "AsynchronousUpdates": lambda: AsynchronousUpdates(0),
    "AuxiliaryAdvantage": lambda: AuxiliaryAdvantage(50, reference="interval", interval=8),
    "BalancedReplay": lambda: BalancedReplay(ratio_net_arch=[4], ratio_batch_size=8),
    "ChampionChallenger": ChampionChallenger,
    "ConstrainedFineTuning": lambda: ConstrainedFineTuning(reference="interval", interval=4),
    "DatasetReplay": lambda: DatasetReplay("part", 2),
    "DualCritic": lambda: DualCritic(0.5),
    "FIFOReplay": FIFOReplay,
    "JumpStart": lambda: JumpStart(mean_steps=3),
    "OnlinePretraining": lambda: OnlinePretraining(6, 2),
    "PerturbedTargets": PerturbedTargets,
    "PolicyExpansion": PolicyExpansion,
    "PolicyReevaluation": lambda: PolicyReevaluation(2),
    "SymmetricReplay": SymmetricReplay,
    "TrustRegion": lambda: TrustRegion(tau=0.5),
    "ValueAlignment": lambda: ValueAlignment(2),
    "Warmup": lambda: Warmup(9),
}
#: which callbacks another one cannot do without
NEEDS = {"OnlinePretraining": "DualCritic"}
OBJECTIVE_KWARGS: dict[str, dict[str, Any]] = {
    "cql": {"n_actions": 2},
    "calql": {"n_actions": 2},
    "spot": {"density_steps": 2, "density_net_arch": [8]},
}
#: an image of the smallest size that Stable-Baselines3's network takes
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
ROWS = 20


def objectives(family: str) -> list[str]:
    """The package's objectives of an algorithm, by name; other tests may have registered some of their own."""
    found = FAMILIES[family][0].available_objectives
    return sorted(name for name, kind in found.items() if kind.__module__.startswith("sb3_o2o."))


@dataclass(frozen=True)
class Setting:
    """
    Under what a combination is run.

    :param observations: ``"box"``, ``"dict"`` or ``"images"``
    :param n_envs: environments side by side
    :param arguments: of the constructor
    :param interrupted: saved as a resume bundle in the middle, and gone on with
    """

    observations: str = "box"
    n_envs: int = 1
    arguments: tuple[tuple[str, Any], ...] = ()
    interrupted: bool = False


#: the columns of the tables
SETTINGS: Mapping[str, Setting] = {
    "Box": Setting(),
    "Dict": Setting("dict"),
    "images": Setting("images"),
    "several environments": Setting(n_envs=3),
    "gSDE": Setting(arguments=(("use_sde", True),)),
    "compile": Setting(arguments=(("compile", True),)),
    "resume": Setting(interrupted=True),
}


class Pictures(gym.Env[Any, np.ndarray]):
    """Noise to look at; an episode is over after five steps."""

    observation_space = IMAGE

    def __init__(self) -> None:
        self.action_space = vec().action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), -float(np.abs(action).sum()), False, self.steps >= 5, {}

    def _observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, IMAGE.shape, dtype=np.uint8)


def environments(setting: Setting) -> VecEnv:
    if setting.observations == "images":
        return DummyVecEnv([lambda: Monitor(Pictures()) for _ in range(setting.n_envs)])
    return vec(setting.n_envs, dictionary=setting.observations == "dict")


def data(setting: Setting) -> OfflineDataset:
    if setting.observations != "images":
        return dataset(dictionary=setting.observations == "dict")
    rows = arrays(ROWS)
    pictures = np.random.default_rng(0).integers(0, 256, (2, ROWS, *IMAGE.shape), dtype=np.uint8)
    rows.update(observations=pictures[0], next_observations=pictures[1])
    return OfflineDataset.load(rows, observation_space=IMAGE, action_space=vec().action_space)


def build(family: str, setting: Setting, folder: Path, finetuning: Any = (), **kwargs: Any) -> Any:
    """A small model of an algorithm under a setting. What is resumed finds its dataset in a file of the folder."""
    arguments: dict[str, Any] = {**kwargs, **dict(setting.arguments)}
    policies = {"box": "MlpPolicy", "dict": "MultiInputPolicy", "images": "CnnPolicy"}
    network: dict[str, Any] = {"net_arch": [8]}
    if setting.observations == "images":
        network["features_extractor_kwargs"] = {"features_dim": 8}
    if family != "ppo":
        arguments.setdefault("learning_starts", 0)
    return FAMILIES[family][1](
        policies[setting.observations],
        environments(setting),
        policy_kwargs={**network, **arguments.pop("policy_kwargs", {})},
        finetuning=list(arguments.pop("finetuning", finetuning)),
        dataset=dataset_file(folder.parent) if setting.interrupted else data(setting),
        **arguments,
    )


def train(model: Any, setting: Setting, folder: Path) -> Any:
    """Both phases, and an interruption between two steps of the second where it is asked for."""
    model.pretrain(None, 2)
    if not setting.interrupted:
        return model.learn(16 * setting.n_envs)
    model.learn(14)  # longer than any phase before the first update
    model.save_resume(folder)
    return type(model).load_resume(folder, environments(setting)).learn(6, reset_num_timesteps=False)


def outcome(make_model: Callable[[], Any], setting: Setting, folder: Path) -> str:
    """
    :param make_model: makes what is to be trained
    :param setting: under what
    :param folder: for a resume bundle
    :return: empty where it works, and the policy has moved; else with which words the library refuses it
    :raises AssertionError: it does nothing
    :raises Exception: that is not the library's own
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = make_model()
            before = state(model)
            after = state(train(model, setting, folder))
        except (ValueError, TypeError) as error:
            if "/sb3_o2o/" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).as_posix():
                raise  # not in words of ours
            # a list of all arguments there are says nothing here, and changes with each new one
            return re.sub(r"( Did you mean .*?\?)?( Available: .*)?$", "", str(error))
    assert all(bool(th.isfinite(value).all()) for value in after.values())
    assert differs(before, after)
    return ""


def combination(
    family: str, objective: str, callback: str | None, setting: Setting, folder: Path, online: bool = True
) -> str:
    """
    :param family: of the algorithm
    :param objective: that is minimised before, and online where the algorithm has a choice
    :param callback: name; None for none
    :param setting: under what
    :param folder: for a resume bundle
    :param online: whether the objective is minimised online as well
    :return: see :func:`outcome`
    """
    names = [] if callback is None else [callback, *([NEEDS[callback]] if callback in NEEDS else [])]
    kwargs: dict[str, Any] = {"objective": objective, "objective_kwargs": OBJECTIVE_KWARGS.get(objective)}
    if family != "ppo" and online:
        kwargs["online_objective"] = objective
    return outcome(lambda: build(family, setting, folder, [SMALL[name]() for name in names], **kwargs), setting, folder)


# -- recipes -------------------------------------------------------------------------------------------------------


def small(recipe: Recipe) -> dict[str, Any]:
    """The recipe's arguments, with networks, batches and waits that fit a test."""
    sizes = {"n_steps": 8, "pretrain_batch_size": 8} if recipe.algorithm == "O2OPPO" else {"buffer_size": 200}
    arguments = {**recipe.arguments, "batch_size": 8, "seed": 0, **sizes}
    arguments["policy_kwargs"] = {**recipe.arguments["policy_kwargs"], "net_arch": [8, 8]}
    if recipe.arguments.get("learning_starts"):
        arguments["learning_starts"] = 12
    if recipe.arguments["objective"] == "spot":
        density = {"density_steps": 4, "density_net_arch": [8]}
        arguments["objective_kwargs"] = {**recipe.arguments["objective_kwargs"], **density}
    short = {
        "Warmup": {"steps": 12},
        "PolicyReevaluation": {"gradient_steps": 3},
        "ValueAlignment": {"gradient_steps": 3},
        "AdaptiveBC": {"references": [-10.0, 0.0]},
        "OnlinePretraining": {"collect_steps": 12, "gradient_steps": 3},
    }
    arguments["finetuning"] = [
        {name: {**options, **short.get(name, {}), **_short_freeze(options)}}
        for callback in recipe.arguments.get("finetuning") or ()
        for name, options in callback.items()
    ]
    return arguments


def _short_freeze(options: dict[str, Any]) -> dict[str, Any]:
    return {"freeze_policy_steps": 4} if options.get("freeze_policy_steps") else {}


def of_recipe(name: str, setting: Setting, folder: Path) -> str:
    """
    :param name: of a recipe
    :param setting: under what
    :param folder: for a resume bundle
    :return: see :func:`outcome`
    """
    recipe = load_recipe(name)
    arguments = small(recipe)
    arguments["n_critics"] = min(arguments.get("n_critics") or 2, 3)
    for callback in arguments["finetuning"]:
        for kind, options in callback.items():
            if kind in ("ConstrainedFineTuning", "AuxiliaryAdvantage"):  # there are no evaluations to follow
                options.update(reference="interval", interval=4)
    if recipe.algorithm == "O2OPPO":
        del arguments["n_critics"]
    else:
        arguments["gradient_steps"] = min(arguments.get("gradient_steps") or 1, 2)
    family = next(family for family, (each, _) in FAMILIES.items() if each.__name__ == recipe.algorithm)
    return outcome(lambda: build(family, setting, folder, **arguments), setting, folder)


# -- the table -----------------------------------------------------------------------------------------------------


def cells() -> Iterator[tuple[tuple[str, str, str], Callable[[Path], str]]]:
    """Everything that can be asked: which table, row and column; and what answers it."""
    for family in FAMILIES:
        for objective in objectives(family):
            row = f"{family}/{objective}"
            for callback in SMALL:
                yield ("callbacks", row, callback), _asking(family, objective, callback, SETTINGS["Box"])
            for name, setting in SETTINGS.items():
                yield ("objectives", row, name), _asking(family, objective, None, setting)
    for recipe in list_recipes():
        for name, setting in SETTINGS.items():
            yield ("recipes", recipe, name), _asking_recipe(recipe, setting)


def _asking(family: str, objective: str, callback: str | None, setting: Setting) -> Callable[[Path], str]:
    return lambda folder: combination(family, objective, callback, setting, folder)


def _asking_recipe(name: str, setting: Setting) -> Callable[[Path], str]:
    return lambda folder: of_recipe(name, setting, folder)


def quick_compiler() -> Callable[..., Any]:
    """
    ``torch.compile`` that traces, differentiates and guards as ever, and waits for no C++, which takes seconds for each
    graph. What C++ makes of the formulas is compared in ``updates/test_gradients.py``.
    """
    return partial(th.compile, backend="aot_eager")


def main() -> None:
    """Ask everything, or what is about one of the words that are given, and write the table."""
    th.set_num_threads(1)
    th.compile = quick_compiler()  # type: ignore[assignment]
    known: dict[str, dict[str, dict[str, str]]] = json.loads(TABLE.read_text()) if TABLE.is_file() else {}
    table: dict[str, dict[str, dict[str, str]]] = {}
    for (kind, row, column), ask in cells():
        before = known.get(kind, {}).get(row, {}).get(column)
        if before is not None and sys.argv[1:] and not any(word in (kind, row, column) for word in sys.argv[1:]):
            table.setdefault(kind, {}).setdefault(row, {})[column] = before
            continue
        with tempfile.TemporaryDirectory() as folder:
            table.setdefault(kind, {}).setdefault(row, {})[column] = ask(Path(folder) / "bundle")
        print(kind, row, column, table[kind][row][column] or "works", file=sys.stderr)
        th.compiler.reset()
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
