"""Whatever is given to any argument of any public callable: one error of ours that names both, or it is documented."""

import inspect
import math
import traceback
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import tiny
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from public_api import WRONG, Public, Thing, may_be, public, resolved
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.torch_layers import FlattenExtractor
from toy_tasks import Drift, arrays, dataset, make, make_ppo, make_td3, vec

from sb3_o2o.advice import DatasetFacts, PolicyFacts
from sb3_o2o.checked import kinds_of
from sb3_o2o.data import MixedReplayBuffer, MonteCarloReplayBuffer, OfflineReplayBuffer, SumTree
from sb3_o2o.evaluation import ReferenceScore
from sb3_o2o.networks import EnsembleMLP, NormalizedExtractor
from sb3_o2o.objectives import SACObjective
from sb3_o2o.recipes import load_recipe, open_recipe
from sb3_o2o.reporting.run_finding import Found
from sb3_o2o.runs.environments import Environment
from sb3_o2o.search_space import Range
from sb3_o2o.tuning import TuningConfig

LOOP = "called in each update, with what the library made"
HOOK = "for own methods to override; the library calls it"
FORMULA = "a formula of tensors, compiled into the losses: the objectives have checked its constants"
NETWORK = "called in each update with tensors, which torch checks"
GYMNASIUM = "Gymnasium's own method, at each step"
PREDICT = "Stable-Baselines3's own method, at each step: it says which shape it expected"
#: what is not checked, and why: names of callables, perhaps with an argument in brackets
ACCEPTED: dict[str, str] = {
    **dict.fromkeys(("*Objective.*", "Draws*", "Batch.*", "PPOCritics.*", "*.to_batch", "*.sample_online"), LOOP),
    **dict.fromkeys(("*.draws_blocks", "*.is_target_step", "*.train", "*.draw_critics"), LOOP),
    **dict.fromkeys(("*.defer_updates", "*.make_updates"), LOOP),
    **dict.fromkeys(("FineTuningCallback.*", "ResumeBundle.on_*", "*.measure_batch", "*.check_run"), HOOK),
    **dict.fromkeys(
        ("DualCritic.*", "PolicyExpansion.*", "ActorCriticAlignment.*", "*.offline_actions", "*.dataset_opened"), HOOK
    ),
    **dict.fromkeys(("DiagnosticsCallback.check", "*.collect_rollouts", "*.refuse_unused_hooks"), HOOK),
    "*.predict": PREDICT,
    **dict.fromkeys(("*Critic.*", "EnsembleL*", "EnsembleMLP.forward*", "ValueNetwork.*", "DensityRatio.*"), NETWORK),
    **dict.fromkeys(
        ("ConditionalVAE.*", "NormalizedExtractor.*", "O2O*Policy.*", "EnsemblePolicyMixin.*", "Seeing.*"), NETWORK
    ),
    **dict.fromkeys(("*.step", "*.observation", "NormalizedScore.reset", "ResidualActions.reset"), GYMNASIUM),
    **dict.fromkeys(("sb3_o2o.objectives.functional.*", "gaussian_*", "squashed_*"), FORMULA),
    **dict.fromkeys(("softmax_kl", "mixture_moments"), FORMULA),
}
NEGATIVE = "below 0 as well"
INFINITE = "infinity is no limit"
NUMPY = "an array or a number: what is not finite is said with its place, or stays so"
#: what is no mistake there although the type alone does not say so, and why
WELCOME: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        (
            *("*(reward_scale)", "*(reward_shift)", "*(target_entropy)", "*(learning_starts)", "O2OPPO(ent_coef)"),
            *("RewardScaleShift(*)", "OfflineDataset.with_rewards(*)", "*(negative_reward)", "*(log_prob_floor)"),
            *("OfflineDataset.load(reward)", "OfflineDataset.load(cut_at_success)", "*.cut_at_success(threshold)"),
            *("*(lagrange_gap)", "*(ref_min_score)", "*(ref_max_score)", "*(offline_score)", "*(dataset_return)"),
            *("NormalizedScore(*)", "true_q_values(last_value)", "*(hidden_bias)"),
        ),
        (lambda value: is_number(value) and math.isfinite(value), NEGATIVE),
    ),
    **dict.fromkeys(
        ("O2O*(gradient_steps)", "O2O*(sde_sample_freq)"), (lambda value: is_whole(value) and value == -1, "SB3's word")
    ),
    **dict.fromkeys(
        ("*(max_grad_norm)", "*(target_noise_clip)", "drop_at_switch(window)"),
        (lambda value: is_number(value) and value > 0, INFINITE),
    ),
    **dict.fromkeys(
        ("*(indices)", "*(prefixes)"), (lambda value: isinstance(value, tuple) and not value, "none of them")
    ),
    "DualCritic(kappa)": (lambda value: is_number(value) and 0 <= value <= 1, "a constant"),
    "*(verbose)": (lambda value: is_whole(value) or isinstance(value, bool | np.bool_), "Stable-Baselines3's"),
}


