"""Constructor arguments that have another value while pre-training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sb3_o2o.transfer.architecture import hidden_layers


def apply_pretrain_kwargs(model: Any) -> None:
    """
    Put ``pretrain_kwargs`` into the place of the arguments that they are the other value of, until fine-tuning begins.

    :param model: an algorithm that was just given its arguments
    :raises ValueError: for arguments of either phase that do not go together
    """
    given: dict[str, Any] = model.pretrain_kwargs or {}
    if not given:
        return
    model.n_critics = model.policy_kwargs.get("n_critics", model.n_critics)  # Stable-Baselines3's own way to say it
    model._check_off_policy_arguments()  # fine-tuning's, before hours of pre-training
    values, policy_kwargs = dict(given), dict(model.policy_kwargs)
    if "n_critics" in values and "n_critics" in policy_kwargs:
        policy_kwargs["n_critics"] = values["n_critics"]
    if "policy_kwargs" in values:
        policy_kwargs["net_arch"] = _layers_of_pretraining(policy_kwargs, values["policy_kwargs"])
    values["policy_kwargs"] = policy_kwargs
    model.online_arguments = {name: getattr(model, name) for name in values}
    vars(model).update(values)


def _layers_of_pretraining(policy_kwargs: Mapping[str, Any], given: Any) -> dict[str, Any]:
    layers = given.get("net_arch") if isinstance(given, Mapping) and set(given) == {"net_arch"} else None
    if not isinstance(layers, Mapping) or set(layers) != {"qf"}:
        raise ValueError(
            "policy_kwargs of pretrain_kwargs may hold {'net_arch': {'qf': […]}} alone, for the actor goes on as it "
            f"is; not {given!r}."
        )
    of_actor = hidden_layers(policy_kwargs.get("net_arch"), "pi")
    if of_actor is None:
        raise ValueError("net_arch of pretrain_kwargs needs one in policy_kwargs as well, that of fine-tuning.")
    return {"pi": of_actor, "qf": list(layers["qf"])}


@contextmanager
def arguments_of_finetuning(model: Any) -> Iterator[None]:
    """
    :param model: has the arguments of fine-tuning inside, for what is built or checked for it beforehand
    """
    present = {name: getattr(model, name) for name in model.online_arguments}
    vars(model).update(model.online_arguments)
    try:
        yield
    finally:
        vars(model).update(present)
