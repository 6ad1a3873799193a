"""A constructor is declared once: its signature, its documentation and its checks are made of the declarations."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from stable_baselines3.common.policies import BasePolicy

from sb3_o2o.errors import unknown
from sb3_o2o.finetuning import build_finetuning
from sb3_o2o.kinds import ENVIRONMENT_OR_ID, NOTHING, Kind, instance, subclass
from sb3_o2o.objectives import objective_class
from sb3_o2o.objectives.overlay import over
from sb3_o2o.recipes.recipe_files import Recipe, environment_id, load_recipe
from sb3_o2o.search_space import Choice, Range
from sb3_o2o.updates.containers import own_containers

Algorithm = TypeVar("Algorithm", bound=type)
#: columns of a docstring
_WIDTH = 116
#: of every algorithm, by position
_FIRST = {
    "policy": instance("the name of a policy", str) | subclass(BasePolicy),
    "env": ENVIRONMENT_OR_ID | NOTHING,
}
_PARAMETER = re.compile(r"^:param (\w+):", re.MULTILINE)


@dataclass(frozen=True)
class Argument:
    """
    Declares an argument of a constructor: ``name: Annotated[type, Argument(...)]`` in a ``TypedDict``.

    :param kind: what it may be
    :param about: what it does; the stock class's words by default, which stand for ``{stock}``
    :param default: its value where it is left out; the stock class's by default
    :param search: what to tune it in; None for one that is not tuned unless the user says in what
    :param online: it only matters to ``learn``: whatever it is, ``pretrain`` minimises the same with the same networks
    """

    kind: Kind
    about: str = ""
    default: Any = inspect.Parameter.empty
    search: Range | Choice | None = None
    online: bool = False


class Constructor:
    """
    What the constructor of an algorithm takes: first the arguments of the stock class, in its order and with its
    defaults, then ours, by keyword alone.

    :param algorithm: a class of ours with its ``stock_class`` and a constructor of its own
    :param declared: a ``TypedDict`` of declarations
    :param defaults: of arguments that have another default here
    """

    def __init__(self, algorithm: Any, declared: type, defaults: Mapping[str, Any]):
        own = inspect.signature(algorithm.__init__).parameters
        stock = inspect.signature(algorithm.stock_class).parameters
        abouts = documented(algorithm.stock_class)
        parameters = {name: own.get(name, parameter) for name, parameter in stock.items()}
        #: names of the arguments that the stock class takes
        self.stock = tuple(stock)
        self.kinds: dict[str, Kind] = dict(_FIRST)
        #: what arguments are tuned in
        self.search_space: dict[str, Range | Choice] = {}
        #: names of the arguments that only matter to ``learn``
        self.online: set[str] = set()
        for name, hint in get_type_hints(declared, include_extras=True).items():
            annotation, argument = get_args(hint)
            self.kinds[name] = argument.kind
            if argument.search is not None:
                self.search_space[name] = argument.search
            if argument.online:
                self.online.add(name)
            if argument.about:
                abouts[name] = argument.about.replace("{stock}", abouts.get(name, "").rstrip("."))
            if name in stock:
                parameters[name] = stock[name].replace(annotation=annotation)
            else:
                parameters[name] = inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=argument.default, annotation=annotation
                )
            if name in defaults:
                parameters[name] = parameters[name].replace(default=defaults[name])
        #: without ``self``
        self.signature = inspect.Signature(list(parameters.values()))
        self.abouts = {name: abouts.get(name, "") for name in parameters}

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of arguments that are left out."""
        parameters = self.signature.parameters.values()
        return {each.name: each.default for each in parameters if each.default is not each.empty}

    def bind(self, whose: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """
        :param whose: name of the class
        :param args: what was given by position
        :param kwargs: what was given by name
        :return: what was given, by name
        :raises TypeError: as Python raises it; an unknown name with the nearest
        """
        try:
            self.check_names(f"argument of {whose}", kwargs)
        except ValueError as error:
            raise TypeError(str(error)) from None
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"{whose}: {error}") from None

    def check_names(self, what: str, given: Iterable[str], skip: Iterable[str] = ()) -> None:
        """
        :param what: the names stand for, for the error
        :param given: names of arguments
        :param skip: names that cannot be given here
        :raises ValueError: for one that the constructor does not take, naming the nearest
        """
        known = [name for name in self.signature.parameters if name not in set(skip)]
        for name in given:
            if name not in known:
                raise unknown(what, name, known)

    def check(self, given: Mapping[str, Any], of: str = "") -> None:
        """
        :param given: arguments by name
        :param of: where they stand, to follow their name in an error
        :raises ValueError: for one that is not what it may be
        """
        for name, value in given.items():
            if name in self.kinds:
                self.kinds[name].check(f"{name}{of}", value)

    def accepted(self, algorithm: Any, given: Mapping[str, Any], of: str = "") -> dict[str, Any]:
        """
        Check constructor arguments before anything is made of them.

        :param algorithm: the class
        :param given: arguments by name
        :param of: where they stand, see :meth:`check`
        :return: the same, in dictionaries and lists of their own, with fine-tuning callbacks built
        :raises ValueError: for one that is not what it may be, naming argument, value and what is allowed
        """
        self.check(given, of)
        policy, apart = given.get("policy"), given.get("pretrain_kwargs") or {}
        if isinstance(policy, str) and policy not in algorithm.policy_aliases:
            raise unknown(f"policy of {algorithm.__name__}", policy, algorithm.policy_aliases)
        for name in ("objective", "online_objective"):
            if given.get(name) is not None:
                objective_class(given[name], algorithm.available_objectives, algorithm.__name__)
        for name in apart:
            if name not in algorithm.pretrain_keys:
                raise unknown("key of pretrain_kwargs", name, algorithm.pretrain_keys)
        self.check(apart, f" of pretrain_kwargs{of}")
        self.refuse_said_twice(algorithm, given, given.get("policy_kwargs"))
        own = own_containers(given)
        if "finetuning" in own:
            own["finetuning"] = build_finetuning(own["finetuning"])
        return own

    @staticmethod
    def refuse_said_twice(algorithm: Any, given: Mapping[str, Any], policy_kwargs: Any) -> None:
        """
        :param algorithm: the class
        :param given: arguments by name
        :param policy_kwargs: of the policy, which may hold those that are the policy's as well
        :raises ValueError: for one that is another there, which would win
        """
        inner = policy_kwargs if isinstance(policy_kwargs, Mapping) else {}
        for name in algorithm.policy_arguments:
            is_twice = name in given and name in inner and name != "use_sde"  # which SB3 writes there
            if is_twice and given[name] != inner[name]:
                raise ValueError(
                    f"{name}={given[name]!r} and policy_kwargs={{{name!r}: {inner[name]!r}}} are one argument: say it "
                    "once."
                )

    def of_recipe(self, algorithm: Any, recipe: Recipe) -> dict[str, Any]:
        """
        :param algorithm: the class
        :param recipe: that fills in its arguments
        :return: what the recipe says, see :meth:`accepted`
        :raises ValueError: for another algorithm's recipe, an unknown key, or a value that its argument may not have
        """
        # a recipe is for whoever derives from its algorithm as well
        names = [each.__name__ for each in algorithm.__mro__]
        name = recipe.algorithm if recipe.algorithm in names else algorithm.__name__
        given = recipe.arguments_for(name, self.signature.parameters)
        try:
            return self.accepted(algorithm, given, f" of entry {recipe.pattern!r} in {recipe.path}")
        except ValueError as error:
            if str(recipe.path) in str(error):
                raise
            raise ValueError(f"Entry {recipe.pattern!r} of {recipe.path}: {error}") from error

    def filled_in(self, algorithm: Any, given: dict[str, Any]) -> tuple[dict[str, Any], Recipe | None]:
        """
        What a caller leaves out comes from the recipe, for the environment. What the caller says wins over it, over its
        ``pretrain_kwargs`` as well; the recipe's arguments of an objective hold for that objective alone.

        :param algorithm: the class
        :param given: accepted arguments, perhaps with a recipe
        :return: the arguments, and the recipe
        :raises ValueError: see :meth:`of_recipe`
        """
        if given.get("recipe") is None:
            return given, None
        recipe = load_recipe(given["recipe"], environment_id(given["env"]))
        of_recipe = self.of_recipe(algorithm, recipe)
        for name in (*given, *(given.get("policy_kwargs") or {})):  # where stock names its number of critics
            (of_recipe.get("pretrain_kwargs") or {}).pop(name, None)
        # what is saved: where the recipe can be found, and what of it is no constructor argument
        return {**over(algorithm, of_recipe, given), "recipe": recipe.reference}, recipe

    def documentation(self, words: Mapping[str, str]) -> str:
        """
        :param words: that stand in braces in the texts
        :return: a line ``:param name: ...`` for each argument, with what it may be
        """
        lines = []
        for name, about in self.abouts.items():
            for word, replacement in words.items():
                about = about.replace(f"{{{word}}}", replacement)
            allowed = str(self.kinds[name]) if name in self.kinds else ""
            sentences = [about.rstrip("."), allowed[:1].upper() + allowed[1:]]
            text = f":param {name}: {'. '.join(sentence for sentence in sentences if sentence)}"
            lines.append(textwrap.fill(text, _WIDTH, subsequent_indent="    ", break_long_words=False))
        return "\n".join(lines)


