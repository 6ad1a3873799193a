"""Going from one method to another: what a model keeps, and what the next recipe decides."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest
from toy_tasks import FAST, dataset, make, make_td3, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.data import MonteCarloReplayBuffer
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import CalQLObjective, SACObjective
from sb3_o2o.transfer.load_offline import method_defaults

SMALL = {"policy_kwargs": {"net_arch": [16]}, "buffer_size": 200, "seed": 0, "device": "cpu"}


def saved(tmp_path: Path, recipe: str, **kwargs: Any) -> Path:
    model = O2OSAC("MlpPolicy", vec(), recipe=recipe, **{**SMALL, **kwargs})
    model.pretrain(dataset(), 2)
    model.save(tmp_path / recipe)
    return tmp_path / f"{recipe}.zip"


def loaded(path: Path, recipe: str, **kwargs: Any) -> O2OSAC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return O2OSAC.load_offline(path, vec(), recipe=recipe, dataset=dataset(), device="cpu", **kwargs)


@pytest.mark.parametrize("recipe", ["sac", "cql", "calql"])
def test_nothing_of_the_last_recipe_stays(recipe: str, tmp_path: Path) -> None:
    model = loaded(saved(tmp_path, "wsrl"), recipe)
    assert (model.policy_delay, model.actor_batch, model.critic_subset) == (1, "minibatch", None)
    assert model.subset_replacement is False
    assert model.entropy_backup is (recipe == "sac")
    assert "Warmup" not in [type(callback).__name__ for callback in model.finetuning]
    if recipe == "sac":
        assert model.online_objective_kwargs is None
        assert model.qf_learning_rate is None


def test_the_buffer_follows_the_objective(tmp_path: Path) -> None:
    path = saved(tmp_path, "calql")
    assert isinstance(loaded(path, "calql").replay_buffer, MonteCarloReplayBuffer)
    assert not isinstance(loaded(path, "wsrl").replay_buffer, MonteCarloReplayBuffer)


def test_the_returns_follow_gamma_and_the_sparse_rule(tmp_path: Path) -> None:
    path = saved(tmp_path, "calql")
    buffer = O2OSAC.load(path, vec(), gamma=0.5).replay_buffer
    assert isinstance(buffer, MonteCarloReplayBuffer)
    assert buffer.gamma == 0.5
    assert buffer.negative_reward == dataset().negative_reward()


def test_critics_keep_the_scale_of_their_values(tmp_path: Path) -> None:
    path = saved(tmp_path, "wsrl", reward_scale=10.0, reward_shift=-5.0, gamma=0.9)
    with pytest.warns(UserWarning, match="gamma: 0.99 wanted, 0.9 trained"):
        kept = O2OSAC.load_offline(path, vec(), recipe="wsrl", dataset=dataset(), device="cpu")
    assert (kept.reward_scale, kept.reward_shift, kept.gamma) == (10.0, -5.0, 0.9)
    given = loaded(path, "wsrl", gamma=0.8)
    assert (given.reward_scale, given.gamma) == (10.0, 0.8)
    fresh = loaded(path, "wsrl", load_critic=False)
    assert (fresh.reward_scale, fresh.reward_shift, fresh.gamma) == (1.0, 0.0, 0.99)


def test_one_argument_decides_the_entropy_backup() -> None:
    model = O2OSAC("MlpPolicy", vec(), recipe="wsrl", entropy_backup=True, **SMALL)
    assert model.finetuning_objective.entropy_backup is True


def test_the_multiplier_learns_at_the_critics_rate() -> None:
    kwargs = {"objective": "cql", "objective_kwargs": {"lagrange_gap": 1.0}}
    model = make(learning_rate=1e-4, qf_learning_rate=3e-4, **kwargs)
    assert model.offline_objective.optimizers["lagrange"].param_groups[0]["lr"] == 3e-4


def test_the_recipe_knows_how_long_to_pretrain(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(O2OSAC, "pretrain", lambda self, data, steps, **kwargs: asked.append(steps))
    O2OSAC.load_offline(dataset(), vec(), recipe="wsrl", **SMALL)
    assert asked == [250_000]


class Listening(FineTuningCallback):
    """Counts what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.phases: list[tuple[str | None, str]] = []

    def on_gradient_step(self) -> None:
        self.steps += 1

    def on_phase_change(self, old: str | None, new: str) -> None:
        self.phases.append((old, new))


def test_callbacks_of_the_constructor_hear_of_pretraining() -> None:
    heard = Listening()
    model = make(finetuning=[heard])
    model.pretrain(dataset(), 3)
    assert (heard.steps, heard.phases) == (3, [(None, "pretraining")])


@pytest.mark.parametrize("n_pretrained", [1, 2, 3])
def test_blocks_stay_aligned_after_any_number_of_pretraining_steps(n_pretrained: int) -> None:
    """The actor steps after the last minibatch of each block."""
    model = make(policy_delay=3, gradient_steps=3, actor_batch="block", **FAST)
    model.pretrain(dataset(), n_pretrained)
    seen: list[bool] = []
    original = model.loop.gradient_step
    model.loop.gradient_step = lambda batch, actor: (seen.append(actor is not None), original(batch, actor))[1]  # type: ignore[method-assign]
    model.learn(7)
    assert seen[:6] == [False, False, True] * 2


