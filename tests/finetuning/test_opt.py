"""Online pre-training and dual critics: what is trained when, how values are mixed, and that nothing is lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from toy_tasks import assert_same, dataset, dataset_file, make, make_td3, vec
from toy_tasks import state as state_of_model

from sb3_o2o.finetuning import DatasetReplay, DualCritic, FineTuningCallback, LinearSchedule, OnlinePretraining
from sb3_o2o.finetuning.second_critics import SecondCritics
from sb3_o2o.objectives import finetuning_functional as FF

COLLECT, META = 10, 6
BUILDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "td3": (make_td3, {}),
    "sac": (make, {}),
    "iql on sac": (make, {"online_objective": "iql"}),
    "iql on td3": (make_td3, {"online_objective": "iql"}),
}


def opt(kappa: Any = 0.5, **kwargs: Any) -> list[Any]:
    small = {"auto_window": 8, "auto_interval": 4}
    return [OnlinePretraining(COLLECT, META, **kwargs), DualCritic(kappa, **small)]


def dual_of(model: Any) -> DualCritic:
    return next(callback for callback in model.finetuning if isinstance(callback, DualCritic))


def state(model: Any) -> dict[str, th.Tensor]:
    """What training changes, that of the second pair included."""
    flat, second = state_of_model(model), dual_of(model).critics
    if second is None:
        return flat
    flat |= {f"second_critics/{name}": value.clone() for name, value in second.state_dict().items()}
    for name, optimizer in second.optimizers.items():
        for index, each in optimizer.state_dict()["state"].items():
            flat |= {f"second_critics.optimizers.{name}/{index}/{key}": value.clone() for key, value in each.items()}
    return flat


class AtUpdate(BaseCallback):
    """Asks for a bundle, or for the end, after some updates."""

    def __init__(self, at: int, path: Path, stop: bool = True):
        super().__init__()
        self.at, self.path, self.stop, self.count = at, path, stop, 0

    def _on_step(self) -> bool:
        return True

    def on_gradient_step(self) -> None:
        self.count += 1
        if self.count == self.at:
            model: Any = self.model
            model.save_resume(self.path)
            if self.stop:
                model.request_stop()


def everything(model: Any) -> dict[str, th.Tensor]:
    """What training changes, what was collected, and what would be drawn next."""
    flat = state(model)
    flat["rewards"] = th.from_numpy(model.replay_buffer.rewards.copy())
    flat["torch"] = th.get_rng_state()
    flat["numpy"] = th.from_numpy(np.random.get_state()[1].astype(np.int64))  # type: ignore[union-attr]
    flat["counters"] = th.tensor([model.num_timesteps, model._n_updates, model.phase_steps.get("opt", 0)])
    flat["kappa"] = th.tensor([callback.value for callback in model.finetuning if isinstance(callback, DualCritic)])
    return flat


# -- phases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_phases(name: str, reverse: bool) -> None:
    build, kwargs = BUILDS[name]
    phases: list[tuple[int, Any]] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def on_phase_change(self, old: str | None, new: str) -> None:
            phases.append((self.model.num_timesteps, new))

    callbacks = opt()[::-1] if reverse else opt()
    model = build(learning_starts=0, finetuning=callbacks, dataset=dataset(), **kwargs)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(COLLECT)
    assert model._n_updates == 0
    assert all(th.equal(value, model.policy.state_dict()[key]) for key, value in before.items())
    model.learn(5, callback=Look(), reset_num_timesteps=False)
    assert phases == [(10, "opt"), (10, "warmup"), (11, "finetuning")]
    assert model._n_updates == META + 5
    assert model.phase_steps == {"opt": META}
    assert any(not th.equal(value, model.policy.state_dict()[key]) for key, value in before.items())


def test_the_policy_is_frozen_while_the_second_pair_is_pre_trained(tmp_path: Path) -> None:
    model = make_td3(learning_starts=0, finetuning=opt(), dataset=dataset())
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(20, callback=AtUpdate(4, tmp_path / "bundle"))
    assert (model.num_timesteps, model.phase_steps) == (COLLECT, {"opt": 4})
    assert all(th.equal(value, model.policy.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("filled", [False, True])
def test_online_batches_hold_what_was_collected(filled: bool) -> None:
    pretraining, dual = opt()
    finetuning = [DatasetReplay(), pretraining, dual] if filled else [pretraining, dual]
    model = make(env=vec(2), learning_starts=0, finetuning=finetuning, dataset=dataset()).learn(COLLECT)
    online = model.replay_buffer.rewards[30:35] if filled else model.replay_buffer.rewards[:5]  # type: ignore[union-attr]
    drawn = pretraining._online_batch(200)
    assert {round(value, 5) for value in drawn.rewards.tolist()} == {round(float(each), 5) for each in online.flat}


def test_optimisers_start_afresh_where_asked() -> None:
    for reset in (True, False):
        model = make_td3(learning_starts=0, finetuning=opt(reset_optimizers=reset), dataset=dataset())
        model.pretrain(dataset(), 4).learn(COLLECT + 1)
        steps = {float(each["step"]) for each in model.critic.optimizer.state.values()}
        assert steps == {1.0 if reset else 5.0}


def test_losses_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    model = make_td3(learning_starts=0, finetuning=opt(log_interval=3), dataset=dataset(), verbose=1)
    model.learn(COLLECT + 1)
    printed = capsys.readouterr().out
    for key in ("second_critic_loss", "offline_loss", "online_loss", "gradient_weight"):
        assert printed.count(key) == 2


# -- saving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize(("at", "stop"), [(3, True), (META, False), (META + 2, True)])
def test_interrupted_equals_uninterrupted(name: str, at: int, stop: bool, tmp_path: Path) -> None:
    """In the middle of the pre-training, at its end, and after it."""
    build, kwargs = BUILDS[name]
    data = dataset_file(tmp_path)
    arguments = {"learning_starts": 0, "dataset": data, **kwargs}
    straight = everything(build(finetuning=opt("auto"), **arguments).learn(20, callback=AtUpdate(0, tmp_path / "none")))
    model = build(finetuning=opt("auto"), **arguments)
    model.learn(20, callback=AtUpdate(at, tmp_path / "bundle", stop))
    resumed = type(model).load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert resumed.phase_steps["opt"] == min(at, META)
    resumed.learn(20 - resumed.num_timesteps, callback=AtUpdate(0, tmp_path / "none"), reset_num_timesteps=False)
    assert_same(straight, everything(resumed))


@pytest.mark.parametrize("name", BUILDS)
def test_a_saved_model_keeps_the_second_pair(name: str, tmp_path: Path) -> None:
    build, kwargs = BUILDS[name]
    schedule = {"start": 0.2, "end": 0.8, "end_step": 30}
    model = build(learning_starts=0, finetuning=[DualCritic(schedule)], dataset=dataset(), **kwargs).learn(16)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec(), device="cpu")
    assert any(name.startswith("second_critics") for name in state(loaded))
    assert_same(state(model), state(loaded))
    second = [value.clone() for value in dual_of(loaded).critics.critic.parameters()]
    loaded.learn(1, reset_num_timesteps=False)
    dual = loaded.finetuning[0]
    assert dual.value == pytest.approx(0.2 + 0.6 * (17 - 1) / 29)
    moved = [
        (old - new).abs().max() for old, new in zip(second, dual_of(loaded).critics.critic.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 0.02  # from where it was


def test_a_new_fine_tuning_begins_anew(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    make_td3(learning_starts=0, finetuning=opt(), dataset=data).learn(14).save(tmp_path / "model")
    model: Any = type(make_td3()).load_offline(tmp_path / "model", env=vec(), device="cpu")
    assert dual_of(model).critics is None
    before = model._n_updates
    model.learn(COLLECT + 2)
    assert model._n_updates == before + META + 2


def test_a_model_saved_without_its_buffer_collects_anew(tmp_path: Path) -> None:
    model: Any = make_td3(learning_starts=0, finetuning=opt(), dataset=dataset_file(tmp_path)).learn(COLLECT)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec(), device="cpu")
    with pytest.warns(UserWarning, match="collects anew"):
        loaded.learn(COLLECT + 1, reset_num_timesteps=False)
    assert loaded._n_updates == META + 1


def test_another_objective_leaves_the_pair_behind(tmp_path: Path) -> None:
    model: Any = make_td3(learning_starts=0, finetuning=[DualCritic(0.5)]).learn(4)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec(), device="cpu", online_objective="iql")
    left = dual_of(loaded).critics
    loaded.learn(2)
    assert dual_of(loaded).critics not in (None, left)
    assert dual_of(loaded).critics.value is not None


class Features(BaseFeaturesExtractor):
    """Observations through one layer that is trained."""

    def __init__(self, observation_space: Any):
        super().__init__(observation_space, 5)
        self.layer = th.nn.Linear(observation_space.shape[0], 5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations)


def test_a_shared_extractor_is_the_actors_after_loading_as_well(tmp_path: Path) -> None:
    kwargs = {"features_extractor_class": Features, "share_features_extractor": True, "net_arch": [8]}
    model: Any = make(learning_starts=0, finetuning=[DualCritic(0.5)], policy_kwargs=kwargs).learn(4)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=vec(), device="cpu", trust=True)  # a class of the user's
    loaded.learn(2, reset_num_timesteps=False)
    for each in (model, loaded):
        second = dual_of(each).critics.critic
        assert second.features_extractor is each.actor.features_extractor
        trained = dual_of(each).optimizers["second_critic"].param_groups[0]["params"]
        assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in second.ensemble.parameters()}


def test_the_pair_of_another_model_is_left_behind() -> None:
    dual = DualCritic(0.5)
    make(learning_starts=0).learn(3, callback=dual)
    first = dual.critics
    other: Any = make(learning_starts=0, n_critics=3).learn(3, callback=dual)
    second = dual.critics
    assert second is not first
    assert second.critic.n_critics == 3
    other.learn(3, callback=dual, reset_num_timesteps=False)
    assert dual.critics is second


def test_the_second_critics_learning_rate_follows_the_critics() -> None:
    model: Any = make_td3(learning_starts=0, finetuning=[DualCritic(0.5)], qf_learning_rate=lambda left: 1e-3 * left)
    model.learn(10)
    first, second = model.critic.optimizer, dual_of(model).optimizers["second_critic"]
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"] < 2e-4


# -- the mix -------------------------------------------------------------------------------------------------------


def mixing(name: str, kappa: float = 0.3) -> tuple[Any, Any]:
    """A model that has begun to learn, and a batch."""
    build, kwargs = BUILDS[name]
    model = build(learning_starts=0, finetuning=[DualCritic(kappa)], **kwargs).learn(6)
    return model, model.to_batch(model.open_offline_buffer(dataset()).sample(8))


def test_td3_maximises_the_mix_of_the_first_critics() -> None:
    model, batch = mixing("td3")
    actions = model.actor(batch.observations)
    q_off, q_on = (
        each.q_values(batch.observations, actions)[0] for each in (model.critic, dual_of(model).critics.critic)
    )
    losses, _ = model.finetuning_objective.actor_losses(batch)
    assert losses["actor"].item() == pytest.approx(-(0.7 * q_off + 0.3 * q_on).mean().item(), rel=1e-5)


def test_sac_maximises_the_mix_of_the_minima() -> None:
    model, batch = mixing("sac")
    noise, alpha = th.randn(8, 2), th.tensor([0.4])
    actions, log_prob = model.actor.rsample(batch.observations, noise)
    pairs = (model.critic, dual_of(model).critics.critic)
    q_off, q_on = (each.q_values(batch.observations, actions).amin(dim=0) for each in pairs)
    losses, _ = model.finetuning_objective.actor_losses(batch, noise, None, alpha)
    assert losses["actor"].item() == pytest.approx((0.4 * log_prob - 0.7 * q_off - 0.3 * q_on).mean().item(), rel=1e-5)


def test_iql_weights_by_the_mixed_advantages() -> None:
    model, batch = mixing("iql on td3")
    objective, second = model.finetuning_objective, dual_of(model).critics

    def advantage(target: Any, critic: Any, value: Any) -> th.Tensor:
        return target.q_values(batch.observations, batch.actions).amin(dim=0) - value(
            critic.features(batch.observations)
        )

    mixed = 0.7 * advantage(model.critic_target, model.critic, objective.value)
    mixed = mixed + 0.3 * advantage(second.critic_target, second.critic, second.value)
    distance = (model.actor(batch.observations) - batch.actions).pow(2).sum(dim=1)
    expected = ((3.0 * mixed).exp().clamp(max=100) * distance).mean()
    losses, _ = objective.all_losses(batch, None, True, None)
    assert losses["actor"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", BUILDS)
def test_each_pair_follows_its_own_targets(name: str) -> None:
    """At equal networks and draws the two losses are equal; other target networks change the second's alone."""
    model, batch = mixing(name)
    dual_of(model).critics = SecondCritics(model.finetuning_objective, copy=True)
    objective, second = model.finetuning_objective, dual_of(model).critics
    draws = objective.second_draws(batch)

    def both() -> tuple[float, float]:
        if "iql" in name:
            first = objective.all_losses(batch, None, False, None)[0]["critic"]
        else:
            first = objective.critic_losses(batch, *draws)[0]["critic"]
        return first.item(), objective.second_losses(second, batch, *draws)[0]["second_critic"].item()

    one, other = both()
    assert one == pytest.approx(other, rel=1e-6)
    with th.no_grad():
        for parameter in [*second.critic_target.parameters(), *(second.value or second.critic_target).parameters()]:
            parameter.add_(0.1)
    assert both()[0] == one
    assert both()[1] != pytest.approx(one, rel=1e-4)


