"""Networks that are made anew while others go on with all that they have learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch as th

from sb3_o2o.finetuning import build_finetuning
from sb3_o2o.networks.normalizer import copy_statistics
from sb3_o2o.objectives import Objective
from sb3_o2o.transfer.architecture import CRITIC_ARGUMENTS, Kept, critics_differ, hidden_layers, warn_about_networks

#: what a temperature is kept in
_TEMPERATURE = ("log_ent_coef", "ent_coef_optimizer", "ent_coef_tensor")


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

    if TYPE_CHECKING:
        online_arguments: Any
        pretrain_kwargs: Any

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

    def _hand_over(self, kept: Kept | None = None) -> None:
        """
        Go over from the arguments of pre-training to those of fine-tuning, once.

        :param kept: networks that go on; by default all, but for critics of another architecture
        """
        settings, self.online_arguments = self.online_arguments, {}
        differ = bool(settings) and critics_differ(self, settings)
        kept = Kept(critic=not differ) if kept is None else kept
        if differ and kept.critic:
            wanted = {name: settings.pop(name) for name in CRITIC_ARGUMENTS if name in settings}
            warn_about_networks(self, wanted, self.recipe)
        if not kept.both:
            self._renew(settings, kept, self._set_up_networks)
        elif settings:
            self._renew(settings, kept, self._set_up_settings)
        if differ and not kept.critic and self.verbose >= 1:
            print(f"Fine-tuning begins with fresh critics: {self._described_critics()}")

    def _described_critics(self) -> str:
        layers = hidden_layers(self.policy.net_arch, "qf")
        return (
            f"{self.n_critics} of {layers} units, {'with' if self.critic_layer_norm else 'without'} layer normalisation"
        )

    def _set_up_settings(self) -> None:
        """Learning rates and objectives of the arguments as they are now."""
        self._setup_lr_schedule()
        self._setup_objectives()

    def _set_up_networks(self) -> None:
        """The same, and networks; environment, buffer and random streams go on."""
        self._setup_lr_schedule()
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.full_policy_kwargs()
        ).to(self.device)
        self._networks_replaced()
        self._setup_objectives()
