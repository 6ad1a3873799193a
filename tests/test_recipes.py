"""Recipes: every key means something, every constant says where it comes from, every recipe runs."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tiny
import yaml
from combinations import small
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OTD3
from sb3_o2o.algorithms import algorithm_class
from sb3_o2o.experiments.grid import read_grid
from sb3_o2o.finetuning import (
    AuxiliaryAdvantage,
    DualCritic,
    FineTuningCallback,
    LinearSchedule,
    OnlinePretraining,
    PerturbedTargets,
    PolicyReevaluation,
    SymmetricReplay,
    Warmup,
    build_finetuning,
)
from sb3_o2o.objectives import CQLObjective
from sb3_o2o.recipes import RUN_KEYS, Recipe, environment_id, list_recipes, load_recipe, recipe_folder
from sb3_o2o.recipes.building import build_model

O2O = ["o2sac", "o2sac_expert", "o2sac_expert_interval", "o2sac_interval", "o2sac_utd10"]
O2O += ["o2td3", "o2td3_expert", "o2td3_expert_interval", "o2td3_interval"]
OPT = ["opt_iql", "opt_sac", "opt_spot", "opt_td3"]
SO2 = ["edac", "sac_n", "so2", "so2_paper"]
O2PPO = ["o2ppo", "o2ppo_expert"]
OTHERS = [
    "aca",
    "adaptive_bc",
    "awac",
    "calql",
    "cql",
    "iql",
    "jsrl",
    "o2o",
    "o2o_rlpd",
    "o2o_sac",
    "off2on",
    "pex",
    "porl",
    "proto",
    "proto_td3",
    "rebrac",
    "rlpd",
    "sac",
    "sac_fast",
    "so2_off2on",
    "so2_pex",
    "spot",
    "td3",
    "td3_bc",
    "wsrl",
]
NO_ENTRIES = ("about", "evaluation")
NAMES = sorted([*O2O, *O2PPO, *OPT, *SO2, *OTHERS])


def recipe_arguments(name: str, env_id: str | None = None) -> dict[str, Any]:
    return dict(load_recipe(name, env_id).arguments)


def entries() -> list[tuple[str, str]]:
    """All (recipe, entry) pairs; an entry's pattern without its stars is an id that it matches."""
    files = {name: yaml.safe_load((recipe_folder() / f"{name}.yml").read_text()) for name in NAMES}
    return [(name, entry) for name, document in files.items() for entry in document if entry not in NO_ENTRIES]


def resolved(name: str, entry: str) -> Recipe:
    recipe = load_recipe(name, None if entry == "default" else entry.replace("*", "").replace("[AP]", "A"))
    assert recipe.pattern == entry
    return recipe


def test_the_recipes_are_listed() -> None:
    assert list_recipes() == NAMES


def test_the_smallest_grid_has_them_all() -> None:
    grid = read_grid(Path(__file__).parent.parent / "benchmarks" / "suite" / "smoke.yml")
    assert sorted(recipe.source or "" for recipe in grid.recipes) == NAMES


