"""Weights out: a model of ours as a stock Stable-Baselines3 one."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_o2o.data import MonteCarloDictReplayBuffer, MonteCarloReplayBuffer
from sb3_o2o.finetuning.callback import exported_actor
from sb3_o2o.transfer.temperature import export_ent_coef
from sb3_o2o.updates.trained import refuse_not_finite

if TYPE_CHECKING:
    _Base: Any
else:
    _Base = object


def to_sb3(model: Any) -> BaseAlgorithm:
    """
    See ``to_sb3`` of the algorithms.

    :param model: one of them
    :return: a model of the stock class, without replay buffer contents
    :raises NonFiniteError: if weights hold NaN or infinity
    """
    refuse_not_finite(model, "Not exported", "save(path, allow_nonfinite=True) writes it as it is, to look at.")
    policy: Any = model.policy
    inverse = {ours: theirs for theirs, ours in model.stock_policies.items()}
    is_stock = policy.is_stock and type(policy) in inverse
    policy_class: Any = inverse[type(model.policy)] if is_stock else type(model.policy)
    constructor: Any = model.stock_class
    stock = constructor(policy=policy_class, env=None, device=model.device, _init_setup_model=False)
    own = (
        *("policy_class", "policy", "device", "replay_buffer", "policy_kwargs", "seed"),
        *("log_ent_coef", "ent_coef_optimizer"),
    )
    # what goes on elsewhere fine-tunes: of arguments with another value while pre-training, that is not exported
    values = {**vars(model), **model.online_arguments}
    shared = {name: value for name, value in values.items() if name in vars(stock) and name not in own}
    # copies of what training adds to: the two models may go on apart
    vars(stock).update(
        {name: copy.copy(value) if isinstance(value, dict | deque) else value for name, value in shared.items()}
    )
    extra = () if not is_stock else tuple(policy.extra_arguments)
    stock.policy_kwargs = {name: value for name, value in model.full_policy_kwargs().items() if name not in extra}
    for name in ("env", "n_envs", "observation_space", "action_space"):
        setattr(stock, name, getattr(model, name))
    if getattr(model, "replay_buffer_class", None) in (MonteCarloReplayBuffer, MonteCarloDictReplayBuffer):
        stock.replay_buffer_class, stock.replay_buffer_kwargs = None, {}
    # exporting must not change the run: no seeding, and weights that are replaced at once are drawn aside
    with th.random.fork_rng(devices=[]):
        stock._setup_model()
    stock.seed = model.seed
    names = stock._get_torch_save_params()
    with _acting_for_users(model):
        parameters = model.weights.to_stock(model, stock) if is_stock else model.get_parameters()
        fresh = {} if parameters.keys() >= {*names[0]} else stock.get_parameters()  # of a temperature tuned from now on
        stock.set_parameters({name: parameters.get(name, fresh.get(name)) for name in names[0]}, device=model.device)
    if hasattr(model, "current_ent_coef"):
        export_ent_coef(model, stock)
    return stock


@contextmanager
def _acting_for_users(model: Any) -> Iterator[None]:
    """Where a callback has another actor act than the one that learns, that is the actor for a while."""
    exported = exported_actor(model)
    if exported is None:
        yield
        return
    actor = model.policy.actor
    learning = copy.deepcopy(actor.state_dict())
    try:
        actor.load_state_dict(exported.state_dict())
        yield
    finally:
        actor.load_state_dict(learning)
