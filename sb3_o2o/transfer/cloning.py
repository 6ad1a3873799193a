"""From a policy of another kind: networks of the same shapes are copied, any other policy is cloned."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_o2o.data.filling import with_actions
from sb3_o2o.data.normalization import Normalizer
from sb3_o2o.errors import warn
from sb3_o2o.evaluation.spaces_compared import same_bounds
from sb3_o2o.finetuning.callback import actor_for_users
from sb3_o2o.networks.normalizer import copy_statistics
from sb3_o2o.objectives import make_objective
from sb3_o2o.recipes.recipe_files import Recipe
from sb3_o2o.transfer import conversion
from sb3_o2o.transfer.acting import Acting, ToldRewards, check_known
from sb3_o2o.transfer.architecture import NETWORK_ARGUMENTS, Kept, warn_about_networks
from sb3_o2o.transfer.foreign import (
    VALUE_ARGUMENTS,
    as_ours,
    network_arguments,
    same_shapes,
)
from sb3_o2o.transfer.models import build, cut_ensemble, policy_like, read_recipe, ready_to_finetune
from sb3_o2o.transfer.renewal import kept_networks
from sb3_o2o.transfer.spaces import bounds, check_spaces
from sb3_o2o.transfer.temperature import own_temperature, settle_temperature
from sb3_o2o.updates.bars import PretrainingProgressBar

#: gradient steps of cloning where nobody says how many
DEFAULT_STEPS = 10_000
#: observations on which a copied actor has to act as its source does
_N_SAMPLES = 16
#: largest difference of an action, on the scale of [-1, 1], between an actor and its copy
_SAME_ACTION = 1e-4


@dataclass(frozen=True)
class CloneReport:
    """
    How far a policy taken over from elsewhere is from its source.

    :param source: class of the source
    :param copied: networks that were copied; without ``"actor"`` the policy was cloned
    :param action_distance: mean Euclidean distance of the deterministic actions, scaled to [-1, 1]: of a clone on the
        dataset's observations, of a copy on samples of the observation space; None of a fresh policy
    :param source_return: mean return of the source, None where no episodes were asked for
    :param own_return: mean return of the model, likewise
    """

    source: str
    copied: tuple[str, ...]
    action_distance: float | None
    source_return: float | None = None
    own_return: float | None = None

    def __str__(self) -> str:
        taken = f"copied the {' and the '.join(self.copied)} of" if self.copied else "cloned"
        if self.copied and "actor" not in self.copied and self.action_distance is not None:
            taken = f"cloned the policy and copied the {' and the '.join(self.copied)} of"
        text = f"{taken} {self.source}, {'' if 'critics' in self.copied else 'the critics are fresh, '}"
        text += (
            "the policy is fresh"
            if self.action_distance is None
            else f"mean action distance {self.action_distance:.2g}"
        )
        if self.own_return is not None:
            text += f", return {self.own_return:.1f} (source: {self.source_return:.1f})"
        return text


def from_policy(
    algorithm: Any,
    source: Any,
    env: Any,
    policy: str | None,
    recipe: str | Recipe | None,
    given: dict[str, Any],
    training: dict[str, Any],
) -> Any:
    """Copy the networks whose shapes match; clone a policy that cannot be copied on the dataset."""
    if env is None and isinstance(source, BaseAlgorithm):
        env = source.get_env()
    if env is None:
        raise ValueError(f"load_offline needs env=…: {type(source).__name__} does not say where it acts.")
    if training["report_episodes"]:
        check_known(source, ("reward",), "in the environment (report_episodes)")
    recipe, from_recipe = read_recipe(algorithm, recipe, env)
    name, seen = getattr(source, "stock_class", type(source)).__name__, training["seen"]
    misfit = _other_spaces(name, source, env)
    is_model, source = isinstance(source, BaseAlgorithm | BasePolicy), as_ours(source)
    policy = policy or policy_like(source, algorithm)
    has_networks = algorithm.weights.shares_networks and (
        source.weights.shares_networks if hasattr(source, "weights") else type(source).__name__ == "TQC"
    )
    alike = seen.give_to(env, given.get("verbose", 0)) if has_networks and not misfit else env
    if is_model:
        misfit = misfit or seen.misfit(name, alike)
    may_copy = has_networks and not misfit
    if may_copy and hasattr(source, "weights"):  # TQC's values are none of ours
        training = {**training, "load_critic": seen.keeps_values(name, alike, training)}
    kept = kept_networks(training, from_recipe, given)
    if "pretrain_kwargs" in algorithm.constructor.signature.parameters:
        given = {**given, "pretrain_kwargs": None}  # what is built here fine-tunes
    like, copied = (
        _build_like(algorithm, source, alike, policy, recipe, from_recipe, given, kept, training["clone_std"])
        if may_copy
        else (None, ())
    )
    model = build(algorithm, env, policy, recipe, given) if like is None else like
    seen.warn_of_wrapping(env, model.env)
    if "critics" in copied:
        cut_ensemble(model, given.get("n_critics"), from_recipe.get("n_critics"), recipe)
    if copied:
        trained = (*NETWORK_ARGUMENTS, *(VALUE_ARGUMENTS if "critics" in copied else ()))
        wanted = {key: from_recipe[key] for key in trained if key in from_recipe and key not in given}
        warn_about_networks(model, wanted, None if recipe is None else recipe.reference)
    if misfit and (has_networks or not seen.is_known):
        _warn_of_misfit(misfit, has_networks, given)
    theirs = Acting(source, model.action_space, seen.normalizer)  # type: ignore[arg-type]
    distance = _taken_over(model, name, theirs, copied, kept, training, misfit)
    for network, target in model.target_pairs():
        if "critics" not in copied or target is not model.critic_target:
            target.load_state_dict(network.state_dict())
    given_coef, otherwise, start = given.get("ent_coef"), from_recipe.get("ent_coef"), training["start_ent_coef"]
    settle_temperature(model, own_temperature(source), start=start, given=given_coef, otherwise=otherwise)
    returns = _returns(model, theirs, training["report_episodes"])
    model.clone_report = CloneReport(name, copied, distance, *returns)
    if model.verbose >= 1:
        print(f"load_offline: {model.clone_report}")
    return ready_to_finetune(model, given, kept)


def _taken_over(
    model: Any, name: str, theirs: Acting, copied: tuple[str, ...], kept: Kept, training: dict[str, Any], misfit: str
) -> float | None:
    """
    Clone the policy where it was not copied.

    :return: distance of its actions from the source's; None where a fresh policy is wanted
    """
    why = f" ({misfit})" if misfit else ""
    if "actor" in copied:
        return _distance(model, theirs, _as_it_acts(model), _sampled_observations(model))
    if not kept.actor:
        if copied:
            return None
        raise ValueError(
            f"load_actor=False takes over values alone, and those of {name} do not fit {type(model).__name__}{why}."
        )
    if model.dataset is None:
        raise ValueError(
            f"The networks of {name} do not fit {type(model).__name__}{why}: pass dataset=… to clone its policy on."
        )
    return _clone(model, theirs, training)


def _build_like(
    algorithm: Any,
    source: Any,
    env: Any,
    policy: str | None,
    recipe: Recipe | None,
    from_recipe: dict[str, Any],
    given: dict[str, Any],
    wanted: Kept,
    std: float,
) -> tuple[Any, tuple[str, ...]]:
    """:return: a model with what fits of the source's networks, and what was copied; none where nothing fits"""
    # what belongs to critics is taken over with them alone, and whether they fit shows once they are built
    for kept in dict.fromkeys((wanted, Kept(wanted.actor, not wanted.actor))):
        arguments = network_arguments(source, algorithm, from_recipe, given, kept)
        if kept.critic and "critic_layer_norm" in vars(source):
            arguments["n_critics"] = max(source.n_critics, arguments["n_critics"])  # to be cut afterwards
        model = build(algorithm, env, policy, recipe, arguments)
        copied = _copy_networks(model, source, kept, std)
        if "critics" in copied or (copied and not kept.critic):
            return model, copied
        if not copied:
            break
    return None, ()


