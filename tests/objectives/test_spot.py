"""SPOT: formulas by hand, the density's own phase, the falling weight, what is saved, and bad input."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from toy_tasks import arrays, assert_same, dataset, dataset_file, make_td3, state, vec

from sb3_o2o import O2OTD3
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.networks import ConditionalVAE
from sb3_o2o.objectives import Batch, SPOTObjective
from sb3_o2o.objectives import functional as F

DENSITY: dict[str, Any] = {"density_steps": 6, "density_net_arch": [16]}


def spot(objective_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> O2OTD3:
    arguments = {"objective": "spot", "online_objective": "spot", **kwargs}
    return make_td3(objective_kwargs={**DENSITY, **(objective_kwargs or {})}, **arguments)


def of(model: Any) -> SPOTObjective:
    assert isinstance(model.offline_objective, SPOTObjective)
    return model.offline_objective


# -- formulas ------------------------------------------------------------------------------------------------------


def test_negative_elbo() -> None:
    # errors 1, 0 and 4, 9 over two samples and two dimensions: 14/4 = 3.5
    # divergence per dimension (m^2 + s^2 - 1 - 2 log s) / 2: (4 + 1 - 1 - 0) / 2 = 2 and (0 + 4 - 1 - 2 log 2) / 2
    reconstructions = th.tensor([[[1.0, 0.0], [2.0, 3.0]]])
    loss = F.negative_elbo(
        reconstructions, th.zeros(1, 2), th.tensor([[2.0, 0.0]]), th.tensor([[0.0, math.log(2)]]), beta=0.5
    )
    divergence = (2.0 + (3 - 2 * math.log(2)) / 2) / 2
    assert loss.tolist() == pytest.approx([3.5 + 0.5 * divergence])


def test_importance_weighted_bound_of_one_sample() -> None:
    # decoder deviation sqrt(1 / 4) = 1/2; error 1 -> -1 / (2/4) = -2; log-density -2 - log(1/2) - log(2 pi) / 2
    # z = 1 + 2 * 0.5 = 2: prior -2, posterior -0.125 - log 2, both less log(2 pi) / 2
    bound = F.importance_weighted_bound(
        th.tensor([[[1.0]]]),
        th.zeros(1, 1),
        th.tensor([[1.0]]),
        th.tensor([[math.log(2)]]),
        th.tensor([[[0.5]]]),
        beta=1.0,
    )
    likelihood = -2 + math.log(2) - 0.5 * math.log(2 * math.pi)
    assert bound.tolist() == pytest.approx([-(likelihood - 2 + 0.125 + math.log(2))])


def test_importance_weighted_bound_of_several_samples_is_the_mean_of_the_weights() -> None:
    arguments = [th.randn(1, 3, 2), th.randn(1, 2), th.randn(1, 4), 0.1 * th.randn(1, 4)]
    noise = th.randn(1, 3, 4)
    each = [
        F.importance_weighted_bound(arguments[0][:, [k]], *arguments[1:], noise[:, [k]], beta=0.5) for k in range(3)
    ]
    together = F.importance_weighted_bound(*arguments, noise, beta=0.5)
    assert together.item() == pytest.approx(-math.log(sum(math.exp(-one.item()) for one in each) / 3), rel=1e-5)


def test_the_two_forms_agree_up_to_scale_where_the_posterior_is_the_prior() -> None:
    """Then both are the squared error: 1/|A| of its sum, against its sum over twice the decoder's variance."""
    reconstruction, action, zeros = th.randn(5, 1, 3), th.randn(5, 3), th.zeros(5, 6)
    elbo = F.negative_elbo(reconstruction, action, zeros, zeros, beta=0.5)
    bound = F.importance_weighted_bound(reconstruction, action, zeros, zeros, th.randn(5, 1, 6), beta=0.5)
    assert th.allclose(bound - bound[0], (elbo - elbo[0]) * 3 / (2 * 0.5 / 4), atol=1e-4)


def test_spot_loss() -> None:
    # mean |Q| = 3: -2/3 + 0.5 * 4 and 4/3 + 0.5 * 1
    values = th.tensor([2.0, -4.0], requires_grad=True)
    loss = F.spot_loss(values, th.tensor([4.0, 1.0]), th.tensor(0.5))
    assert loss.tolist() == pytest.approx([-2 / 3 + 2.0, 4 / 3 + 0.5])
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-1 / 3, -1 / 3])  # the mean is not differentiated


def test_shapes_and_bounds_of_the_vae() -> None:
    vae = ConditionalVAE(3, 2, [8, 8])
    mean, log_std = vae.encode(1e6 * th.randn(5, 3), th.randn(5, 2))
    assert mean.shape == log_std.shape == (5, 4)
    assert log_std.min() >= -4
    assert log_std.max() <= 15
    reconstructions = vae.decode(th.randn(5, 3), th.randn(5, 7, 4))
    assert reconstructions.shape == (5, 7, 2)
    assert reconstructions.abs().max() <= 1


