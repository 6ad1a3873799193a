"""SO2's perturbed targets and its first-in-first-out replay."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from toy_tasks import assert_same, dataset, dataset_file, differs, make, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import (
    BalancedReplay,
    ConstrainedFineTuning,
    DualCritic,
    FIFOReplay,
    FineTuningCallback,
    PerturbedTargets,
    SymmetricReplay,
    Warmup,
)
from sb3_o2o.finetuning.second_critics import SecondCritics
from sb3_o2o.networks import frozen_copy
from sb3_o2o.objectives import Batch, Draws

ROWS = 6


def drawing(**kwargs: Any) -> PerturbedTargets:
    """Perturbed targets that draw as a model's would."""
    hook = PerturbedTargets(**kwargs)
    hook.model = SimpleNamespace(draws=Draws(th.device("cpu")))  # type: ignore[assignment]
    return hook


def transitions(rows: int = ROWS) -> Batch:
    draw = th.Generator().manual_seed(0)
    states, following = th.randn(2, rows, 3, generator=draw)
    actions = th.rand(rows, 2, generator=draw) * 2 - 1
    dones = (th.arange(rows) % 3 == 2).float()
    return Batch(states, actions, following, th.randn(rows, generator=draw), dones, th.full((rows,), 0.9))


class Batches(FineTuningCallback):
    """Keeps the critics' batches."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Batch] = []

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.seen.append(batch)


# -- the noise -----------------------------------------------------------------------------------------------------


def test_noise_is_clipped_and_so_is_the_sum() -> None:
    batch = transitions(20_000)
    prepared = drawing(sigma=0.3, clip=0.6).prepare(batch)
    assert prepared.extras is not None
    noise = prepared.extras["target_noise"]
    assert noise.shape == batch.actions.shape
    assert noise.abs().max().item() == pytest.approx(0.6)
    # clipped at two standard deviations: 4.55 % lie at the bounds, and the rest has this standard deviation
    assert (noise.abs() == noise.abs().max()).float().mean().item() == pytest.approx(0.0455, abs=0.005)
    assert noise.std().item() == pytest.approx(0.3 * 0.9598, abs=0.005)
    actions = th.full_like(batch.actions, 0.9)
    perturbed = drawing().next_actions(actions, None, prepared)
    assert th.equal(perturbed, (actions + noise).clamp(-1, 1))
    assert perturbed.max().item() == 1.0
    assert perturbed.min().item() == pytest.approx(0.3)


def test_several_actions_of_a_state_are_perturbed_alike() -> None:
    hook, batch = drawing(sigma=0.1), transitions()
    prepared = hook.prepare(batch)
    assert prepared.extras is not None
    perturbed = hook.next_actions(th.zeros(ROWS, 4, 2), th.zeros(ROWS, 4), prepared)
    for index in range(4):
        assert th.equal(perturbed[:, index], prepared.extras["target_noise"])


def test_without_sigma_nothing_changes() -> None:
    actions = th.rand(ROWS, 2) * 2 - 1
    hook = drawing(sigma=0.0)
    assert th.equal(hook.next_actions(actions, None, hook.prepare(transitions())), actions)


@pytest.mark.parametrize("kwargs", [{"sigma": -0.1}, {"clip": -1.0}, {"sigma": float("nan")}])
def test_bad_noise(kwargs: dict[str, float]) -> None:
    name = next(iter(kwargs))
    with pytest.raises(ValueError, match=f"{name} of PerturbedTargets must be a finite number of at least 0, not"):
        PerturbedTargets(**kwargs)


# -- the target ----------------------------------------------------------------------------------------------------


@th.no_grad()
def by_hand(model: Any, batch: Batch, noise: th.Tensor, critics: Any, reduction: str = "min") -> th.Tensor:
    """
    SO2, eq. 3: a perturbed action, and the entropy of the action as the policy drew it, as is the divergence from the
    reference of a constraint.
    """
    following, constraints = batch.next_observations, model.hooks.defined("next_values")
    if model.actor.stochastic:
        actions, log_prob = model.actor.rsample(following, noise)
        taken_off = model.current_ent_coef() * log_prob
        for method in constraints:
            reference = method.__self__.policy.log_prob(following, actions, 1 - 1e-4)
            taken_off = taken_off + method.__self__.multiplier.logarithm.exp() * (log_prob - reference)
    else:
        smoothing = (noise * model.target_policy_noise).clamp(-model.target_noise_clip, model.target_noise_clip)
        actions, taken_off = (model.actor_target(following) + smoothing).clamp(-1, 1), 0.0
        for method in constraints:
            squares = (model.actor(following) - method.__self__.policy(following)).pow(2)
            taken_off = taken_off + method.__self__.multiplier.logarithm.exp() * squares.mean()
    assert batch.extras is not None
    perturbed = (actions + batch.extras["target_noise"]).clamp(-1, 1)
    values = critics.q_values(following, perturbed)
    values = values.min(dim=0).values if reduction == "min" else values
    return batch.rewards + (1 - batch.dones) * batch.discounts * (values - taken_off)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("reduction", ["min", "none"])
@pytest.mark.parametrize("objective", ["sac", "cql", "calql"])
def test_target_by_hand(objective: str, reduction: str, second: bool) -> None:
    """Of the policy's own critics and of a second set."""
    kwargs = {"target_reduction": reduction, "entropy_backup": True}
    model = make(online_objective=objective, online_objective_kwargs=kwargs, n_critics=3, ent_coef=0.3)
    hook = drawing()
    model.hooks.deliver_to([hook])
    batch, noise = hook.prepare(transitions()), th.randn(ROWS, 2)
    critics = SecondCritics(model.finetuning_objective).critic_target if second else model.critic_target
    target = model.finetuning_objective.td_target(batch, noise, None, model.current_ent_coef(), critics)  # type: ignore[operator]
    assert target.shape == ((ROWS,) if reduction == "min" else (3, ROWS))
    assert th.allclose(target, by_hand(model, batch, noise, critics, reduction), atol=1e-6)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("reduction", ["min", "none"])
