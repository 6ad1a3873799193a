"""Copies of a model train on by themselves, with the same numbers; callbacks of a finished call are let go."""

import copy
import gc
import pickle
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import arrays, assert_same, dataset, dataset_file, differs, make, make_ppo, make_td3, reach, state, vec

from sb3_o2o.data import MixedReplayBuffer
from sb3_o2o.finetuning import (
    AuxiliaryAdvantage,
    BalancedReplay,
    ConstrainedFineTuning,
    DatasetReplay,
    DualCritic,
    FIFOReplay,
    FineTuningCallback,
    OnlinePretraining,
    PerturbedTargets,
    PolicyReevaluation,
    SymmetricReplay,
    ValueAlignment,
    Warmup,
)

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


def random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), th.get_rng_state()


def set_random_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    th.set_rng_state(states[2])


def assert_trains_on_alike(model: Any, copied: Any, steps: int = 12) -> None:
    """Both make the same steps, one after the other, and neither moves the other."""
    assert_same(state(model), state(copied))
    before, states = state(model), random_states()
    copied.learn(steps, reset_num_timesteps=False)
    assert differs(before, state(copied)) or copied._n_updates == model._n_updates
    assert_same(before, state(model))
    after = state(copied)
    set_random_states(states)
    model.learn(steps, reset_num_timesteps=False)
    assert_same(after, state(copied))
    assert_same(after, state(model))
    assert copied._n_updates == model._n_updates


def small_constraint(**kwargs: Any) -> ConstrainedFineTuning:
    return ConstrainedFineTuning(reference="interval", interval=5, anneal_steps=30, **kwargs)


