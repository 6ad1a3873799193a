"""What is declared to be tuned can be tuned, and what is said not to matter before fine-tuning does not."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import tiny
from toy_tasks import assert_same, dataset_file, make, make_ppo, make_td3, state

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.checked import check_keyword_arguments
from sb3_o2o.finetuning import FineTuningCallback, Warmup, build_finetuning
from sb3_o2o.objectives import PPO_OBJECTIVES, SAC_OBJECTIVES, TD3_OBJECTIVES, CQLObjective
from sb3_o2o.recipes import list_recipes, load_recipe
from sb3_o2o.search_space import Choice, Range, SearchSpace, read_search, write_search
from sb3_o2o.tuning.searched import declared_space, of_pretraining, overrides_of_trial, own_values, select_space

ALGORITHMS: list[Any] = [O2OSAC, O2OTD3, O2OPPO]
OBJECTIVES = {**SAC_OBJECTIVES, **TD3_OBJECTIVES, **{f"ppo {name}": each for name, each in PPO_OBJECTIVES.items()}}
CALLBACKS = {name: each for name, each in FineTuningCallback.registry.items() if each.__module__.startswith("sb3_o2o")}


def ends(search: Range | Choice) -> list[Any]:
    return list(search.options) if isinstance(search, Choice) else [search.low, search.high]


class TestDeclarations:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_constructors_take_what_they_declare(self, algorithm: Any) -> None:
        assert {"learning_rate", "batch_size"} <= set(algorithm.constructor.search_space)
        for name, search in algorithm.constructor.search_space.items():
            for value in ends(search):
                algorithm.constructor.check({name: value})

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_objectives_take_what_they_declare(self, name: str) -> None:
        for argument, search in OBJECTIVES[name].search_space.items():
            for value in ends(search):
                check_keyword_arguments("argument", OBJECTIVES[name], {argument: value})

    @pytest.mark.parametrize("name", CALLBACKS)
    def test_callbacks_can_be_made_of_what_they_declare(self, name: str) -> None:
        needed = {"PolicyReevaluation": {"gradient_steps": 1}, "ValueAlignment": {"gradient_steps": 1}}.get(name, {})
        for argument, search in CALLBACKS[name].search_space.items():
            for value in ends(search):
                (made,) = build_finetuning([{name: {**needed, argument: value}}])
                assert type(made).__name__ == name

    @pytest.mark.parametrize("name", list_recipes())
    def test_every_recipe_can_be_tuned(self, name: str) -> None:
        recipe = load_recipe(name)
        space = declared_space(recipe)
        assert "learning_rate" in space or str(recipe.arguments["learning_rate"]).startswith("lin_")
        assert select_space(space, [], recipe) == space
        assert set(own_values(space, recipe)) == set(space), "the recipe's own values are a trial of the study"


class TestChoosing:
    def test_a_part_of_it(self) -> None:
        recipe = load_recipe("wsrl")
        space = select_space(declared_space(recipe), [("finetuning.*", None), ("gradient_steps", None)], recipe)
        assert set(space) == {"finetuning.Warmup.steps", "gradient_steps"}

    def test_what_lies_elsewhere_or_is_off_is_left_alone(self) -> None:
        recipe = load_recipe("wsrl")
        assert "finetuning.Warmup.steps" not in declared_space(recipe, {"finetuning": [{"Warmup": {"steps": 3}}]})
        assert "qf_learning_rate" not in declared_space(recipe, {"qf_learning_rate": None})

    def test_spaces_of_the_users_own(self) -> None:
        recipe = load_recipe("wsrl")
        space = select_space({}, [("gamma", {"low": 0.9, "high": 0.99}), ("n_critics", [2, 20])], recipe)
        assert space == {"gamma": Range(0.9, 0.99), "n_critics": Choice((2, 20))}
        assert {name: read_search(name, each) for name, each in write_search(space).items()} == space

    @pytest.mark.parametrize(
        ("name", "own", "message"),
        [
            ("learing_rate", None, "Did you mean 'learning_rate'"),
            ("gama", [0.9, 0.99], "Did you mean 'gamma'"),
            ("gamma", {"low": 0.9, "high": 1.5}, "gamma must be a number in"),
            ("gamma", {"low": 0.9}, "write a list of options"),
            ("gamma", {"low": 0.9, "high": 0.8}, "low < high"),
            ("gamma", {"low": 0.0, "high": 0.9, "log": True}, "low > 0"),
            ("gamma", [0.9], "at least two different options"),
            ("finetuning.Warmup.stops", [1, 2], "Did you mean 'steps'"),
            ("finetuning.Warmap.steps", [1, 2], "Did you mean 'Warmup'"),
            ("objective_kwargs.cql_wait", [1.0, 2.0], "Did you mean 'cql_weight'"),
            ("objective_kwargs.cql_weight", ["much", "little"], r"cql_weight .*must be a"),
            ("env", ["Hopper-v5", "Walker2d-v5"], "--tune cannot change env"),
        ],
    )
    def test_mistakes(self, name: str, own: Any, message: str) -> None:
        recipe = load_recipe("wsrl")
        with pytest.raises(ValueError, match=message):
            select_space(declared_space(recipe), [(name, own)], recipe)

    def test_an_objective_of_ones_own_brings_its_own(self) -> None:
        class Mine(CQLObjective):
            search_space: ClassVar[SearchSpace] = {**CQLObjective.search_space, "temperature": Range(0.5, 2.0)}

        space = declared_space(load_recipe("wsrl"), {"objective": Mine})
        assert space["objective_kwargs.temperature"] == Range(0.5, 2.0)
        assert "objective_kwargs.cql_weight" in space


class TestArguments:
    def test_what_a_recipe_has_alike_in_both_phases_stays_alike(self) -> None:
        recipe = load_recipe("cql")
        assert not any(name.startswith("online_objective_kwargs") for name in declared_space(recipe))
        found = overrides_of_trial({"objective_kwargs.cql_weight": 3.0}, recipe)
        assert found["objective_kwargs"] == found["online_objective_kwargs"]
        assert found["objective_kwargs"]["cql_weight"] == 3.0
        assert found["objective_kwargs"]["n_actions"] == 10

    def test_what_fine_tuning_goes_on_with_is_tuned_once(self) -> None:
        """Without online arguments it goes on with the offline ones."""
        given = {"objective": "cql", "objective_kwargs": {"n_actions": 3}, "online_objective": "cql"}
        recipe = load_recipe("sac")
        recipe = replace(recipe, pretrain_steps=9, arguments={**recipe.arguments, **given})
        assert not any(name.startswith("online_objective_kwargs") for name in declared_space(recipe))
        found = overrides_of_trial({"objective_kwargs.cql_weight": 2.0}, recipe)
        model = O2OSAC("MlpPolicy", tiny.BOX, **{**given, **found})
        assert model.finetuning_objective is model.offline_objective

    def test_what_a_recipe_has_apart_before_fine_tuning_stays_so(self) -> None:
        recipe = load_recipe("o2sac")
        found = overrides_of_trial({"learning_rate": 9e-4}, recipe)
        assert found["pretrain_kwargs"]["learning_rate"] == 3e-5
        assert of_pretraining({"learning_rate": 9e-4, "tau": 0.01}, recipe) == {"tau": 0.01}

    def test_only_what_fine_tuning_asks_for_is_left_out_of_the_key(self) -> None:
        recipe = load_recipe("wsrl")
        values = {"finetuning.Warmup.steps": 9, "gradient_steps": 2, "online_objective_kwargs.n_actions": 3}
        assert of_pretraining({**values, "gamma": 0.9, "objective_kwargs.cql_weight": 1.0}, recipe) == {
            "gamma": 0.9,
            "objective_kwargs.cql_weight": 1.0,
        }


#: another value of what only matters to ``learn``. What is not here is a type, a path, or about logs; an
#: online objective with networks of its own draws their weights before pre-training draws anything
OTHERS: dict[Any, dict[str, Any]] = {
    make: {
        "gradient_steps": 3,
        "policy_delay": 3,
        "train_freq": 3,
        "learning_starts": 7,
        "buffer_size": 77,
        "action_noise": 0.3,
        "use_sde_at_warmup": True,
        "online_objective_kwargs": {"max_target_backup": True},
        "finetuning": [Warmup(3)],
    },
    make_td3: {
        "gradient_steps": 3,
        "train_freq": 3,
        "learning_starts": 7,
        "buffer_size": 77,
        "action_noise": 0.3,
        "online_objective_kwargs": {"normalize_values": True},
    },
    make_ppo: {
        "batch_size": 2,
        "n_epochs": 3,
        "gae_lambda": 0.5,
        "clip_range": 0.1,
        "clip_range_vf": 0.1,
        "normalize_advantage": False,
        "ent_coef": 0.1,
        "vf_coef": 0.1,
        "target_kl": 0.1,
    },
}


@pytest.mark.parametrize(
    ("build", "name"),
    [(build, name) for build, others in OTHERS.items() for name in others],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_only_matters_online_leaves_pre_training_alone(build: Any, name: str, tmp_path: Any) -> None:
    objective = {make: "cql", make_td3: "td3_bc", make_ppo: "iql"}[build]
    others = OTHERS[build]
    constructor = build.__annotations__["return"].constructor
    assert constructor.online >= {*others} - {"finetuning"}
    assert {*others} >= constructor.online & {*constructor.search_space}
    policies = []
    for extra in ({}, {name: others[name]}):
        model = build(objective=objective, **extra)
        model.pretrain(dataset_file(tmp_path), 3)
        policies.append({key: value for key, value in state(model).items() if key.startswith("policy/")})
    assert_same(*policies)