def is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_whole(value) or isinstance(value, float | np.floating)


def model_of(name: str) -> Any:
    if "PPO" in name or name.startswith("MonteCarlo"):
        return make_ppo()
    return make_td3() if "TD3" in name or name.startswith(("SPOT", "Deterministic")) else make()


def tuning_config() -> TuningConfig:
    return TuningConfig(load_recipe("cql"), Environment(tiny.BOX), {"gamma": Range(0.9, 0.99)}, online_steps=5)


BOX, ACTIONS = Drift().observation_space, Drift().action_space
_ROWS = np.arange(3)
_CHOOSE = ("choose", "regime")
#: what the other required arguments are given; of a callable, or of that name
VALID: dict[str, Callable[[], Any]] = {
    "policy": lambda: "MlpPolicy",
    "env": vec,
    "eval_env": vec,
    "dataset": dataset,
    "source": dataset,
    "dataset_id": lambda: "tests/new-v0",
    "env_id": lambda: "Hopper-v5",
    "observation_space": lambda: BOX,
    "action_space": lambda: ACTIONS,
    "buffer_size": lambda: 10,
    "capacity": lambda: 4,
    "batch_size": lambda: 2,
    "size": lambda: 2,
    "number": lambda: 1,
    "online": make,
    "iterative": lambda: False,
    "n_critics": lambda: 1,
    "n_members": lambda: 2,
    "rng": lambda: np.random.default_rng(0),
    "indices": lambda: _ROWS,
    "priorities": lambda: 1.0,
    "prefixes": lambda: np.zeros(1),
    "path": lambda: Path("file.npz"),
    "folder": lambda: Path("."),
    "run_dir": lambda: Path("."),
    "run_folder": lambda: Path("."),
    "phase": lambda: "pretraining",
    "scale": lambda: 1.0,
    "shift": lambda: 0.0,
    "keys": lambda: ["place"],
    "net_arch": lambda: [4],
    "freq": lambda: 5,
    "log_path": lambda: None,
    "seed": lambda: 0,
    "evaluation": lambda: EvalCallback(vec()),
    "steps": lambda: [1.0, 2.0],
    "scores": lambda: [1.0, 2.0],
    "offline_score": lambda: 1.0,
    "successes": lambda: [0, 1],
    "returns": lambda: [1.0],
    "rewards": lambda: np.zeros(3),
    "estimated": lambda: np.arange(60.0),
    "true": lambda: np.arange(60.0),
    "first": lambda: np.arange(4.0),
    "second": lambda: np.arange(4.0),
    "gamma": lambda: 0.9,
    "specs": lambda: ["Warmup"],
    "name": lambda: "wsrl",
    "recipe": lambda: "wsrl",
    "objective": lambda: "bc",
    "ret": lambda: 1.0,
    "network": lambda: th.nn.Linear(1, 1),
    "module": lambda: th.nn.Linear(1, 1),
    "mean": lambda: np.zeros(3),
    "std": lambda: np.ones(3),
    "features_dim": lambda: 3,
    "features_extractor": lambda: FlattenExtractor(BOX),
    "extractor": lambda: FlattenExtractor(BOX),
    "lr_schedule": lambda: lambda _: 1e-3,
    "reference": lambda: th.nn.Linear(1, 1),
    "load_path_or_dict": lambda: make().get_parameters(),
    "ent_coef": lambda: 0.1,
    "observations": lambda: th.zeros(2, 3),
    "gradient_steps": lambda: 1,
    "buffer": lambda: OfflineReplayBuffer(dataset(), BOX, ACTIONS),
    "algorithm": lambda: "O2OSAC",
    "accepted": lambda: ["gamma"],
    "available": lambda: {"sac": SACObjective},
    "kwargs": lambda: {},
    "whose": lambda: "O2OSAC",
    "state_dim": lambda: 2,
    "action_dim": lambda: 2,
    "n_inputs": lambda: 2,
    "input_dim": lambda: 2,
    "learning_rate": lambda: 0.1,
    "transitions": lambda: dataset()._transitions,
    "RewardScaleShift.env": Drift,
    "EndAtSuccess.env": Drift,
    "FlattenGoalObservation.env": lambda: Drift(dictionary=True),
    "NormalizedScore.env": Drift,
    "ResidualActions.env": Drift,
    "candidates": lambda: {"one": make(), "two": make()},
    "base": lambda: lambda observations: np.zeros((1, 2), np.float32),
    "residual": lambda: lambda observations: np.zeros((1, 2), np.float32),
    "flatten_observations.observations": lambda: {"place": np.zeros((1, 3))},
    **{f"{name}.dataset": lambda: DatasetFacts("a", "b", 1, 1, "score", *[1.0] * 4, False, None) for name in _CHOOSE},
    "regime.policy": lambda: PolicyFacts("a", "SAC", 1.0, 1.0, 1, None),
    "collect.policy": lambda: None,
    "collect.env": lambda: tiny.BOX,
    "OfflineDataset.source": lambda: "somewhere",
    "O2OSAC.tune_ent_coef.ent_coef": lambda: "auto",
    "OfflineToOnlineAlgorithm.gradient_phase.name": lambda: "mine",
    "OfflineToOnlineAlgorithm.gradient_phase.objective": lambda: SACObjective(make()),
    "algorithm_class.name": lambda: "O2OSAC",
    "make_objective.name": lambda: "sac",
    "objective_class.name": lambda: "sac",
    "register_objective.name": lambda: "mine",
    "register_objective.objective": lambda: SACObjective,
    "check_recipe.recipe": lambda: load_recipe("wsrl"),
    "mean_q_and_td_error.batch": lambda: make().to_batch(OfflineReplayBuffer(dataset(), BOX, ACTIONS).sample(2)),
    "policy_and_q_drift.actor": lambda: make().actor,
    "policy_and_q_drift.critic": lambda: make().critic,
    "concatenate_samples.first": lambda: OfflineReplayBuffer(dataset(), BOX, ACTIONS).sample(2),
    "concatenate_samples.second": lambda: OfflineReplayBuffer(dataset(), BOX, ACTIONS).sample(2),
    **dict.fromkeys(
        (f"{name}.recipe" for name in ("declared_space", "select_space", "TuningConfig", "overrides_of_trial")),
        lambda: load_recipe("cql"),
    ),
    "environment": lambda: Environment(tiny.BOX),
    "space": lambda: {"gamma": Range(0.9, 0.99)},
    "declared": lambda: {"gamma": Range(0.9, 0.99)},
    "chosen": lambda: [("gamma", None)],
    "values": lambda: {"gamma": 0.95},
    "config": tuning_config,
    "study": optuna.create_study,
    "trial": lambda: optuna.create_study().ask(),
    "storage": optuna.storages.InMemoryStorage,
    "sampler": optuna.samplers.RandomSampler,
    "pruner": optuna.pruners.NopPruner,
    "make_sampler.name": lambda: "tpe",
    "make_pruner.name": lambda: "median",
    "n_runs": lambda: 2,
    "n_trials": lambda: 1,
    "where": lambda: "study.db",
    "overrides": lambda: {},
    "grid": lambda: "grid.yml",
    "found": Found,
    "title": lambda: "Runs",
    "paths": lambda: ["runs"],
    "out": lambda: Path("report"),
    **{f"OfflineDataset.from_arrays.{name}": lambda name=name: arrays()[name] for name in arrays()},  # type: ignore[misc]
}
OWNERS: dict[str, Callable[[], Any]] = {
    "O2OSAC": make,
    "O2OTD3": make_td3,
    "O2OPPO": make_ppo,
    "OfflineDataset": dataset,
    "OfflineReplayBuffer": lambda: OfflineReplayBuffer(dataset(), BOX, ACTIONS),
    "SumTree": lambda: SumTree(4),
    "ReferenceScore": lambda: ReferenceScore(0.0, 1.0, "made up"),
    "Recipe": lambda: load_recipe("wsrl"),
    "RecipeFile": lambda: open_recipe("wsrl"),
    "EnsembleMLP": lambda: EnsembleMLP(2, [4], 2),
    "MixedReplayBuffer": lambda: MixedReplayBuffer(10, BOX, ACTIONS, dataset=dataset()),
    "MonteCarloReplayBuffer": lambda: MonteCarloReplayBuffer(10, BOX, ACTIONS),
    "MonteCarloDictReplayBuffer": lambda: MonteCarloReplayBuffer(10, BOX, ACTIONS),
    "NormalizedExtractor": lambda: NormalizedExtractor(FlattenExtractor(BOX)),
    "TuningConfig": tuning_config,
}


