"""What RL Zoo has to know: our algorithms by name, how they are tuned, and how to read our recipes."""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from sb3_o2o.errors import missing_package

try:
    import rl_zoo3.exp_manager
    import rl_zoo3.hyperparams_opt
    import rl_zoo3.train
    from rl_zoo3.exp_manager import ExperimentManager
    from rl_zoo3.hyperparams_opt import sample_her_params
except ImportError as error:
    raise missing_package("sb3_o2o.zoo needs", "RL Zoo", "zoo", error) from error

import yaml

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.evaluation.evaluate import preserved_random_state
from sb3_o2o.recipes import Recipe, list_recipes, load_recipe, open_recipe
from sb3_o2o.recipes.recipe_files import EVALUATION_KEYS, RUN_KEYS
from sb3_o2o.runs.settings import merged
from sb3_o2o.transfer.model_file import read_attributes
from sb3_o2o.tuning.searched import declared_space, overrides_of_trial, suggest, values_of
from sb3_o2o.tuning.trials import BAD_TRIAL

#: Our algorithms by the zoo's names for them, and the stock ones whose hyper-parameter files they take by default.
ALGORITHMS: dict[str, Any] = {"o2o_sac": O2OSAC, "o2o_td3": O2OTD3, "o2o_ppo": O2OPPO}
STOCK = {"o2o_sac": "sac", "o2o_td3": "td3", "o2o_ppo": "ppo"}
#: Keys of a hyper-parameter file that the zoo keeps to itself.
_ZOO_KEYS = {
    *("callback", "env_wrapper", "env_kwargs", "frame_stack", "monitor_kwargs", "n_envs", "n_timesteps", "noise_std"),
    *("noise_type", "normalize", "policy", "vec_env_wrapper"),
}


class RecipeManager(ExperimentManager):  # type: ignore[misc]
    """
    The zoo's experiment with five additions: ``--conf-file`` may be a recipe of ours, by name or path, whose entry
    for the environment is chosen as everywhere; without one, our algorithms take the stock ones' file;
    ``--trained-agent`` goes on with what a saved model has for pre-training and fine-tuning; ``--optimize`` tunes
    what the objective and the callbacks in force declare; and a trial whose constants are bad is pruned, whatever our
    algorithms raise for them.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._trial = threading.local()  # ``--n-jobs`` trials have a thread each
        if kwargs.get("config") is None and self.algo in STOCK:
            self.config = str(Path(rl_zoo3.exp_manager.__file__).parent / "hyperparams" / f"{STOCK[self.algo]}.yml")

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See the zoo's: what it returns is what it would read from a file with one entry."""
        if self.algo not in ALGORITHMS:
            return super().read_hyperparameters()
        config, trial_id = self.config, self.trial_id
        self.trial_id = None
        with tempfile.TemporaryDirectory() as folder:
            recipe = _recipe(config, self.env_name.gym_id, self.algo)
            if recipe is not None:
                print(f"Recipe {recipe.reference!r}, entry {recipe.pattern!r}: {recipe.title}")
                if recipe.eval_freq is not None:
                    print(f"It follows evaluations: --eval-freq {recipe.eval_freq} is what it was written for.")
                self.config = str(Path(folder) / "hyperparameters.yml")
                Path(self.config).write_text(yaml.safe_dump({self.env_name.gym_id: zoo_entry(recipe)}))
            hyperparams, saved = super().read_hyperparameters()
        self.config, self.trial_id = config, trial_id
        base = recipe_of(hyperparams, self.algo, self.env_name.gym_id)
        if self.storage and self.study_name and trial_id is not None:
            print("Loading from Optuna study...")
            found = convert(self.load_trial(self.storage, self.study_name, trial_id, convert=False), base)
            found = {name: value for name, value in found.items() if name not in (self.custom_hyperparams or {})}
            hyperparams.update(found)
            saved.update(found)
        register_sampler(self.algo, base)
        return hyperparams, saved

    def setup_experiment(self) -> tuple[Any, dict[str, Any]] | None:
        """
        See the zoo's.

        :raises ValueError: no model takes the entry as it stands, before the first trial of ``--optimize``
        """
        made: tuple[Any, dict[str, Any]] | None = super().setup_experiment()
        if made is None and self.algo in ALGORITHMS:
            with preserved_random_state():
                env = self.create_envs(self.n_envs, no_log=True)
                try:
                    ALGORITHMS[self.algo](env=env, device=self.device, **self._hyperparams)
                finally:
                    env.close()
        return made

    def create_envs(self, *args: Any, **kwargs: Any) -> Any:
        """See the zoo's."""
        env = super().create_envs(*args, **kwargs)
        if hasattr(self._trial, "envs"):
            self._trial.envs.append(env)
        return env

    def objective(self, trial: optuna.Trial) -> float:
        """See the zoo's, which prunes what stock algorithms raise while they learn, and lets all else end the study."""
        self._trial.envs = []
        try:
            value: float = super().objective(trial)
        except BAD_TRIAL as error:
            if self.algo not in ALGORITHMS:
                raise
            for env in self._trial.envs:  # the zoo closes those of trials that came to learn
                env.close()
            reason = f"{type(error).__name__}: {error}"
            print(f"Trial {trial.number} is pruned. {reason}")
            raise optuna.TrialPruned(reason) from error
        return value

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: Any) -> Any:
        """See the zoo's. A saved model has its own ``pretrain_kwargs``, and the other values of those arguments."""
        if self.algo in ALGORITHMS:
            own = read_attributes(self.trained_agent, ("online_arguments",)).get("online_arguments") or {}
            kept = own.keys() - (self.custom_hyperparams or {}).keys() | {"pretrain_kwargs"}
            hyperparams = {name: value for name, value in hyperparams.items() if name not in kept}
        return super()._load_pretrained_agent(hyperparams, env)