@pytest.mark.parametrize("smoothing", [0.2, 0])
@pytest.mark.parametrize("objective", ["td3", "td3_bc", "spot"])
def test_target_of_td3_by_hand(objective: str, smoothing: float, reduction: str, second: bool) -> None:
    """The perturbation comes on top of the smoothing, which may be turned off."""
    kwargs = {"target_reduction": reduction}
    model = make_td3(
        online_objective=objective, online_objective_kwargs=kwargs, n_critics=3, target_policy_noise=smoothing
    )
    hook = drawing()
    model.hooks.deliver_to([hook])
    batch, noise = hook.prepare(transitions()), th.randn(ROWS, 2)
    critics = SecondCritics(model.finetuning_objective).critic_target if second else model.critic_target
    target = model.finetuning_objective.td_target(batch, noise, None, critics)  # type: ignore[operator]
    assert target.shape == ((ROWS,) if reduction == "min" else (3, ROWS))
    assert th.allclose(target, by_hand(model, batch, noise, critics, reduction), atol=1e-6)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("reduction", ["min", "none"])
@pytest.mark.parametrize("objective", ["sac", "cql"])
def test_a_policy_does_not_diverge_from_itself(objective: str, reduction: str, several: bool) -> None:
    """However its actions are perturbed: a constraint takes nothing off the target where it is its own reference."""
    kwargs = {"target_reduction": reduction, "max_target_backup": several, "n_actions": 4}
    model = make(online_objective=objective, online_objective_kwargs=kwargs, n_critics=3)
    with th.no_grad():
        model.actor.log_std.weight.zero_()
        model.actor.log_std.bias.fill_(-4.0)
    hook, constraint = drawing(), ConstrainedFineTuning(reference="interval")
    constraint.init_callback(model)
    constraint.policy = frozen_copy(model.actor)
    batch, noise = hook.prepare(transitions()), th.randn(ROWS, 4, 2) if several else th.randn(ROWS, 2)
    targets = []
    for callbacks in ([hook], [hook, constraint]):
        model.hooks.deliver_to(callbacks)
        targets.append(model.finetuning_objective.td_target(batch, noise, None, model.current_ent_coef()))  # type: ignore[operator]
    assert th.allclose(*targets, atol=1e-4)