def _copy_networks(model: Any, source: Any, kept: Kept, std: float) -> tuple[str, ...]:
    """:return: what was copied"""
    copied = []
    if kept.actor and _copy_actor(model, source, std):
        copied.append("actor")
    theirs = source.critic
    alike = source.policy.activation_fn is model.policy.activation_fn  # type: ignore[union-attr]
    if kept.critic and alike and same_shapes(model.critic, theirs):
        model.critic.load_state_dict(theirs.state_dict())
        model.critic_target.load_state_dict(source.critic_target.state_dict())
        model.has_statistics = copy_statistics(source.critic, model.policy) or model.has_statistics  # type: ignore[arg-type]
        copied.append("critics")
    return tuple(copied)


def _copy_actor(model: Any, source: Any, std: float) -> bool:
    """:return: whether the actor has the shapes of the source's, and then acts as it does"""
    own, actor = model.actor.state_dict(), actor_for_users(source)
    state = conversion.actor_state(actor, model.actor)
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if any(key not in fitting for key in {*own, *state} if "log_std" not in key):
        return False
    model.actor.load_state_dict({**own, **fitting})
    model.has_statistics = copy_statistics(actor, model.policy) or model.has_statistics
    if model.actor.stochastic and fitting.keys() != own.keys():
        model.actor.set_std(std)
    # the same network, whatever it is shown: by which statistics it sees is another question
    inputs = _sampled_observations(model)
    normalizer = Normalizer.of(model.get_vec_normalize_env())
    if normalizer is not None:
        inputs = normalizer.normalize_obs(inputs)
    own_actor, theirs = (Acting(each, model.action_space) for each in (model, source))  # type: ignore[arg-type]
    if _distance(model, own_actor, theirs, inputs) <= _SAME_ACTION:
        return True
    model.actor.load_state_dict(own)  # other activations, say
    model.has_statistics = False
    return False