def is_accepted(each: Public, name: str) -> bool:
    names = [each.name, f"{each.name}({name})", f"{each.function.__module__}.{each.name}"]
    if "." in each.name and each.owner is not None:  # a hook is one in every class that answers it
        method = each.function.__name__
        names += [f"{base.__name__}.{method}" for base in each.owner.__mro__ if method in vars(base)]
    return any(fnmatch(full, pattern) for full in names for pattern in ACCEPTED)


FUNCTIONS = [each for each in public() if each.parameters]
CHECKED = [each for each in FUNCTIONS if not all(is_accepted(each, name) for name in each.parameters)]


def is_welcome(each: Public, name: str, value: Any) -> bool:
    """Whether the type allows a value, or the table does."""
    if may_be(resolved(each.function, each.parameters[name]), value):
        return True
    return any(
        fnmatch(f"{each.name}({name})", pattern) and welcomes(value) for pattern, (welcomes, _) in WELCOME.items()
    )


def valid(each: Public, name: str) -> Any:
    if name == "model":
        return model_of(each.name)
    for key in (f"{each.name}.{name}", name):
        if key in VALID:
            return VALID[key]()
    raise KeyError(f"What would be a valid {name} of {each.name}? Say it in VALID.")


def call(each: Public, arguments: dict[str, Any]) -> None:
    if each.owner is None:
        each.function(**arguments)
    elif each.name == each.owner.__name__:
        each.owner(**arguments)
    else:
        owner = each.owner if each.is_class_method else owner_of(each.owner)
        getattr(owner, each.function.__name__)(**arguments)