@pytest.mark.parametrize(("name", "entry"), entries())
class TestEntries:
    def test_every_key_is_an_argument(self, name: str, entry: str) -> None:
        recipe = resolved(name, entry)
        algorithm = algorithm_class(recipe.algorithm)
        accepted = set(inspect.signature(algorithm.__init__).parameters)
        assert set(recipe.arguments) <= accepted
        policy = set(inspect.signature(algorithm.policy_aliases["MlpPolicy"].__init__).parameters) | {"net_arch"}
        assert set(recipe.arguments["policy_kwargs"]) <= policy
        pairs = [(key, f"{key}_kwargs") for key in ("objective", "online_objective") if key in recipe.arguments]
        for objective, kwargs in pairs:
            chosen = algorithm.available_objectives[recipe.arguments[objective]]
            # Cal-QL hands its arguments on to CQL.
            taken = CQLObjective if issubclass(chosen, CQLObjective) else chosen
            assert set(recipe.arguments.get(kwargs) or {}) <= set(inspect.signature(taken.__init__).parameters)
        assert all(
            isinstance(callback, FineTuningCallback)
            for callback in build_finetuning(recipe.arguments.get("finetuning"))
        )

    def test_every_constant_names_its_source(self, name: str, entry: str) -> None:
        recipe = resolved(name, entry)
        for key in recipe.flat_constants():
            if key == "policy" or key.startswith("env_wrapper"):
                continue
            beside = [part for part in recipe.comments if key == part or key.startswith(f"{part}.")]
            assert beside, f"{key} has no source in {name}.yml"

    def test_objectives_follow_every_argument(self, name: str, entry: str) -> None:
        recipe = resolved(name, entry)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*has no effect")
            algorithm_class(recipe.algorithm)("MlpPolicy", make_vec_env(tiny.BOX), **small(recipe))

    def test_wrappers_exist(self, name: str, entry: str) -> None:
        from sb3_o2o.runs.environments import _wrapper

        for wrapper in resolved(name, entry).env_wrapper:
            assert callable(_wrapper(wrapper))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("env_id", [tiny.BOX, tiny.GOAL])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_every_recipe_runs(name: str, env_id: str, n_envs: int, tiny_dataset: Callable[..., str]) -> None:
    recipe = load_recipe(name, "PointMaze_UMaze-v3" if env_id == tiny.GOAL else None)
    dataset = tiny_dataset(env_id)
    algorithm = algorithm_class(recipe.algorithm)
    policy = "MultiInputPolicy" if env_id == tiny.GOAL else recipe.policy
    model = algorithm(policy, make_vec_env(env_id, n_envs), dataset=dataset, **small(recipe))
    if recipe.pretrain_steps:
        model.pretrain(dataset, 4)
    before = model._n_updates
    model.learn(20, callback=EvalCallback(make_vec_env(env_id), eval_freq=8, n_eval_episodes=1, verbose=0))
    rollout = n_envs * 8 if recipe.algorithm == "O2OPPO" else n_envs
    assert model.num_timesteps == -(-20 // rollout) * rollout
    assert model._n_updates > before
    phases = {name: ["reevaluation", "alignment"] for name in [*O2O, "o2o", "o2o_sac"]} | {
        name: ["opt"] for name in OPT
    }
    phases |= {name: ["reevaluation"] for name in O2PPO}
    assert model.finished_phases == phases.get(name, [])


def test_wsrl_on_mujoco_is_the_papers() -> None:
    arguments = recipe_arguments("wsrl", "Hopper-v5")
    expected = {
        "objective": "cql",
        "n_critics": 10,
        "critic_subset": 2,
        "subset_replacement": True,
        "actor_critics": "min",
        "entropy_backup": False,
        "batch_size": 256,
        "gradient_steps": 4,
        "policy_delay": 4,
        "actor_batch": "block",
        "learning_rate": 1e-4,
        "qf_learning_rate": 3e-4,
        "ent_coef_learning_rate": 1e-4,
        "critic_layer_norm": True,
        "actor_layer_norm": True,
        "finetuning": [{"Warmup": {"steps": 5000}}],
    }
    assert {key: arguments[key] for key in expected} == expected
    assert load_recipe("wsrl", "Hopper-v5").pretrain_steps == 250_000


@pytest.mark.parametrize(
    ("env_id", "pretrain_steps", "objective", "weight", "rewards"),
    [
        ("AntMaze_UMaze-v5", 1_000_000, "calql", 1.0, (5.0, -5.0)),
        ("PointMaze_Large-v3", 1_000_000, "calql", 1.0, (5.0, -5.0)),
        ("door-binary-v0", 20_000, "calql", 1.0, (5.0, -5.0)),
        ("AdroitHandDoor-v1", 250_000, "cql", 5.0, (1.0, 0.0)),
        ("AntMaze_UMazeDense-v5", 250_000, "cql", 5.0, (1.0, 0.0)),
        ("AdroitHandDoorSparse-v1", 20_000, "calql", 1.0, (5.0, -5.0)),
        ("FrankaKitchen-v1", 250_000, "calql", 5.0, (0.0, -4.0)),
        ("Walker2d-v5", 250_000, "cql", 5.0, (1.0, 0.0)),
    ],
)
def test_wsrl_by_domain(
    env_id: str, pretrain_steps: int, objective: str, weight: float, rewards: tuple[float, float]
) -> None:
    recipe = load_recipe("wsrl", env_id)
    assert recipe.pretrain_steps == pretrain_steps
    assert recipe.arguments["objective"] == objective
    assert recipe.arguments["objective_kwargs"]["cql_weight"] == weight
    # What the environment pays for success and otherwise, and what the paper trains on.
    raw = {"door-binary-v0": (0.0, -1.0), "AdroitHandDoorSparse-v1": (10.0, -0.1), "FrankaKitchen-v1": (4.0, 0.0)}
    scale, shift = recipe.arguments["reward_scale"], recipe.arguments["reward_shift"]
    trained = tuple(reward * scale + shift for reward in raw.get(env_id, (1.0, 0.0)))
    assert trained == pytest.approx(rewards)


def registered(kind: str, names: Sequence[str], version: int, sparse: str = "", dense: str = "") -> list[list[str]]:
    """Ids as Gymnasium-Robotics registers them: those that pay at the goal only, and those that always pay."""
    return [[f"{kind}{name}{ending}-v{version}" for name in names] for ending in (sparse, dense)]


MAZES = ["UMaze", "Medium_Diverse_GR", "Large", "Large_Diverse_G"]
HANDS = ["Door", "Hammer", "Pen", "Relocate"]
SPARSE_MAZES, DENSE_MAZES = (
    ant + point
    for ant, point in zip(
        registered("AntMaze_", MAZES, 5, dense="Dense"), registered("PointMaze_", MAZES, 3, dense="Dense"), strict=True
    )
)
SPARSE_HANDS, DENSE_HANDS = registered("AdroitHand", HANDS, 1, sparse="Sparse")
#: recipes for one kind of data on MuJoCo
MUJOCO_ONLY = ["o2ppo_expert", "o2sac_expert", "o2sac_expert_interval", "o2td3_expert", "o2td3_expert_interval"]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(MUJOCO_ONLY)))
class TestEntriesMatchWhatTheyAreFor:
    def test_mazes(self, name: str) -> None:
        for env_id in SPARSE_MAZES:
            recipe = load_recipe(name, env_id)
            with_dataset = recipe.pretrain_steps > 0 or name == "rlpd"
            assert recipe.arguments.get("dataset_kwargs") == ({"cut_at_success": True} if with_dataset else None)
            assert recipe.env_kwargs == {"continuing_task": False}

    def test_no_dense_task_is_cut_or_has_the_goals_rewards(self, name: str) -> None:
        """A dense reward is positive from the first step on, and means nothing on the scale of failure and success."""
        for env_id in (*DENSE_MAZES, *DENSE_HANDS, "FetchReachDense-v4", "FrankaKitchen-v1", "Hopper-v5"):
            recipe = load_recipe(name, env_id)
            assert "cut_at_success" not in (recipe.arguments.get("dataset_kwargs") or {}), env_id
            assert "sb3_o2o.wrappers.EndAtSuccess" not in recipe.env_wrapper, env_id
            shift = recipe.arguments.get("reward_shift", 0.0)
            assert (recipe.arguments.get("reward_scale", 1.0), shift) in [(1.0, 0.0), (1.0, -4.0)], env_id
            assert shift == 0.0 or env_id.startswith("FrankaKitchen")
            assert (recipe.policy == "MultiInputPolicy") == ("Maze" in env_id)

    def test_kitchen_is_flat(self, name: str) -> None:
        recipe = load_recipe(name, "FrankaKitchen-v1")
        assert recipe.env_wrapper == [{"sb3_o2o.wrappers.FlattenGoalObservation": {"keys": ["observation"]}}]
        assert recipe.env_kwargs["remove_task_when_completed"] is False


