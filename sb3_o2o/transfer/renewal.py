"""Networks that are made anew while others go on with all that they have learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch as th

from sb3_o2o.finetuning import build_finetuning
from sb3_o2o.networks.normalizer import copy_statistics
from sb3_o2o.objectives import Objective
from sb3_o2o.transfer.architecture import CRITIC_ARGUMENTS, Kept, critics_differ, hidden_layers, warn_about_networks
from sb3_o2o.transfer.foreign import copy_parameters
from sb3_o2o.transfer.temperature import own_temperature, settle_temperature, stated_start
from sb3_o2o.updates.phases import PRETRAINING

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

    def __init__(self, model: Any):
        self.policy: Any = model.policy
        self.optimizers = model.weights.policy_optimizers(model)
        self.objectives = model.offline_objective, model.finetuning_objective
        self.temperature = {name: vars(model)[name] for name in _TEMPERATURE if name in vars(model)}

    def give_to(self, model: Any, kept: Kept) -> None:
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

    def _give_networks(self, model: Any, kept: Kept) -> None:
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

    def _give_moments(self, model: Any, kept: Kept) -> None:
        policy: Any = model.policy
        before = dict(self.policy.named_parameters())
        names = {id(parameter): name for name, parameter in policy.named_parameters()}
        for which, optimizer in model.weights.policy_optimizers(model).items():
            moments = self.optimizers[which].state
            for parameter in (each for group in optimizer.param_groups for each in group["params"]):
                name = names[id(parameter)]
                state = moments.get(before[name]) if kept.keeps(policy, name) else None
                if state:
                    optimizer.state[parameter] = {
                        key: value.clone() if isinstance(value, th.Tensor) else value for key, value in state.items()
                    }

    def _give_objectives(self, model: Any, kept: Kept) -> None:
        offline, online = self.objectives
        _give_objective(offline, model.offline_objective, kept)
        if online is not offline and model.finetuning_objective is not model.offline_objective:
            _give_objective(online, model.finetuning_objective, kept)


def _give_objective(learned: Objective, fresh: Objective, kept: Kept) -> None:
    """
    What an objective has learned itself goes on in one of the same kind: its values as the critics do, and what is made
    like critics as the policy does.
    """
    if type(learned) is not type(fresh):
        return
    state = learned.state_dict()
    before, now = ({(name, value.shape) for name, value in each.items()} for each in (state, fresh.state_dict()))
    other = {name.split(".")[0] for name, _ in before ^ now}

    def goes_on(name: str) -> bool:
        module = name.split(".")[0]
        if module in fresh.critic_like:
            return kept.actor and module not in other
        return kept.critic or module not in fresh.value_networks

    fresh.load_state_dict({name: state[name] if goes_on(name) else own for name, own in fresh.state_dict().items()})
    for name, optimizer in fresh.optimizers.items():
        if goes_on(name):
            optimizer.load_state_dict(learned.optimizers[name].state_dict())


def renew(model: Any, settings: dict[str, Any], kept: Kept, set_up: Callable[[], None]) -> None:
    """
    :param settings: arguments from now on
    :param kept: networks that go on, with their optimisers' moments
    :param set_up: makes networks and objectives of the arguments
    """
    learned = Learned(model)
    model.__dict__.update(settings)
    set_up()
    model.__dict__.pop("_target_parameters", None)  # of the networks that were
    learned.give_to(model, kept)


def hand_over(model: Any, kept: Kept | None = None, start_ent_coef: float | None = None) -> None:
    """
    Go over from the arguments of pre-training to those of fine-tuning, once.

    :param model: the model
    :param kept: networks that go on; by default all, but for critics of another architecture
    :param start_ent_coef: where a temperature starts
    """
    settings, model.online_arguments = model.online_arguments, {}
    ent_coef = settings.pop("ent_coef", None)
    is_new = model.phase == PRETRAINING and model.temperature_note is None
    tuned = own_temperature(model) if is_new else None
    differ = bool(settings) and critics_differ(model, settings)
    kept = Kept(critic=not differ) if kept is None else kept
    if differ and kept.critic:
        wanted = {name: settings.pop(name) for name in CRITIC_ARGUMENTS if name in settings}
        warn_about_networks(model, wanted, model.recipe)
    if not kept.both:
        renew(model, settings, kept, lambda: set_up_networks(model))
    elif settings:
        renew(model, settings, kept, lambda: set_up_settings(model))
    if differ and not kept.critic and model.verbose >= 1:
        print(f"Fine-tuning begins with fresh critics: {described_critics(model)}")
    if is_new or ent_coef is not None:
        who = f"objective {model.objective!r}"
        settle_temperature(model, tuned, start=start_ent_coef, otherwise=ent_coef, who=who)


def described_critics(model: Any) -> str:
    layers = hidden_layers(model.policy.net_arch, "qf")
    return (
        f"{model.n_critics} of {layers} units, {'with' if model.critic_layer_norm else 'without'} layer normalisation"
    )


def set_up_settings(model: Any) -> None:
    """Learning rates and objectives of the arguments as they are now."""
    model._setup_lr_schedule()
    model._setup_objectives()


def set_up_networks(model: Any) -> None:
    """The same, and networks; environment, buffer and random streams go on."""
    model._setup_lr_schedule()
    model.policy = _fresh_policy(model)
    model.networks_replaced()
    model._setup_objectives()


def _fresh_policy(model: Any) -> Any:
    """As a new model of the same arguments would have it."""
    kwargs = model.full_policy_kwargs()
    return model.policy_class(model.observation_space, model.action_space, model.lr_schedule, **kwargs).to(model.device)


def keep_critics(model: Any, n_critics: int) -> None:
    """
    Go on with the first members of the ensemble: critics, target critics and their optimiser's moments.

    :param n_critics: members to keep
    :raises ValueError: if there are not as many, or another argument needs more
    """
    if not 1 <= n_critics <= model.n_critics:
        raise ValueError(
            f"The ensemble has {model.n_critics} critics, so n_critics={n_critics} cannot be kept of it: ask for 1 "
            f"to {model.n_critics}, or pre-train a larger ensemble."
        )
    needed = {"critic_subset": model.critic_subset}
    for which, objective in (("offline", model.offline_objective), ("online", model.finetuning_objective)):
        needed[f"the {which} objective's critic_subset"] = getattr(objective, "critic_subset", None)
        needed[f"the {which} objective"] = objective.least_critics
    for name, least in needed.items():
        if least is not None and least > n_critics:
            raise ValueError(f"n_critics={n_critics} is too few: {name} needs {least}.")
    policy: Any = model.policy
    policy.critic.keep_first(n_critics)
    policy.critic_target.keep_first(n_critics)
    for objective in {model.offline_objective, model.finetuning_objective}:
        objective.keep_first(n_critics)
    model.n_critics = policy.critic_kwargs["n_critics"] = n_critics
    if "n_critics" in model.policy_kwargs:
        model.policy_kwargs = {**model.policy_kwargs, "n_critics": n_critics}
    # compiled for the shapes that were
    model.loop.forget_graphs()


def renew_critics(model: Any) -> None:
    """
    Fresh critics, and fresh states of all optimisers, as a new model would have them; the policy stays, and so do
    parameters that are frozen.
    """
    modules = (model.policy, model.offline_objective, model.finetuning_objective)
    frozen = [each for module in modules for each in module.parameters() if not each.requires_grad]
    values = [parameter.detach().clone() for parameter in frozen]
    model.weights.forget_values(model, _fresh_policy(model))
    for objective in (model.offline_objective, model.finetuning_objective):
        objective.forget_values()
    forget_moments(model)
    with th.no_grad():
        for parameter, value in zip(frozen, values, strict=True):
            parameter.copy_(value)


def renew_actor(model: Any) -> None:
    """
    A fresh policy, as a new model would have it, with a fresh state of its optimiser; critics stay.

    :param model: off-policy
    :raises ValueError: where actor and critics share a features extractor
    """
    if model.policy.share_features_extractor:
        raise ValueError("A fresh policy needs a features extractor of its own: set share_features_extractor=False.")
    copy_parameters(_fresh_policy(model).actor, model.actor)
    model.actor.optimizer.state.clear()
    model.copy_to_targets(critics=False)


def renew_learner(model: Any) -> None:
    """
    Fresh policy, critics and target networks, and a temperature that is tuned back at its start.

    :param model: off-policy
    :raises ValueError: where actor and critics share a features extractor
    """
    renew_actor(model)
    renew_critics(model)
    model.copy_to_targets()
    if getattr(model, "log_ent_coef", None) is not None:
        model.set_ent_coef(stated_start(model.ent_coef) or 1.0)


def forget_moments(model: Any) -> None:
    """Clear the states of all optimisers."""
    objectives = (model.offline_objective.optimizers, model.finetuning_objective.optimizers)
    for optimizers in (model.weights.policy_optimizers(model), model.optimizers(), *objectives):
        for optimizer in optimizers.values():
            optimizer.state.clear()
