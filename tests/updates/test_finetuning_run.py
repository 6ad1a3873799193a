"""Schedules count the steps of the fine-tuning run, over calls, saves and resumptions; another run begins again."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from toy_tasks import FAST, dataset, dataset_file, make, make_ppo, make_td3, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import (
    AuxiliaryAdvantage,
    BalancedReplay,
    ConstrainedFineTuning,
    DatasetReplay,
    DualCritic,
    FineTuningCallback,
    OnlinePretraining,
    Warmup,
)

# -- what the count is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 2])
def test_steps_of_a_run(n_envs: int, tmp_path: Path) -> None:
    model = make(env=vec(n_envs))
    assert model.n_finetuning_steps == 0
    model.learn(8)
    model.learn(4, reset_num_timesteps=False)
    assert (model.num_timesteps, model.n_finetuning_steps) == (12, 12)
    model.learn(6)
    assert (model.num_timesteps, model.n_finetuning_steps) == (6, 18)
    model.save(tmp_path / "model")
    model.save_resume(tmp_path / "bundle")
    for again in (
        O2OSAC.load(tmp_path / "model", vec(n_envs), device="cpu"),
        O2OSAC.load_resume(tmp_path / "bundle", vec(n_envs), device="cpu"),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert again.learn(4).n_finetuning_steps == 22
        assert again.learn(4, reset_num_timesteps=False).n_finetuning_steps == 26
    assert O2OSAC.load_offline(tmp_path / "model", vec(n_envs), device="cpu").n_finetuning_steps == 0


def test_pretraining_begins_a_run_unless_it_goes_on() -> None:
    model = make().pretrain(dataset(), 3).learn(8)
    model.pretrain(dataset(), 3, reset_gradient_steps=False)
    assert (model.num_timesteps, model.n_finetuning_steps) == (8, 8)
    model.pretrain(dataset(), 3)
    assert (model.num_timesteps, model.n_finetuning_steps) == (8, 0)
    assert model.learn(4, reset_num_timesteps=False).n_finetuning_steps == 4
    assert model.num_timesteps == 12


def test_while_pretraining_it_stands_still() -> None:
    class Look(FineTuningCallback):
        def _on_step(self) -> bool:
            seen.append(self.model.n_finetuning_steps)
            return True

    seen: list[int] = []
    model = make().pretrain(dataset(), 1).learn(8)
    model.pretrain(dataset(), 2, callback=Look(), reset_gradient_steps=False)
    model.learn(2, callback=Look(), reset_num_timesteps=False)
    assert seen == [8, 8, 9, 10]


def test_what_a_stock_model_has_learned_is_none_of_it(tmp_path: Path) -> None:
    SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST).learn(20).save(tmp_path / "stock")
    model = O2OSAC.load(tmp_path / "stock", vec(), device="cpu", finetuning=[Warmup(5)])
    before = model._n_updates
    model.learn(5, reset_num_timesteps=False)
    assert (model.num_timesteps, model.n_finetuning_steps, model._n_updates) == (25, 5, before)


def test_a_learn_that_cannot_start_counts_nothing() -> None:
    class Broken(FineTuningCallback):
        def _init_callback(self) -> None:
            raise RuntimeError("no")

    model = make().learn(8)
    for reset in (False, True):
        with pytest.raises(RuntimeError, match="no"):
            model.learn(4, callback=Broken(), reset_num_timesteps=reset)
        assert model.n_finetuning_steps == 8


# -- schedules -----------------------------------------------------------------------------------------------------

STEPS = 24


def in_one_call(model: Any, folder: Path) -> Any:
    return model.learn(STEPS)


def in_calls_that_count_on(model: Any, folder: Path) -> Any:
    return model.learn(8).learn(8, reset_num_timesteps=False).learn(8, reset_num_timesteps=False)


def in_calls_that_count_anew(model: Any, folder: Path) -> Any:
    return model.learn(8).learn(8).learn(8)


def saved_between(model: Any, folder: Path) -> Any:
    model.learn(8).save(folder / "model")
    model = type(model).load(folder / "model", vec(), device="cpu", dataset=dataset())
    model.learn(8).save(folder / "model")
    model = type(model).load(folder / "model", vec(), device="cpu", dataset=dataset())
    return model.learn(8, reset_num_timesteps=False)


def resumed_between(model: Any, folder: Path) -> Any:
    model.learn(16).save_resume(folder / "bundle")
    model = type(model).load_resume(folder / "bundle", vec(), device="cpu")
    return model.learn(8, reset_num_timesteps=False)


def spot() -> Any:
    kwargs = {"density_steps": 1, "density_net_arch": [8], "cooldown_steps": 50}
    return make_td3(objective="spot", online_objective="spot", objective_kwargs=kwargs)


#: what makes a model, and how far its schedule is after 24 steps
SCHEDULES: dict[str, tuple[Callable[[], Any], Callable[[Any], float], float]] = {
    "threshold": (
        lambda: make(finetuning=[ConstrainedFineTuning(0.1, 1.1, 48, reference="interval")]),
        lambda model: model.finetuning[0].current_threshold.item(),
        0.6,
    ),
    "lambda of SPOT": (spot, lambda model: model.finetuning_objective.current_weight(), 0.1 * (1 - 24 / 50)),
    "weight of O2PPO": (
        lambda: make_ppo(finetuning=[AuxiliaryAdvantage(48, reference="interval")]),
        lambda model: model.finetuning[0].weight,
        0.5,
    ),
    "kappa": (
        lambda: make(finetuning=[DualCritic({"start": 0.0, "end": 0.96, "end_step": 48, "start_step": 0})]),
        lambda model: model.finetuning[0].value,
        0.48,
    ),
    "warm-up": (lambda: make(finetuning=[Warmup(20)]), lambda model: model._n_updates - 1, 4),
}


WAYS = [in_one_call, in_calls_that_count_on, in_calls_that_count_anew, saved_between, resumed_between]


@pytest.mark.parametrize("train", WAYS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on(name: str, train: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    build, look, expected = SCHEDULES[name]
    if name == "warm-up" and train is saved_between:
        expected = 0  # the buffer was not saved, and is filled again where ``learn`` counts from zero
    model = train(build().pretrain(dataset_file(tmp_path), 1), tmp_path)
    assert model.n_finetuning_steps == STEPS
    assert look(model) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_begin_again_in_another_run(name: str, tmp_path: Path) -> None:
    build, look, expected = SCHEDULES[name]
    model = build().pretrain(dataset_file(tmp_path), 1).learn(STEPS)
    model.save(tmp_path / "model")
    loaded = type(model).load_offline(tmp_path / "model", vec(), device="cpu").learn(STEPS)
    model.pretrain(None, 1).learn(STEPS)
    for again in (loaded, model):
        assert again.n_finetuning_steps == STEPS
        made_before = 4 + (again is model) if name == "warm-up" else 0
        assert look(again) - made_before == pytest.approx(expected, rel=1e-5)


def test_references_at_intervals_count_on() -> None:
    constraint = ConstrainedFineTuning(reference="interval", interval=10)
    model = make(finetuning=[constraint])
    taken = [model.learn(6).finetuning[0].taken_at for _ in range(4)]
    assert taken == [0, 10, 10, 20]


# -- warm-ups ------------------------------------------------------------------------------------------------------


def updates_of(model: Any, steps: int, **kwargs: Any) -> int:
    before = model._n_updates
    return int(model.learn(steps, **kwargs)._n_updates - before)


def test_a_warm_up_beside_a_loaded_dataset_comes_back(tmp_path: Path) -> None:
    """The dataset in the online buffer is not what the policy does."""
    for callbacks in ([DatasetReplay(), Warmup(5)], [Warmup(5), DatasetReplay()]):
        model = make(finetuning=callbacks).pretrain(dataset_file(tmp_path), 1)
        assert updates_of(model, 8) == 3
        model.save(tmp_path / "model")
        again = O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu")
        assert updates_of(again, 8) == 3
        assert updates_of(again, 8) == 8


def test_a_warm_up_of_learn_comes_back_with_another_policy() -> None:
    """Also where one object is given to both calls."""
    warmup, model = Warmup(5), make(learning_starts=0)
    for _ in range(2):
        model.pretrain(dataset(), 1)
        assert updates_of(model, 8, callback=warmup) == 3
        assert updates_of(model, 8, callback=warmup) == 8
    assert updates_of(make(learning_starts=0), 8, callback=warmup) == 3


def test_a_buffer_that_was_not_saved_is_filled_again(tmp_path: Path) -> None:
    for callbacks in ([Warmup(5)], [DatasetReplay(), Warmup(5)]):
        make(finetuning=callbacks).pretrain(dataset_file(tmp_path), 1).learn(8).save(tmp_path / "model")
        assert updates_of(O2OSAC.load(tmp_path / "model", vec(), device="cpu"), 8) == 3
        goes_on = O2OSAC.load(tmp_path / "model", vec(), device="cpu")
        assert updates_of(goes_on, 8, reset_num_timesteps=False) == 8


# -- state of callbacks --------------------------------------------------------------------------------------------


def test_a_collection_goes_on_over_calls() -> None:
    model = make(finetuning=[OnlinePretraining(10, 1), DualCritic("medium")]).pretrain(dataset(), 1)
    assert model.learn(10).finetuning[0].n_collected == 10
    assert model.learn(3).finetuning[0].done
    assert model.phase_steps["opt"] == 1


def test_priorities_are_those_of_the_run() -> None:
    replay, data = BalancedReplay(ratio_net_arch=[4]), dataset()
    model = make(finetuning=[replay]).pretrain(data, 1).learn(12)
    network = replay.ratio
    model.learn(4)
    assert replay.ratio is network
    assert not np.allclose(replay.tree.priorities[: len(data)], 1.0)  # type: ignore[union-attr]
    model.pretrain(data, 1)
    assert (replay.ratio, replay.tree) == (None, None)


def test_a_users_callback_hears_of_another_run(tmp_path: Path) -> None:
    class Remembers(FineTuningCallback):
        def __init__(self) -> None:
            super().__init__()
            self.runs = 0

        def begin_new_run(self) -> None:
            self.runs += 1

    owned, given = Remembers(), Remembers()
    model = make(finetuning=[owned]).learn(4, callback=given)
    for _ in range(2):
        model.learn(4, callback=given)
    assert (owned.runs, given.runs) == (0, 0)
    model.pretrain(dataset(), 1).learn(4, callback=given)
    assert (owned.runs, given.runs) == (1, 1)
    make().learn(4, callback=given)
    assert given.runs == 2
    model.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    resumed.learn(4, callback=Remembers(), reset_num_timesteps=False)
    assert resumed.finetuning[0].runs == 1