@pytest.mark.parametrize("name", ["wsrl", "rlpd", "calql", "sac_fast"])
def test_binary_hands_have_the_papers_rewards(name: str) -> None:
    success, failure = (0.0, -1.0) if name == "rlpd" else (5.0, -5.0)
    for env_id, paid, otherwise in (
        ("pen-binary-v0", 0.0, -1.0),
        *((env_id, 10.0, -0.1) for env_id in SPARSE_HANDS),
    ):
        recipe = load_recipe(name, env_id)
        scale, shift = recipe.arguments["reward_scale"], recipe.arguments["reward_shift"]
        assert (scale * paid + shift, scale * otherwise + shift) == pytest.approx((success, failure))
        assert recipe.env_wrapper == ["sb3_o2o.wrappers.EndAtSuccess"]
        threshold = (recipe.arguments.get("dataset_kwargs") or {}).get("cut_at_success")
        assert threshold is (None if name == "sac_fast" else True) or (threshold, env_id) == (0.0, "pen-binary-v0")


def test_cql_is_its_sources() -> None:
    """CORL's configurations for fine-tuning where there are some, WSRL's baseline on Kitchen."""
    weights = {"Hopper-v5": 10.0, "AntMaze_UMaze-v5": 5.0, "AdroitHandPen-v1": 1.0, "FrankaKitchen-v1": 5.0}
    for env_id, weight in weights.items():
        assert recipe_arguments("cql", env_id)["objective_kwargs"]["cql_weight"] == weight
    hands = recipe_arguments("cql", "AdroitHandPen-v1")
    assert hands["objective_kwargs"]["difference_clip"] == [-200.0, float("inf")]
    assert hands["objective_kwargs"]["max_target_backup"] is True
    assert hands["normalize_observations"] is False
    kitchen = load_recipe("cql", "FrankaKitchen-v1")
    assert (kitchen.pretrain_steps, kitchen.online_steps) == (250_000, 500_000)
    assert kitchen.arguments["finetuning"] == [{"SymmetricReplay": {"offline_fraction": 0.25}}]
    wsrl = recipe_arguments("wsrl", "FrankaKitchen-v1")
    without_ensemble = {key: value for key, value in wsrl["objective_kwargs"].items() if key != "critic_subset"}
    assert kitchen.arguments["objective_kwargs"] == without_ensemble
    assert kitchen.arguments["policy_kwargs"] == wsrl["policy_kwargs"]


