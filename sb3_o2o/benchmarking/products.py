"""The matrix products that an update cannot avoid: the arithmetic floor, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from sb3_o2o.benchmarking.work import Work
from sb3_o2o.errors import unknown


@dataclass(frozen=True)
class Product:
    """
    Independent matrix products of one shape: ``members`` times ``(rows, inner) @ (inner, columns)``.

    :param kind: ``"forward"``, ``"weight"`` (gradient of weights) or ``"input"`` (gradient of inputs)
    :param members: networks of an ensemble
    :param rows: of the left factor
    :param inner: summed over
    :param columns: of the right factor
    :param every: updates between two of them; 4 for an actor that steps at every fourth update
    """

    kind: str
    members: int
    rows: int
    inner: int
    columns: int
    every: int = 1

    @property
    def flops(self) -> float:
        """Multiplications and additions per update, averaged over updates."""
        return 2.0 * self.members * self.rows * self.inner * self.columns / self.every


def products(work: Work) -> list[Product]:
    """
    Count what an update has to multiply. What can be shared is counted once: a policy on the same states for
    several purposes, and the part of a critic's first layer that sees only the state when several actions are
    evaluated there. Gradients that nobody needs are not counted: of inputs that are data, and of the critics'
    weights in the actor's step.

    :param work: the update
    :return: its products
    :raises ValueError: for an objective that has not been counted
    """
    if work.objective not in _COUNTS:
        raise unknown("objective to count", work.objective, _COUNTS)
    return list(_COUNTS[work.objective](work))


def megaflop(work: Work) -> float:
    """
    :param work: an update
    :return: millions of multiplications and additions in its products
    """
    return sum(product.flops for product in products(work)) / 1e6


def forward(sizes: tuple[int, ...], rows: int, members: int = 1, every: int = 1) -> Iterator[Product]:
    """
    :param sizes: of input, hidden layers and output
    :param rows: of the batch
    :param members: networks of that shape
    :param every: see :class:`Product`
    :return: one product per layer
    """
    for inner, columns in pairwise(sizes):
        yield Product("forward", members, rows, inner, columns, every)


def weight_gradients(sizes: tuple[int, ...], rows: int, members: int = 1, every: int = 1) -> Iterator[Product]:
    """As :func:`forward`: the transposed input of each layer times the gradient of its output."""
    for inputs, outputs in pairwise(sizes):
        yield Product("weight", members, inputs, rows, outputs, every)


def input_gradients(
    sizes: tuple[int, ...], rows: int, members: int = 1, every: int = 1, n_inputs: int = 0
) -> Iterator[Product]:
    """
    As :func:`forward`: the gradient of each layer's output times its transposed weights.

    :param n_inputs: inputs of the network that need a gradient: none where they are data, the actions in the
        actor's step
    """
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        columns = n_inputs if index == 0 else inputs
        if columns:
            yield Product("input", members, rows, outputs, columns, every)


def _train(sizes: tuple[int, ...], rows: int, members: int = 1, every: int = 1) -> Iterator[Product]:
    yield from forward(sizes, rows, members, every)
    yield from weight_gradients(sizes, rows, members, every)
    yield from input_gradients(sizes, rows, members, every)


def _critic_sizes(work: Work) -> tuple[int, ...]:
    return (work.observation_dim + work.action_dim, *work.hidden, 1)


def _actor_step(work: Work, outputs: int, n_critics: int) -> Iterator[Product]:
    """The policy's own passes, and through the critics to the actions."""
    batch, every, critic = work.batch_size, work.policy_delay, _critic_sizes(work)
    yield from _train((work.observation_dim, *work.hidden, outputs), batch, every=every)
    yield from forward(critic, batch, n_critics, every)
    yield from input_gradients(critic, batch, n_critics, every, n_inputs=work.action_dim)


def _sac(work: Work) -> Iterator[Product]:
    batch, critic, outputs = work.batch_size, _critic_sizes(work), 2 * work.action_dim
    yield from forward((work.observation_dim, *work.hidden, outputs), batch)  # the policy at s'
    yield from forward(critic, batch, work.critic_subset or work.n_critics)  # the target
    yield from _train(critic, batch, work.n_critics)
    yield from _actor_step(work, outputs, work.n_critics)


def _cql(work: Work) -> Iterator[Product]:
    """The policy at s and s' is the one of the actor's step and of the target: nothing more to multiply there."""
    batch, critic, outputs = work.batch_size, _critic_sizes(work), 2 * work.action_dim
    many = batch * (3 * work.n_actions + 1)  # with the dataset's own action
    width = critic[1]
    yield from forward((work.observation_dim, *work.hidden, outputs), batch)
    yield from forward(critic, batch, work.critic_subset or work.n_critics)
    for inputs, rows in ((work.observation_dim, batch), (work.action_dim, many)):
        yield from forward((inputs, width), rows, work.n_critics)
        yield from weight_gradients((inputs, width), rows, work.n_critics)
    yield from forward(critic[1:], many, work.n_critics)
    yield from weight_gradients(critic[1:], many, work.n_critics)
    yield from input_gradients(critic[1:], many, work.n_critics, n_inputs=width)
    yield from _actor_step(work, outputs, work.n_critics)


def _td3(work: Work) -> Iterator[Product]:
    """Also TD3+BC, whose second term multiplies nothing. The actor climbs the first critic alone."""
    batch, critic = work.batch_size, _critic_sizes(work)
    yield from forward((work.observation_dim, *work.hidden, work.action_dim), batch)
    yield from forward(critic, batch, work.critic_subset or work.n_critics)
    yield from _train(critic, batch, work.n_critics)
    yield from _actor_step(work, work.action_dim, n_critics=1)


def _iql(work: Work) -> Iterator[Product]:
    batch, critic, value = work.batch_size, _critic_sizes(work), (work.observation_dim, *work.hidden, 1)
    yield from forward(critic, batch, work.critic_subset or work.n_critics)  # target critics at (s, a)
    yield from _train(value, batch)
    yield from forward(value, batch)  # V(s')
    yield from _train(critic, batch, work.n_critics)
    yield from _train((work.observation_dim, *work.hidden, work.action_dim), batch, every=work.policy_delay)


_COUNTS: dict[str, Callable[[Work], Iterator[Product]]] = {
    "sac": _sac,
    "cql": _cql,
    "calql": _cql,
    "td3": _td3,
    "td3_bc": _td3,
    "iql": _iql,
}
