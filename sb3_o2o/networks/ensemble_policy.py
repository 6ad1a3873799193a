"""What the policies of SAC and TD3 share: batched critics, a normaliser before each network, one-kernel optimisers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_o2o.networks.ensemble import EnsembleCritic
from sb3_o2o.networks.layers import Details
from sb3_o2o.networks.normalizer import NormalizedExtractor
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.networks.short_way import rows_of, set_mode

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy

    class _Policy(BasePolicy):
        critic_kwargs: dict[str, Any]
else:
    _Policy = object


class EnsemblePolicyMixin(_Policy):
    """
    What the policies share: a batched critic ensemble, a normaliser before each network, one-kernel optimisers.
    Sub-classes call :meth:`_prepare` before their parent's constructor, which builds the networks.
    """

    #: arguments beside those of the stock policy
    extra_arguments: dict[str, Any]
    #: stock ways from an observation to an action that :meth:`predict` may shorten; a sub-class's own is followed
    short_ways: ClassVar[tuple[Any, ...]] = (SACPolicy._predict, TD3Policy._predict)
    #: the name that ``net_arch`` has for the networks of values
    value_network_name: ClassVar[str] = "qf"

    def _prepare(self, extra_arguments: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """
        :param extra_arguments: ours, by name
        :param kwargs: the stock policy's, changed in place
        """
        self.extra_arguments = extra_arguments
        if kwargs.get("optimizer_class", th.optim.Adam) is th.optim.Adam:
            kwargs["optimizer_class"] = FusedAdam  # the same numbers to float32 rounding

    @property
    def is_stock(self) -> bool:
        """Whether stock Stable-Baselines3 can hold the same networks in its own policy."""
        extra = self.extra_arguments
        changes = ("critic_layer_norm", "actor_layer_norm", "normalize_observations", "critic_dropout", "actor_dropout")
        of_actor = extra.get("state_dependent_std", True) and extra.get("squash", "samples") == "samples"
        of_actor = of_actor and extra.get("n_actors", 1) == 1
        return bool(of_actor) and not any(extra[name] for name in changes)

    def is_of_values(self, name: str) -> bool:
        """
        :param name: of a parameter or buffer
        :return: whether it belongs to the critics or their target networks
        """
        return name.startswith(("critic.", "critic_target."))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Stable-Baselines3's, by a shorter way where the observation is a vector: the same layers on the same numbers,
        the same random stream. It leaves the policy's training mode as it is.
        """
        rows = rows_of(observation, self.observation_space) if type(self)._predict in self.short_ways else None
        if rows is not None:
            actor: Any = self.actor
            with th.no_grad():
                actions = actor.act_at_once(th.from_numpy(rows[0]), deterministic)
            if actions is not None:
                shape = (-1, *self.action_space.shape)  # type: ignore[misc]
                scaled = self.unscale_action(actions.cpu().numpy().reshape(shape))
                return (scaled if rows[1] else scaled[0]), state
        return super().predict(observation, state, episode_start, deterministic)

    def set_training_mode(self, mode: bool) -> None:
        """
        Stable-Baselines3's: it is called before every action and every update.

        :param mode: training, or evaluation; target networks stay in evaluation
        """
        for network in (self.actor, self.critic):
            set_mode(network, mode)  # type: ignore[arg-type]
        self.__dict__["training"] = mode

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """:return: the features extractor, behind a normaliser where asked."""
        extractor = super().make_features_extractor()
        return NormalizedExtractor(extractor) if self.extra_arguments["normalize_observations"] else extractor

    def layer_arguments(self, network: str) -> dict[str, Any]:
        """
        :param network: ``"actor"`` or ``"critic"``
        :return: how its layers are made, as networks take it
        """
        extra = self.extra_arguments
        names = ("orthogonal_gain", "last_hidden_gain", "precision")
        details = Details(
            norm_after=extra["norm_after_activation"],
            dropout=extra[f"{network}_dropout"],
            hidden_bias=extra["hidden_bias"],
            head_init=extra[f"{network}_head_init"],
        )
        return {
            **{name: extra[name] for name in names},
            "details": details,
            "layer_norm": extra[f"{network}_layer_norm"],
        }

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> EnsembleCritic:
        """
        :param features_extractor: the extractor to use; a new one by default
        """
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        kwargs["clip_actions"] = self.extra_arguments.get("squash", "samples") != "samples"
        return EnsembleCritic(**kwargs, **self.layer_arguments("critic")).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.extra_arguments}