def test_sac_fast_is_wsrl_online_from_scratch() -> None:
    for env_id in ("Hopper-v5", "AntMaze_UMaze-v5", "AdroitHandDoorSparse-v1", "FrankaKitchen-v1"):
        fast, wsrl = load_recipe("sac_fast", env_id), load_recipe("wsrl", env_id)
        assert (fast.pretrain_steps, fast.online_steps) == (0, 500_000)
        assert fast.env_kwargs == wsrl.env_kwargs
        assert fast.env_wrapper == wsrl.env_wrapper
        offline = {"objective", "objective_kwargs", "dataset_kwargs"}
        different = {key for key, value in wsrl.arguments.items() if fast.arguments.get(key) != value} - offline
        assert different == ({"critic_subset"} if "AntMaze" in env_id else set())
    assert recipe_arguments("sac_fast", "AntMaze_UMaze-v5")["critic_subset"] == 1


def test_jsrl_is_wsrl_with_the_papers_target() -> None:
    """The paper gives JSRL the hyper-parameters of RLPD, with one critic in the targets of mazes; WSRL has two."""
    for env_id in ("Hopper-v5", "AntMaze_UMaze-v5", "PointMaze_UMaze-v3", "AntMaze_UMazeDense-v5", "FrankaKitchen-v1"):
        jump, wsrl, fast = (recipe_arguments(name, env_id) for name in ("jsrl", "wsrl", "sac_fast"))
        before = jump.pop("pretrain_kwargs", {})
        assert jump["critic_subset"] == fast["critic_subset"]
        # the policy that begins the episodes is WSRL's
        assert {**jump, **before, "finetuning": wsrl["finetuning"]} == wsrl


def test_sac_n_by_domain() -> None:
    ids = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "AntMaze_Large-v5", "AdroitHandPen-v1")
    assert [recipe_arguments("sac_n", env_id)["n_critics"] for env_id in ids] == [10, 500, 20, 25, 100]
    recipe = load_recipe("sac_n", "HalfCheetah-v5")
    edac = recipe_arguments("edac", "HalfCheetah-v5")
    different = {key for key, value in edac.items() if recipe.arguments.get(key) != value}
    assert different == {"objective", "objective_kwargs", "online_objective", "online_objective_kwargs"}
    assert recipe.pretrain_steps == 3_000_000


def test_rlpd_is_the_codes() -> None:
    arguments = recipe_arguments("rlpd", "HalfCheetah-v5")
    expected = {
        "gradient_steps": 20,
        "policy_delay": 20,
        "actor_batch": "minibatch",
        "subset_replacement": False,
        "actor_critics": "mean",
        "target_entropy": "auto_0.5",
        "critic_layer_norm": True,
        "actor_layer_norm": False,
        "entropy_backup": True,
        "learning_starts": 5000,
    }
    assert {key: arguments[key] for key in expected} == expected
    maze = recipe_arguments("rlpd", "AntMaze_UMaze-v5")
    assert (maze["critic_subset"], maze["entropy_backup"], maze["reward_shift"]) == (1, False, -1.0)


@pytest.mark.parametrize(
    ("env_id", "expectile", "beta", "shift"),
    [
        ("Hopper-v5", 0.7, 3.0, 0.0),
        ("AntMaze_UMaze-v5", 0.9, 10.0, -1.0),
        ("AdroitHandPen-v1", 0.8, 3.0, 0.0),
        ("FrankaKitchen-v1", 0.7, 0.5, -4.0),
    ],
)
def test_iql_by_domain(env_id: str, expectile: float, beta: float, shift: float) -> None:
    arguments = recipe_arguments("iql", env_id)
    kwargs = arguments["objective_kwargs"]
    assert (kwargs["expectile"], kwargs["beta"], arguments["reward_shift"]) == (expectile, beta, shift)


