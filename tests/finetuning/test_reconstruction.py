"""Gradient-only phases: when they run, what they leave alone, and that an interruption changes nothing."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch as th
from toy_tasks import assert_same, dataset, dataset_file, differs, make, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import FineTuningCallback, PolicyReevaluation, ValueAlignment, Warmup
from sb3_o2o.objectives import Batch
from sb3_o2o.updates.sampling import sample

BUILDERS = [make, make_td3]


class Watch(FineTuningCallback):
    """Counts updates by phase, and remembers the networks at their ends."""

    def __init__(self, stop_at: tuple[str, int] | None = None, bundle: Path | None = None):
        super().__init__()
        self.stop_at, self.bundle_path = stop_at, bundle
        self.counts: dict[str, int] = {}
        self.phases: list[str] = []
        self.seen: dict[str, dict[str, th.Tensor]] = {}
        self.online_updates = 0

    def on_gradient_step(self) -> None:
        model: Any = self.model
        self.counts[model.phase] = self.counts.get(model.phase, 0) + 1
        if (model.phase, self.counts[model.phase]) == self.stop_at:
            if self.bundle_path is not None:
                model.save_resume(self.bundle_path)
            model.request_stop()

    def on_phase_change(self, old: str | None, new: str) -> None:
        self.phases.append(new)
        self.seen[new] = {name: value.clone() for name, value in self.model.policy.state_dict().items()}

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.online_updates += 1


def phases(**kwargs: Any) -> list[Any]:
    return [PolicyReevaluation(5, **kwargs), ValueAlignment(7)]


def part(weights: dict[str, th.Tensor], prefix: str) -> dict[str, th.Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(prefix)}


@pytest.mark.parametrize("build", BUILDERS)
def test_phases_come_before_the_first_step(build: Any) -> None:
    watch = Watch()
    model = build(finetuning=[*phases(), Warmup(6)], dataset=dataset(), learning_starts=0)
    model.learn(9, callback=watch)
    assert watch.phases == ["warmup", "reevaluation", "warmup", "alignment", "warmup", "finetuning"]
    assert watch.counts == {"reevaluation": 5, "alignment": 7, "finetuning": 3}
    assert watch.online_updates == 3  # hooks that change updates belong to the online ones
    assert model.finished_phases == ["reevaluation", "alignment"]
    assert model.phase_steps == {"reevaluation": 5, "alignment": 7}
    assert model.num_timesteps == 9


@pytest.mark.parametrize("build", BUILDERS)
def test_reevaluation_freezes_the_policy_and_renews_the_critics(build: Any) -> None:
    watch = Watch()
    model = build(finetuning=[PolicyReevaluation(5)], dataset=dataset())
    model.pretrain(None, 4)
    offline = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(6, callback=watch)
    fresh, after = watch.seen["reevaluation"], watch.seen["finetuning"]
    assert_same(part(offline, "actor."), part(fresh, "actor."))
    assert_same(part(offline, "actor."), part(after, "actor."))
    assert differs(part(offline, "critic."), part(fresh, "critic."), "critic.")
    assert differs(part(fresh, "critic."), part(after, "critic."), "critic.")
    targets, critics = part(fresh, "critic_target."), part(fresh, "critic.")
    assert all(th.equal(value, critics[name.replace("_target", "")]) for name, value in targets.items())
    assert differs(targets, part(after, "critic_target."), "critic_target.")  # they follow at every update
    if build is make_td3:  # the target policy is the frozen one, not what lags behind it
        target_policy = part(after, "actor_target.")
        assert all(th.equal(value, offline[name.replace("_target", "")]) for name, value in target_policy.items())


def test_one_reevaluation_moves_the_targets_by_tau() -> None:
    """At an update of which TD3's delay makes nothing."""
    watch = Watch()
    model = make_td3(finetuning=[PolicyReevaluation(1)], dataset=dataset(), policy_delay=2, tau=0.1)
    model.pretrain(None, 4).learn(5, callback=watch)
    before, after = watch.seen["reevaluation"], watch.seen["finetuning"]
    for name, value in part(after, "critic_target.").items():
        expected = 0.9 * before[name] + 0.1 * after[name.replace("_target", "")]
        assert th.allclose(value, expected, atol=1e-7)
    assert differs(before, after, "critic_target.")


def test_one_alignment_moves_the_actor() -> None:
    """Likewise."""
    watch = Watch()
    model = make_td3(finetuning=[ValueAlignment(1)], dataset=dataset(), policy_delay=2)
    model.pretrain(None, 4).learn(5, callback=watch)
    assert differs(watch.seen["alignment"], watch.seen["finetuning"], "actor.")


def test_the_offline_critics_can_be_kept() -> None:
    watch = Watch()
    model = make(finetuning=phases(fresh_critics=False), dataset=dataset()).pretrain(None, 4)
    offline = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(4, callback=watch)
    assert_same(offline, watch.seen["reevaluation"])