def test_the_actors_loss() -> None:
    model = spot({"n_samples": 2}).pretrain(dataset(), 2)
    objective, batch = of(model), model.sample_batch(8)
    noise, weight = objective.latent_noise(batch), th.tensor(0.3)
    losses, metrics = objective.actor_losses(batch, noise, weight)
    actions = model.actor(batch.observations)
    values = model.critic(batch.observations, actions)[0].squeeze(1)
    mean, log_std = objective.density.encode(batch.observations, actions)
    latents = mean[:, None] + log_std.exp()[:, None] * noise
    penalty = F.negative_elbo(objective.density.decode(batch.observations, latents), actions, mean, log_std, 0.5)
    assert losses["actor"].item() == pytest.approx(
        (-values / values.abs().mean() + 0.3 * penalty).mean().item(), rel=1e-5
    )
    assert metrics["density_penalty"].item() == pytest.approx(penalty.mean().item())


# -- the density's phase -------------------------------------------------------------------------------------------


class Seen(BaseCallback):
    """Counts, and may stop the run inside the density's phase."""

    def __init__(self, stop_at: int = 0, bundle: Path | None = None):
        super().__init__()
        self.stop_at, self.bundle = stop_at, bundle
        self.preparation: list[tuple[str, int, int]] = []
        self.n_steps = 0

    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        self.preparation.append((name, done, total))
        if done == self.stop_at:
            model: Any = self.model
            if self.bundle is not None:
                model.save_resume(self.bundle)
            model.request_stop()

    def _on_step(self) -> bool:
        self.n_steps += 1
        return True


def test_the_density_comes_first_and_counts_by_itself() -> None:
    seen = Seen()
    model = spot().pretrain(dataset(), 4, callback=seen)
    assert seen.preparation == [("density (VAE)", done, 6) for done in range(1, 7)]
    assert (seen.n_steps, model.n_pretrain_steps, model._n_updates) == (4, 4, 4)
    frozen = [parameter.clone() for parameter in of(model).density.parameters()]
    model.pretrain(dataset(), 3, callback=seen, reset_gradient_steps=False)
    model.learn(8)
    assert len(seen.preparation) == 6  # once
    for was, parameter in zip(frozen, of(model).density.parameters(), strict=True):
        assert th.equal(was, parameter)


def one_action() -> dict[str, Any]:
    """The toy dataset with the same action everywhere, 0.5 when it is scaled to [-1, 1]."""
    fields = arrays(200)
    return {**fields, "actions": np.tile(np.array([1.0, 2.0], np.float32), (200, 1))}


def test_the_density_learns() -> None:
    model = spot({"density_steps": 100}, batch_size=64)
    noise, losses = th.zeros(64, 1, 4), []
    observations = th.from_numpy(one_action()["observations"][:64])
    for action in (0.5, 0.5, -0.5):
        with th.no_grad():
            actions = th.full((64, 2), action)
            losses.append(of(model).negative_log_density(observations, actions, noise, "elbo").mean().item())
        model.pretrain(one_action(), 1)
    before, likely, unlikely = losses
    assert likely < 0.25 * before
    assert unlikely > 0.5  # reconstructed as 0.5: the squared error is 1


@pytest.mark.parametrize("in_memory", [False, True])
def test_stopped_inside_the_density_it_goes_on_there(in_memory: bool, tmp_path: Path) -> None:
    data: Any = dataset() if in_memory else dataset_file(tmp_path)
    stopped = spot().pretrain(data, 5, callback=Seen(3, tmp_path / "bundle"))
    assert int(of(stopped).density.n_updates) == 3
    assert stopped.n_pretrain_steps == 0
    straight = spot().pretrain(data, 5, callback=Seen())
    resumed = O2OTD3.load_resume(tmp_path / "bundle", vec(), device="cpu")
    seen = Seen()
    resumed.pretrain(dataset() if in_memory else data, 5, callback=seen)
    assert [done for _, done, _ in seen.preparation][-3:] == [4, 5, 6]
    assert_same(state(straight), state(resumed))


def test_the_density_lives_in_the_zip(tmp_path: Path) -> None:
    model = spot().pretrain(dataset(), 3)
    model.save(tmp_path / "model")
    loaded = O2OTD3.load_offline(tmp_path / "model", vec(), device="cpu", learning_starts=4)
    assert_same(state(model), state(loaded))
    assert of(loaded).preparation_progress() == (6, 6)
    assert loaded.finetuning_objective is loaded.offline_objective
    loaded.learn(8)


