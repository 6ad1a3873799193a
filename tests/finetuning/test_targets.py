"""SO2's perturbed targets and its first-in-first-out replay."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from toy_tasks import assert_same, dataset, dataset_file, differs, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import FIFOReplay, FineTuningCallback, PerturbedTargets, SymmetricReplay, Warmup
from sb3_o2o.objectives import Batch

ROWS = 6


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
    prepared = PerturbedTargets(sigma=0.3, clip=0.6).prepare(batch)
    assert prepared.extras is not None
    noise = prepared.extras["target_noise"]
    assert noise.shape == batch.actions.shape
    assert noise.abs().max().item() == pytest.approx(0.6)
    # clipped at two standard deviations: 4.55 % lie at the bounds, and the rest has this standard deviation
    assert (noise.abs() == noise.abs().max()).float().mean().item() == pytest.approx(0.0455, abs=0.005)
    assert noise.std().item() == pytest.approx(0.3 * 0.9598, abs=0.005)
    actions = th.full_like(batch.actions, 0.9)
    perturbed = PerturbedTargets().next_actions(actions, None, prepared)
    assert th.equal(perturbed, (actions + noise).clamp(-1, 1))
    assert perturbed.max().item() == 1.0
    assert perturbed.min().item() == pytest.approx(0.3)


def test_several_actions_of_a_state_are_perturbed_alike() -> None:
    hook, batch = PerturbedTargets(sigma=0.1), transitions()
    prepared = hook.prepare(batch)
    assert prepared.extras is not None
    perturbed = hook.next_actions(th.zeros(ROWS, 4, 2), th.zeros(ROWS, 4), prepared)
    for index in range(4):
        assert th.equal(perturbed[:, index], prepared.extras["target_noise"])


def test_without_sigma_nothing_changes() -> None:
    actions = th.rand(ROWS, 2) * 2 - 1
    hook = PerturbedTargets(sigma=0.0)
    assert th.equal(hook.next_actions(actions, None, hook.prepare(transitions())), actions)


@pytest.mark.parametrize("kwargs", [{"sigma": -0.1}, {"clip": -1.0}, {"sigma": float("nan")}])
def test_bad_noise(kwargs: dict[str, float]) -> None:
    name = next(iter(kwargs))
    with pytest.raises(ValueError, match=rf"PerturbedTargets\({name}\) must be >= 0, not"):
        PerturbedTargets(**kwargs)


def test_two_of_them_are_refused() -> None:
    model = make(finetuning=[PerturbedTargets(), PerturbedTargets()])
    with pytest.raises(ValueError, match="Two PerturbedTargets"):
        model.learn(6)


# -- the target ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["min", "none"])
@pytest.mark.parametrize("objective", ["sac", "cql", "calql"])
def test_target_by_hand(objective: str, reduction: str) -> None:
    """SO2, eq. 3: perturbed action, its own critic's value, the entropy of the action as the policy drew it."""
    kwargs = {"target_reduction": reduction, "entropy_backup": True}
    model = make(online_objective=objective, online_objective_kwargs=kwargs, n_critics=3, ent_coef=0.3)
    hook = PerturbedTargets()
    model.hooks.deliver_to([hook])
    batch, noise = hook.prepare(transitions()), th.randn(ROWS, 2)
    assert batch.extras is not None
    target = model.finetuning_objective.td_target(batch, noise, None, model.current_ent_coef())  # type: ignore[operator]
    with th.no_grad():
        actions, log_prob = model.actor.rsample(batch.next_observations, noise)
        perturbed = (actions + batch.extras["target_noise"]).clamp(-1, 1)
        values = model.critic_target.q_values(batch.next_observations, perturbed)
        values = values.min(dim=0).values if reduction == "min" else values
        expected = batch.rewards + (1 - batch.dones) * 0.9 * (values - 0.3 * log_prob)
    assert target.shape == ((ROWS,) if reduction == "min" else (3, ROWS))
    assert th.allclose(target, expected, atol=1e-6)


def test_each_critic_follows_its_own_target() -> None:
    """Only the second target critic is changed, and only the second critic's step with it."""
    models = [make(online_objective_kwargs={"target_reduction": "none"}, n_critics=3) for _ in range(2)]
    for parameter in models[1].critic_target.ensemble.layers[-1].parameters():
        parameter.data[1] += 1.0
    batch = transitions()
    for model in models:
        th.manual_seed(0)
        model._gradient_step(batch, None)
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


def test_target_reduction_is_checked() -> None:
    with pytest.raises(ValueError, match="target_reduction must be 'min' or 'none', not 'mean'"):
        make(online_objective_kwargs={"target_reduction": "mean"})
    with pytest.raises(ValueError, match=r"set critic_subset=None, not 2"):
        make(online_objective_kwargs={"target_reduction": "none"}, n_critics=4, critic_subset=2)


# -- in a run ------------------------------------------------------------------------------------------------------


def test_it_changes_fine_tuning_and_not_pretraining() -> None:
    plain, perturbed = (
        make(finetuning=callbacks, objective="cql", objective_kwargs={"n_actions": 2}).pretrain(dataset(), 3)
        for callbacks in ([], [PerturbedTargets()])
    )
    assert_same(state(plain), state(perturbed))
    assert differs(*(state(model.learn(8)) for model in (plain, perturbed)), "policy/critic.")  # type: ignore[misc]


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


def test_interrupted_is_as_uninterrupted(tmp_path: Path) -> None:
    def run() -> O2OSAC:
        callbacks = [PerturbedTargets(), FIFOReplay()]
        return make(env=vec(), finetuning=callbacks, dataset=dataset_file(tmp_path), gradient_steps=2, n_critics=3)

    whole, part = run().learn(16), run().learn(9)
    part.save_resume(tmp_path / "bundle")
    th.randn(3)
    np.random.rand(3)
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    resumed.learn(7, reset_num_timesteps=False)
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
    with pytest.raises(ValueError, match=r"FIFOReplay\(online_fraction\) must lie in \[0, 1\], not 1.1"):
        FIFOReplay(1.1)
    with pytest.raises(ValueError, match="FIFOReplay needs a dataset"):
        make(finetuning=[FIFOReplay()]).learn(6)


def test_perturbed_with_symmetric_replay() -> None:
    model = make(finetuning=[PerturbedTargets(), SymmetricReplay(0.5)], dataset=dataset()).learn(8)
    assert all(th.isfinite(value).all() for value in state(model).values())
