"""One update the way of WSRL, and one the way of RLPD, recomputed in plain torch with a loop over critics."""

import math
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pytest
import torch as th
from torch.nn.functional import layer_norm
from toy_tasks import make

from sb3_o2o import O2OSAC
from sb3_o2o.objectives import Batch

ROWS, PARTS, CRITICS = 8, 4, 10
RATES = {"learning_rate": 1e-3, "qf_learning_rate": 3e-3, "ent_coef_learning_rate": 2e-3}
#: |x - y| <= TOLERANCE: float32, products summed in another order; an Adam step is 1e-3 and more
TOLERANCE = 1e-5

Layers = list[dict[str, th.Tensor]]


@dataclass
class Draws:
    """Stands in for torch's generators: gives numbers from one of its own and remembers them by shape."""

    generator: th.Generator = field(default_factory=lambda: th.Generator().manual_seed(5))
    normal: dict[int, list[th.Tensor]] = field(default_factory=dict)
    subsets: list[list[int]] = field(default_factory=list)

    def randn(self, shape: tuple[int, ...], **_: Any) -> th.Tensor:
        drawn = ORIGINAL["randn"](shape, generator=self.generator)
        self.normal.setdefault(shape[0], []).append(drawn)
        return drawn

    def randint(self, high: int, size: tuple[int, ...], **_: Any) -> th.Tensor:
        drawn = ORIGINAL["randint"](high, size, generator=self.generator)
        self.subsets.append(drawn.tolist())
        return drawn

    def randperm(self, n: int, **_: Any) -> th.Tensor:
        drawn = ORIGINAL["randperm"](n, generator=self.generator)
        self.subsets.append(drawn[:2].tolist())
        return drawn


ORIGINAL: dict[str, Any] = {name: getattr(th, name) for name in ("randn", "randint", "randperm")}


def leaf(value: th.Tensor) -> th.Tensor:
    return value.detach().clone().requires_grad_()


def critics_of(module: Any) -> list[Layers]:
    """Weights of each critic, apart, as ``{weight (in, out), bias, gain, shift}`` for each layer."""
    members: list[Layers] = []
    for member in range(CRITICS):
        layers: Layers = []
        for layer in module.ensemble.layers:
            if not hasattr(layer, "weight"):
                continue
            weight, bias = leaf(layer.weight[member]), leaf(layer.bias[member, 0])
            if layer.weight.shape[1] == 1:  # a normalisation belongs to the layer before it
                layers[-1].update(gain=weight[0].detach().requires_grad_(), shift=bias)
            else:
                layers.append({"weight": weight, "bias": bias})
        members.append(layers)
    return members


def actor_of(model: O2OSAC) -> dict[str, Layers]:
    def read(layer: Any) -> dict[str, th.Tensor]:
        return {"weight": leaf(layer.weight.T), "bias": leaf(layer.bias)}

    hidden: Layers = []
    for layer in model.actor.latent_pi:
        if isinstance(layer, th.nn.Linear):
            hidden.append(read(layer))
        elif isinstance(layer, th.nn.LayerNorm):
            hidden[-1].update(gain=leaf(layer.weight), shift=leaf(layer.bias))
    return {"hidden": hidden, "mean": [read(model.actor.mu)], "log_std": [read(model.actor.log_std)]}


def forward(layers: Layers, x: th.Tensor, all_hidden: bool = False) -> th.Tensor:
    """Linear, layer normalisation, ReLU; the last layer is linear alone."""
    for index, layer in enumerate(layers):
        x = x @ layer["weight"] + layer["bias"]
        if "gain" in layer:
            x = layer_norm(x, x.shape[-1:]) * layer["gain"] + layer["shift"]
        if all_hidden or index < len(layers) - 1:
            x = th.relu(x)
    return x