def test_the_second_pair_steps_before_the_actor() -> None:
    model, _ = mixing("td3")
    names: list[str] = []
    functions = model.loop.gradients

    def note(step: Any, parameters: Any) -> Any:
        names.append(step.function.__name__)
        return functions(step, parameters)

    model.loop.gradients = note
    model.learn(2, reset_num_timesteps=False)
    assert names == ["second_losses", "critic_losses", "second_losses", "critic_losses", "actor_losses"]


def test_targets_follow_where_the_first_ones_do() -> None:
    model: Any = make_td3(learning_starts=0, policy_delay=2, finetuning=[DualCritic(0.5)]).learn(1)
    before = [value.clone() for value in dual_of(model).critics.critic_target.parameters()]
    model.learn(1, reset_num_timesteps=False)
    second = dual_of(model).critics
    for old, target, new in zip(before, second.critic_target.parameters(), second.critic.parameters(), strict=True):
        assert th.allclose(target, 0.995 * old + 0.005 * new, atol=1e-7)
    assert any(
        not th.equal(*pair) for pair in zip(before, dual_of(model).critics.critic_target.parameters(), strict=True)
    )


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("second", ["fresh", "copy"])
def test_alone_on_dictionaries_and_several_environments(dictionary: bool, second: str) -> None:
    env = vec(2, dictionary=dictionary)
    dual = DualCritic("auto", second=second, auto_window=6, auto_interval=3)
    model = make(
        env=env,
        dictionary=dictionary,
        normalize_observations=True,
        finetuning=[dual],
        dataset=dataset(dictionary=dictionary),
    )
    model.learn(24)
    assert 0 <= dual.value <= 1
    assert model._n_updates > 0