@pytest.mark.parametrize(
    ("env_id", "actor", "critic"),
    [
        ("Hopper-v5", 0.01, 0.01),
        ("AntMaze_UMaze-v5", 0.003, 0.002),
        ("AntMaze_Medium-v5", 0.001, 0.0005),
        ("AntMaze_Medium_Diverse_GR-v5", 0.001, 0.0),
        ("AntMaze_Large-v5", 0.002, 0.001),
        ("AntMaze_Large_Diverse_GR-v5", 0.002, 0.002),
        ("AntMaze_Large_Diverse_GRDense-v5", 0.01, 0.01),
        ("AdroitHandDoor-v1", 0.01, 0.1),
        ("AdroitHandPen-v1", 0.05, 0.5),
        ("AdroitHandHammer-v1", 0.1, 0.5),
        ("AdroitHandRelocate-v1", 0.1, 0.01),
    ],
)
def test_rebrac_by_domain(env_id: str, actor: float, critic: float) -> None:
    kwargs = recipe_arguments("rebrac", env_id)["objective_kwargs"]
    assert (kwargs["actor_weight"], kwargs["critic_weight"]) == (actor, critic)


@pytest.mark.parametrize("name", ["opt_iql", "opt_sac", "opt_td3"])
@pytest.mark.parametrize(
    ("env_id", "kappa"),
    [
        ("Hopper-v5", (0.3, 0.9, 150_000)),
        ("AntMaze_Medium-v4", (0.1, 0.9, 100_000)),
        ("AntMaze_Large_Diverse_GR-v4", (0.1, 0.9, 200_000)),
        ("AdroitHandPen-v1", (0.1, 0.9, 250_000)),
    ],
)
def test_opt_by_domain(name: str, env_id: str, kappa: tuple[float, float, int]) -> None:
    arguments = recipe_arguments(name, env_id)
    _, pretraining, dual = build_finetuning(arguments["finetuning"])
    assert isinstance(dual, DualCritic)
    assert dual.schedule == LinearSchedule(*kappa)
    assert isinstance(pretraining, OnlinePretraining)
    assert (pretraining.collect_steps, pretraining.gradient_steps) == (25_000, 50_000)
    assert arguments["gradient_steps"] == (5 if env_id == "Hopper-v5" and name != "opt_iql" else 1)


@pytest.mark.parametrize(
    ("name", "env_id", "thresholds", "temperature", "multiplier", "steps"),
    [
        ("o2sac", "Hopper-v5", (0.125, 2.0), 0.2, 1.0, 500_000),
        ("o2sac_expert", "Hopper-v5", (0.005, 0.125), 0.5, 1.0, 500_000),
        ("o2sac", "AntMaze_UMaze-v5", (0.125, 2.0), 0.2, 1.0, 1_000_000),
        ("o2sac", "AntMaze_Large-v5", (0.125, 2.0), 0.5, 2.0, 1_000_000),
        ("o2sac_interval", "Hopper-v5", (0.125, 0.5), 0.2, 1.0, 500_000),
        ("o2sac_interval", "AntMaze_Large-v5", (0.125, 0.5), 0.5, 2.0, 1_000_000),
        ("o2sac_expert_interval", "Hopper-v5", (0.005, 0.03125), 0.5, 1.0, 500_000),
        ("o2sac_expert_interval", "Walker2d-v5", (0.005, 0.03125), 0.5, 1.0, 500_000),
        ("o2td3", "Walker2d-v5", (0.0025, 0.04), None, 1.0, 500_000),
        ("o2td3_expert", "Walker2d-v5", (2.5e-5, 6.25e-4), None, 1.0, 500_000),
        ("o2td3", "AntMaze_UMaze-v5", (0.0025, 0.04), None, 1.0, 1_000_000),
        ("o2td3", "AntMaze_Medium-v5", (0.0025, 0.04), None, 1.0, 500_000),
        ("o2td3_interval", "Hopper-v5", (0.0025, 0.01), None, 1.0, 500_000),
        ("o2td3_interval", "AntMaze_UMaze-v5", (0.0025, 0.01), None, 1.0, 1_000_000),
        ("o2td3_interval", "AntMaze_Medium-v5", (0.0025, 0.01), None, 1.0, 500_000),
        ("o2td3_expert_interval", "HalfCheetah-v5", (2.5e-5, 1.5625e-4), None, 1.0, 500_000),
        ("o2td3_expert_interval", "Walker2d-v5", (2.5e-5, 1.5625e-4), None, 1.0, 500_000),
    ],
)
def test_reconstruction_by_domain(
    name: str,
    env_id: str,
    thresholds: tuple[float, float],
    temperature: float | None,
    multiplier: float,
    steps: int,
) -> None:
    arguments = recipe_arguments(name, env_id)
    callbacks = {kind: options for each in arguments["finetuning"] for kind, options in each.items()}
    constraint = callbacks["ConstrainedFineTuning"]
    assert (constraint["threshold"], constraint["end_threshold"]) == thresholds
    assert callbacks["PolicyReevaluation"].get("ent_coef") == temperature
    assert callbacks["ValueAlignment"].get("ent_coef") == temperature
    assert constraint["multiplier"] == multiplier
    assert callbacks["PolicyReevaluation"]["gradient_steps"] == 500_000
    assert callbacks["ValueAlignment"]["gradient_steps"] == steps
    assert arguments["gradient_steps"] == 1
    assert recipe_arguments("o2sac_utd10", env_id)["gradient_steps"] == 10