def act(actor: dict[str, Layers], obs: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """A sampled action and its log-probability."""
    features = forward(actor["hidden"], obs, all_hidden=True)
    mean, log_std = forward(actor["mean"], features), forward(actor["log_std"], features).clamp(-20, 2)
    action = th.tanh(mean + log_std.exp() * noise)
    log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - th.log(1 - action**2 + 1e-6)
    return action, log_prob.sum(dim=1)


def tensors(layers: Layers) -> list[th.Tensor]:
    return [value for layer in layers for value in layer.values()]


def score(layers: Layers, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    return forward(layers, th.cat([obs, actions], dim=1))[:, 0]


@dataclass
class ByHand:
    """All parameters of a model, apart from it, and their optimisers."""

    model: O2OSAC

    def __post_init__(self) -> None:
        model = self.model
        assert model.log_ent_coef is not None
        self.actor = actor_of(model)
        self.critics, self.targets = critics_of(model.critic), critics_of(model.critic_target)
        self.log_alpha = leaf(model.log_ent_coef)
        actor = [value for part in self.actor.values() for value in tensors(part)]
        critics = [value for critic in self.critics for value in tensors(critic)]
        self.actor_optimizer = th.optim.Adam(actor, lr=RATES["learning_rate"])
        self.critic_optimizer = th.optim.Adam(critics, lr=RATES["qf_learning_rate"])
        self.alpha_optimizer = th.optim.Adam([self.log_alpha], lr=RATES["ent_coef_learning_rate"])

    def critic_step(self, batch: Batch, noise: th.Tensor, subset: list[int], alpha: float, entropy: bool) -> None:
        with th.no_grad():
            action, log_prob = act(self.actor, batch.next_observations, noise)  # type: ignore[arg-type]
            value = th.full((len(batch),), math.inf)
            for member in subset:
                value = th.minimum(value, score(self.targets[member], batch.next_observations, action))  # type: ignore[arg-type]
            if entropy:
                value = value - alpha * log_prob
            target = batch.rewards + 0.99 * (1 - batch.dones) * value
        loss = th.zeros(())
        for critic in self.critics:
            loss = loss + ((score(critic, batch.observations, batch.actions) - target) ** 2).mean() / CRITICS  # type: ignore[arg-type]
        self.step(self.critic_optimizer, loss)

    def actor_step(self, batch: Batch, noise: th.Tensor, alpha: float, reduction: str) -> th.Tensor:
        action, log_prob = act(self.actor, batch.observations, noise)  # type: ignore[arg-type]
        values = th.stack([score(critic, batch.observations, action) for critic in self.critics])  # type: ignore[arg-type]
        value = values.min(dim=0).values if reduction == "min" else values.mean(dim=0)
        self.step(self.actor_optimizer, (alpha * log_prob - value).mean())
        return log_prob.detach()

    def temperature_step(self, log_prob: th.Tensor, target_entropy: float) -> None:
        self.step(self.alpha_optimizer, (-self.log_alpha * (log_prob + target_entropy)).mean())

    def step(self, optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()

    @th.no_grad()
    def move_targets(self) -> None:
        for target, critic in zip(self.targets, self.critics, strict=True):
            for old, new in zip(tensors(target), tensors(critic), strict=True):
                old.copy_(0.995 * old + 0.005 * new)

    def compare(self, model: O2OSAC, before: "ByHand") -> None:
        """Every parameter is the model's, and has moved."""
        found = ByHand(model)
        for name, mine, theirs, old in (
            ("actor", *(list(each.actor.values()) for each in (self, found, before))),
            ("critic", self.critics, found.critics, before.critics),
            ("target", self.targets, found.targets, before.targets),
        ):
            triples = zip(*(list(chain.from_iterable(map(tensors, each))) for each in (mine, theirs, old)), strict=True)
            for index, (a, b, start) in enumerate(triples):
                off = (a - b).abs().max().item()
                assert off <= TOLERANCE, f"{name} {index} is off by {off}"
                assert not th.equal(b, start), f"{name} {index} has not moved"
        assert found.log_alpha.item() == pytest.approx(self.log_alpha.item(), abs=TOLERANCE)
        assert found.log_alpha.item() != before.log_alpha.item()


def block_of_transitions() -> Batch:
    g = th.Generator().manual_seed(11)
    n = ROWS * PARTS
    obs, following = th.randn((2, n, 3), generator=g)
    rewards, dones = th.randn(n, generator=g), (th.rand(n, generator=g) < 0.2).float()
    assert 0 < dones.sum() < n
    return Batch(obs, th.rand((n, 2), generator=g) * 2 - 1, following, rewards, dones, th.full((n,), 0.99))


def run(
    monkeypatch: pytest.MonkeyPatch, block: Batch, reduction: str = "mean", **arguments: Any
) -> tuple[O2OSAC, ByHand, ByHand, Draws]:
    """The library's update on a block of transitions; with it the parameters before, twice, and what was drawn."""
    kwargs = {"critic_reduction": reduction, **arguments.pop("online_objective_kwargs", {})}
    model = make(
        n_critics=CRITICS,
        critic_subset=2,
        critic_layer_norm=True,
        policy_delay=PARTS,
        policy_kwargs={"net_arch": [16, 16]},
        ent_coef="auto_0.3",
        online_objective_kwargs=kwargs,
        **RATES,
        **arguments,
    )
    model._setup_learn(1)
    model.phase = "finetuning"
    with th.no_grad():  # targets that differ from the critics, so that a mix-up shows
        for parameter in model.critic_target.parameters():
            parameter.add_(0.01 * th.randn_like(parameter))
    monkeypatch.setattr("sb3_o2o.updates.loop.sample", lambda _, n: block.part(0, n))
    hand, before, draws = ByHand(model), ByHand(model), Draws()
    with monkeypatch.context() as patch:
        for name in ORIGINAL:
            patch.setattr(th, name, getattr(draws, name))
        model.loop.run(PARTS, ROWS)
    return model, hand, before, draws


def test_one_update_of_wsrl(monkeypatch: pytest.MonkeyPatch) -> None:
    block = block_of_transitions()
    model, hand, before, draws = run(
        monkeypatch,
        block,
        actor_layer_norm=True,
        subset_replacement=True,
        entropy_backup=False,
        actor_critics="min",
        actor_batch="block",
        online_objective_kwargs={"entropy_at_next": True},
    )
    critic_noise, (policy_noise, next_noise) = draws.normal[ROWS], draws.normal[ROWS * PARTS]
    assert len(critic_noise) == len(draws.subsets) == PARTS
    alpha = 0.3
    for index in range(PARTS):
        part = block.part(index * ROWS, (index + 1) * ROWS)
        hand.critic_step(part, critic_noise[index], draws.subsets[index], alpha, entropy=False)
        if index == PARTS - 1:
            # the entropy is measured at the next observations, with the policy before its step
            _, log_prob = act(hand.actor, block.next_observations, next_noise)  # type: ignore[arg-type]
            hand.actor_step(block, policy_noise, alpha, "min")
            hand.temperature_step(log_prob.detach(), -2.0)
        hand.move_targets()
    hand.compare(model, before)


def test_one_update_of_rlpd(monkeypatch: pytest.MonkeyPatch) -> None:
    block = block_of_transitions()
    model, hand, before, draws = run(
        monkeypatch,
        block,
        actor_layer_norm=False,
        subset_replacement=False,
        entropy_backup=True,
        actor_critics="mean",
        actor_batch="minibatch",
        target_entropy="auto_0.5",
    )
    assert set(draws.normal) == {ROWS}
    assert all(len(set(subset)) == 2 for subset in draws.subsets)
    # the actor's noise of the last minibatch is drawn before its critics'
    *critic_noise, policy_noise, last_noise = draws.normal[ROWS]
    alpha = 0.3
    for index, noise in enumerate([*critic_noise, last_noise]):
        part = block.part(index * ROWS, (index + 1) * ROWS)
        hand.critic_step(part, noise, draws.subsets[index], alpha, entropy=True)
        if index == PARTS - 1:
            log_prob = hand.actor_step(part, policy_noise, alpha, "mean")
            hand.temperature_step(log_prob, -1.0)
        hand.move_targets()
    hand.compare(model, before)


def test_subset_with_replacement_may_hold_one_critic_twice() -> None:
    model = make(n_critics=3, critic_subset=2, subset_replacement=True)
    drawn = [tuple(model.draw_critics(2).tolist()) for _ in range(60)]  # type: ignore[union-attr]
    assert any(a == b for a, b in drawn)
    assert {member for pair in drawn for member in pair} == {0, 1, 2}
    model.subset_replacement = False
    assert all(a != b for a, b in (model.draw_critics(2).tolist() for _ in range(60)))  # type: ignore[union-attr]
    assert model.draw_critics(None) is None
