"""The rows of the speed table: what one update is, exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sb3_o2o.errors import unknown


@dataclass(frozen=True)
class Work:
    """
    One update: networks, batch, and who is updated how often.

    :param name: of the row, on the command line
    :param title: of the row, for people
    :param objective: name of the objective
    :param algorithms: classes of ``sb3_o2o`` that may have it; the first that does is measured
    :param offline: on a dataset, through ``pretrain``; otherwise on a replay buffer, through ``train``
    :param n_critics: critics in the ensemble
    :param critic_layer_norm: layer normalisation in the critics
    :param critic_subset: target critics of which the minimum is taken; None for all
    :param policy_delay: critic updates per actor update
    :param n_actions: CQL's actions per state from each of its three distributions
    :param observation_dim: size of an observation
    :param action_dim: size of an action
    :param hidden: units per hidden layer of every network
    :param batch_size: transitions per update
    :param n_transitions: transitions in the buffer or dataset
    """

    name: str
    title: str
    objective: str
    algorithms: tuple[str, ...] = ("O2OSAC",)
    offline: bool = False
    n_critics: int = 2
    critic_layer_norm: bool = False
    critic_subset: int | None = None
    policy_delay: int = 1
    n_actions: int = 10
    observation_dim: int = 17
    action_dim: int = 6
    hidden: tuple[int, ...] = (256, 256)
    batch_size: int = 256
    n_transitions: int = 100_000


_TD3 = ("O2OTD3", "O2OSAC")

ROWS: dict[str, Work] = {
    work.name: work
    for work in (
        Work("sac", "SAC, 2 critics, actor every update", "sac"),
        Work(
            "wsrl",
            "SAC, 10 critics, LayerNorm, target: 2 drawn, 4 critic : 1 actor update",
            "sac",
            n_critics=10,
            critic_layer_norm=True,
            critic_subset=2,
            policy_delay=4,
        ),
        Work(
            "wsrl_all",
            "SAC, 10 critics, LayerNorm, target: all 10, 4 critic : 1 actor update",
            "sac",
            n_critics=10,
            critic_layer_norm=True,
            policy_delay=4,
        ),
        Work("td3_bc", "TD3+BC, 2 critics, actor every 2nd update", "td3_bc", _TD3, offline=True, policy_delay=2),
        Work("iql", "IQL, 2 critics", "iql", _TD3, offline=True),
        Work("cql", "CQL, 10 actions, 2 critics", "cql", offline=True),
        Work("calql", "Cal-QL, 10 actions, 2 critics", "calql", offline=True),
    )
}


def rows_by_name(names: Iterable[str] | None = None) -> list[Work]:
    """
    :param names: rows in the wanted order; all by default
    :return: the rows
    :raises ValueError: for an unknown name, naming the nearest
    """
    chosen = list(ROWS if names is None else names)
    for name in chosen:
        if name not in ROWS:
            raise unknown("row", name, ROWS)
    return [ROWS[name] for name in chosen]