@pytest.mark.parametrize("build", BUILDERS)
def test_alignment_freezes_the_targets_and_then_copies(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, model = Watch(), build(finetuning=[ValueAlignment(6)], dataset=dataset())
    model.pretrain(None, 4)
    before = copy.deepcopy(model.critic_target.state_dict())
    frozen: list[bool] = []
    original = model.loop.gradient_step

    def checked(*arguments: Any) -> Any:
        if model.phase == "alignment":
            now = model.critic_target.state_dict()
            frozen.append(all(th.equal(value, now[name]) for name, value in before.items()))
        return original(*arguments)

    monkeypatch.setattr(model.loop, "gradient_step", checked)
    model.learn(4, callback=watch)  # as many steps as there are before the first update
    assert frozen == [True] * 6
    assert differs(part(watch.seen["alignment"], "actor."), model.policy.state_dict(), "actor.")  # it moves along
    for network, target in model.target_pairs():
        assert all(th.equal(value, target.state_dict()[name]) for name, value in network.state_dict().items())
    assert model.finetuning[0].policy is None  # the offline policy is not needed any more


def test_phases_see_only_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = set(dataset().rewards.tolist())
    drawn: list[float] = []

    class Look(FineTuningCallback):
        def on_gradient_step(self) -> None:
            drawn.extend(batches.pop().rewards.tolist())

    batches: list[Batch] = []
    model = make(finetuning=phases(), dataset=dataset())

    def kept(model: Any, size: int) -> Batch:
        batches.append(sample(model, size))
        return batches[-1]

    monkeypatch.setattr("sb3_o2o.updates.loop.sample", kept)
    model.learn(4, callback=Look())
    assert len(drawn) == 12 * 8
    assert all(reward in rewards for reward in drawn)


@pytest.mark.parametrize("setting", ["auto", 0.7])
def test_the_temperature_is_set_fixed_in_the_phases_and_tuned_online(setting: Any) -> None:
    seen: dict[str, list[float]] = {}

    class Temperatures(FineTuningCallback):
        def on_gradient_step(self) -> None:
            model: Any = self.model
            seen.setdefault(model.phase, []).append(model.current_ent_coef().item())

    callbacks = [PolicyReevaluation(2, ent_coef=0.2), ValueAlignment(2, ent_coef=0.5)]
    make(ent_coef=setting, finetuning=callbacks, dataset=dataset()).learn(7, callback=Temperatures())
    assert seen["reevaluation"] == pytest.approx([0.2] * 2)
    assert seen["alignment"] == pytest.approx([0.5] * 2)
    online = pytest.approx([0.5] * 3) if setting != "auto" else pytest.approx([0.5] * 3, rel=0.01)
    assert seen["finetuning"] == online
    assert (len(set(seen["finetuning"])) > 1) == (setting == "auto")


# -- interrupted, saved, skipped -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [("reevaluation", 3), ("reevaluation", 5), ("alignment", 4), ("alignment", 7)])
@pytest.mark.parametrize("build", BUILDERS)
def test_interrupted_equals_uninterrupted(build: Any, stop_at: tuple[str, int], tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    arguments = {"dataset": data, "learning_starts": 0}
    straight = build(finetuning=[*phases(), Warmup(3)], **arguments).pretrain(None, 3)
    straight.learn(8, callback=Watch())
    model = build(finetuning=[*phases(), Warmup(3)], **arguments).pretrain(None, 3)
    model.learn(8, callback=Watch(stop_at, tmp_path / "bundle"))
    assert model.num_timesteps == 0
    assert model.phase_steps[stop_at[0]] == stop_at[1]
    assert model._n_updates == 3 + sum(model.phase_steps.values())
    model.learn(8, callback=Watch(), reset_num_timesteps=False)  # in the same process
    assert_same(state(straight), state(model))
    resumed = type(model).load_resume(tmp_path / "bundle", vec(), device="cpu")
    watch = Watch()
    resumed.learn(8, callback=watch, reset_num_timesteps=False)
    assert watch.counts["finetuning"] == 5
    assert sum(watch.counts.values()) == 5 + 12  # counted on, not again
    assert_same(state(straight), state(resumed))


def test_callbacks_of_learn_are_resumed_as_well(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    straight = make(dataset=data).learn(7, callback=[*phases(), Watch()])
    model = make(dataset=data)
    model.learn(7, callback=[*phases(), Watch(("alignment", 4), tmp_path / "bundle")])
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    resumed.learn(7, callback=[*phases(), Watch()], reset_num_timesteps=False)
    assert_same(state(straight), state(resumed))


def test_what_a_saved_model_has_behind_it_is_skipped(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    model = make(finetuning=phases(), dataset=data).learn(5)
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", vec(), device="cpu")
    for start, expected in (
        (lambda: loaded, {"finetuning": 5}),
        (lambda: O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu"), {"finetuning": 5}),
        (
            lambda: O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", load_critic=False),
            {"reevaluation": 5, "alignment": 7, "finetuning": 5},
        ),
    ):
        watch = Watch()
        start().learn(5, callback=watch, reset_num_timesteps=False)
        assert watch.counts == expected
    assert make(finetuning=phases()).pretrain(dataset(), 1).phase_steps == {}


def test_a_skipped_phase_needs_no_dataset(tmp_path: Path) -> None:
    model = make(finetuning=phases(), dataset=dataset()).learn(5)  # data in memory are not saved
    model.save(tmp_path / "model")
    O2OSAC.load(tmp_path / "model", vec(), device="cpu").learn(2, reset_num_timesteps=False)


def test_logs_and_progress(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from stable_baselines3.common.logger import configure

    model = make(finetuning=phases(), dataset=dataset())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(5, progress_bar=True)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"finetune/reevaluation/critic_loss", "finetune/alignment/anchored_loss"} <= set(header)
    assert all(len(key) <= 36 for key in header)
    shown = capfd.readouterr().err
    assert "alignment" in shown
    assert "critic_loss" in shown


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", [PolicyReevaluation, ValueAlignment])
def test_rejections(callback: Any) -> None:
    name = callback.__name__
    for arguments, message in {
        (0, None): rf"gradient_steps of {name} must be a whole number of at least 1, not 0",
        (5, 0.0): rf"ent_coef of {name} must be a finite number above 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            callback(*arguments)
    with pytest.raises(ValueError, match=rf"{name} needs a dataset: pass dataset="):
        make(finetuning=[callback(5)]).learn(5)
    with pytest.raises(ValueError, match=r"is a temperature, which O2OTD3 does not have"):
        make_td3(finetuning=[callback(5, ent_coef=0.2)], dataset=dataset()).learn(5)


@pytest.mark.parametrize("callback", [PolicyReevaluation, ValueAlignment])
def test_numbers_of_updates_may_come_from_yaml(callback: Any) -> None:
    assert callback(5e5).gradient_steps == 500_000
    for number in (5.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="gradient_steps"):
            callback(number)


@pytest.mark.parametrize("in_learn", [False, True])
def test_phases_in_an_order_that_undoes_them(in_learn: bool) -> None:
    given = [ValueAlignment(2), PolicyReevaluation(2)]
    model = make(finetuning=[] if in_learn else given, dataset=dataset(), pretrain_steps=3)
    with pytest.raises(ValueError, match="put PolicyReevaluation first"):
        model.learn(5, callback=given if in_learn else None)
    assert (model.n_pretrain_steps, model._n_updates) == (0, 0)


def test_what_learn_is_given_is_refused_before_its_pretraining() -> None:
    model = make_td3(dataset=dataset(), pretrain_steps=3)
    with pytest.raises(ValueError, match="is a temperature"):
        model.learn(5, callback=PolicyReevaluation(5, ent_coef=0.2))
    assert model._n_updates == 0


def test_another_number_of_updates_is_not_skipped_silently(tmp_path: Path) -> None:
    make(finetuning=[PolicyReevaluation(2)], dataset=dataset()).learn(4).save(tmp_path / "model")
    start = {"dataset": dataset(), "device": "cpu"}
    again = O2OSAC.load_offline(tmp_path / "model", vec(), finetuning=[PolicyReevaluation(5)], **start)
    with pytest.warns(UserWarning, match="is skipped: .* with 2 updates"):
        again.learn(4)


@pytest.mark.parametrize("build", BUILDERS)
def test_alignment_goes_on_only_with_the_policy_that_it_began_with(build: Any, tmp_path: Path) -> None:
    model = build(finetuning=phases(), dataset=dataset())
    model.learn(5, callback=Watch(("alignment", 3))).save(tmp_path / "model")
    start = {"dataset": dataset(), "device": "cpu"}
    other = type(model).load_offline(tmp_path / "model", vec(), finetuning=phases(), **start)
    with pytest.raises(ValueError, match="saved inside the alignment, after 3 updates"):
        other.learn(5)
    again = type(model).load_offline(tmp_path / "model", vec(), **start)
    assert again.learn(5).phase_steps["alignment"] == 7


def test_rejections_of_alignment() -> None:
    for arguments, message in (
        ({"distance_weight": -1.0}, "distance_weight"),
        ({"largest_distance": 0.0}, "largest_distance"),
        ({"action_clip": 1.0}, "action_clip"),
    ):
        with pytest.raises(ValueError, match=message):
            ValueAlignment(5, **arguments)
    with pytest.raises(ValueError, match="pass largest_distance"):
        make_td3(target_policy_noise=0.0, finetuning=[ValueAlignment(5)], dataset=dataset()).learn(5)
    with pytest.raises(ValueError, match="gSDE is not"):
        make(use_sde=True, finetuning=[ValueAlignment(5)], dataset=dataset()).learn(5)


def test_a_pessimistic_online_rule_is_refused_before_anything_is_done() -> None:
    model = make(online_objective="cql", finetuning=[PolicyReevaluation(5)], dataset=dataset())
    with pytest.raises(ValueError, match="PolicyReevaluation needs online_objective='sac'"):
        model.learn(5)
    assert model._n_updates == 0
