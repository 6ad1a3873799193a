"""A method of a user's own, in a file outside the package: an objective, a callback, and a source of random numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch as th
from toy_tasks import assert_same, dataset, dataset_file, make, make_td3, state, vec

from sb3_o2o import O2OSAC, UntrustedError
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import SAC_OBJECTIVES, TD3_OBJECTIVES, Batch, Draws, SACObjective, Step, register_objective

NAME = "objectives.test_own_method.Imitation"


class Imitation(SACObjective):
    """SAC whose actor also stays near the batch's actions, as far as ``weight`` says; notes the distance of each."""

    def __init__(self, model: Any, *, weight: float = 1.0, **kwargs: Any):
        super().__init__(model, **kwargs)
        self.weight = weight

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        yield from super().steps(batch, actor_batch)
        yield Step(self.imitation_losses, (batch,))

    def imitation_losses(self, batch: Batch) -> Any:
        distance = (self.model.actor.mode(batch.observations) - batch.actions).square().sum(dim=1)
        return {"actor": self.weight * distance.mean()}, {"distances": distance.detach()}


class Noting(FineTuningCallback):
    """Counts the updates that it hears of, and keeps what they were about."""

    hears_offline_updates: ClassVar[bool] = True

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.n_heard = 0

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: Any, batch: Batch) -> th.Tensor:
        return self.scale * values

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.n_heard += 1
        if "distances" in metrics:
            assert metrics["distances"].shape == (len(batch),)


def test_losses_of_one_optimiser_in_two_steps_are_logged_as_their_sum() -> None:
    plain, own = (make(objective=each).pretrain(dataset(), 1) for each in ("sac", Imitation))
    batch = own.sample_batch(8)
    own.policy.load_state_dict(plain.policy.state_dict())
    losses = []
    for model in (plain, own):
        th.manual_seed(0)
        losses.append(model.update(batch))
    assert losses[1]["actor_loss"] > losses[0]["actor_loss"]


@pytest.mark.parametrize("objective", [Imitation, NAME], ids=["the class", "a dotted name"])
def test_an_objective_of_ones_own_trains_like_ours(objective: Any, tmp_path: Path) -> None:
    """It pre-trains and fine-tunes, and is saved, loaded and resumed; its weight moves something."""

    def build(weight: float) -> O2OSAC:
        model = make(
            objective=objective,
            online_objective=objective,
            objective_kwargs={"weight": weight},
            finetuning=[Noting()],
            dataset=dataset_file(tmp_path),
        )
        return model.pretrain(None, 4).learn(7)

    model, other = build(1.0), build(0.0)
    with pytest.raises(AssertionError, match="actor"):
        assert_same(state(model), state(other))
    assert model.finetuning[0].n_heard == model._n_updates > 4
    model.save(tmp_path / "own")
    with pytest.raises(UntrustedError, match=r"'objective', needs objectives\.test_own_method\.Imitation"):
        O2OSAC.load(tmp_path / "own", env=vec())
    loaded = O2OSAC.load(tmp_path / "own", env=vec(), trust=True)
    assert type(loaded.offline_objective).__name__ == "Imitation"
    assert type(loaded.finetuning[0]).__name__ == "Noting"
    model.save_resume(tmp_path / "bundle")
    straight = state(model.learn(5, reset_num_timesteps=False))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu", trust=True)
    resumed.learn(5, reset_num_timesteps=False)
    assert_same(straight, state(resumed))


class RunningMean(SACObjective):
    """SAC that keeps the rewards' running sum, and learns nothing of its own."""

    def __init__(self, model: Any, **kwargs: Any):
        super().__init__(model, **kwargs)
        self.register_buffer("rewards", th.zeros((), device=model.device))
        self.register_buffer("scratch", th.zeros((), device=model.device), persistent=False)

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        self.rewards += batch.rewards.mean()
        self.scratch += 1
        yield from super().steps(batch, actor_batch)


def test_buffers_of_an_objective_without_parameters_are_saved(tmp_path: Path) -> None:
    model = make(objective=RunningMean, online_objective=RunningMean, online_objective_kwargs={"n_actions": 2})
    model.pretrain(dataset(), 4).learn(7)
    offline, online = model.offline_objective, model.finetuning_objective
    assert offline is not online
    assert 0 != offline.rewards != online.rewards != 0
    model.save(tmp_path / "own")
    model.save_resume(tmp_path / "bundle")
    for other in (
        O2OSAC.load(tmp_path / "own", device="cpu", trust=True),
        O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu", trust=True),
    ):
        assert other.offline_objective.rewards == offline.rewards
        assert other.finetuning_objective.rewards == online.rewards
    assert O2OSAC.load_offline(tmp_path / "own", vec(), trust=True).offline_objective.rewards == offline.rewards


