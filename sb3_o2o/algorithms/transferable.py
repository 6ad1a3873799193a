"""What users call to get weights in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from sb3_o2o.checked import checked
from sb3_o2o.kinds import ENVIRONMENT, READABLE, Count, Device, keyword_arguments, kind
from sb3_o2o.networks.normalizer import has_statistics
from sb3_o2o.recipes.recipe_files import Recipe
from sb3_o2o.transfer import export, loading, renewal
from sb3_o2o.transfer.cloning import CloneReport
from sb3_o2o.transfer.load_offline import load_offline
from sb3_o2o.transfer.seeing import restore_normalizer
from sb3_o2o.transfer.weights import Weights

if TYPE_CHECKING:
    from typing import Self

    _Base = BaseAlgorithm
else:
    _Base = object

_PARAMETERS = READABLE | kind("parameters by name", keyword_arguments)


class TransferableAlgorithm(_Base):
    """``load``, ``load_offline``, ``to_sb3`` and what belongs to them; :mod:`sb3_o2o.transfer` does the work."""

    #: how weights of this family go in and out
    weights: ClassVar[Weights] = Weights()
    #: of the last ``load_offline`` from another kind of policy; saved with the model
    clone_report: CloneReport | None = None

    @classmethod
    def load(  # type: ignore[override]
        cls, path: Any, env: GymEnv | str | None = None, device: th.device | str = "auto", **kwargs: Any
    ) -> Self:
        """
        Load a model saved by this class or by its stock counterpart, optimisers included.

        :param path: a zip, with or without the ending, or a file-like object
        :param env: the environment to go on in, or its id
        :param device: where the networks live
        :param kwargs: SB3's other arguments of ``load``, and constructor arguments to change; ``allow_nonfinite=True``
            opens weights that hold NaN or infinity as well, ``trust=True`` a file that may run any code
        :return: the model
        :raises UntrustedError: if the file holds classes or functions that are not on the list of ``docs/safety.md``,
            without ``trust=True``; what is given here in place of an attribute of the file is not read
        :raises ValueError: if the file is something else, or an argument is unknown
        :raises NonFiniteError: if weights hold NaN or infinity
        """
        return loading.load(cls, super().load, path, env, device, kwargs)  # type: ignore[no-any-return]

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
        start_ent_coef: float | None = None,
        clone_std: float = 0.1,
        clone_loss: str = "mse",
        report_episodes: int = 0,
        device: th.device | str = "auto",
        progress_bar: bool = False,
        custom_objects: dict[str, Any] | None = None,
        vec_normalize: Any = None,
        trust: bool = False,
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
            and the state to hand on. One that takes ``reward`` or ``return_to_go`` as well, as a decision transformer,
            is given along the dataset's episodes the reward of the step before, or the sum of those from here to the
            end, ``(batch,)``, on the environment's scale; or a list of zips or live models of SAC that were trained
            alike, which become one agent with all their actors and critics (Off2On).
            Between SAC, TQC and TD3 what has the same shapes is copied; any other policy is cloned on ``dataset`` here,
            one with a memory along the dataset's episodes, several side by side
        :param env: the online environment; by default that of a live model, or recovered from a Minari dataset
        :param policy: policy class or alias, where a model is built; by default that of the source, where it is a model
            of a known kind, else by the observation space: ``CnnPolicy`` for images
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
        :param start_ent_coef: temperature from which SAC goes on to tune, > 0. By default the source's, if it has tuned
            or fixed one. IQL, behaviour cloning, TD3 and foreign policies have not: then it is what
            ``ent_coef="auto_0.1"`` or the recipe says, else 0.2, which Luo et al. 2024 preset for policies of any
            method, unless a callback sets one. ``model.temperature_note`` says which
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
            that its ``save`` wrote (RL Zoo's ``vecnormalize.pkl``); False if it saw them as they are; None to ask the
            source
        :param trust: open files that may run any code: those with classes or functions that are not on the list of
            ``docs/safety.md``. For files of your own, or of people you trust
        :param kwargs: further constructor arguments. ``n_critics`` below the trained number keeps the first members of
            an ensemble that is kept, their moments included, and so does a recipe; a number as ``ent_coef`` stops its
            tuning
        :return: a model whose next call is ``learn``
        :raises ValueError: if the source cannot be used, naming what would help
        :raises NonFiniteError: if weights that are kept hold NaN or infinity
        """
        named = dict(locals())  # the options stand in the signature above, and nowhere else
        others = ("cls", "source", "env", "kwargs")
        options = {**kwargs, **{name: value for name, value in named.items() if name not in others}}
        return load_offline(cls, source, env, options)  # type: ignore[no-any-return]

    @checked
    def set_env(self, env: Annotated[GymEnv, ENVIRONMENT], force_reset: bool = True) -> None:
        """
        Stable-Baselines3's ``set_env``. A ``VecNormalize`` that has seen nothing is given the statistics that the model
        was saved with.

        :param env: the environment to go on in
        :param force_reset: begin new episodes there
        """
        super().set_env(env, force_reset)
        restore_normalizer(self)

    @checked
    def set_parameters(
        self,
        load_path_or_dict: Annotated[Any, _PARAMETERS],
        exact_match: bool = True,
        device: Device = "auto",
    ) -> None:
        """
        Load parameters, from a stock model as well.

        :param load_path_or_dict: a zip, or the parameters by name
        :param exact_match: every parameter must be there
        :param device: where the networks live
        :raises NonFiniteError: if a zip holds NaN or infinity; nothing has changed then
        """
        if isinstance(load_path_or_dict, dict):
            parameters = loading.match_objectives(self, self.weights.from_stock(self, load_path_or_dict))
            super().set_parameters(parameters, exact_match=exact_match, device=device)
            if "policy" in parameters:
                self.has_statistics = has_statistics(self.policy)  # which came with the weights, or did not
        else:
            loading.set_parameters_of_file(self, load_path_or_dict, exact_match, device)

    @checked
    def keep_critics(self, n_critics: Count) -> None:
        """
        Go on with the first members of the ensemble: critics, target critics and their optimiser's moments.

        :param n_critics: members to keep
        :raises ValueError: if there are not as many, or another argument needs more
        """
        renewal.keep_critics(self, n_critics)

    def renew_critics(self) -> None:
        """
        Fresh critics, and fresh states of all optimisers, as a new model would have them; the policy stays, and so do
        parameters that are frozen.
        """
        renewal.renew_critics(self)

    def renew_actor(self) -> None:
        """
        A fresh policy, as a new model would have it, with a fresh state of its optimiser; critics stay, and so do
        the statistics that observations are normalised by. Off-policy algorithms only.

        :raises ValueError: where actor and critics share a features extractor
        """
        renewal.renew_actor(self)

    def renew_learner(self) -> None:
        """
        Fresh policy, critics and target networks, and a temperature that is tuned back at its start, as a new model
        would have them; the statistics that observations are normalised by stay. Off-policy algorithms only.

        :raises ValueError: where actor and critics share a features extractor
        """
        renewal.renew_learner(self)

    def to_sb3(self) -> BaseAlgorithm:
        """
        The same model as a stock Stable-Baselines3 algorithm, Adam moments and temperature included. Without layer
        normalisation or normaliser its policy is stock as well; with them its policy class is ours, and loading it
        needs this package installed. Where ``pretrain_kwargs`` are in force, it has the networks that were trained, and
        fine-tuning's values of the other arguments.

        :return: a model of the stock class, without replay buffer contents
        :raises NonFiniteError: if weights hold NaN or infinity
        """
        return export.to_sb3(self)
