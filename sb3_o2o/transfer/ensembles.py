"""Several agents that become one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_o2o.finetuning.callback import actor_for_users
from sb3_o2o.transfer.architecture import Kept
from sb3_o2o.transfer.archive import saved_model_path
from sb3_o2o.transfer.foreign import to_memory
from sb3_o2o.transfer.renewal import renew


def are_agents(source: Any) -> bool:
    """
    :param source: of ``load_offline``
    :return: whether it is a list of models, in files or alive
    """
    return (
        isinstance(source, list | tuple)
        and len(source) > 0
        and all(isinstance(each, BaseAlgorithm) or saved_model_path(each) is not None for each in source)
    )


@th.no_grad()
def merged(algorithm: Any, sources: Sequence[Any], custom_objects: dict[str, Any] | None, trust: bool) -> Any:
    """
    One agent of several that were trained apart (Off2On; Lee et al. 2021): its policy has all actors, and its critics
    are those of all agents, agent after agent. A tuned temperature begins at their geometric mean; no optimiser's
    moments go on.

    :param algorithm: class of the agents, O2OSAC
    :param sources: zips, or live models
    :param custom_objects: see ``load_offline``
    :param trust: likewise
    :return: a model that has not been saved
    :raises ValueError: for another algorithm, or agents that differ in more than what they have learned
    """
    if len(sources) < 2:
        raise ValueError("An ensemble is made of at least two agents: give one by itself, and not in a list.")
    if not hasattr(algorithm, "fix_ent_coef"):
        raise ValueError(f"Several agents become one ensemble of O2OSAC, and not of {algorithm.__name__}: give one.")
    opening = {"custom_objects": custom_objects, "trust": trust, "device": "cpu", "allow_nonfinite": True}
    agents = [
        algorithm.load(
            to_memory(each) if isinstance(each, BaseAlgorithm) else each,
            **{**opening, "trust": trust or isinstance(each, BaseAlgorithm)},
        )
        for each in sources
    ]
    first = agents[0]
    for index, agent in enumerate(agents):
        _check_alike(index, agent, first)
    states = [(actor_for_users(agent).state_dict(), agent.critic, agent.critic_target) for agent in agents]
    temperatures = [agent.log_ent_coef for agent in agents if agent.log_ent_coef is not None]
    ensemble = algorithm.load(to_memory(first), **{**opening, "trust": True})
    for callback in ensemble.finetuning:
        callback.begin_new_run()  # what the first one's have frozen is one agent's
    kwargs = {name: value for name, value in first.policy_kwargs.items() if name != "n_critics"}
    settings = {
        "policy_kwargs": {**kwargs, "n_actors": len(agents)},
        "n_critics": sum(agent.n_critics for agent in agents),
        "replay_buffer": None,
    }
    renew(ensemble, settings, Kept(actor=False, critic=False), ensemble._setup_model)
    for member, (state, _, _) in zip(ensemble.actor.members, states, strict=True):
        own = dict(member.named_parameters())
        for name in own.keys() & state.keys():
            own[name].copy_(state[name])
    for network, place in (("critic", 1), ("critic_target", 2)):
        parts = zip(*(state[place].ensemble.parameters() for state in states), strict=True)
        for parameter, of_agents in zip(getattr(ensemble, network).ensemble.parameters(), parts, strict=True):
            parameter.copy_(th.cat(of_agents))
        _copy_extractor(getattr(first, network), getattr(ensemble, network))
    _copy_extractor(first.actor, ensemble.actor)
    ensemble.has_statistics = first.has_statistics
    if ensemble.log_ent_coef is not None and len(temperatures) == len(agents):
        ensemble.log_ent_coef.copy_(th.stack(temperatures).mean(dim=0))
    return ensemble


def _copy_extractor(source: Any, target: Any) -> None:
    target.features_extractor.load_state_dict(source.features_extractor.state_dict())


def _check_alike(index: int, agent: Any, first: Any) -> None:
    """:raises ValueError: if two agents cannot be one ensemble"""
    different = [
        name
        for name, own, other in (
            ("observation space", agent.observation_space, first.observation_space),
            ("action space", agent.action_space, first.action_space),
            ("number of critics", agent.n_critics, first.n_critics),
            ("layers", _shapes(agent.policy), _shapes(first.policy)),
        )
        if own != other
    ]
    if not different and not _same_extractors(agent.policy, first.policy):
        different = ["normalisation of observations, or features that were trained"]
    if different:
        raise ValueError(
            f"Agents 0 and {index} have different {', '.join(different)}: an ensemble is made of agents that were "
            "trained with the same settings on the same data, and different seeds."
        )


def _shapes(policy: Any) -> dict[str, Any]:
    return {name: tuple(value.shape) for name, value in policy.state_dict().items()}


def _same_extractors(policy: Any, other: Any) -> bool:
    theirs = other.state_dict()
    return all(th.equal(value, theirs[name]) for name, value in policy.state_dict().items() if "extractor." in name)