def test_a_registered_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_o2o.plain.allowlist._VOUCHED", {})
    for table in (SAC_OBJECTIVES, TD3_OBJECTIVES):
        monkeypatch.delitem(table, "imitation", raising=False)
    with pytest.raises(ValueError, match="td3 or ppo"):
        register_objective("imitation", Imitation)
    with pytest.raises(ValueError, match="'cql' is the name of CQLObjective already"):
        register_objective("cql", Imitation, "sac")
    with pytest.raises(ValueError, match="Did you mean 'sac'"):
        register_objective("imitation", Imitation, "td3", "sca")
    assert "imitation" not in TD3_OBJECTIVES, "nothing is half-registered"
    with pytest.raises(ValueError, match="objective of register_objective must be a class derived from Objective"):
        register_objective("imitation", Noting, "sac")  # type: ignore[arg-type]
    register_objective("imitation", Imitation, "sac")
    model = make(objective="imitation")
    assert isinstance(model.offline_objective, Imitation)
    model.save(tmp_path / "own")
    assert isinstance(O2OSAC.load(tmp_path / "own").offline_objective, Imitation), "what is registered is trusted"
    with pytest.raises(ValueError, match="Unknown objective for O2OTD3 'imitation'"):
        make_td3(objective="imitation")


@pytest.mark.parametrize("name", ["nowhere.Imitation", "objectives.test_own_method.Nothing"])
def test_names_that_lead_nowhere(name: str) -> None:
    with pytest.raises(ValueError, match=f"no objective '{name}'"):
        make(objective=name)
    with pytest.raises(ValueError, match=r"must be .* a class derived from Objective, not"):
        make(objective=Noting)


def test_compiled_as_eager(quick_compiler: None) -> None:
    runs = [make(objective=Imitation, compile=on).pretrain(dataset(), 2) for on in (False, True)]
    assert len(runs[1].loop.gradients._compiled) == 3
    assert_same(*map(state, runs), tolerance=1e-4)


class Numbered(Draws):
    """The first ``n`` normal numbers of a generator of its own, by the name of the draw."""

    def __init__(self) -> None:
        super().__init__(th.device("cpu"))
        self.asked: list[str] = []

    def normal(self, name: str, shape: tuple[int, ...]) -> th.Tensor:
        self.asked.append(name)
        return th.full(shape, 0.1 * len(self.asked))

    def members(self, name: str, n_members: int, size: int, replacement: bool) -> th.Tensor:
        self.asked.append(name)
        return th.arange(size)


def test_every_draw_of_an_update_comes_from_the_models_source() -> None:
    """Two models with the same source and other seeds of torch make the same update."""
    found = []
    for seed in (1, 2):
        model = make(n_critics=3, critic_subset=2, entropy_backup=True, seed=0).pretrain(dataset(), 1)
        batch = model.sample_batch(8)
        th.manual_seed(seed)
        before = th.get_rng_state()
        model.draws = Numbered()
        losses = model.update(batch)
        assert th.equal(before, th.get_rng_state())
        assert model.draws.asked == ["policy", "next_policy", "target_critics"]
        assert {"actor_loss", "critic_loss", "ent_coef_loss"} <= losses.keys()
        found.append(state(model))
    assert_same(*found)


def test_updates_on_given_batches_are_those_of_pretrain() -> None:
    """By hand, on the batches that ``pretrain`` drew: the same weights, moments and temperature."""
    straight = make(seed=3, n_critics=3, critic_subset=2)
    batches: list[Batch] = []

    class Keep(FineTuningCallback):
        hears_offline_updates: ClassVar[bool] = True

        def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
            batches.append(batch)

    random = th.get_rng_state()
    straight.pretrain(dataset(), 3, callback=Keep())
    by_hand = make(seed=3, n_critics=3, critic_subset=2)
    by_hand.set_phase("pretraining")
    th.set_rng_state(random)
    for batch in batches:
        by_hand.update(batch)
    assert len(batches) == by_hand._n_updates == 3
    assert_same(state(straight), state(by_hand))
