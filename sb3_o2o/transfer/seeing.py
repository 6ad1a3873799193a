"""By which statistics a source saw its observations, and what that means in another environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_o2o.data.normalization import Normalizer, is_fresh, same_observations, same_rewards
from sb3_o2o.errors import warn
from sb3_o2o.transfer.model_file import read_attributes


@dataclass(frozen=True)
class Seen:
    """
    How the observations and rewards of a source were normalised.

    :param normalizer: the source's ``VecNormalize``; None where it saw them as they are
    :param is_known: the source says so, or the user does
    """

    normalizer: Normalizer | None
    is_known: bool = True

    @classmethod
    def by(
        cls,
        source: Any,
        path: Any,
        env: VecEnv | None,
        asked: Any,
        custom_objects: dict[str, Any] | None = None,
        trust: bool = False,
    ) -> Seen:
        """
        Ask a source in its own way: the environment of a live model, or what a zip of ours holds. Whoever does not say
        it acts on what the environment gives; where its ``VecNormalize`` has seen nothing yet, nobody can have been
        trained behind it, and the source acts on observations as they are.

        :param source: what ``load_offline`` was given
        :param path: the zip of it, or None
        :param env: the environment
        :param asked: what the user says: see ``load_offline``
        :param custom_objects: SB3's, for a zip
        :param trust: whether files may run code
        :return: how it saw
        :raises ValueError: if what the user names holds no statistics
        """
        if asked is False:
            return cls(None)
        if asked is not None:
            return cls(Normalizer.read(asked, trust))
        if isinstance(source, BaseAlgorithm) and source.get_env() is not None:
            return cls(Normalizer.of(source.get_vec_normalize_env()))
        saved = vars(source) if isinstance(source, BaseAlgorithm) else {}
        if path is not None and not saved:
            saved = read_attributes(path, ("saved_normalizer",), custom_objects, trust)
        if "saved_normalizer" in saved:
            return cls(saved["saved_normalizer"])
        own = None if env is None else unwrap_vec_normalize(env)
        return cls(None if own is None or is_fresh(own) else Normalizer.of(own), is_known=False)

    def give_to(self, env: VecEnv, verbose: int = 0) -> VecEnv:
        """
        Let networks of the source read in an environment what they were trained on.

        :param env: the environment
        :param verbose: whether to say so
        :return: the environment, wrapped where it normalises nothing and the source's did. A ``VecNormalize`` that has
            seen nothing is given the source's statistics; any other is left as it is
        """
        own = unwrap_vec_normalize(env)
        if self.normalizer is None:
            return env
        if own is not None:
            given = self.normalizer.give_to(own)
            if given and verbose >= 1:
                print(f"VecNormalize starts with the source's statistics of {' and '.join(given)}.")
            return env
        if not (self.normalizer.by_key or self.normalizer.settings["norm_reward"]):
            return env
        return self.normalizer.wrap(env)

    @staticmethod
    def warn_of_wrapping(given: VecEnv, wrapped: VecEnv | None) -> None:
        """
        :param given: the user's environment
        :param wrapped: the model's
        """
        if wrapped is not given:
            warn(
                "The source was trained behind VecNormalize, so the environment is wrapped in one with its statistics "
                "and settings: evaluate in model.get_env(), or give an environment with a VecNormalize of your own.",
            )

    def misfit(self, name: str, env: VecEnv) -> str:
        """
        :param name: of the source, for messages
        :param env: the environment, which was given the source's statistics where it had none
        :return: why the source's networks would read other observations there; nothing if they would not
        """
        own = unwrap_vec_normalize(env)
        if same_observations(self.normalizer, Normalizer.of(own)):
            return ""
        advice = "pass vec_normalize=… with the statistics of its run (a VecNormalize, or the file that its save wrote)"
        if not self.is_known:
            return (
                f"nothing says by which statistics {name} saw its observations, and the environment's VecNormalize has "
                f"none yet: {advice}, or vec_normalize=False if it saw them as they are"
            )
        if self.normalizer is None or not self.normalizer.by_key:
            return f"{name} saw observations as they are, and the environment's VecNormalize changes them"
        return f"{name} saw observations by other statistics than the environment's VecNormalize has"

    def keeps_values(self, name: str, env: VecEnv, training: dict[str, Any]) -> bool | None:
        """
        :param name: of the source, for messages
        :param env: the environment, as for :meth:`misfit`
        :param training: what ``load_offline`` was asked for
        :return: whether critics are kept: as asked, and where nobody said it, not those whose values are on another
            scale than the environment's rewards
        """
        asked: bool | None = training["load_critic"]
        if asked is not None or not training["load_actor"]:
            return asked
        if same_rewards(self.normalizer, Normalizer.of(unwrap_vec_normalize(env))):
            return None
        warn(
            f"VecNormalize divides the environment's rewards otherwise than those of {name}, so the critics are fresh: "
            "their values would be on another scale. load_critic=True keeps them, and vec_normalize=… gives the "
            "statistics of the source's run.",
        )
        return False


def saved_model_sees(family: str, env: VecEnv | None, training: dict[str, Any], verbose: int) -> VecEnv | None:
    """
    :param family: what a saved model is
    :param env: the environment to go on in
    :param training: what ``load_offline`` was asked for; ``load_critic`` is set where values do not fit
    :param verbose: whether to say what is given
    :return: the environment in which its networks read what they were trained on; None where none do
    """
    if env is None:
        return None
    seen: Seen = training["seen"]
    alike = seen.give_to(env, verbose)
    if seen.misfit(family, alike):
        return None
    seen.warn_of_wrapping(env, alike)
    training["load_critic"] = seen.keeps_values(family, alike, training)
    return alike


def restore_normalizer(model: Any) -> None:
    """
    Give the environment of a model what its policy was trained on, where it does not know better.

    :param model: an algorithm of ours, loaded or given another environment
    """
    normalizer, env = model.saved_normalizer, model.get_vec_normalize_env()
    if normalizer is None or model.env is None:
        return
    if env is not None:
        given = normalizer.give_to(env)
        if given and model.verbose >= 1:
            print(f"VecNormalize starts with the statistics of {' and '.join(given)} that the model was saved with.")
    elif normalizer.by_key:
        warn(
            "This model was trained behind VecNormalize, and its environment has none, so the policy sees other "
            "observations than it was trained on: wrap the environment in a new VecNormalize, which is given the "
            "saved statistics, or use load_offline, which does so.",
        )