@pytest.mark.parametrize(
    ("name", "env_id", "interval", "clipped"),
    [
        ("o2sac_interval", "Hopper-v5", 1000, None),
        ("o2sac_interval", "AntMaze_UMaze-v5", 5000, None),
        ("o2sac_interval", "AntMaze_Large-v5", 5000, None),
        ("o2sac_expert_interval", "Walker2d-v5", 1000, None),
        ("o2sac_expert_interval", "Hopper-v5", 10_000, 0.25),
        ("o2td3_interval", "Hopper-v5", 1000, None),
        ("o2td3_interval", "AntMaze_UMaze-v5", 5000, None),
        ("o2td3_interval", "AntMaze_Medium-v5", 5000, None),
        ("o2td3_expert_interval", "HalfCheetah-v5", 1000, None),
        ("o2td3_expert_interval", "Hopper-v5", 10_000, 0.25),
        ("o2td3_expert_interval", "Walker2d-v5", 10_000, 0.25),
    ],
)
def test_references_at_intervals_by_domain(name: str, env_id: str, interval: int, clipped: float | None) -> None:
    arguments = recipe_arguments(name, env_id)
    callbacks = {kind: options for each in arguments["finetuning"] for kind, options in each.items()}
    constraint = callbacks["ConstrainedFineTuning"]
    assert (constraint["reference"], constraint["interval"]) == ("interval", interval)
    assert arguments.get("actor_max_grad_norm") == clipped
    assert arguments["pretrain_kwargs"].get("actor_max_grad_norm") is None
    # all else is the recipe's whose reference is the best policy
    other = recipe_arguments(name.replace("_interval", ""), env_id)
    for each in (arguments, other):
        each.pop("finetuning")
        each.pop("actor_max_grad_norm", None)
        each["pretrain_kwargs"].pop("actor_max_grad_norm", None)
    assert arguments == other


@pytest.mark.parametrize(
    ("env_id", "weight", "floor", "gamma", "shift", "rate"),
    [
        ("HalfCheetah-v5", 0.05, 0.2, None, 0.0, 3e-4),
        ("Hopper-v5", 0.1, 0.2, None, 0.0, 3e-4),
        ("Walker2d-v5", 0.2, 0.2, None, 0.0, 3e-4),
        ("AntMaze_UMaze-v5", 0.25, 0.2, None, -1.0, 1e-4),
        ("AntMaze_Medium-v5", 0.05, 0.2, None, -1.0, 1e-4),
        ("AntMaze_Medium_Diverse_GR-v5", 0.025, 0.2, None, -1.0, 1e-4),
        ("AntMaze_Large_Diverse_GR-v5", 0.025, 0.2, 0.995, -1.0, 1e-4),
        ("AdroitHandPen-v1", 1.0, 0.5, None, 0.0, 3e-4),
    ],
)
def test_spot_by_domain(
    env_id: str, weight: float, floor: float, gamma: float | None, shift: float, rate: float
) -> None:
    arguments = recipe_arguments("spot", env_id)
    kwargs = arguments["objective_kwargs"]
    assert (kwargs["weight"], kwargs["cooldown_floor"], kwargs.get("online_gamma")) == (weight, floor, gamma)
    assert (arguments["reward_shift"], arguments["learning_rate"]) == (shift, rate)
    assert (kwargs["density_steps"], kwargs["beta"]) == (100_000, 0.5)


def test_o2ppo_is_the_codes() -> None:
    arguments = recipe_arguments("o2ppo", "Hopper-v5")
    expected = {
        "objective": "iql",
        "learning_rate": "lin_3e-5",
        "value_learning_rate": "lin_2e-4",
        "n_steps": 2048,
        "batch_size": 128,
        "n_epochs": 10,
        "clip_range": 0.2,
        "ent_coef": 0.01,
        "normalize_advantage": False,
        "finetuning": [
            {"PolicyReevaluation": {"gradient_steps": 1_000_000, "batch_size": 512}},
            {"AuxiliaryAdvantage": {"anneal_steps": 250_000, "per_dimension": False, "reference": "best"}},
        ],
    }
    assert {key: arguments[key] for key in expected} == expected
    assert load_recipe("o2ppo", "Hopper-v5").online_steps == 250_000
    model = build_model("o2ppo", gym.make(tiny.BOX))
    assert [type(callback) for callback in model.finetuning] == [PolicyReevaluation, AuxiliaryAdvantage]
    rates = [model.lr_schedule(1.0), model.lr_schedule(0.5), model.lr_schedule(0.0)]
    assert rates == pytest.approx([3e-5, 1.5e-5, 0.0])
    assert model.policy.value_net.in_features == 256


