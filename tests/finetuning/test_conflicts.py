"""Callbacks beside each other: every pair does what both do, or is refused by name wherever it is given."""

from collections.abc import Callable
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from combinations import SMALL
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EveryNTimesteps
from toy_tasks import assert_same, dataset, differs, make, make_ppo, make_td3, state, vec

import sb3_o2o.finetuning
from sb3_o2o import O2OSAC
from sb3_o2o.data import MixedReplayBuffer, ReplaySamples
from sb3_o2o.finetuning import (
    ActorCriticAlignment,
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
    PolicyExpansion,
    PolicyReevaluation,
    SymmetricReplay,
    TrustRegion,
    ValueAlignment,
    Warmup,
    build_finetuning,
)
from sb3_o2o.updates.hooks import UPDATE_HOOKS

# -- all pairs -----------------------------------------------------------------------------------------------------

OF_PPO = ("AuxiliaryAdvantage", "PolicyReevaluation")
OFF_POLICY = [name for name in SMALL if name != "AuxiliaryAdvantage"]
MIXING = {"BalancedReplay", "DatasetReplay", "FIFOReplay", "SymmetricReplay"}
FIRST = {"OnlinePretraining", "Warmup"}
NEAR = {"ConstrainedFineTuning", "TrustRegion"}
PHASES = {"PolicyReevaluation", "ValueAlignment"}
ACTING, PREDICTING = {"ChampionChallenger", "JumpStart"}, {"ChampionChallenger", "PolicyExpansion"}


def test_these_are_all_callbacks() -> None:
    public = (getattr(sb3_o2o.finetuning, name) for name in sb3_o2o.finetuning.__all__)
    own = {each.__name__ for each in public if isinstance(each, type) and issubclass(each, FineTuningCallback)}
    assert own - {"FineTuningCallback"} == set(SMALL)


def conflict(one: str, two: str) -> bool:
    return one == two or any({one, two} <= group for group in (MIXING, FIRST, NEAR, ACTING, PREDICTING))


def callbacks(names: tuple[str, ...]) -> list[FineTuningCallback]:
    needed = ("DualCritic",) if "OnlinePretraining" in names and "DualCritic" not in names else ()
    # the order that the phases ask for, and what is made of critics
    last = {"ValueAlignment": 1, "ActorCriticAlignment": 2}
    return [SMALL[name]() for name in sorted((*names, *needed), key=lambda name: last.get(name, 0))]


def watch(callback: FineTuningCallback) -> set[str]:
    """
    :return: the hooks of a callback that have not been asked yet
    """
    hooks = {name for name in UPDATE_HOOKS if not getattr(getattr(callback, name, None), "is_no_op", True)}

    def watched(name: str) -> Callable[..., Any]:
        method = getattr(callback, name)

        def ask(*arguments: Any) -> Any:
            hooks.discard(name)
            return method(*arguments)

        return ask

    for name in list(hooks):
        setattr(callback, name, watched(name))
    return hooks


@cache
def trained(build: Callable[..., Any], names: tuple[str, ...]) -> dict[str, th.Tensor]:
    """What training changes. Every hook that a callback has is asked."""
    given = callbacks(names)
    unasked = {type(each).__name__: watch(each) for each in given}
    model = build(finetuning=given, learning_starts=0).pretrain(dataset(), 2).learn(20)
    # what imitating objectives ask for
    assert not any(hooks - {"advantages", "imitated_actions"} for hooks in unasked.values()), unasked
    return state(model)


@cache
def trained_ppo(names: tuple[str, ...]) -> dict[str, th.Tensor]:
    return state(make_ppo(finetuning=callbacks(names)).pretrain(dataset(), 2).learn(16))


@pytest.mark.parametrize("build", [make, make_td3], ids=["sac", "td3"])
@pytest.mark.parametrize("pair", list(combinations_with_replacement(OFF_POLICY, 2)), ids="-".join)
def test_every_pair_moves_something_or_is_refused(build: Callable[..., Any], pair: tuple[str, str]) -> None:
    """What is accepted trains otherwise than without either of the two."""
    one, two = pair
    if conflict(one, two):
        names = f"Two {one} would" if one == two else f"{one} and {two} would"
        with pytest.raises(ValueError, match=f"{names} both decide .*: leave one of them out"):
            build(finetuning=callbacks(pair))
        return
    if build is make_td3 and "ActorCriticAlignment" in pair:
        with pytest.raises(ValueError, match="needs the density"):
            build(finetuning=callbacks(pair)).pretrain(dataset(), 1).learn(1)
        return
    for what, refused in (
        ("ActorCriticAlignment", "critics of its own"),
        ("PolicyExpansion", "for the offline policy"),
    ):
        if what in pair and PHASES & set(pair):
            with pytest.raises(ValueError, match=f"{refused}.*: leave one of them out"):
                build(finetuning=callbacks(pair)).pretrain(dataset(), 1).learn(1)
            return
    both = trained(build, pair)
    helper = ("DualCritic",) if "OnlinePretraining" in pair else ()  # which it cannot do without
    for name in pair:
        rest = tuple(sorted({*pair, *helper} - {name}))
        if name == "DualCritic" and helper:
            continue
        assert differs(both, trained(build, rest)), f"{name} changes nothing"


