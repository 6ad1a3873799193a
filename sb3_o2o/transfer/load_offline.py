"""Weights in and out: stock Stable-Baselines3 models, saved models, datasets and foreign policies."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import GymEnv

from sb3_o2o.data import OfflineDataset
from sb3_o2o.errors import check_keyword_arguments
from sb3_o2o.finetuning import build_finetuning
from sb3_o2o.networks.ensemble import check_n_critics
from sb3_o2o.networks.normalizer import has_statistics
from sb3_o2o.recipes.reading import Recipe, environment_id, load_recipe
from sb3_o2o.transfer import conversion
from sb3_o2o.transfer.acting import has_predict
from sb3_o2o.transfer.architecture import (
    CRITIC_ARGUMENTS,
    NETWORK_ARGUMENTS,
    Kept,
    critics_differ,
    mixed_network_arguments,
    warn_about_networks,
)
from sb3_o2o.transfer.archive import saved_attributes, saved_family, saved_model_path
from sb3_o2o.transfer.cloning import CrossingMixin
from sb3_o2o.transfer.export import ExportMixin
from sb3_o2o.transfer.foreign import (
    VALUE_ARGUMENTS,
    copy_parameters,
    load_foreign,
    recover_environment,
    to_memory,
    unknown_family,
)
from sb3_o2o.transfer.renewal import RenewalMixin, kept_networks
from sb3_o2o.transfer.seeing import Seen, restore_normalizer, saved_model_sees
from sb3_o2o.transfer.spaces import saved_model_fits
from sb3_o2o.updates import pretraining
from sb3_o2o.updates.containers import own_containers
from sb3_o2o.updates.phases import PRETRAINING

if TYPE_CHECKING:
    from typing import Self

#: what belongs to the offline phase that a saved model has behind it
OFFLINE_ARGUMENTS = ("objective", "objective_kwargs", "pretrain_steps", "pretrain_kwargs", "learning_starts")
#: what is no part of a method: a recipe that does not name it leaves it alone
_RUN_ARGUMENTS = (
    *("policy", "env", "recipe", "seed", "device", "verbose", "tensorboard_log", "stats_window_size"),
    *("use_sde", "sde_sample_freq", "use_sde_at_warmup", "action_noise", "dataset", "dataset_kwargs"),
    *("compile", "precision", "_init_setup_model"),
)
_IN_MEMORY = "a model in memory"


class TransferMixin(CrossingMixin, RenewalMixin, ExportMixin):
    """``load``, ``load_offline`` and ``to_sb3``."""

    #: constructor arguments that training replaces by something learned
    learned_arguments: ClassVar[tuple[str, ...]] = ("ent_coef",)

    # -- loading ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Any, env: GymEnv | str | None = None, device: th.device | str = "auto", **kwargs: Any
    ) -> Self:
        """
        Load a model saved by this class or by its stock counterpart, optimisers included.

        :param path: a zip, with or without the ending, or a file-like object
        :param env: the environment to go on in, or its id
        :param device: where the networks live
        :param kwargs: SB3's other arguments of ``load``, and constructor arguments to change
        :return: the model
        :raises ValueError: if the file is something else, or an argument is unknown
        """
        path = saved_model_path(path) or path
        family = saved_family(path)
        if family != cls.stock_class.__name__:
            what = "no model that can be recognised" if family == "unknown" else f"a {family} model"
            raise ValueError(
                f"{path if isinstance(path, str | os.PathLike) else _IN_MEMORY} holds {what}, not a "
                f"{cls.stock_class.__name__} model. {cls.__name__}.load_offline takes over policies of other families."
            )
        of_load = ("custom_objects", "print_system_info", "force_reset")
        given = {name: value for name, value in kwargs.items() if name not in of_load}
        check_keyword_arguments(f"argument of {cls.__name__}", cls.__init__, given)
        if "pretrain_kwargs" in given:
            raise ValueError("pretrain_kwargs are applied when a model is built: give load the arguments themselves.")
        kwargs.update(own_containers(given))
        env = maybe_make_env(env, verbose=0)  # type: ignore[arg-type,assignment]
        if given.get("recipe") is not None:
            recipe = load_recipe(given["recipe"], environment_id(env))
            kwargs.update(recipe=recipe.reference, recipe_pretrain_steps=recipe.pretrain_steps)
        try:
            model = super().load(path, env=env, device=device, **kwargs)  # type: ignore[misc]
        except KeyError as error:
            # SB3 takes any ValueError for a model of an older version, and then stumbles
            raise error.__context__ or error from None
        except RuntimeError as error:
            if "size mismatch" not in str(error) and "in state_dict" not in str(error):
                raise
            asked = ", ".join(f"{name}={given[name]!r}" for name in given if name in NETWORK_ARGUMENTS)
            raise ValueError(
                f"The saved networks have other shapes than asked for{f' by {asked}' if asked else ''}: {error}"
            ) from error
        pretraining.leave(model)  # a checkpoint from the middle of it
        for name in given:
            model.online_arguments.pop(name, None)  # holds in both phases from now on
        # of what to_sb3 made, stock attributes say nothing
        model.has_statistics = model.has_statistics or has_statistics(model.policy)
        restore_normalizer(model)
        return model

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Stable-Baselines3's ``set_env``. A ``VecNormalize`` that has seen nothing is given the statistics that the model
        was saved with.

        :param env: the environment to go on in
        :param force_reset: begin new episodes there
        """
        super().set_env(env, force_reset)
        restore_normalizer(self)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Load parameters, from a stock model as well.

        :param load_path_or_dict: a zip, or the parameters by name
        :param exact_match: every parameter must be there
        :param device: where the networks live
        """
        if isinstance(load_path_or_dict, dict):
            load_path_or_dict = self._match_objectives(self._from_stock(load_path_or_dict))
        super().set_parameters(load_path_or_dict, exact_match=exact_match, device=device)

    def _from_stock(self, parameters: dict[str, Any]) -> dict[str, Any]:
        if not conversion.is_stock_policy(parameters.get("policy", {})):
            return parameters
        converted = {**parameters, "policy": conversion.policy_from_stock(parameters["policy"], self.critic)}
        if "critic.optimizer" in parameters:
            current, n_shared = self.critic.optimizer.state_dict(), self._n_extractor_parameters()
            converted["critic.optimizer"] = conversion.optimizer_from_stock(
                parameters["critic.optimizer"], self.critic, n_shared, current
            )
        if "actor.optimizer" in parameters:
            converted["actor.optimizer"] = conversion.keep_flags(
                parameters["actor.optimizer"], self.actor.optimizer.state_dict()
            )
        return converted

    def _match_objectives(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """An objective that is new to a saved model starts afresh; one that is gone is left behind."""
        expected = self._get_torch_save_params()[0]
        is_objective = [name for name in {*expected, *parameters} if name.split(".")[0].endswith("_objective")]
        matched = {name: value for name, value in parameters.items() if name not in is_objective or name in expected}
        for name in is_objective:
            if name in expected and name not in parameters:
                attribute = recursive_getattr(self, name)
                matched[name] = attribute.state_dict()
        return matched

    @classmethod
    def load_offline(
        cls,
        source: Any,
        env: GymEnv | str | None = None,
        *,
        policy: str | None = None,
        recipe: str | Recipe | None = None,
        objective: str | None = None,
        finetuning: list[Any] | None = None,
        dataset: Any = None,
        pretrain_steps: int | None = None,
        load_actor: bool = True,
        load_critic: bool | None = None,
        load_optimizer: bool = True,
        clone_std: float = 0.1,
        clone_loss: str = "mse",
        report_episodes: int = 0,
        device: th.device | str = "auto",
        progress_bar: bool = False,
        custom_objects: dict[str, Any] | None = None,
        vec_normalize: Any = None,
        **kwargs: Any,
    ) -> Self:
        """
        Start fine-tuning from whatever there is. The environment has to have the keys and shapes of the source's
        observations and the shape of its actions. Bounds and data types of observations may differ; where the bounds of
        actions do, the same weights would act otherwise: the policy is cloned, and the critics are fresh.

        Each policy sees observations in its own way: a live model by the ``VecNormalize`` of its environment, a zip of
        ours by the one it was saved with, anything else what ``env`` gives, unless ``vec_normalize`` says otherwise.
        Networks that are kept need the same statistics: a ``VecNormalize`` of ``env`` that has seen nothing is given
        the source's, an ``env`` without one is wrapped, and behind other statistics the policy is cloned. Where a model
        is trained here, a ``VecNormalize`` that has seen nothing starts with the dataset's (see ``pretrain``).

        :param source: a zip of ours; a zip or live model of stock SB3 or sb3-contrib; a Minari id, dataset
            file or ``OfflineDataset`` (pre-trained on here); a ``torch.nn.Module`` or other callable from
            observations to actions, which may not remember earlier ones; or an object with SB3's method
            ``predict(observation, state=None, episode_start=None, deterministic=True)``, which may: it returns actions
            and the state to hand on. Between SAC, TQC and TD3 what has the same shapes is copied; any other policy is
            cloned on ``dataset`` here, one with a memory along the dataset's episodes, several side by side
        :param env: the online environment; recovered from a Minari dataset by default
        :param policy: policy class or alias, where a model is built; by the observation space by default
        :param recipe: a recipe, its name or path: fills in every argument left out; networks that are kept stay as they
            were trained
        :param objective: offline objective, where the model is pre-trained here
        :param finetuning: fine-tuning callbacks; replaces the recipe's and the saved model's
        :param dataset: offline data for fine-tuning callbacks, and for cloning
        :param pretrain_steps: gradient steps of pre-training or cloning, where one is needed
        :param load_actor: keep the source's policy; False keeps its values alone and starts with a fresh policy, of the
            architecture that the arguments or the recipe say. The temperature belongs to the values
        :param load_critic: keep the source's critics, and V where there is one; False starts with fresh ones: the
            policy alone is taken over. Fresh ones have the architecture (``n_critics``, ``critic_layer_norm``,
            ``policy_kwargs["net_arch"]["qf"]``), ``gamma``, ``reward_scale`` and ``reward_shift`` of the arguments or
            the recipe. By default they are kept, unless a callback of the recipe or of ``finetuning`` makes them anew,
            as ``PolicyReevaluation`` does. Between SAC and TD3 they keep their meaning: SAC's include the entropy
        :param load_optimizer: keep the optimisers' state of what is kept, of a model of this class or its stock
            counterpart
        :param clone_std: standard deviation, before the squashing, of a policy that comes without one, > 0: cloning
            with ``"mse"`` teaches the mean alone, and a fresh network's would explore almost at random
        :param clone_loss: ``"mse"``, or ``"likelihood"`` for the entropy-regularised likelihood (SAC and PPO; in
            OCR-CFT's experience it costs score). Of a source whose ``predict(deterministic=False)`` samples, as SB3's
            SAC and PPO do, it then clones one sampled action of each transition, and so the standard deviation, down
            to what the target entropy allows; of a deterministic source or a callable its actions, and the entropy
            term decides the standard deviation
        :param report_episodes: whole episodes in ``env`` by which a policy from elsewhere and its copy are scored for
            ``clone_report``; 0 for none
        :param device: where the networks live
        :param progress_bar: show a progress bar while training here
        :param custom_objects: for a zip: what replaces objects that cannot be read, by the names of the model's
            attributes, as in SB3's ``load``
        :param vec_normalize: by which statistics the source saw observations and rewards: a ``VecNormalize``, or a file
            that its ``save`` wrote (RL Zoo's ``vecnormalize.pkl``; unpickling runs code: open only files you trust);
            False if it saw them as they are; None to ask the source
        :param kwargs: further constructor arguments. ``n_critics`` below the trained number keeps the first members of
            an ensemble that is kept, their moments included, and so does a recipe; a number as ``ent_coef`` stops its
            tuning
        :return: a model whose next call is ``learn``
        :raises ValueError: if the source cannot be used, naming what would help
        """
        named = {"objective": objective, "finetuning": finetuning, "dataset": dataset}
        given = {**kwargs, **{name: value for name, value in named.items() if value is not None}}
        check_keyword_arguments(f"argument of {cls.__name__}", cls.__init__, given)
        check_n_critics(given.get("n_critics"))
        if finetuning is not None:
            given["finetuning"] = build_finetuning(finetuning)
        if clone_loss not in ("mse", "likelihood"):
            raise ValueError(f"clone_loss must be 'mse' or 'likelihood', not {clone_loss!r}.")
        if not load_actor and load_critic is False:
            raise ValueError("load_actor=False and load_critic=False keep nothing: build a new model instead.")
        training: dict[str, Any] = {
            "pretrain_steps": pretrain_steps,
            "progress_bar": progress_bar,
            "load_actor": load_actor,
            "load_critic": load_critic,
            "load_optimizer": load_optimizer,
            "clone_std": clone_std,
            "clone_loss": clone_loss,
            "report_episodes": report_episodes,
        }
        if vec_normalize is True:
            raise ValueError("vec_normalize takes a VecNormalize, the file of one, False or None, not True.")
        here: Any = None if env is None else cls._wrap_env(maybe_make_env(env, verbose=0), verbose=0)
        path: Any = saved_model_path(source)
        is_policy = path is not None or has_predict(source)
        is_policy = is_policy or (callable(source) and not isinstance(source, OfflineDataset))
        if given.get("pretrain_kwargs") and is_policy:
            raise ValueError("pretrain_kwargs say how to pre-train on a dataset, and this source is a policy.")
        family = "" if path is None else saved_family(path)
        if isinstance(source, cls.stock_class):
            path, family = to_memory(source), cls.stock_class.__name__
        if family == "unknown":
            raise unknown_family(path)
        training["seen"] = Seen.by(source, path, here, vec_normalize, custom_objects)
        fits, objects = True, custom_objects or {}
        if path is not None and here is not None:
            fits, objects = saved_model_fits(path, family, here, objects)
        if family == cls.stock_class.__name__ and fits:
            alike = saved_model_sees(family, here, training, given.get("verbose", 0))
            if alike is not None or here is None:
                return cls._from_saved(path, alike, recipe, {**given, "device": device}, training, objects)
        if path is not None:
            source = load_foreign(family, path, custom_objects)
        if is_policy:
            return cls._from_policy(source, here, policy, recipe, {**given, "device": device}, training)
        return cls._from_dataset(source, here, policy, recipe, {**given, "device": device}, training)

    @classmethod
    def _from_saved(
        cls,
        path: Any,
        env: Any,
        recipe: str | Recipe | None,
        given: dict[str, Any],
        training: dict[str, Any],
        custom_objects: dict[str, Any],
    ) -> Self:
        """A zip of ours or of the stock class: what was trained and is kept wins over the recipe."""
        device, custom = given.pop("device"), custom_objects
        recipe, from_recipe = cls._read_recipe(recipe, env)
        saved, apart = saved_attributes(path), from_recipe.get("pretrain_kwargs") or {}
        kept = kept_networks(training, from_recipe, given, saved.get("finished_phases") or ())
        model = None
        if not kept.both or saved.get("online_arguments") or not CRITIC_ARGUMENTS.isdisjoint(apart):
            model = cls.load(path, env=env, device=device, custom_objects=custom)
            if recipe is None:  # saved with the arguments of pre-training in place, and these beside them
                from_recipe, apart = model.online_arguments, model.pretrain_kwargs or {}
        # what a recipe leaves out is the constructor's default, not what an earlier recipe left in the zip
        defaults = {} if recipe is None else cls._method_defaults()
        if model is not None and training["load_critic"] is None and kept.both:
            of_user = {name: given[name] for name in apart if name in given}
            anew = mixed_network_arguments(model, from_recipe, of_user, defaults, Kept(critic=False))
            kept = Kept(critic=not critics_differ(model, anew))
        trained = (*NETWORK_ARGUMENTS, *(VALUE_ARGUMENTS if kept.critic else ()))
        # what was learned travels with the model; a temperature that is to be fixed: see below
        left_out = {*trained, *OFFLINE_ARGUMENTS, *cls.learned_arguments, "policy"}
        settings = {name: value for name, value in {**defaults, **from_recipe}.items() if name not in left_out}
        of_model = (*NETWORK_ARGUMENTS, *cls.learned_arguments)
        settings.update({name: value for name, value in given.items() if name not in of_model})
        if model is None:
            settings.update({} if recipe is None else {"recipe": recipe})
            model = cls.load(path, env=env, device=device, custom_objects=custom, **settings)
        else:
            if recipe is not None:
                settings.update(recipe=recipe.reference, recipe_pretrain_steps=recipe.pretrain_steps)
            settings.update(mixed_network_arguments(model, from_recipe, given, defaults, kept))
            model._renew_saved(own_containers(settings), kept)
        asked = given.get("ent_coef", from_recipe.get("ent_coef"))
        if isinstance(asked, int | float) and hasattr(model, "fix_ent_coef"):
            model.fix_ent_coef(asked)
        if kept.critic and hasattr(model.policy, "critic_target"):
            model._cut_ensemble(given.get("n_critics"), from_recipe.get("n_critics"), recipe)
        wanted = {name: from_recipe[name] for name in trained if name in from_recipe and name not in given}
        wanted.update({name: given[name] for name in of_model if name in given})
        warn_about_networks(model, wanted, None if recipe is None else recipe.reference)
        if not training["load_optimizer"]:
            model._forget_moments()
        return model._ready_to_finetune(given, kept)

    def _renew_saved(self, settings: dict[str, Any], kept: Kept) -> None:
        """Set a model that was just loaded up with other arguments, and make anew what is not kept."""
        self.online_arguments = {}
        if hasattr(self, "replay_buffer"):
            self.replay_buffer = None  # none of its own data yet, and the arguments say what it is like
        self._renew(settings, kept, self._setup_model)
        if not kept.both:
            self.phase_steps, self.finished_phases = {}, []  # what was made of one part went with it

    def keep_critics(self, n_critics: int) -> None:
        """
        Go on with the first members of the ensemble: critics, target critics and their optimiser's moments.

        :param n_critics: members to keep
        :raises ValueError: if there are not as many, or another argument needs more
        """
        if not 1 <= n_critics <= self.n_critics:
            raise ValueError(
                f"The ensemble has {self.n_critics} critics, so n_critics={n_critics} cannot be kept of it: ask for 1 "
                f"to {self.n_critics}, or pre-train a larger ensemble."
            )
        needed = {"critic_subset": self.critic_subset}
        for which, objective in (("offline", self.offline_objective), ("online", self.finetuning_objective)):
            needed[f"the {which} objective's critic_subset"] = getattr(objective, "critic_subset", None)
            needed[f"the {which} objective"] = objective.least_critics
        for name, least in needed.items():
            if least is not None and least > n_critics:
                raise ValueError(f"n_critics={n_critics} is too few: {name} needs {least}.")
        policy: Any = self.policy
        policy.critic.keep_first(n_critics)
        policy.critic_target.keep_first(n_critics)
        self.n_critics = policy.critic_kwargs["n_critics"] = n_critics
        if "n_critics" in self.policy_kwargs:
            self.policy_kwargs = {**self.policy_kwargs, "n_critics": n_critics}
        # compiled for the shapes that were
        self.loop.forget_graphs()

    @classmethod
    def _read_recipe(cls, recipe: str | Recipe | None, env: Any) -> tuple[Recipe | None, dict[str, Any]]:
        """:return: the recipe for an environment, and its arguments for this class"""
        if recipe is None:
            return None, {}
        recipe = load_recipe(recipe, environment_id(env))
        return recipe, recipe.arguments_for(cls.__name__, inspect.signature(cls.__init__).parameters)

    def _cut_ensemble(self, given: int | None, wanted: int | None, recipe: Recipe | None) -> None:
        """What the user asks for has to be there; a recipe takes what there is, and says what it leaves."""
        trained = self.n_critics
        if given is not None and given != trained:
            self.keep_critics(given)
        elif given is None and wanted is not None and wanted < trained:
            self.keep_critics(wanted)
            assert recipe is not None  # who else would want them
            warnings.warn(
                f"Recipe {recipe.reference!r} has {wanted} critics: the first {wanted} of the {trained} trained ones "
                f"go on. n_critics={trained} keeps all.",
                stacklevel=4,
            )

    @classmethod
    def _method_defaults(cls) -> dict[str, Any]:
        parameters = inspect.signature(cls.__init__).parameters.values()
        kept = (*_RUN_ARGUMENTS, *cls.learned_arguments)
        return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in kept}

    def renew_critics(self) -> None:
        """
        Fresh critics, and fresh states of all optimisers, as a new model would have them; the policy stays, and so do
        parameters that are frozen.
        """
        modules = (self.policy, self.offline_objective, self.finetuning_objective)
        frozen = [each for module in modules for each in module.parameters() if not each.requires_grad]
        values = [parameter.detach().clone() for parameter in frozen]
        fresh: Any = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.full_policy_kwargs()
        )
        self._forget_values(fresh.to(self.device))
        for objective in (self.offline_objective, self.finetuning_objective):
            objective.forget_values()
        self._forget_moments()
        with th.no_grad():
            for parameter, value in zip(frozen, values, strict=True):
                parameter.copy_(value)

    def _forget_moments(self) -> None:
        """Clear the states of all optimisers."""
        own = (objective.optimizers.values() for objective in (self.offline_objective, self.finetuning_objective))
        for optimizers in (self._all_optimizers(), *own):
            for optimizer in optimizers:
                optimizer.state.clear()

    def _all_optimizers(self) -> Iterable[th.optim.Optimizer]:
        """The algorithm's own optimisers, those of ``learn`` included."""
        return self.optimizers().values()

    def _forget_values(self, fresh: Any) -> None:
        """
        :param fresh: a policy as this one was before training, whose value networks replace this one's
        """
        if not self.critic.share_features_extractor:  # a shared one belongs to the actor
            copy_parameters(fresh.critic.features_extractor, self.critic.features_extractor)
        self.critic.ensemble.load_state_dict(fresh.critic.ensemble.state_dict())
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic.optimizer.load_state_dict(fresh.critic.optimizer.state_dict())

    def _ready_to_finetune(self, given: dict[str, Any], kept: Kept) -> Self:
        """A pre-trained policy acts by itself from the first step, whatever ``learning_starts`` the source had."""
        if self.pretrain_kwargs:
            self.pretrain_kwargs = None  # they have had their time
        if kept.actor:
            self.act_from_the_first_step()
        if "learning_starts" in given:
            self.learning_starts = given["learning_starts"]
        self.num_timesteps = self._total_timesteps = 0
        self.begin_new_run()
        if self.phase != PRETRAINING:
            self.phase = None
        return self

    @classmethod
    def _build(cls, env: Any, policy: str | None, recipe: Recipe | None, given: dict[str, Any]) -> Self:
        env = maybe_make_env(env, verbose=0)
        space = env.observation_space
        policy = policy or ("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy")
        return cls(policy, env, recipe=recipe, **given)  # type: ignore[call-arg]

    @classmethod
    def _from_dataset(
        cls,
        source: Any,
        env: Any,
        policy: str | None,
        recipe: str | Recipe | None,
        given: dict[str, Any],
        training: dict[str, Any],
    ) -> Self:
        """Pre-train here."""
        if env is None:
            env = recover_environment(source)
        recipe, _ = cls._read_recipe(recipe, env)
        seen: Seen = training["seen"]
        if seen.is_known:
            given_env = cls._wrap_env(env, verbose=0)
            env = seen.give_to(given_env, given.get("verbose", 0))
            seen.warn_of_wrapping(given_env, env)
        model = cls._build(env, policy, recipe, {"dataset": source, **given})
        steps = training["pretrain_steps"] or pretraining.default_steps(model)
        if not steps:
            raise ValueError(f"load_offline({source!r}) pre-trains on a dataset: say how long with pretrain_steps=….")
        model.pretrain(source, steps, progress_bar=training["progress_bar"])
        actor, critic = training["load_actor"], training["load_critic"]
        model._hand_over(None if actor and critic is None else Kept(actor, critic is not False))
        if not training["load_optimizer"]:
            model._forget_moments()
        return model._ready_to_finetune(given, Kept(actor=actor))