@pytest.mark.parametrize(("env_id", "n_epochs", "max_std"), [("Walker2d-v5", 10, None), ("Hopper-v5", 5, 0.05)])
def test_o2ppo_on_expert_data(env_id: str, n_epochs: int, max_std: float | None) -> None:
    arguments = recipe_arguments("o2ppo_expert", env_id)
    auxiliary = arguments["finetuning"][1]["AuxiliaryAdvantage"]
    assert (arguments["n_epochs"], auxiliary.get("max_std"), auxiliary["anneal_steps"]) == (n_epochs, max_std, 500_000)
    assert arguments["learning_rate"] == recipe_arguments("o2ppo", env_id)["learning_rate"]


def test_a_recipe_builds_its_own_algorithm() -> None:
    model = build_model("td3_bc", gym.make(tiny.BOX), policy_kwargs={"net_arch": [4]}, buffer_size=10)
    assert type(model) is O2OTD3
    assert model.action_noise is not None
    assert (model.action_noise._mu, model.action_noise._sigma) == ([0.0], [0.1])  # type: ignore[attr-defined]
    assert (model.policy_delay, model.qf_learning_rate, model.objective) == (2, 3e-4, "td3_bc")


def test_a_recipe_of_an_algorithm_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("about: {algorithm: O2OTD4}\ndefault: {gamma: 0.9}\n")
    with pytest.raises(ValueError, match=r"Unknown algorithm 'O2OTD4'\. Did you mean 'O2OTD3'"):
        build_model(str(path), gym.make(tiny.BOX))


def test_the_longest_pattern_wins() -> None:
    assert load_recipe("calql", "pen-binary-v0").pattern == "pen-binary-v*"
    assert load_recipe("calql", "door-binary-v0").pattern == "*-binary-v*"
    assert load_recipe("calql", "AdroitHandPenSparse-v1").online_steps == 200_000
    assert load_recipe("calql", "Swimmer-v5").pattern == "default"


def test_comments_of_merged_constants_come_along() -> None:
    recipe = load_recipe("wsrl", "AntMaze_UMaze-v5")
    assert recipe.comments["n_critics"] == "paper"
    assert recipe.comments["reward_scale"].startswith("paper: +5 at the goal")
    # The default entry explains its weight of 5; that text must not stay beside AntMaze's 1.
    assert recipe.comments["objective_kwargs.cql_weight"].startswith("code: the multiplier alone")


def test_no_value_could_be_taken_for_a_comment() -> None:
    for name in NAMES:
        for entry in ("default", "AntMaze_UMaze-v5", "FrankaKitchen-v1"):
            recipe = load_recipe(name, entry)
            assert not any("#" in str(value) for value in recipe.flat_constants().values())


@pytest.mark.parametrize("name", NAMES)
def test_rl_zoo_reads_the_same_file(name: str) -> None:
    """RL Zoo takes an exact id or ``default``, and hands every key that it does not know to the constructor."""
    entry = yaml.safe_load((recipe_folder() / f"{name}.yml").read_text())["default"]
    assert entry["policy"] == "MlpPolicy"
    assert entry["n_timesteps"] > 0
    assert set(entry) - set(RUN_KEYS) == set(load_recipe(name).arguments)
    taken = {"n_timesteps", "n_envs", "env_kwargs", "env_wrapper"}  # by RL Zoo itself
    algorithm = algorithm_class(load_recipe(name).algorithm)
    assert set(entry) - taken <= set(inspect.signature(algorithm.__init__).parameters)


@pytest.mark.parametrize(
    ("name", "env_id", "eval_freq", "n_eval_episodes"),
    [
        *((name, "Hopper-v5", 1000, 10) for name in O2O),
        *((name, "Hopper-v5", 2500, 10) for name in O2PPO),
        *(
            (name, env_id, 5000, 100)
            for name in ("o2sac", "o2sac_utd10", "o2td3")
            for env_id in ("AntMaze_UMaze-v5", "AntMaze_Large-v5", "PointMaze_UMaze-v3")
        ),
        ("o2ppo", "AntMaze_UMaze-v5", 2500, 100),
        ("o2ppo", "AdroitHandPen-v1", 2500, 10),
        ("wsrl", "Hopper-v5", None, None),
    ],
)
def test_evaluations_that_the_reference_follows(
    name: str, env_id: str, eval_freq: int | None, n_eval_episodes: int | None
) -> None:
    recipe = load_recipe(name, env_id)
    assert (recipe.eval_freq, recipe.n_eval_episodes) == (eval_freq, n_eval_episodes)
    assert recipe.flat_constants().get("eval_freq") == eval_freq
    assert not {"eval_freq", "n_eval_episodes"} & set(recipe.arguments)


