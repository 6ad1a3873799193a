"""``on_nonfinite="rollback"``, where weights from memory do not help: back to the newest resume bundle of a call."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.errors import NonFiniteError, warn
from sb3_o2o.resume import bundle, series
from sb3_o2o.resume.bundle_callback import ResumeBundle
from sb3_o2o.resume.copying import offline_buffers
from sb3_o2o.resume.manifest import Manifest
from sb3_o2o.resume.streams import draw_other_numbers
from sb3_o2o.updates.callback_states import restore, states_of
from sb3_o2o.updates.finite import MOST_ROLLBACKS, ROLLBACK

#: of a model that becomes another: what belongs to the call and to the caller
_OF_CALLER = ("call", "dataset", "pretrained_on", "tensorboard_log", "_logger", "_custom_logger")


class GoingBack:
    """
    What a call of ``learn`` or ``pretrain`` can go back to. One whose callbacks write no resume bundles, or that was
    not asked to roll back, has nothing.

    :param model: an algorithm, before the call
    :param callbacks: of the call, beside those of the model's constructor
    :param offline: the call is ``pretrain``
    """

    def __init__(self, model: Any, callbacks: Sequence[BaseCallback], offline: bool):
        self._model, self._offline, self._times = model, offline, 0
        own = [id(each) for each in model.finetuning]
        self._given = [each for each in callbacks if id(each) not in own]
        asked = [each for each in callbacks if isinstance(each, ResumeBundle) and model.on_nonfinite == ROLLBACK]
        self._bundles = asked[0] if asked else None
        if self._bundles is not None:
            self._before = series.bundles(self._bundles.path)
            self._start, self._states = Manifest.of(model), states_of(self._given)
            self._interrupted = model.call.interrupted

    def after(self, error: NonFiniteError) -> bool:
        """
        Make the model what its newest whole bundle holds, with another random stream.

        :param error: that ended the call
        :return: whether that bundle is of this call; False where it holds what the call began with
        :raises NonFiniteError: this error, where there is nothing to go back to, or once too often
        """
        model = self._model
        # a pre-training that ``learn`` began with has gone back by itself, as often as it may
        found = self._newest() if model.call.offline is self._offline else None
        if found is None:
            raise error
        if self._times >= MOST_ROLLBACKS:
            error.what += f" (The call has gone back to a resume bundle {self._times} times.)"
            raise error
        self._times += 1
        path, manifest = found
        assert self._bundles is not None
        trust = self._bundles.written.get(path) == manifest  # what this process wrote runs no code of strangers
        try:
            become(model, bundle.load(type(model), path, manifest, model.env, model.device, trust=trust))
        except Exception as reason:
            error.what += f" (Going back to {path} failed: {reason})"
            raise error from reason
        is_of_call = path not in self._before
        if not is_of_call:
            model.call.interrupted = self._interrupted  # that of the call before is over
        if model.call.interrupted is None or model.call.interrupted.offline is not self._offline:
            restore(self._given, self._states)  # the bundle was written before they came
        draw_other_numbers(model, self._times)
        model.logger.record("train/bundle_rollbacks", self._times)
        warn(
            f"{error.what}{_set_aside(error)} Going back to {path}: {manifest}. Time {self._times} of at most "
            f"{MOST_ROLLBACKS}.",
        )
        return is_of_call

    def _newest(self) -> tuple[Path, Manifest] | None:
        """The newest whole bundle of this call, or one of what it began with; another run's, or an older, is none."""
        try:
            found = None if self._bundles is None else series.newest_bundle(self._bundles.path)
        except ValueError:  # none is whole: the error that there is says more
            return None
        if found is None or found[1].run != self._model.finetuning_run.id:
            return None
        path, manifest, _ = found
        return (path, manifest) if path not in self._before or _is_at(manifest, self._start) else None


def _set_aside(error: NonFiniteError) -> str:
    """The file of this error, which one that follows would replace: a sentence that says where it is."""
    if error.path is None:
        return ""
    kept = Path(error.path)
    number = len(list(kept.parent.glob(f"{kept.stem}_*{kept.suffix}"))) + 1
    aside = kept.rename(kept.with_stem(f"{kept.stem}_{number}"))
    error.path = str(aside)
    return f" The values are kept in {aside}."


def _is_at(manifest: Manifest, start: Manifest) -> bool:
    counts = ("run", "gradient_steps", "environment_steps", "phase_steps")
    return all(getattr(manifest, name) == getattr(start, name) for name in counts)


def become(model: Any, other: Any) -> None:
    """
    Turn a model into another one, in place: whoever holds it, or one of its constructor's callbacks, goes on with it.
    Its logger and the data that it was given stay.

    :param model: an algorithm between two calls
    :param other: one of the same class in the same environments, which is not used afterwards
    """
    _hand_on_data(model, other)
    buffers = [vars(other).get(name) for name in ("replay_buffer", "rollout_buffer")]
    shared = [other.env, other.get_vec_normalize_env(), *buffers, *offline_buffers(other)]
    memo: dict[int, Any] = {id(each): each for each in shared if each is not None}
    memo[id(other)] = model
    callbacks = list(zip(model.finetuning, other.finetuning, strict=True))
    memo.update({id(new): old for old, new in callbacks})
    states = [copy.deepcopy(vars(new), memo) for _, new in callbacks]
    state = copy.deepcopy({name: value for name, value in vars(other).items() if name not in _OF_CALLER}, memo)
    model.call.interrupted, model.call.finished = other.call.interrupted, other.call.finished
    model.call.offline = other.call.offline
    kept = {name: vars(model)[name] for name in _OF_CALLER if name in vars(model)}
    vars(model).clear()
    vars(model).update(state, **kept)
    for (old, _), new_state in zip(callbacks, states, strict=True):
        given = getattr(old, "dataset", None)
        vars(old).clear()
        vars(old).update(new_state)
        if given is not None:
            old.dataset = given


def _hand_on_data(model: Any, other: Any) -> None:
    """Data that are open need not be opened again, and those from memory could not be."""
    known = [buffer.dataset for buffer in offline_buffers(model) if buffer._dataset is not None]
    for buffer in offline_buffers(other):
        reference = buffer._reference
        same = [each for each in known if reference is not None and each.fingerprint == reference.fingerprint]
        if same:
            buffer.dataset = same[0]
