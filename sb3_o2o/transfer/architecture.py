"""Which networks of a source go on, and what those that are made anew are like."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sb3_o2o.errors import unknown, warn

#: what a trained model decides: a recipe cannot change the shape of networks that exist
NETWORK_ARGUMENTS = ("policy_kwargs", "n_critics", "critic_layer_norm", "actor_layer_norm", "normalize_observations")
#: arguments that say what critics are like
CRITIC_ARGUMENTS = frozenset(("n_critics", "critic_layer_norm", "policy_kwargs"))
#: arguments of a policy that shape its actor alone
_OF_ACTORS = (
    *(
        "log_std_init",
        "use_expln",
        "clip_mean",
        "state_dependent_std",
        "squash",
        "squash_mean",
        "actor_dropout",
        "n_actors",
    ),
)
#: that shape its value networks alone
_OF_VALUES = ("n_critics", "value_activation_fn", "critic_dropout")
#: that say how fresh weights are drawn
_OF_FRESH = (
    *("orthogonal_gain", "last_hidden_gain", "ortho_init", "hidden_bias", "critic_head_init", "actor_head_init"),
)


@dataclass(frozen=True)
class Kept:
    """
    Which networks of a source go on; the others are made anew.

    :param actor: the policy
    :param critic: critics, their target networks, and V
    """

    actor: bool = True
    critic: bool = True

    @property
    def both(self) -> bool:
        """Whether nothing is made anew."""
        return self.actor and self.critic

    def keeps(self, policy: Any, name: str) -> bool:
        """
        :param policy: whose parameter it is
        :param name: of a parameter or buffer
        :return: whether it goes on. A features extractor that actor and critics share does, whichever of them is kept
        """
        if policy.share_features_extractor and "features_extractor." in name:
            return True
        return self.critic if policy.is_of_values(name) else self.actor


def hidden_layers(net_arch: Any, network: str) -> list[int] | None:
    """
    :param net_arch: as Stable-Baselines3 takes it: a list for all networks, or a dictionary by their names
    :param network: ``"pi"``, ``"qf"`` or ``"vf"``
    :return: units of the network's hidden layers; None where it says nothing of it
    """
    if isinstance(net_arch, Mapping):
        return list(net_arch[network]) if network in net_arch else None
    return None if net_arch is None else list(net_arch)


def critics_differ(model: Any, arguments: Mapping[str, Any]) -> bool:
    """
    :param model: whose critics are there
    :param arguments: constructor arguments
    :return: whether these would make critics of another architecture
    """
    layers = hidden_layers((arguments.get("policy_kwargs") or {}).get("net_arch"), "qf")
    return any(
        arguments.get(name, getattr(model, name)) != getattr(model, name) for name in ("n_critics", "critic_layer_norm")
    ) or layers not in (None, hidden_layers(model.policy.net_arch, "qf"))


def mixed_policy_kwargs(
    own: dict[str, Any], net_arch: Any, values: str, wanted: dict[str, Any], kept: Kept
) -> dict[str, Any]:
    """
    Arguments of a policy of which a part is kept. What both parts have in common (features extractor, activation
    function) is the kept part's.

    :param own: arguments of the policy that was trained
    :param net_arch: its layers, as :func:`hidden_layers` reads them
    :param values: the name that they have for the networks of values
    :param wanted: arguments for what is made anew; what they leave out stays as it was
    :param kept: what goes on
    :return: arguments for the new policy
    """
    mixed = dict(own)
    for name in (*(() if kept.actor else _OF_ACTORS), *(() if kept.critic else _OF_VALUES), *_OF_FRESH):
        if name in wanted:
            mixed[name] = wanted[name]
    if not kept.critic and "n_critics" not in wanted:
        mixed.pop("n_critics", None)  # the algorithm's argument says it
    trained = {network: hidden_layers(net_arch, network) for network in ("pi", values)}
    layers = dict(trained)
    for network, stays in (("pi", kept.actor), (values, kept.critic)):
        asked = hidden_layers(wanted.get("net_arch"), network)
        if not stays and asked is not None:
            layers[network] = asked
    mixed["net_arch"] = net_arch if layers == trained else layers
    return mixed


def mixed_network_arguments(
    model: Any, from_recipe: dict[str, Any], given: dict[str, Any], defaults: dict[str, Any], kept: Kept
) -> dict[str, Any]:
    """
    :param model: as it was trained
    :param from_recipe: arguments of a recipe
    :param given: arguments of the user, which win over it
    :param defaults: of the constructor, where a recipe leaves them out; empty to leave them as they were trained
    :param kept: what goes on
    :return: constructor arguments for the networks that are made anew
    :raises ValueError: for an argument that the policy does not take
    """
    wanted = {**from_recipe, **given}
    names = (
        *(() if kept.critic else ("n_critics", "critic_layer_norm")),
        *(() if kept.actor else ("actor_layer_norm",)),
    )
    arguments = {
        name: wanted.get(name, defaults.get(name, getattr(model, name))) for name in names if hasattr(model, name)
    }
    policy, of_policy = model.policy, wanted.get("policy_kwargs") or {}
    check_policy_kwargs(type(policy), of_policy)
    mixed = mixed_policy_kwargs(model.policy_kwargs, policy.net_arch, policy.value_network_name, of_policy, kept)
    if not kept.critic and "n_critics" in given:
        mixed.pop("n_critics", None)  # Stable-Baselines3's way to say it would win
    return {**arguments, "policy_kwargs": mixed}


def check_policy_kwargs(policy: type, given: Mapping[str, Any]) -> None:
    """
    :param policy: a class of policies
    :param given: arguments for it
    :raises ValueError: for one that it does not take, naming the nearest
    """
    parameters = {name for kind in policy.__mro__ for name in inspect.signature(kind).parameters}
    accepted = parameters - {"self", "args", "kwargs", "observation_space", "action_space", "lr_schedule"}
    for name in given:
        if name not in accepted:
            raise unknown(f"argument of {policy.__name__}", name, accepted)


def warn_about_networks(model: Any, wanted: dict[str, Any], recipe: str | None = None) -> None:
    """
    Name what the trained networks decide otherwise than the recipe.

    :param model: with its networks
    :param wanted: what a recipe or the user says of them
    :param recipe: the recipe's name
    """
    differing = []
    for name, value in wanted.items():
        differing += (
            _differing(model, value or {}) if name == "policy_kwargs" else _differs(name, value, getattr(model, name))
        )
    if differing:
        whose = "the arguments" if recipe is None else f"recipe {recipe!r}"
        warn(f"What was trained wins over {whose}: {'; '.join(differing)}.")


def _differing(model: Any, wanted: dict[str, Any]) -> list[str]:
    """What the policy's arguments decide otherwise; how weights were drawn at the start no longer matters."""
    found, policy = [], model.policy
    if any(
        asked is not None and asked != hidden_layers(policy.net_arch, network)
        for network in ("pi", policy.value_network_name)
        for asked in (hidden_layers(wanted.get("net_arch"), network),)
    ):
        found += _differs("net_arch", wanted["net_arch"], policy.net_arch)
    have = {"activation_fn": policy.activation_fn, **policy.extra_arguments}
    if have.get("value_activation_fn", 0) is None:
        have["value_activation_fn"] = have["activation_fn"]
    for name in ("activation_fn", "value_activation_fn", "squash", "squash_mean", "n_actors"):
        if name in wanted and name in have:
            found += _differs(name, *(getattr(value, "__name__", value) for value in (wanted[name], have[name])))
    return found


def _differs(name: str, wanted: Any, have: Any) -> list[str]:
    same = wanted.lower() == have.lower() if isinstance(wanted, str) and isinstance(have, str) else wanted == have
    return [] if same else [f"{name}: {wanted!r} wanted, {have!r} trained"]