def test_every_default_of_the_method_can_be_loaded() -> None:
    """What a recipe resets are arguments of the constructor, each with its default."""
    defaults = method_defaults(O2OSAC)
    parameters = inspect.signature(O2OSAC.__init__).parameters
    assert all(parameters[name].default == value for name, value in defaults.items())
    assert not {"seed", "device", "dataset", "ent_coef"} & set(defaults)


def of_calql(tmp_path: Path, **kwargs: Any) -> Path:
    """A zip whose objectives have arguments that SAC has as well, with another default."""
    own = {"n_actions": 3, "max_target_backup": True, "critic_reduction": "mean"}
    model = make(objective="calql", objective_kwargs=own, **{"online_objective_kwargs": own, **kwargs})
    model.pretrain(dataset(), 2).save(tmp_path / "calql")
    return tmp_path / "calql.zip"


def reductions(objective: Any) -> tuple[bool, str]:
    return objective.max_target_backup, objective.critic_reduction


@pytest.mark.parametrize("how", [O2OSAC.load, O2OSAC.load_offline])
@pytest.mark.parametrize("online", ["sac", SACObjective, None])
def test_arguments_of_a_saved_online_objective_are_not_those_of_another(how: Any, online: Any, tmp_path: Path) -> None:
    path = of_calql(tmp_path, online_objective="calql")
    assert reductions(how(path, vec(), device="cpu").finetuning_objective) == (True, "mean")
    for model in (
        how(path, vec(), device="cpu", online_objective=online),
        loaded(path, "calql", online_objective=online),
    ):
        assert type(model.finetuning_objective) is SACObjective
        assert model.online_objective_kwargs is None
        assert reductions(model.finetuning_objective) == (False, "half_sum")
        assert reductions(model.offline_objective) == (True, "mean")
    asked = {"online_objective_kwargs": {"critic_reduction": "sum"}}
    model = how(path, vec(), device="cpu", online_objective=online, **asked)
    assert reductions(model.finetuning_objective) == (False, "sum")


@pytest.mark.parametrize("how", [O2OSAC.load, O2OSAC.load_offline])
@pytest.mark.parametrize("name", ["calql", CalQLObjective, "sb3_o2o.objectives.cql.CalQLObjective"])
def test_the_same_objective_keeps_its_arguments_however_it_is_named(how: Any, name: Any, tmp_path: Path) -> None:
    path = of_calql(tmp_path, online_objective=CalQLObjective)
    model = how(path, vec(), device="cpu", online_objective=name, objective=name)
    assert reductions(model.offline_objective) == reductions(model.finetuning_objective) == (True, "mean")


@pytest.mark.parametrize("how", [O2OSAC.load, O2OSAC.load_offline])
def test_the_default_online_objective_keeps_its_arguments_when_it_is_named(how: Any, tmp_path: Path) -> None:
    make(online_objective_kwargs={"critic_reduction": "mean"}).pretrain(dataset(), 2).save(tmp_path / "sac")
    model = how(tmp_path / "sac", vec(), device="cpu", online_objective="sac")
    assert reductions(model.finetuning_objective) == (False, "mean")


def test_arguments_of_a_saved_offline_objective_are_not_those_of_another(tmp_path: Path) -> None:
    path = of_calql(tmp_path)
    edac: Any = O2OSAC.load_offline(path, vec(), objective="edac", device="cpu").offline_objective
    assert reductions(edac) == reductions(make(objective="edac").offline_objective)
    fresh: Any = O2OSAC.load_offline(path, vec(), objective="iql", load_critic=False, device="cpu")
    assert (fresh.objective, fresh.objective_kwargs) == ("iql", None)
    make_td3(objective="td3_bc", objective_kwargs={"alpha": 1.0}).pretrain(dataset(), 2).save(tmp_path / "td3_bc")
    assert O2OTD3.load_offline(tmp_path / "td3_bc", vec(), objective="td3", device="cpu").objective_kwargs is None


def test_a_learned_part_is_not_given_to_another_objective(tmp_path: Path) -> None:
    make(objective="iql").pretrain(dataset(), 2).save(tmp_path / "iql")
    kwargs = {"objective": "cql", "objective_kwargs": {"lagrange_gap": 1.0, "n_actions": 2}}
    assert O2OSAC.load(tmp_path / "iql", vec(), device="cpu", **kwargs).pretrain(dataset(), 1).objective == "cql"


def test_a_recipes_arguments_are_those_of_its_objective() -> None:
    plain = O2OSAC("MlpPolicy", vec(), recipe="calql", **SMALL)
    assert plain.objective_kwargs
    model = O2OSAC("MlpPolicy", vec(), recipe="calql", objective="iql", **SMALL)
    assert (model.objective_kwargs, model.online_objective_kwargs) == (None, plain.online_objective_kwargs)
    model = O2OSAC("MlpPolicy", vec(), recipe="calql", online_objective="sac", **SMALL)
    assert (model.objective_kwargs, model.online_objective_kwargs) == (plain.objective_kwargs, None)
    kwargs = {"expectile": 0.8}
    assert (
        O2OSAC("MlpPolicy", vec(), recipe="cql", objective="iql", objective_kwargs=kwargs, **SMALL).objective == "iql"
    )
    same = O2OSAC("MlpPolicy", vec(), recipe="calql", objective="calql", **SMALL)
    assert same.objective_kwargs == plain.objective_kwargs