@pytest.mark.parametrize("build", [make, make_td3])
def test_callbacks_of_the_target_see_the_actions_before_the_perturbation(build: Any) -> None:
    seen: list[th.Tensor] = []

    class Look(FineTuningCallback):
        def next_actions(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
            seen.append(actions)
            return -actions

        def next_values(
            self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch
        ) -> th.Tensor:
            seen.append(actions)
            return values

    build(learning_starts=0, finetuning=[Look()]).learn(1)
    assert th.equal(*seen)


@pytest.mark.parametrize("build", [make, make_td3])
def test_each_critic_follows_its_own_target(build: Any) -> None:
    """Only the second target critic is changed, and only the second critic's step with it."""
    models = [build(online_objective_kwargs={"target_reduction": "none"}, n_critics=3) for _ in range(2)]
    for parameter in models[1].critic_target.ensemble.layers[-1].parameters():
        parameter.data[1] += 1.0
    batch = transitions()
    for model in models:
        th.manual_seed(0)
        model.loop.gradient_step(batch, None)
    first, second = (model.critic.ensemble.layers[-1].weight.detach() for model in models)
    assert [th.equal(one, other) for one, other in zip(first, second, strict=True)] == [True, False, True]  # type: ignore[arg-type]


def test_own_targets_at_the_best_of_several_actions() -> None:
    """The action is the one that the smallest critic likes best; each critic then says what it thinks of it."""
    kwargs = {"target_reduction": "none", "max_target_backup": True, "n_actions": 4, "entropy_backup": False}
    model = make(online_objective_kwargs=kwargs, n_critics=3)
    batch, noise = transitions(), th.randn(ROWS, 4, 2)
    target = model.finetuning_objective.td_target(batch, noise, None, model.current_ent_coef())  # type: ignore[operator]
    with th.no_grad():
        actions, _ = model.actor.rsample(batch.next_observations, noise)
        values = model.critic_target.q_values(batch.next_observations, actions)
        best = values.min(dim=0).values.argmax(dim=1)
        chosen = th.stack([values[:, row, best[row]] for row in range(ROWS)], dim=1)
    assert th.allclose(target, batch.rewards + (1 - batch.dones) * 0.9 * chosen, atol=1e-6)


@pytest.mark.parametrize("build", [make, make_td3])
def test_target_reduction_is_checked(build: Any) -> None:
    with pytest.raises(ValueError, match=r"target_reduction .*must be 'min', 'max', 'none' or 'pairs', not 'mean'"):
        build(online_objective_kwargs={"target_reduction": "mean"})
    with pytest.raises(ValueError, match=r"set critic_subset=None, not 2"):
        build(online_objective_kwargs={"target_reduction": "none"}, n_critics=4, critic_subset=2)


# -- in a run ------------------------------------------------------------------------------------------------------


def test_it_changes_fine_tuning_and_not_pretraining() -> None:
    plain, perturbed = (
        make(finetuning=callbacks, objective="cql", objective_kwargs={"n_actions": 2}).pretrain(dataset(), 3)
        for callbacks in ([], [PerturbedTargets()])
    )
    assert_same(state(plain), state(perturbed))
    assert differs(*(state(model.learn(8)) for model in (plain, perturbed)), "policy/critic.")  # type: ignore[misc]


class OtherReference(ConstrainedFineTuning):
    """Far from every policy of its run."""

    def _take_policy(self) -> None:
        super()._take_policy()
        for parameter in self.policy.parameters():
            parameter.data.add_(0.3)


@pytest.mark.parametrize(
    ("companion", "arguments"),
    [
        (BalancedReplay, {"ratio_batch_size": 8, "ratio_net_arch": [8]}),
        (DualCritic, {"kappa": 0.5}),
        (OtherReference, {"reference": "interval"}),
        (FIFOReplay, {}),
    ],
)
@pytest.mark.parametrize("build", [make, make_td3])
def test_every_target_of_a_run(build: Any, companion: Any, arguments: dict[str, Any]) -> None:
    """Whatever else is there, and of both pairs where there are two."""
    callbacks = [companion(**arguments), PerturbedTargets()]
    model = build(learning_starts=0, finetuning=callbacks, dataset=dataset())
    original, critics = model.finetuning_objective.td_target, []

    def checked(batch: Batch, noise: th.Tensor, *rest: Any) -> th.Tensor:
        critics.append(rest[-1] if rest and isinstance(rest[-1], th.nn.Module) else model.critic_target)
        target = original(batch, noise, *rest)
        assert th.allclose(target, by_hand(model, batch, noise, critics[-1]), atol=1e-5)
        return target

    model.finetuning_objective.td_target = checked
    model.learn(6)
    if companion is DualCritic:
        assert critics == [callbacks[0].critics.critic_target, model.critic_target] * 6
    else:
        assert critics == [model.critic_target] * 6


@pytest.mark.parametrize("dictionary", [False, True])
def test_composed_with_the_others(dictionary: bool, tmp_path: Path) -> None:
    """Saved with the model by name, with a warm-up, a mixed replay, a block for the actor and a target per critic."""
    model = make(
        dictionary=dictionary,
        finetuning=[{"Warmup": {"steps": 5}}, {"PerturbedTargets": {"sigma": 0.2}}, {"FIFOReplay": {}}],
        dataset=dataset_file(tmp_path, dictionary),
        online_objective_kwargs={"target_reduction": "none"},
        n_critics=3,
        gradient_steps=4,
        policy_delay=4,
        actor_batch="block",
    ).learn(9)
    model.save(tmp_path / "model")
    loaded: Any = O2OSAC.load(tmp_path / "model", env=vec(dictionary=dictionary), device="cpu")
    assert [type(each) for each in loaded.finetuning] == [Warmup, PerturbedTargets, FIFOReplay]
    assert (loaded.finetuning[1].sigma, loaded.finetuning[1].clip) == (0.2, 0.6)
    loaded.learn(9)
    assert all(th.isfinite(value).all() for value in state(loaded).values())


@pytest.mark.parametrize("n_envs", [1, 8])
def test_interrupted_is_as_uninterrupted(n_envs: int, tmp_path: Path) -> None:
    """With one environment the dataset is still being pushed out, with eight it is gone."""

    def run() -> O2OSAC:
        callbacks = [PerturbedTargets(), FIFOReplay()]
        data = dataset_file(tmp_path)
        return make(env=vec(n_envs), finetuning=callbacks, dataset=data, gradient_steps=2, n_critics=3)

    whole, part = run().learn(16 * n_envs), run().learn(9 * n_envs)
    part.save_resume(tmp_path / "bundle")
    th.randn(3)
    np.random.rand(3)
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(n_envs), device="cpu")
    resumed.learn(7 * n_envs, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))