def _sampled_observations(model: Any) -> Any:
    """Observations of nowhere, without touching any random stream."""
    space = copy.deepcopy(model.observation_space)
    space.seed(0)
    samples = [space.sample() for _ in range(_N_SAMPLES)]
    if isinstance(samples[0], dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def _clone(model: Any, theirs: Acting, training: dict[str, Any]) -> float:
    """
    Imitate a policy's actions on the dataset's observations (OCR-CFT, eq. 52). Each sees these in its own way.

    :return: mean distance of the actions afterwards
    """
    if training["clone_loss"] == "likelihood" and not model.actor.stochastic:
        raise ValueError(
            f"The policy of {type(model).__name__} is deterministic and has no likelihood: use clone_loss='mse'."
        )
    dataset = model.load_dataset(model.dataset)
    rewards = dataset.with_raw_rewards().rewards
    wanted = imitated = _scaled(model, theirs.on_dataset(dataset, rewards=rewards))
    if training["clone_loss"] == "likelihood" and theirs.may_sample:
        imitated = _scaled(model, theirs.on_dataset(dataset, model.seed or 0, rewards))
    relabelled = with_actions(dataset, imitated)
    kept = model.offline_objective
    kwargs = {"loss": training["clone_loss"]}
    model.offline_objective = make_objective("bc", kwargs, model, model.available_objectives)
    n_steps = training["pretrain_steps"] or DEFAULT_STEPS
    bars = [PretrainingProgressBar(n_steps, "cloning")] if training["progress_bar"] else []
    try:
        model.pretrain(relabelled, n_steps, callback=bars)
    finally:
        for bar in bars:
            bar.close()
        model.offline_objective, model.offline_buffer = kept, None
        steps, model.n_pretrain_steps = model.n_pretrain_steps, 0
    if model.actor.stochastic and training["clone_loss"] == "mse":
        model.actor.set_std(training["clone_std"])
    distance = _mean_distance(_scaled(model, _as_it_acts(model).on_dataset(dataset)), wanted)
    model.logger.record("offline/clone_distance", distance)
    model.logger.dump(step=steps)
    return distance


def _as_it_acts(model: Any) -> Acting:
    """This model, on observations as the environment gives them without normaliser."""
    return Acting(model, model.action_space, Normalizer.of(model.get_vec_normalize_env()))  # type: ignore[arg-type]


def _scaled(model: Any, actions: np.ndarray) -> np.ndarray:
    """:return: on the scale of [-1, 1], ``(N, act)``"""
    return model.policy.scale_action(actions).reshape(len(actions), -1)  # type: ignore[misc]


def _distance(model: Any, one: Acting, other: Acting, observations: Any) -> float:
    """:return: mean distance of the deterministic actions of two policies without memory"""
    return _mean_distance(*(_scaled(model, each.predict(observations)[0]) for each in (one, other)))


def _returns(model: Any, theirs: Acting, n_episodes: int) -> tuple[float | None, float | None]:
    """:return: mean returns of the source and of this model, over whole episodes of the environment"""
    if n_episodes <= 0 or model.env is None:
        return None, None
    # statistics belong to the run, and each sees in its own way
    normalizing = model.get_vec_normalize_env()
    env = model.env if normalizing is None else normalizing.venv
    told = [ToldRewards(each) for each in (theirs, _as_it_acts(model))]
    means = [float(np.mean(evaluate_policy(each, env, n_episodes, callback=each.hear, warn=False)[0])) for each in told]
    return means[0], means[1]


def _other_spaces(name: str, source: Any, env: VecEnv) -> str:
    """
    :param name: of the source, for messages
    :param source: a policy of any kind
    :param env: the environment
    :return: why the source's networks would act otherwise there; nothing if they would not
    :raises ValueError: if the source cannot act there
    """
    if not isinstance(source, BaseAlgorithm | BasePolicy):
        return ""
    theirs, here = (source.observation_space, source.action_space), (env.observation_space, env.action_space)
    check_spaces(name, *theirs, *here)
    if same_bounds(theirs[1], here[1]):
        return ""
    return f"the actions of {name} lie in {bounds(theirs[1])}, the environment's in {bounds(here[1])}"


def _warn_of_misfit(misfit: str, has_networks: bool, given: dict[str, Any]) -> None:
    if given.get("dataset") is None:
        return  # an error will say it
    means = (
        "the policy is cloned and the critics are fresh, because the same weights would act otherwise"
        if has_networks
        else "its actions are asked for on observations as they are"
    )
    warn(f"{misfit[0].upper()}{misfit[1:]}: {means}.")


def _mean_distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=1).mean())