@cache
def owner_of(owner: type) -> Any:
    """What a method is called on. Refused arguments change nothing, so one serves for all."""
    return OWNERS[owner.__name__]()


valid_once = cache(valid)


def others_of(each: Public, name: str) -> dict[str, Any]:
    """Valid values of the other arguments that are required."""
    required = [other for other, parameter in each.parameters.items() if parameter.default is parameter.empty]
    return {other: valid_once(each, other) for other in required if other != name}


def check_refused(each: Public, name: str, value: Any) -> None:
    """:raises AssertionError: for a wrong value that gets anything but an error of ours with the argument and it"""
    given = f"{each.name}({name}={value!r})"
    try:
        call(each, {**others_of(each, name), name: value})
    except Exception as error:
        found: Exception | None = error
    else:
        found = None
    assert found is not None, f"{given} is accepted: declare what it may be, or say in ACCEPTED or WELCOME why not."
    message = f"{given} raises {type(found).__name__}: {found}"
    assert isinstance(found, ValueError | TypeError), message
    assert "/sb3_o2o/" in Path(traceback.extract_tb(found.__traceback__)[-1].filename).as_posix(), message
    assert name in str(found), f"{message} (does not name the argument)"
    shown = [value, *value] if isinstance(value, list) else [value]  # of several, the wrong one will do
    assert any(repr(each)[:60] in str(found) for each in shown), f"{message} (does not show the value)"