@pytest.mark.parametrize(
    ("renewing", "freezing"),
    [
        (PolicyExpansion, JumpStart),
        (PolicyExpansion, lambda: ConstrainedFineTuning(reference="interval")),
        (lambda: ChampionChallenger(fresh_learner=True), lambda: ConstrainedFineTuning(reference="interval")),
    ],
    ids=["expansion-jump", "expansion-constraint", "champion-constraint"],
)
@pytest.mark.parametrize("comes_first", [True, False])
def test_all_freeze_the_policy_before_one_makes_it_anew(renewing: Any, freezing: Any, comes_first: bool) -> None:
    pair: list[Any] = [renewing(), freezing()]
    model = make(finetuning=pair if comes_first else pair[::-1], learning_starts=0).pretrain(dataset(), 2)
    offline = [parameter.clone() for parameter in model.actor.parameters()]
    model.learn(3)
    for callback in pair:
        assert all(map(th.equal, callback.policy.parameters(), offline)), type(callback).__name__
    assert not all(map(th.equal, model.actor.parameters(), offline))


@pytest.mark.parametrize(
    "undoes",
    [
        JumpStart,
        lambda: Warmup(3, fresh_critics=True),
        lambda: ChampionChallenger(fresh_learner=True),
        lambda: DualCritic(0.5),
    ],
    ids=["jump", "warm-up", "champion", "second pair"],
)
def test_what_would_undo_an_alignment_comes_before_it(undoes: Any) -> None:
    """Critics made anew afterwards have a slope along the action from the first step on."""
    settings: dict[str, Any] = {"learning_starts": 0, "gradient_steps": 0}
    model = make(finetuning=[ActorCriticAlignment(), undoes()], **settings).pretrain(dataset(), 2)
    with pytest.raises(ValueError, match=r"would undo .*: put ActorCriticAlignment last in the list"):
        model.learn(3)
    model = make(finetuning=[undoes(), ActorCriticAlignment()], **settings).pretrain(dataset(), 2).learn(3)
    assert not model.critic.ensemble.layers[0].weight[:, -model.action_dim :].any()
    model.learn(3)  # it has begun


@pytest.mark.parametrize("phase", [lambda: PolicyReevaluation(2), lambda: ValueAlignment(2)], ids=["one", "two"])
def test_phases_for_the_offline_policy_need_it(phase: Any) -> None:
    pair = [phase(), ChampionChallenger(fresh_learner=True)]
    model = make(finetuning=pair, dataset=dataset(), pretrain_steps=10**9)
    with pytest.raises(ValueError, match=r"ChampionChallenger has another one learn.*: leave one of them out"):
        model.learn(1)
    assert model.n_pretrain_steps == 0


def test_the_pair_of_ppo_moves_something() -> None:
    both = trained_ppo(OF_PPO)
    for name in OF_PPO:
        assert differs(both, trained_ppo((name,)))
    assert differs(trained_ppo(OF_PPO[:1]), trained_ppo(()))
    assert differs(trained_ppo(OF_PPO[1:]), trained_ppo(()))
    for name in OF_PPO:
        with pytest.raises(ValueError, match=f"Two {name} would both decide"):
            make_ppo(finetuning=callbacks((name, name)))


@pytest.mark.parametrize("name", sorted(set(SMALL) - set(OF_PPO)))
def test_what_ppo_has_no_use_for_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make_ppo(finetuning=[SMALL[name]()], dataset=dataset()).learn(8)


@pytest.mark.parametrize("build", [make, make_td3])
def test_what_only_ppo_has_a_use_for_is_refused(build: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="AuxiliaryAdvantage changes the advantages of a rollout"):
        build(finetuning=[AuxiliaryAdvantage(reference="interval")]).learn(8)