# -- first in, first out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 2])
def test_online_transitions_push_the_dataset_out(n_envs: int) -> None:
    """With 20 of 60 transitions pushed out, a third of the second buffer is online."""
    data = dataset()
    replay, batches = FIFOReplay(0.1), Batches()
    model = make(env=vec(n_envs), finetuning=[replay], dataset=data, learning_starts=0, batch_size=3000)
    model.learn(20, callback=batches)
    assert replay.n_kept == 40
    offline = np.isin(batches.seen[-1].rewards.numpy(), data.rewards)
    assert offline.mean() == pytest.approx(0.9 * 40 / 60, abs=0.03)
    # what is left is the end of the shuffled order, and nothing else is drawn
    order = np.random.default_rng(replay.order_seed).permutation(60)
    drawn = {round(float(reward), 5) for reward in batches.seen[-1].rewards.numpy()[offline]}
    assert drawn == {round(float(reward), 5) for reward in data.rewards[order[20:]]}


def test_the_whole_dataset_may_be_pushed_out() -> None:
    data, batches = dataset(20), Batches()
    replay = FIFOReplay()
    make(finetuning=[replay], dataset=data).learn(25, callback=batches)
    assert replay.n_kept == 0
    assert not np.isin(batches.seen[-1].rewards.numpy(), data.rewards).any()


def in_time_order(model: Any) -> np.ndarray:
    """Rewards of the online buffer, oldest first."""
    buffer = model.replay_buffer
    return np.roll(buffer.rewards, -buffer.pos, axis=0) if buffer.full else buffer.rewards[: buffer.pos]