def test_arguments_are_copies() -> None:
    recipe = load_recipe("wsrl")
    recipe.arguments_for("O2OSAC", recipe.arguments)["policy_kwargs"]["net_arch"]["pi"].append(1)
    assert recipe.arguments["policy_kwargs"]["net_arch"]["pi"] == [256, 256]


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'wsrl'"):
        load_recipe("wslr")


def test_other_algorithms_are_refused() -> None:
    with pytest.raises(ValueError, match="is for O2OSAC, not for O2OTD3"):
        load_recipe("wsrl").arguments_for("O2OTD3", ())


class TestFineTuning:
    def test_all_spellings(self) -> None:
        callback = PerturbedTargets()
        built = build_finetuning([callback, "DualCritic", {"Warmup": {"steps": 3}}, {"SymmetricReplay": None}])
        assert built[0] is callback
        assert isinstance(built[1], DualCritic)
        assert isinstance(built[2], Warmup)
        assert built[2].steps == 3
        assert isinstance(built[3], SymmetricReplay)
        assert build_finetuning(None) == []

    @pytest.mark.parametrize(
        ("specs", "message"),
        [
            (["Warmpu"], "Did you mean 'Warmup'"),
            ([{"Warmup": {"step": 3}}], "Did you mean 'steps'"),
            ([{"Warmup": {}, "SymmetricReplay": {}}], "written as a name or as"),
            ([{"Warmup": 3}], r"written as \{argument: value\}"),
            ("Warmup", "must be a list"),
            ({"Warmup": {}}, "must be a list"),
            ([3], "written as a name"),
        ],
    )
    def test_rejections(self, specs: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build_finetuning(specs)


def test_build_model() -> None:
    model = build_model("rlpd", gym.make(tiny.BOX), n_critics=3, policy_kwargs={"net_arch": [4]})
    assert (model.n_critics, model.recipe, model.target_entropy) == (3, "rlpd", -0.5)
    with pytest.raises(ValueError, match="Did you mean 'n_critics'"):
        build_model("rlpd", gym.make(tiny.BOX), n_critic=3)


def test_environment_id() -> None:
    env = gym.make(tiny.BOX)
    assert environment_id(env) == environment_id(make_vec_env(tiny.BOX)) == environment_id(tiny.BOX) == tiny.BOX
    assert environment_id(None) is None
    assert environment_id(tiny.TinyBox()) is None


def test_so2_follows_the_code_and_its_variant_the_paper() -> None:
    code, paper = (recipe_arguments(name, "HalfCheetah-v5") for name in ("so2", "so2_paper"))
    expected = {"gradient_steps": 10, "policy_delay": 10, "batch_size": 2560, "ent_coef": 0.2, "learning_rate": 1e-3}
    expected |= {"qf_learning_rate": 1e-3, "gamma": 0.99, "tau": 0.005, "actor_critics": "min"}
    assert code["online_objective_kwargs"] == {"target_reduction": "none", "critic_reduction": "mean"}
    assert paper["policy_delay"] == 1
    changed = {"finetuning", "policy_delay", "buffer_size", "actor_batch"}
    assert {key: code[key] for key in code.keys() - changed} == {key: paper[key] for key in paper.keys() - changed}
    perturbed = {"PerturbedTargets": {"sigma": 0.3, "clip": 0.6}}
    for env in ("HalfCheetah-v5", "Hopper-v5", "AdroitHandPen-v1", "AdroitHandDoor-v1"):
        code, paper = (recipe_arguments(name, env) for name in ("so2", "so2_paper"))
        assert {key: code[key] for key in expected} == expected
        assert code["finetuning"] == [{"Warmup": {"steps": 5000}}, {"FIFOReplay": {"online_fraction": 0.1}}, perturbed]
        assert paper["finetuning"] == [{"DatasetReplay": {"mode": "all"}}, perturbed]
    for name in ("so2", "so2_paper", "edac"):
        critics = [recipe_arguments(name, env)["n_critics"] for env in ("Walker2d-v5", "Hopper-v5", "AdroitHandPen-v1")]
        assert critics == [10, 50, 20]
        assert recipe_arguments(name, "AdroitHandDoor-v1")["objective_kwargs"]["eta"] == 200.0