def test_compiled_updates_follow_a_changing_kappa(quick_compiler: None) -> None:
    """One graph each for all values of kappa, and the numbers of the eager run; the pre-training stays eager."""
    import torch._dynamo.config as dynamo

    runs = []
    # torch's own way to set it: monkeypatch would take the setting away when the test is over
    with dynamo.patch(error_on_recompile=True):
        for on in (False, True):
            callbacks = [OnlinePretraining(4, 2), DualCritic(LinearSchedule(0.1, 0.9, 16))]
            runs.append(make_td3(learning_starts=0, finetuning=callbacks, dataset=dataset(), compile=on).learn(14))
    assert_same(*map(state, runs), tolerance=1e-4)
    assert {key[0].__name__ for key in runs[1].loop.gradients._compiled} == {
        *("second_losses", "critic_losses", "actor_losses"),
    }


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"collect_steps": 0}, "collect_steps.*at least 1"),
        ({"gradient_steps": 0}, "gradient_steps.*at least 1"),
        ({"meta": "third"}, "'second_order', 'first_order' or 'none', not 'third'"),
        ({"learning_rate": 0.0}, "learning_rate of .* above 0"),
        ({"inner_learning_rate": -1.0}, "inner_learning_rate of .* of at least 0"),
    ],
)
def test_bad_pretraining(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnlinePretraining(**arguments)


def test_learning_shorter_than_the_collection() -> None:
    with pytest.raises(ValueError, match=r"collect_steps=10\) collects longer than learn would last: 9 steps"):
        make_td3(finetuning=opt(), dataset=dataset()).learn(9)
    model = make_td3(finetuning=opt(), dataset=dataset(), pretrain_steps=5)
    with pytest.raises(ValueError, match="collects longer"):
        model.learn(9)
    assert model.n_pretrain_steps == 0  # it is said before hours of pre-training


def test_no_dataset() -> None:
    with pytest.raises(ValueError, match="OnlinePretraining needs a dataset: pass dataset="):
        make_td3(finetuning=opt()).learn(20)


def test_a_second_pair_that_nothing_uses() -> None:
    model = make_td3(finetuning=opt()[:1], dataset=dataset())
    with pytest.raises(ValueError, match="add DualCritic"):
        model.learn(20)
    model.pretrain_steps = 5  # which comes first in ``learn``
    with pytest.raises(ValueError, match="add DualCritic"):
        model.learn(20)
    assert model.n_pretrain_steps == 0


def test_too_late() -> None:
    model = make_td3(dataset=dataset()).learn(8)
    with pytest.raises(ValueError, match="before the first online update"):
        model.learn(20, callback=opt())


def test_an_objective_without_critics() -> None:
    with pytest.raises(ValueError, match="which BCObjective never asks for"):
        make(online_objective="bc", finetuning=[DualCritic(0.5)]).learn(6)


@pytest.mark.parametrize("callbacks", [lambda: [DualCritic(0.5)], opt])
def test_advantages_of_a_sample_of_the_policy_are_not_mixed(callbacks: Any) -> None:
    """AWAC's: refused before a ``learn`` that pre-trains first begins to."""
    model = make(finetuning=callbacks(), online_objective="awac", dataset=dataset(), pretrain_steps=10**9)
    message = "DualCritic mixes the advantages of two pairs, and AWACObjective .*: choose online_objective='iql'"
    with pytest.raises(ValueError, match=message):
        model.learn(20)
    assert model.n_pretrain_steps == 0
    direct = make(finetuning=callbacks(), online_objective="awac", dataset=dataset())
    with pytest.raises(ValueError, match=message):
        direct.learn(20)
    assert direct.num_timesteps == 0


def test_mixed_values_at_the_bounds() -> None:
    first, second = th.tensor([1.0, 1e9]), th.tensor([3.0, 0.25])
    assert th.equal(FF.mixed_values(first, second, th.tensor(1.0)), second)
    assert th.equal(FF.mixed_values(first, second, th.tensor(0.0)), first)


# -- hooks ---------------------------------------------------------------------------------------------------------


def test_a_hook_that_the_objective_never_asks_for() -> None:
    """``advantages`` alone fits IQL, ``actor_values`` alone what maximises values; both fit both."""

    class Advantages(FineTuningCallback):
        def advantages(self, advantages: th.Tensor, batch: Any) -> th.Tensor:
            return advantages

    class Values(FineTuningCallback):
        def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Any) -> th.Tensor:
            return values

    class Both(Advantages, Values):
        pass

    for build in (make, make_td3):
        build(learning_starts=0).learn(2, callback=Both())
        build(learning_starts=0, online_objective="iql").learn(2, callback=[Both(), Advantages()])
        with pytest.raises(ValueError, match="Advantages changes advantages"):
            build().learn(2, callback=Advantages())
        with pytest.raises(ValueError, match="Values changes actor_values"):
            build(online_objective="iql").learn(2, callback=Values())


def test_rollouts_are_announced() -> None:
    class Count(FineTuningCallback):
        calls = 0

        def before_rollout(self) -> None:
            self.calls += 1
            if self.calls == 3:
                self.model.request_stop()  # type: ignore[attr-defined]

    count = Count()
    model = make(learning_starts=0).learn(9, callback=count)
    assert (count.calls, model.num_timesteps) == (3, 2)
