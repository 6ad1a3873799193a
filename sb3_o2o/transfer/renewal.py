"""Networks that are made anew while the others stay: which architecture each has, and what goes on in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch as th

from sb3_o2o.errors import unknown
from sb3_o2o.finetuning import build_finetuning
from sb3_o2o.networks.normalizer import copy_statistics
from sb3_o2o.objectives import Objective

#: arguments of a policy that shape its actor alone
_OF_ACTORS = ("log_std_init", "use_expln", "clip_mean", "state_dependent_std", "squash_mean")
#: that shape its value networks alone
_OF_VALUES = ("n_critics", "value_activation_fn")
#: that say how fresh weights are drawn
_OF_FRESH = ("orthogonal_gain", "last_hidden_gain", "ortho_init")
#: what a temperature is kept in
_TEMPERATURE = ("log_ent_coef", "ent_coef_optimizer", "ent_coef_tensor")


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


def kept_networks(
    training: Mapping[str, Any], from_recipe: Mapping[str, Any], given: Mapping[str, Any], finished: Sequence[str] = ()
) -> Kept:
    """
    :param training: what ``load_offline`` was asked to keep
    :param from_recipe: arguments of a recipe
    :param given: arguments of the user, its fine-tuning callbacks built
    :param finished: gradient-only phases that the source has behind it
    :return: what goes on: where nobody said it, critics that a callback throws away at once do not
    """
    asked = training["load_critic"]
    if asked is None:
        callbacks = given["finetuning"] if "finetuning" in given else build_finetuning(from_recipe.get("finetuning"))
        asked = not any(each.renews_critics(finished) for each in callbacks) or not training["load_actor"]
    return Kept(training["load_actor"], asked)


# -- architecture --------------------------------------------------------------------------------------------------


def hidden_layers(net_arch: Any, network: str) -> list[int] | None:
    """
    :param net_arch: as Stable-Baselines3 takes it: a list for all networks, or a dictionary by their names
    :param network: ``"pi"``, ``"qf"`` or ``"vf"``
    :return: units of the network's hidden layers; None where it says nothing of it
    """
    if isinstance(net_arch, Mapping):
        return list(net_arch[network]) if network in net_arch else None
    return None if net_arch is None else list(net_arch)


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


# -- weights and moments -------------------------------------------------------------------------------------------


class Learned:
    """
    What a model has learned, held while its networks and objectives are set up anew.

    :param model: the model, before that
    """

    def __init__(self, model: RenewalMixin):
        self.policy: Any = model.policy
        self.optimizers = model._policy_optimizers()
        self.objectives = model.offline_objective, model.finetuning_objective
        self.temperature = {name: vars(model)[name] for name in _TEMPERATURE if name in vars(model)}

    def give_to(self, model: RenewalMixin, kept: Kept) -> None:
        """
        :param model: the same model, set up anew
        :param kept: what goes on in it
        """
        if model.policy is not self.policy:
            self._give_networks(model, kept)
            self._give_moments(model, kept)
        model.__dict__.update(self.temperature)
        optimizer = self.temperature.get("ent_coef_optimizer")
        if optimizer is not None and not kept.actor:
            optimizer.state.clear()  # its moments are of the old policy's entropy
        self._give_objectives(model, kept)

    def _give_networks(self, model: RenewalMixin, kept: Kept) -> None:
        policy: Any = model.policy
        learned = self.policy.state_dict()
        policy.load_state_dict(
            {name: learned[name] if kept.keeps(policy, name) else fresh for name, fresh in policy.state_dict().items()}
        )
        copy_statistics(self.policy, policy)
        trained = {name: parameter.requires_grad for name, parameter in self.policy.named_parameters()}
        for name, parameter in policy.named_parameters():
            if kept.keeps(policy, name):
                parameter.requires_grad_(trained[name])  # some may be frozen

    def _give_moments(self, model: RenewalMixin, kept: Kept) -> None:
        policy: Any = model.policy
        before = dict(self.policy.named_parameters())
        names = {id(parameter): name for name, parameter in policy.named_parameters()}
        for which, optimizer in model._policy_optimizers().items():
            moments = self.optimizers[which].state
            for parameter in (each for group in optimizer.param_groups for each in group["params"]):
                name = names[id(parameter)]
                state = moments.get(before[name]) if kept.keeps(policy, name) else None
                if state:
                    optimizer.state[parameter] = {
                        key: value.clone() if isinstance(value, th.Tensor) else value for key, value in state.items()
                    }

    def _give_objectives(self, model: RenewalMixin, kept: Kept) -> None:
        offline, online = self.objectives
        _give_objective(offline, model.offline_objective, kept)
        if online is not offline and model.finetuning_objective is not model.offline_objective:
            _give_objective(online, model.finetuning_objective, kept)


def _give_objective(learned: Objective, fresh: Objective, kept: Kept) -> None:
    """What an objective has learned itself goes on in one of the same kind; its values as the critics do."""
    if type(learned) is not type(fresh):
        return

    def goes_on(name: str) -> bool:
        return kept.critic or name.split(".")[0] not in fresh.value_networks

    state = learned.state_dict()
    fresh.load_state_dict({name: state[name] if goes_on(name) else own for name, own in fresh.state_dict().items()})
    for name, optimizer in fresh.optimizers.items():
        if goes_on(name):
            optimizer.load_state_dict(learned.optimizers[name].state_dict())


if TYPE_CHECKING:
    _Base: Any
else:
    _Base = object


class RenewalMixin(_Base):
    """Sets networks up anew without losing what is kept."""

    def _policy_optimizers(self) -> dict[str, th.optim.Optimizer]:
        """The optimisers of the policy's networks, by name."""
        return {"actor": self.actor.optimizer, "critic": self.critic.optimizer}

    def _renew(self, settings: dict[str, Any], kept: Kept, set_up: Callable[[], None]) -> None:
        """
        :param settings: arguments from now on
        :param kept: networks that go on, with their optimisers' moments
        :param set_up: makes networks and objectives of the arguments
        """
        learned = Learned(self)
        self.__dict__.update(settings)
        set_up()
        self.__dict__.pop("_target_parameters", None)  # of the networks that were
        learned.give_to(self, kept)

    def _set_up_networks(self) -> None:
        """Networks and objectives of the arguments as they are now; environment, buffer and random streams go on."""
        self._setup_lr_schedule()
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.full_policy_kwargs()
        ).to(self.device)
        self._networks_replaced()
        self._setup_objectives()