def documented(documented_class: type) -> dict[str, str]:
    """
    :param documented_class: a class whose docstring has lines ``:param name: text``
    :return: the texts by name, each on one line
    """
    _, *parts = _PARAMETER.split(inspect.getdoc(documented_class) or "")
    texts = (text.partition("\n\n")[0].partition("\n:")[0] for text in parts[1::2])
    return {name: " ".join(text.split()) for name, text in zip(parts[::2], texts, strict=True)}


def takes_arguments(declared: type, **defaults: Any) -> Callable[[Algorithm], Algorithm]:
    """
    Give a class the constructor that is declared: ``constructor``, the signature of ``__init__``, and the lines
    ``:param name: ...`` of the docstring, which go before ``:raises``.

    :param declared: a ``TypedDict`` whose fields are annotated with :class:`Argument`
    :param defaults: of arguments that have another default in this class
    :return: a decorator
    """

    def decorate(algorithm: Algorithm) -> Algorithm:
        constructor = Constructor(algorithm, declared, defaults)
        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = constructor.signature
        algorithm.__dict__["__init__"].__signature__ = signature.replace(
            parameters=[itself, *signature.parameters.values()]
        )
        algorithm.constructor = constructor  # type: ignore[attr-defined]
        text, raises, rest = inspect.cleandoc(algorithm.__doc__ or "").partition(":raises")
        algorithm.__doc__ = f"{text}{constructor.documentation(_words(algorithm))}\n{raises}{rest}"
        return algorithm

    return decorate


def _words(algorithm: Any) -> dict[str, str]:
    """What differs between algorithms in the documentation of an argument."""
    return {
        "objectives": ", ".join(map(repr, algorithm.available_objectives)),
        "online": repr(getattr(algorithm, "default_online_objective", None)),
    }