def _recipe(config: str, env_id: str, algo: str) -> Recipe | None:
    """The recipe that a ``--conf-file`` is, or None for a file of the zoo's own kind."""
    if config in list_recipes():
        recipe = load_recipe(config, env_id)
    elif config.endswith((".yml", ".yaml")) and Path(config).is_file() and "about" in open_recipe(config).document:
        recipe = open_recipe(config).entry(env_id)
    else:
        return None
    recipe.arguments_for(ALGORITHMS[algo].__name__, ALGORITHMS[algo].constructor.signature.parameters)
    return recipe


def zoo_entry(recipe: Recipe) -> dict[str, Any]:
    """
    :param recipe: an entry of ours
    :return: the same as the zoo reads it from a file
    """
    run = {
        "policy": recipe.policy,
        "n_timesteps": recipe.online_steps,
        "pretrain_steps": recipe.pretrain_steps,
        "n_envs": recipe.n_envs,
        "env_kwargs": dict(recipe.env_kwargs),
        "env_wrapper": list(recipe.env_wrapper),
    }
    entry = {name: value for name, value in run.items() if value not in ({}, [], 0)}
    return {**entry, **copy.deepcopy(dict(recipe.arguments))}


def recipe_of(hyperparams: Mapping[str, Any], algo: str, env_id: str) -> Recipe:
    """
    :param hyperparams: an entry as the zoo has read it
    :param algo: the zoo's name of one of our algorithms
    :param env_id: Gymnasium id
    :return: the same as a recipe, which can be tuned
    """
    arguments = {name: value for name, value in hyperparams.items() if name not in {*_ZOO_KEYS, *EVALUATION_KEYS}}
    if "recipe" in arguments:  # named instead of written out
        arguments = {**load_recipe(arguments["recipe"], env_id).arguments, **arguments}
    steps = arguments.get("pretrain_steps", 0)
    return Recipe(
        name=algo,
        path=Path(f"{algo}.yml"),
        pattern=env_id,
        algorithm=ALGORITHMS[algo].__name__,
        title=algo,
        description="",
        sources={},
        notes=[],
        policy=str(hyperparams.get("policy", "MlpPolicy")),
        arguments={name: value for name, value in arguments.items() if name not in RUN_KEYS},
        pretrain_steps=int(steps),
        online_steps=int(hyperparams.get("n_timesteps", 0)),
    )


def sample(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any], *, base: Recipe
) -> dict[str, Any]:
    """
    The zoo's sampler.

    :param trial: of its study
    :param n_actions: of the environment
    :param n_envs: environments side by side
    :param additional_args: whether the buffer is ``HerReplayBuffer``, and its arguments
    :param base: what is tuned
    :return: constructor arguments
    """
    found = overrides_of_trial(suggest(trial, declared_space(base)), base)
    if additional_args.get("using_her_replay_buffer"):
        found = sample_her_params(trial, found, additional_args["her_kwargs"])
    return found


def convert(params: Mapping[str, Any], base: Recipe | None = None) -> dict[str, Any]:
    """
    The zoo's converter, from what a trial keeps to constructor arguments.

    :param params: by dotted name
    :param base: what was tuned, of whose nested arguments a dotted name changes one; by default there are none
    :return: constructor arguments
    """
    if base is None:
        return merged(params.items(), {})
    own = {name: value for name, value in params.items() if name in declared_space(base)}
    rest = {name: value for name, value in params.items() if name not in own}
    found = overrides_of_trial(values_of(own, declared_space(base)), base)
    if rest:  # HerReplayBuffer's
        found["replay_buffer_kwargs"] = {**(base.arguments.get("replay_buffer_kwargs") or {}), **rest}
    return found


def register_sampler(algo: str, base: Recipe) -> None:
    """
    :param algo: the zoo's name of one of our algorithms
    :param base: what ``--optimize`` tunes
    """
    rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER[algo] = partial(sample, base=base)
    rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER[algo] = partial(convert, base=base)


def register() -> None:
    """Make our algorithms known to the zoo, in this process."""
    for algo, algorithm in ALGORITHMS.items():
        rl_zoo3.ALGOS[algo] = algorithm  # one dictionary, which all of its programs share
        register_sampler(algo, recipe_of({}, algo, "default"))
    rl_zoo3.train.ExperimentManager = RecipeManager  # type: ignore[misc]
