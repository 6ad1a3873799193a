"""
What a pickle says, followed step by step: a pickle is a program for a small machine, and this is such a machine. What
its globals, calls and states mean is for a world to say: one that refuses, or one that only takes notes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, Protocol

#: what a program may hold at once
_LARGEST_MEMO = 20_000_000


class World(Protocol):
    """What a pickle's steps mean."""

    def named(self, module: str, name: str) -> Any:
        """:return: a global"""

    def called(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        """:return: what a call makes"""

    def made(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        """:return: a new object of a class"""

    def with_state(self, made: Any, state: Any) -> Any:
        """:return: an object with its state: the same, or another in its place"""

    def extended(self, made: Any, items: list[Any]) -> None:
        """Put items into a list or set."""

    def filled(self, made: Any, pairs: list[tuple[Any, Any]]) -> None:
        """Put items into a dictionary."""


class PickleMachine:
    """
    Follows one pickle.

    :param world: what the steps mean
    """

    def __init__(self, world: World):
        self._world = world
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickled: Any) -> Any:
        """
        :param pickled: bytes, or an open file or memory map of them
        :return: what the world made of it
        :raises ValueError: if it is no pickle, or one that needs something from outside
        """
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "STOP":
                return self._stack.pop()
            if operation.name in _CONSTANTS:
                self._push(argument)
            else:
                _STEPS[operation.name](self, argument)
        raise ValueError("it does not end")

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _nothing(self, argument: Any) -> None:
        """Versions and frames."""

    def _mark(self, argument: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop(self, argument: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _pop_mark(self, argument: Any) -> None:
        self._marked()

    def _duplicate(self, argument: Any) -> None:
        self._push(self._stack[-1])

    def _remember(self, argument: Any) -> None:
        key = len(self._memo) if argument is None else int(argument)
        if len(self._memo) > _LARGEST_MEMO:
            raise ValueError("it remembers more than any file of ours")
        self._memo[key] = self._stack[-1]

    def _recall(self, argument: Any) -> None:
        self._push(self._memo[int(argument)])

    # -- containers ------------------------------------------------------------------------------------------------

    def _of_last(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) < count:
            raise ValueError("it takes more from its stack than there is")
        self._stack[-count:] = [items]

    def _dictionary(self, argument: Any) -> None:
        items = self._marked()
        self._push({})
        self._world.filled(self._stack[-1], list(zip(items[::2], items[1::2], strict=True)))

    def _append(self, argument: Any) -> None:
        item = self._stack.pop()
        self._world.extended(self._stack[-1], [item])

    def _appends(self, argument: Any) -> None:
        items = self._marked()
        self._world.extended(self._stack[-1], items)

    def _set_item(self, argument: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._world.filled(self._stack[-1], [(key, value)])

    def _set_items(self, argument: Any) -> None:
        items = self._marked()
        self._world.filled(self._stack[-1], list(zip(items[::2], items[1::2], strict=True)))

    # -- names and objects -----------------------------------------------------------------------------------------

    def _global(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._push(self._world.named(module, name))

    def _stack_global(self, argument: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("it names something by what is no text")
        self._push(self._world.named(module, name))

    def _call(self, argument: Any) -> None:
        arguments, what = self._stack.pop(), self._stack.pop()
        self._push(self._world.called(what, _tuple(arguments)))

    def _new(self, argument: Any) -> None:
        arguments, what = self._stack.pop(), self._stack.pop()
        self._push(self._world.made(what, _tuple(arguments)))

    def _new_with_names(self, argument: Any) -> None:
        if self._stack.pop() != {}:
            raise ValueError("it makes an object by arguments with names")
        self._new(argument)

    def _instance(self, argument: Any) -> None:
        arguments = self._marked()
        module, _, name = argument.partition(" ")
        self._push(self._world.made(self._world.named(module, name), tuple(arguments)))

    def _object(self, argument: Any) -> None:
        what, *arguments = self._marked()
        self._push(self._world.made(what, tuple(arguments)))

    def _build(self, argument: Any) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        changed = self._world.with_state(made, state)
        if changed is not made:
            self._stack[-1] = changed
            for key, known in self._memo.items():
                if known is made:
                    self._memo[key] = changed


def _tuple(arguments: Any) -> tuple[Any, ...]:
    if type(arguments) is not tuple:
        raise ValueError("it calls with what is no tuple")
    return arguments


#: steps whose argument is the value
_CONSTANTS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING"),
        *("BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)


def _pushing(make: Callable[[], Any]) -> Callable[[PickleMachine, Any], None]:
    return lambda machine, argument: machine._push(make())


def _gathering(make: Callable[[list[Any]], Any]) -> Callable[[PickleMachine, Any], None]:
    return lambda machine, argument: machine._push(make(machine._marked()))


_STEPS: dict[str, Callable[[PickleMachine, Any], None]] = {
    "PROTO": PickleMachine._nothing,
    "FRAME": PickleMachine._nothing,
    "MARK": PickleMachine._mark,
    "POP": PickleMachine._pop,
    "POP_MARK": PickleMachine._pop_mark,
    "DUP": PickleMachine._duplicate,
    "NONE": _pushing(lambda: None),
    "NEWTRUE": _pushing(lambda: True),
    "NEWFALSE": _pushing(lambda: False),
    "EMPTY_LIST": _pushing(list),
    "EMPTY_TUPLE": _pushing(tuple),
    "EMPTY_DICT": _pushing(dict),
    "EMPTY_SET": _pushing(set),
    "LIST": _gathering(list),
    "TUPLE": _gathering(tuple),
    "FROZENSET": _gathering(frozenset),
    "DICT": PickleMachine._dictionary,
    "TUPLE1": lambda machine, argument: machine._of_last(1),
    "TUPLE2": lambda machine, argument: machine._of_last(2),
    "TUPLE3": lambda machine, argument: machine._of_last(3),
    "APPEND": PickleMachine._append,
    "APPENDS": PickleMachine._appends,
    "ADDITEMS": PickleMachine._appends,
    "SETITEM": PickleMachine._set_item,
    "SETITEMS": PickleMachine._set_items,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), PickleMachine._remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), PickleMachine._recall),
    "GLOBAL": PickleMachine._global,
    "STACK_GLOBAL": PickleMachine._stack_global,
    "REDUCE": PickleMachine._call,
    "NEWOBJ": PickleMachine._new,
    "NEWOBJ_EX": PickleMachine._new_with_names,
    "INST": PickleMachine._instance,
    "OBJ": PickleMachine._object,
    "BUILD": PickleMachine._build,
}