#: name -> what makes a model, its arguments, and gradient steps of pre-training
CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], int]] = {
    "sac": (make, {}, 0),
    "two environments, blocks": (
        make,
        {"n_envs": 2, "gradient_steps": 4, "policy_delay": 4, "actor_batch": "block", "n_critics": 3},
        2,
    ),
    "cql with a multiplier": (
        make,
        {"objective": "cql", "online_objective": "cql", "objective_kwargs": {"lagrange_gap": 0.5, "n_actions": 3}},
        2,
    ),
    "calql": (make, {"objective": "calql", "online_objective": "calql", "objective_kwargs": {"n_actions": 3}}, 2),
    "iql": (make, {"objective": "iql", "online_objective": "iql", "finetuning": [SymmetricReplay(0.5)]}, 2),
    "edac": (make, {"objective": "edac", "n_critics": 3}, 2),
    "bc": (make, {"objective": "bc"}, 2),
    "gSDE": (make, {"use_sde": True}, 0),
    "dictionaries": (make, {"dictionary": True, "normalize_observations": True, "finetuning": [Warmup(3)]}, 2),
    "three-step returns": (make, {"n_steps": 3, "finetuning": [SymmetricReplay()]}, 2),
    "wsrl": (make, {"finetuning": [Warmup(16)]}, 2),
    "so2": (make, {"finetuning": [PerturbedTargets(), FIFOReplay()]}, 2),
    "off2on": (make, {"finetuning": [BalancedReplay(ratio_net_arch=[8])]}, 2),
    "o2sac": (
        make,
        {"finetuning": [PolicyReevaluation(3), ValueAlignment(3), small_constraint(), DatasetReplay("part", 2)]},
        2,
    ),
    "o2td3": (make_td3, {"finetuning": [PolicyReevaluation(3), ValueAlignment(3), small_constraint()]}, 2),
    "opt": (make, {"finetuning": [OnlinePretraining(10, 3), DualCritic("auto", auto_window=8, auto_interval=2)]}, 2),
    "opt, scheduled": (make_td3, {"finetuning": [OnlinePretraining(5, 3), DualCritic("medium")]}, 2),
    "td3 with noise": (make_td3, {"action_noise": 0.2}, 0),
    "td3_bc": (make_td3, {"objective": "td3_bc", "online_objective": "td3_bc"}, 2),
    "spot": (
        make_td3,
        {
            "objective": "spot",
            "online_objective": "spot",
            "objective_kwargs": {"density_steps": 2, "density_net_arch": [8], "cooldown_steps": 50},
        },
        2,
    ),
    "ppo": (make_ppo, {"value_learning_rate": 1e-3}, 2),
    "o2ppo": (
        make_ppo,
        {"objective": "iql", "finetuning": [PolicyReevaluation(3), AuxiliaryAdvantage(40, reference="interval")]},
        2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_copy_trains_on_with_the_same_numbers(name: str, tmp_path: Path) -> None:
    maker, arguments, pretrain_steps = CASES[name]
    arguments = copy.deepcopy(arguments)  # callbacks have a state
    dictionary = arguments.get("dictionary", False)
    model = maker(env=vec(arguments.pop("n_envs", 1), dictionary=dictionary), **arguments)
    if pretrain_steps:
        model.pretrain(dataset_file(tmp_path, dictionary), pretrain_steps)
    assert_trains_on_alike(model, copy.deepcopy(model))
    assert_trains_on_alike(model, pickle.loads(pickle.dumps(model)))  # after ``learn``
    assert_trains_on_alike(model, copy.deepcopy(model), steps=3)


@pytest.mark.parametrize("how", COPIES)
def test_data_from_memory_go_along(how: str) -> None:
    for source in (dataset(), arrays(), make().learn(20).replay_buffer):
        model = make(finetuning=[SymmetricReplay(0.5)]).pretrain(source, 2).learn(8)
        copied = COPIES[how](model)
        assert_trains_on_alike(model, copied)
        copied.pretrain(None, 2)
    model = make(replay_buffer_class=MixedReplayBuffer, replay_buffer_kwargs={"dataset": dataset()}).learn(8)
    assert_trains_on_alike(model, COPIES[how](model))


def test_a_deep_copy_shares_the_data() -> None:
    data = dataset()
    model = make(finetuning=[SymmetricReplay(0.5)]).pretrain(data, 2).learn(8)
    copied = copy.deepcopy(model)
    assert copied.offline_buffer.dataset.rewards is model.offline_buffer.dataset.rewards
    assert copied.finetuning[0].buffer.dataset.rewards is model.finetuning[0].buffer.dataset.rewards
    assert copied.offline_buffer.rng is not model.offline_buffer.rng


@pytest.mark.parametrize("how", COPIES)
def test_normalised_environments_come_along(how: str) -> None:
    """Stable-Baselines3's ``VecNormalize`` pickles without what it wraps."""
    model = make(env=VecNormalize(vec(2), gamma=0.9)).learn(12)
    copied = COPIES[how](model)
    normalizer, own = copied.get_vec_normalize_env(), model.get_vec_normalize_env()
    assert normalizer is not own
    assert np.array_equal(normalizer.returns, own.returns)
    assert_trains_on_alike(model, copied)


def test_hindsight_replay_comes_along() -> None:
    model = make("MultiInputPolicy", env=reach(), replay_buffer_class=HerReplayBuffer).learn(30)
    for how in COPIES.values():
        assert_trains_on_alike(model, how(model), 20)


def test_a_compiled_model_is_copied(quick_compiler: None) -> None:
    """What is compiled for one model is not for another."""
    model = make_td3(compile=True, objective="bc").pretrain(dataset(), 2)
    copied, again = (how(model) for how in COPIES.values())
    assert again.loop.gradients.compile
    states = random_states()
    copied.pretrain(None, 2, reset_gradient_steps=False)
    set_random_states(states)
    model.pretrain(None, 2, reset_gradient_steps=False)
    assert_same(state(model), state(copied))
    assert differs(state(model), state(again))


def test_a_copy_logs_nowhere_until_it_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make(verbose=1, tensorboard_log=str(tmp_path / "logs")).learn(12)
    capsys.readouterr()
    for how in COPIES.values():
        copied = how(model)
        copied.train(2)  # as SB3 allows
        copied.logger.dump(1)
        assert capsys.readouterr().out == ""
        copied.learn(40)
        assert "ep_rew_mean" in capsys.readouterr().out
    assert len(list((tmp_path / "logs").iterdir())) == 3


class CopiesItself(BaseCallback):
    """Copies the model in the middle of a call."""

    def _on_step(self) -> bool:
        if self.n_calls == 9:
            self.copies, self.states = [how(self.model) for how in COPIES.values()], random_states()
        return True


def test_copies_from_the_middle_of_a_call(tmp_path: Path) -> None:
    """Those are as if the call had ended, without the callbacks that were given to it."""

    class Doubled(FineTuningCallback):
        def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Any) -> th.Tensor:
            return 2 * values

    for model in (make(finetuning=[Warmup(3)]), make_td3(), make_ppo()):
        taker = CopiesItself()
        model.learn(12, callback=[taker, *([] if model.stock_class.__name__ == "PPO" else [Doubled()])])
        for copied in taker.copies:
            assert copied.num_timesteps == 9
            assert [type(each) for each in copied.hooks.callbacks()] == [type(each) for each in model.finetuning]
            copied.learn(12)
    taker = CopiesItself()
    model = make().pretrain(dataset(), 12, callback=taker)
    for copied in taker.copies:
        assert (copied.n_pretrain_steps, copied.num_timesteps) == (9, 0)
        set_random_states(taker.states)
        copied.pretrain(None, 3, reset_gradient_steps=False)
        assert_same(state(model), state(copied))


# -- letting go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", [make, make_td3, make_ppo])
def test_callbacks_of_a_finished_call_are_let_go(maker: Any) -> None:
    """As in Stable-Baselines3: an evaluation environment does not live as long as the model."""
    model = maker()
    for call in (lambda each: model.pretrain(dataset(), 2, callback=each), lambda each: model.learn(8, callback=each)):
        callback = EvalCallback(vec(), eval_freq=4, n_eval_episodes=1, verbose=0)
        call(callback)
        reference = weakref.ref(callback)
        del callback
        gc.collect()
        assert reference() is None


def test_those_of_the_constructor_stay_without_the_call() -> None:
    model = make(finetuning=[SymmetricReplay(0.5)], dataset=dataset()).learn(8, callback=EvalCallback(vec()))
    (callback,) = model.finetuning
    assert (callback.locals, callback.globals, callback.parent) == ({}, {}, None)
    assert model.hooks.callbacks() == [callback]
    model.train(1)  # as SB3 allows, and with what is the model's


def test_a_bundle_after_the_call_knows_its_callbacks(tmp_path: Path) -> None:
    class Counts(BaseCallback):
        def __init__(self, live: Any):
            super().__init__()
            self.count, self.live = 0, [live]

        def _on_step(self) -> bool:
            self.count += 1
            return True

    model = make(finetuning=[Warmup(3)])
    model.learn(8, callback=Counts(model))
    model.save_resume(tmp_path / "bundle")
    resumed, counts = type(model).load_resume(tmp_path / "bundle", vec(), device="cpu"), Counts("mine")
    resumed.learn(4, callback=counts, reset_num_timesteps=False)
    assert (counts.count, counts.live) == (12, ["mine"])  # what is alive is no state
