"""
What a file may name without being trusted: classes that are known to be harmless, whatever arguments and state a
stranger gives them. They are listed by dotted name, so that nothing has to be imported to know which they are.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sb3_o2o.errors import look_up

#: modules of ours, of Stable-Baselines3 and of others, all of whose own classes may be named
_MODULES = frozenset(
    f"{package}.{module}"
    for package, modules in {
        "sb3_o2o": (
            *("data.replay_buffers", "data.dataset", "data.online", "data.normalization", "data.sum_tree"),
            *("data.transitions", "data.samples", "recipes.counts", "transfer.cloning", "updates.finetuning_run"),
        ),
        "stable_baselines3": (
            *("common.buffers", "common.distributions", "common.noise", "common.policies"),
            *("common.running_mean_std", "common.sb2_compat.rmsprop_tf_like", "common.torch_layers"),
            *("common.type_aliases", "common.utils", "common.vec_env.stacked_observations"),
            *("common.vec_env.vec_normalize",),
            *("dqn.policies", "her.goal_selection_strategy", "her.her_replay_buffer", "sac.policies", "td3.policies"),
        ),
        "sb3_contrib": (
            *("ars.policies", "crossq.policies", "qrdqn.policies", "tqc.policies", "common.torch_layers"),
            *("common.maskable.buffers", "common.maskable.distributions", "common.maskable.policies"),
            *("common.recurrent.buffers", "common.recurrent.policies", "common.recurrent.type_aliases"),
        ),
        "gymnasium.spaces": (
            *("box", "dict", "discrete", "graph", "multi_binary", "multi_discrete", "oneof", "sequence", "space"),
            *("text", "tuple"),
        ),
        "torch.nn.modules": (
            *("activation", "batchnorm", "container", "conv", "dropout", "flatten", "instancenorm", "linear"),
            *("module", "normalization", "pooling", "rnn"),
        ),
        "torch.optim": (
            *("adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd"),
        ),
        "torch.distributions": ("bernoulli", "categorical", "distribution", "independent", "normal"),
    }.items()
    for module in modules
)
#: rooms of ours whose modules hold nothing else
_ROOMS = ("sb3_o2o.networks.", "sb3_o2o.objectives.", "sb3_o2o.finetuning.", "sb3_o2o.diagnostics.")
#: single classes
_CLASSES = frozenset(
    {
        *(("builtins", name) for name in ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list")),
        *(("builtins", name) for name in ("set", "str", "tuple")),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        # what environments hold in the middle of an episode
        ("gymnasium.wrappers.utils", "RunningMeanStd"),
        ("sb3_o2o.updates.shared_objects", "Live"),
        ("gymnasium_robotics.envs.maze.maze_v4", "Maze"),
        ("gymnasium_robotics.utils.mujoco_utils", "MujocoModelNames"),
        # RL Zoo's "lin_3e-4"
        ("rl_zoo3.utils", "SimpleLinearSchedule"),
    }
)
#: their old names, in files of older versions
_RENAMED = {"gym.spaces.": "gymnasium.spaces.", "numpy.core.": "numpy._core."}
_RENAMED_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
#: what this process vouches for, see :func:`add_safe_globals`
_VOUCHED: dict[tuple[str, str], Any] = {}


#: what the user of this process has said, on the command line
_OF_PROCESS = contextvars.ContextVar("trust", default=False)


class UntrustedError(ValueError):
    """
    A file asks for code that is not known to be harmless.

    :param name: dotted name of what it asks for
    :param where: the file, or the part of it
    """

    def __init__(self, name: str, where: str = ""):
        self.name, self.where = name, where
        place = f"{where} needs" if where else "This file needs"
        super().__init__(
            f"{place} {name}, which is not on the list of what is opened without trust: opening it may run any code. "
            "If you made the file yourself or know who did, pass trust=True (on the command line --trust). A class or "
            "function of your own can be vouched for instead: sb3_o2o.add_safe_globals(it)."
            f"{look_up('It cannot be loaded')}"
        )

    def within(self, where: str) -> UntrustedError:
        """
        :param where: the file
        :return: the same error, which says where
        """
        return UntrustedError(self.name, f"{where}: {self.where}" if self.where else where)


def is_trusted(asked: bool) -> bool:
    """
    :param asked: what was said for one file
    :return: whether it is trusted, or every file of this process is
    """
    return asked or _OF_PROCESS.get()


@contextmanager
def trusting() -> Iterator[None]:
    """Inside of this, every file is trusted, as ``--trust`` says for a command."""
    before = _OF_PROCESS.set(True)
    try:
        yield
    finally:
        _OF_PROCESS.reset(before)


def add_safe_globals(*items: Any) -> None:
    """
    Vouch for classes and functions of one's own, in this process: files that name them are opened without
    ``trust=True``. Every :class:`~sb3_o2o.finetuning.FineTuningCallback` and every objective of ``register_objective``
    is vouched for by being defined or registered. What a file then says about their state is a stranger's: vouch for
    what does no harm with any.

    :param items: classes and functions
    :raises TypeError: for anything else
    """
    for item in items:
        if not callable(item) or not hasattr(item, "__qualname__"):
            raise TypeError(f"add_safe_globals takes classes and functions, not {item!r}.")
    for item in items:
        _VOUCHED[item.__module__, item.__qualname__] = item


def current_name(module: str, name: str) -> tuple[str, str]:
    """
    :param module: of a class or function, as a file says it
    :param name: in that module
    :return: both as they are called today
    """
    for old, new in _RENAMED.items():
        if module.startswith(old):
            module = new + module.removeprefix(old)
    return _RENAMED_MODULES.get(module, module), name


def safe_global(module: str, name: str) -> Any:
    """
    Look a class up that is listed, or a class or function that this process vouches for.

    :param module: where it is defined
    :param name: its qualified name there
    :return: it; nothing but listed modules is imported
    :raises UntrustedError: if it is not listed
    :raises ValueError: if it is, but the installed version does not have it
    """
    module, name = current_name(module, name)
    if (module, name) in _VOUCHED:
        return _VOUCHED[module, name]
    if not is_listed(module, name):
        raise UntrustedError(f"{module}.{name}")
    found = _listed(module, name)
    if found is None:
        raise UntrustedError(f"{module}.{name}")
    return found


def is_listed(module: str, name: str) -> bool:
    """
    :param module: of a class
    :param name: in that module
    :return: whether the list has its name
    """
    if (module, name) in _CLASSES:
        return True
    if not name.isidentifier():  # no attributes of classes
        return False
    if module == "numpy":
        return _is_scalar_type(name)
    return module in _MODULES or module.startswith(_ROOMS)


@functools.cache
def _listed(module: str, name: str) -> Any:
    """The class, if the module has a class of its own of that name: what it imports from elsewhere is not listed."""
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{module}.{name} is not installed: {error}.") from error
    if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, name):
        return None
    return found


def _is_scalar_type(name: str) -> bool:
    import numpy as np

    found = getattr(np, name, None)
    return isinstance(found, type) and issubclass(found, np.generic) and found is not np.object_


def trusted_global(module: str, name: str) -> Any:
    """
    Look anything up, which imports its module: for files that are trusted.

    :param module: where it is defined
    :param name: its qualified name there
    :return: it
    :raises ValueError: if there is no such thing
    """
    module, name = current_name(module, name)
    if (module, name) in _VOUCHED:
        return _VOUCHED[module, name]
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"There is no {module}.{name} here, which the file needs: {error}.") from error
    return found


def is_importable(item: Any) -> bool:
    """
    :param item: a class or function
    :return: whether another process finds it by its name
    """
    module, name = getattr(item, "__module__", None), getattr(item, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or "<" in name:
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is item