def test_an_online_objective_of_its_own_shares_the_density(tmp_path: Path) -> None:
    model = spot(online_objective_kwargs={"weight": 0.7}).pretrain(dataset(), 3)
    online: Any = model.finetuning_objective
    assert online is not model.offline_objective
    assert online.density is of(model).density
    assert online.weight == 0.7
    model.save(tmp_path / "model")
    loaded = O2OTD3.load_offline(tmp_path / "model", vec(), device="cpu", learning_starts=4)
    assert_same(state(model), state(loaded))
    loaded.learn(8)


def test_both_progress_bars(capsys: pytest.CaptureFixture[str]) -> None:
    spot().pretrain(dataset(), 3, progress_bar=True)
    shown = "".join(capsys.readouterr())
    assert shown.index("density (VAE)") < shown.index("pre-training")


# -- online --------------------------------------------------------------------------------------------------------


class Weights(FineTuningCallback):
    """Remembers lambda and the discounts of each update."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[int, float] = {}
        self.discounts: set[float] = set()

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.discounts |= {round(value, 4) for value in batch.discounts.tolist()}
        if "density_weight" in metrics:
            self.weights[self.model.num_timesteps] = round(metrics["density_weight"].item(), 4)


def test_the_weight_falls_to_its_floor() -> None:
    seen = Weights()
    model = spot({"weight": 2.0, "cooldown_steps": 20, "cooldown_floor": 0.5}, policy_delay=1).pretrain(dataset(), 3)
    assert of(model).penalty_weight.item() == 2.0
    model.learn(14, callback=seen)
    expected = {5: 1.5, 6: 1.4, 7: 1.3, 8: 1.2, 9: 1.1, **dict.fromkeys(range(10, 15), 1.0)}
    assert {step: seen.weights[step] for step in expected} == expected


def test_a_discount_of_its_own_online() -> None:
    seen = Weights()
    model = spot({"online_gamma": 0.9}).pretrain(dataset(), 2)
    model.set_phase("pretraining")
    assert model.sample_batch(4).discounts.tolist() == pytest.approx([0.99] * 4)
    model.learn(8, callback=seen)
    assert seen.discounts == {0.9}


def test_fine_tuning_goes_on_bit_for_bit(tmp_path: Path) -> None:
    arguments = {"cooldown_steps": 30, "online_gamma": 0.9}
    straight = spot(arguments).pretrain(dataset_file(tmp_path), 3).learn(24)
    spot(arguments).pretrain(dataset_file(tmp_path), 3).learn(11).save_resume(tmp_path / "bundle")
    resumed = O2OTD3.load_resume(tmp_path / "bundle", vec(), device="cpu").learn(13, reset_num_timesteps=False)
    assert_same(state(straight), state(resumed))
    assert of(resumed).penalty_weight.item() == of(straight).penalty_weight.item() < 0.1


@pytest.mark.parametrize("form", ["elbo", "iwae"])
def test_likely_actions_are_preferred(form: str) -> None:
    """With a weight beyond all values the actor goes where the data are."""
    arguments = {"density_steps": 150, "density": form, "weight": 100.0, "n_samples": 2}
    model = spot(arguments, learning_rate=0.01, batch_size=64, policy_delay=1).pretrain(one_action(), 80)
    with th.no_grad():
        actions = model.actor(th.from_numpy(one_action()["observations"]))
    assert actions.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.1)


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", -0.1),
        ("cooldown_steps", 0),
        ("cooldown_floor", 1.5),
        ("density", "gaussian"),
        ("n_samples", 0),
        ("beta", 0.0),
        ("density_steps", 0),
        ("density_learning_rate", 0.0),
        ("online_gamma", 1.1),
    ],
)
def test_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} .argument of objective 'spot'. must be .*, not {value!r}"):
        spot({name: value})


def test_an_online_discount_needs_one_step() -> None:
    with pytest.raises(ValueError, match=r"online_gamma .* needs n_steps=1, not 3"):
        spot({"online_gamma": 0.9}, n_steps=3)


def test_dictionaries_are_refused_unless_flattened() -> None:
    with pytest.raises(ValueError, match=r"are a dictionary \(goal, place\).*FlattenGoalObservation"):
        spot(dictionary=True)
    model = spot({"flatten_observations": True}, dictionary=True).pretrain(dataset(dictionary=True), 3)
    assert of(model).density.encoder[0].in_features == 4 + 2  # goal, place; action
    model.learn(8)


def test_online_without_a_density() -> None:
    model = make_td3(online_objective="spot", online_objective_kwargs=DENSITY)
    with pytest.raises(ValueError, match=r"0 of 6 gradient steps are made: call pretrain with objective='spot'"):
        model.learn(8)
    assert model.num_timesteps == 0
