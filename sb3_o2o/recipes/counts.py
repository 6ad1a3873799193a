"""Counts of a recipe, which are meant for its number of environments, with another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecipeCount:
    """
    A count that a recipe decides and no user: ``gradient_steps`` of off-policy algorithms, ``n_steps`` of PPO's
    rollouts. Stable-Baselines3 counts the first for each step of *all* environments, so that four environments would
    make a quarter of the updates per transition: the updates of a recipe are made again for every environment. The
    second it counts for *each* environment, which leaves the ratio of updates to transitions alone.

    :param recipe: where it can be found
    :param value: in the recipe, or the constructor's default where it says nothing
    :param n_envs: environments that it is meant for
    """

    recipe: str
    value: int
    n_envs: int

    def rounds(self, gradient_steps: int, n_envs: int) -> int:
        """
        :param gradient_steps: of the algorithm
        :param n_envs: its environments
        :return: how often they are made after a rollout, so that there are as many for each environment step as in the
            recipe; 1 where the number was changed since, is SB3's -1 (one for each transition), or cannot be kept
        """
        rounds, rest = divmod(n_envs, self.n_envs)
        return rounds if gradient_steps == self.value > 0 and rest == 0 else 1

    def note_on_updates(self, gradient_steps: int, n_envs: int) -> str | None:
        """
        :param gradient_steps: of the algorithm
        :param n_envs: its environments
        :return: what is done about another number of environments, in one line; None where there is nothing to say
        """
        if gradient_steps != self.value or self.value < 0 or n_envs == self.n_envs:
            return None
        rounds = self.rounds(gradient_steps, n_envs)
        step = "each environment step" if self.n_envs == 1 else f"each step of its {self.n_envs} environments"
        if n_envs % self.n_envs == 0:
            return (
                f"Recipe {self.recipe!r} makes {self.value} updates for {step}: with {n_envs} environments "
                f"{rounds * self.value} follow a step of all. gradient_steps=… decides otherwise."
            )
        return (
            f"Recipe {self.recipe!r} makes {self.value} updates for {step}, and so does this run with {n_envs}: "
            "another ratio of updates to transitions. gradient_steps=… decides otherwise."
        )

    def note_on_rollouts(self, n_steps: int, n_envs: int) -> str | None:
        """
        :param n_steps: of the algorithm
        :param n_envs: its environments
        :return: likewise
        """
        if n_steps != self.value or n_envs == self.n_envs:
            return None
        meant = self.value * self.n_envs
        return (
            f"Recipe {self.recipe!r} has rollouts of {meant} transitions: with {n_envs} environments they have "
            f"{n_steps * n_envs}, and as many updates for each transition. n_steps={max(meant // n_envs, 1)} keeps "
            "their length."
        )


def recipe_count(recipe: Any, name: str, arguments: dict[str, Any], default: Any, given: Any) -> RecipeCount | None:
    """
    :param recipe: that decides; None for none
    :param name: of the argument
    :param arguments: of the recipe
    :param default: of the constructor
    :param given: names of the arguments that a user decides
    :return: the recipe's count; None where it is the user's
    """
    if recipe is None or name in given:
        return None
    return RecipeCount(recipe.reference, arguments.get(name, default), recipe.n_envs)