@pytest.mark.parametrize(("n_envs", "buffer_size"), [(1, 500), (1, 30), (1, 20), (2, 500), (3, 500), (3, 36)])
def test_the_oldest_online_transitions_are_pushed_out_too(n_envs: int, buffer_size: int) -> None:
    """Of a dataset of 20 and 60 online transitions the second buffer holds the newest 20, each as likely."""
    replay, batches = FIFOReplay(0.0), Batches()
    arguments = {"learning_starts": 55, "batch_size": 3000, "buffer_size": buffer_size}
    model = make(env=vec(n_envs), finetuning=[replay], dataset=dataset(20), **arguments).learn(60, callback=batches)
    drawn, counts = np.unique(batches.seen[-1].rewards.numpy(), return_counts=True)
    assert drawn == pytest.approx(np.sort(in_time_order(model).flatten()[-20:]))
    assert counts.min() > 100  # of 150


def test_the_share_that_is_online_alone_knows_the_oldest_ones() -> None:
    batches = Batches()
    arguments = {"learning_starts": 55, "batch_size": 3000}
    model = make(finetuning=[FIFOReplay(0.5)], dataset=dataset(20), **arguments).learn(60, callback=batches)
    is_old = np.isin(batches.seen[-1].rewards.numpy(), in_time_order(model)[:40])
    assert is_old.mean() == pytest.approx(0.5 * 40 / 60, abs=0.03)
    halves = is_old.reshape(2, -1).mean(axis=1)  # spread evenly over the batch
    assert halves == pytest.approx([1 / 3, 1 / 3], abs=0.04)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_newest_of_which_the_return_is_known(n_envs: int) -> None:
    batches = Batches()
    arguments = {"learning_starts": 55, "batch_size": 1000, "online_objective": "calql"}
    model: Any = make(env=vec(n_envs), finetuning=[FIFOReplay(0.0)], dataset=dataset(20), **arguments)
    model.learn(60, callback=batches)
    ordered, unfinished = in_time_order(model), model.replay_buffer._unfinished
    assert unfinished.sum() > 0
    known = [ordered[: len(ordered) - unfinished[column], column][-20 // n_envs :] for column in range(n_envs)]
    assert np.unique(batches.seen[-1].rewards.numpy()) == pytest.approx(np.sort(np.concatenate(known)))


def test_buffers_of_which_the_newest_cannot_be_drawn() -> None:
    saving = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    message = "FIFOReplay needs optimize_memory_usage=False, or buffer_size no larger than the dataset"
    with pytest.raises(ValueError, match=message):
        make(finetuning=[FIFOReplay()], dataset=dataset(), **saving).learn(6)
    make(finetuning=[FIFOReplay()], dataset=dataset(), **saving, buffer_size=20).learn(25)


@pytest.mark.parametrize(("fraction", "n_online"), [(0.1, 10), (0.5, 50), (1.0, 100)])
def test_the_share_that_is_online_alone(fraction: float, n_online: int) -> None:
    """At the first update, before much is pushed out, in every slice of a block."""
    data, batches = dataset(60), Batches()
    replay = FIFOReplay(fraction)
    arguments = {"gradient_steps": 4, "policy_delay": 4, "learning_starts": 0, "batch_size": 100}
    make(finetuning=[replay], dataset=data, **arguments).learn(1, callback=batches)
    online = [100 - np.isin(batch.rewards.numpy(), data.rewards).sum() for batch in batches.seen]
    assert len(online) == 4
    assert all(n_online <= each <= n_online + 8 for each in online)


def test_the_data_are_not_saved() -> None:
    model = make(finetuning=[FIFOReplay()], dataset=dataset()).learn(8)
    assert len(pickle.dumps(model.finetuning[0])) < 3_000


def test_bad_replay() -> None:
    with pytest.raises(ValueError, match=r"online_fraction of FIFOReplay must be a number in \[0, 1\], not 1.1"):
        FIFOReplay(1.1)
    with pytest.raises(ValueError, match="FIFOReplay needs a dataset"):
        make(finetuning=[FIFOReplay()]).learn(6)


def test_perturbed_with_symmetric_replay() -> None:
    model = make(finetuning=[PerturbedTargets(), SymmetricReplay(0.5)], dataset=dataset()).learn(8)
    assert all(th.isfinite(value).all() for value in state(model).values())
