"""What a pickle would do, written down instead of done: for ``inspect``, and to recognise what is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sb3_o2o.plain.allowlist import current_name
from sb3_o2o.plain.pickle_machine import PickleMachine


@dataclass(eq=False)
class Noted:
    """
    A global, a call of one, or an object, as a pickle describes it.

    :param name: of the global; of the class or function that was called
    :param arguments: of the call; None for the global itself
    :param state: that was given to it
    :param contents: that were put into it
    """

    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None
    contents: list[Any] = field(default_factory=list)


class Notes:
    """
    Follows a pickle, takes notes, and makes nothing.

    :param pickled: a pickle, or the open file or memory map of one
    :raises ValueError: if it is none
    """

    def __init__(self, pickled: Any):
        self._names: dict[tuple[str, str], None] = {}
        #: every call, in its order, also of what is thrown away
        self.calls: list[Noted] = []
        try:
            #: what it describes, as :class:`Noted`
            self.value = PickleMachine(self).run(pickled)
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle raises whatever it happens to run into
            raise ValueError(f"it is no pickle, or damaged ({error})") from error

    @property
    def names(self) -> list[tuple[str, str]]:
        """The globals that it names, by module and name, in their order."""
        return list(self._names)

    def named(self, module: str, name: str) -> Noted:
        """See :class:`~sb3_o2o.plain.pickle_machine.World`."""
        module, name = current_name(module, name)
        self._names[module, name] = None
        return Noted(f"{module}.{name}")

    def called(self, what: Any, arguments: tuple[Any, ...]) -> Noted:
        """See :class:`~sb3_o2o.plain.pickle_machine.World`."""
        self.calls.append(Noted(what.name if isinstance(what, Noted) else type(what).__name__, arguments))
        return self.calls[-1]

    made = called

    def with_state(self, made: Any, state: Any) -> Any:
        """See :class:`~sb3_o2o.plain.pickle_machine.World`."""
        if isinstance(made, Noted):
            made.state = state
        return made

    def extended(self, made: Any, items: list[Any]) -> None:
        """See :class:`~sb3_o2o.plain.pickle_machine.World`."""
        if isinstance(made, list):
            made.extend(items)
        elif isinstance(made, Noted):
            made.contents.extend(items)

    def filled(self, made: Any, pairs: list[tuple[Any, Any]]) -> None:
        """See :class:`~sb3_o2o.plain.pickle_machine.World`."""
        if isinstance(made, dict):
            made.update((key if isinstance(key, str | int) else f"{key}", value) for key, value in pairs)
        elif isinstance(made, Noted):
            made.contents.extend(pairs)