@pytest.mark.parametrize("build", [make, make_td3], ids=["sac", "td3"])
@pytest.mark.parametrize("name", OFF_POLICY)
def test_each_alone_moves_something(build: Callable[..., Any], name: str) -> None:
    helper = ("DualCritic",) if name == "OnlinePretraining" else ()
    if build is make_td3 and name == "ActorCriticAlignment":
        return  # refused, see above
    assert differs(trained(build, (name,)), trained(build, helper))


# -- wherever they are given ---------------------------------------------------------------------------------------


class Draws(FineTuningCallback):
    """A user's own."""

    def sample(self, batch_size: int) -> ReplaySamples | None:
        return None


class Acts(FineTuningCallback):
    def act(self, observations: Any) -> np.ndarray | None:
        return None


class ActsAsWell(Acts):
    pass


class Settles(FineTuningCallback):
    """Decides what has no hook of its own."""

    exclusive = ("what the weather is like",)


CONFLICTS: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "two that draw": (
        lambda: [SymmetricReplay(), BalancedReplay()],
        "SymmetricReplay and BalancedReplay would both decide which transitions an update sees",
    ),
    "a user's that draws": (lambda: [Draws(), FIFOReplay()], "Draws and FIFOReplay would both decide which trans"),
    "two of a user's that act": (lambda: [Acts(), ActsAsWell()], "Acts and ActsAsWell would both decide which act"),
    "what a user's says": (lambda: [Settles(), Settles()], "Two Settles would both decide what the weather is like"),
    "two constraints": (
        lambda: [ConstrainedFineTuning(reference="interval"), ConstrainedFineTuning(penalty="mse")],
        "Two ConstrainedFineTuning would both decide what the policy stays near",
    ),
    "the dataset twice": (
        lambda: [DatasetReplay(), FIFOReplay()],
        "DatasetReplay and FIFOReplay would both decide how the dataset is mixed with the online transitions",
    ),
    "two warm-ups": (lambda: [Warmup(3), Warmup(5)], "Two Warmup would both decide when the first online update"),
    "warm-up and collection": (
        lambda: [Warmup(3), OnlinePretraining(), DualCritic()],
        "Warmup and OnlinePretraining would both decide when the first online update comes",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts_are_refused_wherever_callbacks_are_given(name: str, tmp_path: Any) -> None:
    build, message = CONFLICTS[name]
    make().pretrain(dataset(), 1).save(tmp_path / "model")
    model = make(dataset=dataset()).learn(6)
    before, steps = state(model), model.num_timesteps
    first, *others = build()
    owner = make(finetuning=[first], dataset=dataset())
    refused: list[Callable[[], Any]] = [
        lambda: make(finetuning=build()),
        lambda: build_finetuning(build()),
        lambda: O2OSAC.load(tmp_path / "model", finetuning=build()),
        lambda: O2OSAC.load_offline(tmp_path / "model", vec(), finetuning=build()),
        lambda: O2OSAC.load_offline(dataset(), vec(), pretrain_steps=10**9, finetuning=build()),
        lambda: model.learn(6, callback=build()),
        lambda: model.learn(6, callback=CallbackList([CallbackList(build())])),
        lambda: model.learn(6, callback=[EveryNTimesteps(3, each) for each in build()]),
        lambda: model.pretrain(None, 10**9, callback=build()),
        lambda: owner.learn(6, callback=others),
        lambda: owner.pretrain(None, 10**9, callback=others),
    ]
    for give in refused:
        with pytest.raises(ValueError, match=message):
            give()
    assert model.num_timesteps == steps
    assert_same(before, state(model))
    assert (owner.num_timesteps, owner.n_pretrain_steps, owner._last_obs) == (0, 0, None)
    model.learn(4, callback=first if name != "the dataset twice" else None)  # one of them is welcome


def test_a_learn_that_pretrains_refuses_before_it() -> None:
    model = make(dataset=dataset(), pretrain_steps=10**9, finetuning=[SymmetricReplay()])
    with pytest.raises(ValueError, match="SymmetricReplay and FIFOReplay would both decide"):
        model.learn(6, callback=FIFOReplay())


@pytest.mark.parametrize(
    ("build", "names", "message"),
    [
        (make, [lambda: Warmup(3, fresh_critics=True), ConstrainedFineTuning], "follows the scores of an evaluation"),
        (make, [PolicyExpansion, lambda: TrustRegion(reference="champion")], "follows a champion"),
        (
            make,
            [lambda: Warmup(3, fresh_critics=True), lambda: ValueAlignment(2), lambda: PolicyReevaluation(2)],
            "undo",
        ),
        (make, [PolicyExpansion, lambda: ValueAlignment(2)], "has another one learn"),
        (make, [PolicyExpansion, OnlinePretraining], "add DualCritic"),
        (make, [lambda: Warmup(3, fresh_critics=True), ActorCriticAlignment, DualCritic], "would undo"),
        (make, [lambda: ChampionChallenger(fresh_learner=True), ConstrainedFineTuning], "use reference='champion'"),
        (make_td3, [lambda: Warmup(3, fresh_critics=True), ActorCriticAlignment], "needs the density"),
        (make_ppo, [PolicyReevaluation, AuxiliaryAdvantage], "follows the scores of an evaluation"),
    ],
)
def test_a_refusal_comes_before_anything_has_changed(
    build: Callable[..., Any], names: list[Any], message: str, tmp_path: Path
) -> None:
    """Callbacks were asked one after the other, when those before them had made critics or policies anew."""
    model = build(dataset=dataset(), tensorboard_log=str(tmp_path / "logs"))
    model.pretrain(None, 2).learn(8)
    before, observed, steps = state(model), np.copy(model._last_obs), model.num_timesteps
    shown = sorted(tmp_path.rglob("*"))
    checkpoints = CheckpointCallback(1, str(tmp_path / "checkpoints"))
    with pytest.raises(ValueError, match=message):
        model.learn(8, callback=[checkpoints, *(make_callback() for make_callback in names)])
    assert_same(before, state(model))
    assert model.num_timesteps == steps
    np.testing.assert_array_equal(model._last_obs, observed)
    assert sorted(tmp_path.rglob("*")) == shown


def test_what_has_finished_in_another_run_is_asked_as_if_it_began() -> None:
    """It begins anew, and trained a second pair of critics that nothing uses."""
    phase = OnlinePretraining(collect_steps=4, gradient_steps=1)
    make(env=vec(1), dataset=dataset()).learn(8, callback=[phase, DualCritic()])
    assert phase.done
    with pytest.raises(ValueError, match="add DualCritic"):
        make(env=vec(1), dataset=dataset()).learn(8, callback=phase)


class LogsWhereItIsInitialised(FineTuningCallback):
    def _init_callback(self) -> None:
        self.logger.record("mine", 1)


def test_a_callback_may_log_where_it_is_initialised() -> None:
    model = make()
    model.learn(4, callback=LogsWhereItIsInitialised())
    assert model.logger.name_to_value["mine"] == 1


@pytest.mark.parametrize("name", sorted(MIXING))
def test_a_buffer_that_mixes_by_itself(name: str) -> None:
    mixed = {"replay_buffer_class": MixedReplayBuffer, "replay_buffer_kwargs": {"dataset": dataset()}}
    model = make(finetuning=[SMALL[name]()], dataset=dataset(), **mixed)
    message = f"{name} and MixedReplayBuffer would both decide how the dataset is mixed"
    for start in (lambda: model.learn(6), lambda: model.pretrain(None, 10**9)):
        with pytest.raises(ValueError, match=message):
            start()


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"AuxiliaryAdvantage", "DatasetReplay"}))
def test_what_pretrain_never_asks_for_is_refused(name: str) -> None:
    """A warm-up even changed where its batches come from."""
    model = make()
    with pytest.raises(ValueError, match=f"{name} changes online updates .*, and pretrain makes none"):
        model.pretrain(dataset(), 2, callback=[EveryNTimesteps(1, SMALL[name]())])
    assert (model.n_pretrain_steps, model.offline_buffer) == (0, None)


def test_who_also_looks_may_look_at_pretraining() -> None:
    class Looks(Draws):
        looks = 0

        def on_gradient_step(self) -> None:
            self.looks += 1

    looks = Looks()
    make().pretrain(dataset(), 3, callback=looks)
    assert looks.looks == 3


def test_what_decides_nothing_is_welcome() -> None:
    make(finetuning=[DatasetReplay("none"), SymmetricReplay()], dataset=dataset()).learn(6)


def test_one_callback_given_twice_is_one() -> None:
    """Events come once as well: some callbacks count them."""

    class Counts(FineTuningCallback):
        exclusive = ("who counts",)

        def _on_step(self) -> bool:
            steps.append(self.num_timesteps)
            return True

    for given in (lambda each: each, lambda each: [each], lambda each: CallbackList([CallbackList([each])])):
        steps: list[int] = []
        callback = Counts()
        make(finetuning=[callback]).learn(4, callback=given(callback))
        assert steps == [1, 2, 3, 4]