NUMBERS = st.one_of(
    st.floats(),
    st.floats(width=32).map(np.float32),
    st.integers(),
    st.integers(-9, 9).map(np.int64),
    st.complex_numbers(),
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6)
VALUES = st.one_of(
    st.sampled_from(WRONG),
    NUMBERS,
    TEXTS,
    st.binary(max_size=3),
    st.lists(st.one_of(NUMBERS, st.just(Thing())), min_size=1, max_size=2),
    st.dictionaries(st.integers(), NUMBERS, min_size=1, max_size=1),
)


def name_of(each: Public) -> str:
    return each.name


@pytest.mark.parametrize("each", CHECKED, ids=name_of)
class TestEveryCallable:
    def test_wrong_values_are_refused_by_name(self, each: Public) -> None:
        for name in each.parameters:
            if not is_accepted(each, name):
                for value in WRONG:
                    if not is_welcome(each, name, value):
                        check_refused(each, name, value)

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(data=st.data())
    def test_so_is_anything_else(self, each: Public, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name in each.parameters if not is_accepted(each, name)]))
        value = data.draw(VALUES)
        if not is_welcome(each, name, value):
            check_refused(each, name, value)

    def test_defaults_are_allowed_and_numpys_numbers_too(self, each: Public) -> None:
        kinds = (
            getattr(each.owner, "constructor", None) if each.name.startswith("O2O") and "." not in each.name else None
        )
        for name, kind in (kinds_of(each.function) if kinds is None else kinds.kinds).items():
            default = each.parameters[name].default if name in each.parameters else None
            if repr(default) == "<factory>":  # of a dataclass
                continue
            if default is not inspect.Parameter.empty and name in each.parameters:
                assert kind.accepts(default), f"{each.name}({name}={default!r})"
            if is_number(default):
                kind.check(name, np.array(default)[()])


def test_tables_speak_of_what_there_is() -> None:
    names = {f"{each.name}({name})" for each in FUNCTIONS for name in each.parameters}
    names |= {each.name for each in FUNCTIONS} | {f"{each.function.__module__}.{each.name}" for each in FUNCTIONS}
    for pattern in (*ACCEPTED, *WELCOME):
        assert any(fnmatch(name, pattern) for name in names), f"{pattern!r} is about nothing"
    assert {"evaluate", "Warmup", "OfflineDataset.load", "OfflineToOnlineAlgorithm.pretrain"} <= set(
        map(name_of, CHECKED)
    )


def test_a_callable_without_a_declaration_is_found() -> None:
    def forgotten(steps: int = 1) -> int:
        return steps

    for value in (math.nan, True, "2"):
        with pytest.raises(AssertionError, match=r"forgotten\(steps=.*is accepted: declare"):
            check_refused(Public("forgotten", forgotten), "steps", value)


def test_warnings_point_to_who_called() -> None:
    with pytest.warns(UserWarning, match="each begins with a success") as caught:
        dataset().cut_at_success(-1e9)
    assert caught[0].filename == __file__
