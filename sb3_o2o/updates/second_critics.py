"""The second set of critics that fine-tuning callbacks may train beside the policy's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.save_util import recursive_getattr

from sb3_o2o.objectives import SecondCritics
from sb3_o2o.updates.gradient_phases import UpdatePhases

_NAME = "second_critics"


class SecondCriticsMixin(UpdatePhases):
    """Owns and saves the second critics, where there are some."""

    #: critics beside the policy's own, with their targets and optimisers; None for none
    second_critics: SecondCritics | None = None

    def start_second_critics(self, copy: bool = False) -> SecondCritics:
        """
        Replace the second critics by new ones.

        :param copy: copy the policy's own instead of starting afresh
        :return: the new ones
        :raises ValueError: if the online objective has no loss for them
        """
        objective = self.finetuning_objective
        if not objective.supports_second_critics:
            raise ValueError(
                f"{type(objective).__name__} trains no critics, so there is nothing that a second pair could learn: "
                "choose another online_objective."
            )
        self.second_critics = SecondCritics(objective)
        if copy:
            self.second_critics.copy_first(objective)
        return self.second_critics

    def _match_second_critics(self, parameters: dict[str, Any]) -> None:
        """
        Make second critics that are in the parameters, keep those that are not, and leave behind ones that learned by
        another objective.

        :param parameters: about to be loaded, by name; changed in place
        """
        if _NAME in parameters and self.second_critics is None and self.finetuning_objective.supports_second_critics:
            self.start_second_critics()
        current = set(self._second_critics_names())
        saved = {name for name in parameters if name.split(".")[0] == _NAME}
        if not saved:
            parameters.update({name: recursive_getattr(self, name).state_dict() for name in current})
        elif saved != current:
            self.second_critics = None
            for name in saved:
                del parameters[name]

    def _second_critics_names(self) -> Iterator[str]:
        """What is saved of them."""
        if self.second_critics is not None:
            yield _NAME
            yield from (f"{_NAME}.optimizers.{key}" for key in self.second_critics.optimizers)
