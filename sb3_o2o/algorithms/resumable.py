"""What users call to stop a run, to go on with it, and to save and copy models."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from sb3_o2o.algorithms import attempts
from sb3_o2o.checked import checked
from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.normalization import Normalizer
from sb3_o2o.errors import NonFiniteError, warn
from sb3_o2o.files import whole_file
from sb3_o2o.kinds import ENVIRONMENT, FLAG, NOTHING, TEXT, WRITABLE, Device, Kind, whole
from sb3_o2o.objectives import Objective
from sb3_o2o.resume import bundle, copying
from sb3_o2o.resume.series import newest_bundle
from sb3_o2o.transfer.model_file import write_model
from sb3_o2o.updates.call import Call
from sb3_o2o.updates.finite import keep, log_folder
from sb3_o2o.updates.hooks import CALLBACK, Hooks
from sb3_o2o.updates.loop import UpdateLoop
from sb3_o2o.updates.trained import refuse_not_finite

if TYPE_CHECKING:
    from typing import Self

    _Base = BaseAlgorithm
else:
    _Base = object

#: what the arguments of ``learn`` may be
_LEARN: dict[str, Kind] = {
    "total_timesteps": whole(0, or_float=True),  # code written for Stable-Baselines3 says 1e5
    "callback": CALLBACK,
    "log_interval": whole(1) | NOTHING,
    "tb_log_name": TEXT,
    "reset_num_timesteps": FLAG,
    "progress_bar": FLAG,
}


class ResumableAlgorithm(_Base):
    """``learn`` that can be left and gone on with, and files; :mod:`sb3_o2o.resume` does the work."""

    call: Call
    hooks: Hooks
    loop: UpdateLoop
    finetuning: list[Any]
    dataset: Any
    offline_objective: Objective
    finetuning_objective: Objective

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        """
        SB3's ``learn``, with its arguments.

        :raises ValueError: for an argument that is not what it may be
        :raises NonFiniteError: if a loss, a weight or what the environment gives is NaN or infinite, see
            ``on_nonfinite``
        """
        of_stock: Any = super().learn  # type: ignore[safe-super]
        given = inspect.signature(of_stock).bind(*args, **kwargs).arguments
        for name, value in given.items():
            _LEARN[name].check(f"{name} of {type(self).__name__}.learn", value)
        attempts.learn(self, self._learn_once, given)
        return self

    def _learn_once(self, **given: Any) -> None:
        try:
            with self.call.running():
                super().learn(**given)  # type: ignore[safe-super]
                self.loop.watch.check_weights()
        except NonFiniteError as error:
            keep(error, log_folder(self))
            raise
        finally:
            self.call.let_go(self.finetuning, self.hooks)

    def request_stop(self) -> None:
        """
        End ``learn`` or ``pretrain`` at the next point where nothing is half-done: between two updates, and after
        the transitions of a rollout are stored. A stop asked for during the last step of a call ends the next call.
        A callback that returns False stops at once: the step that it saw is stored, and no update follows it. On-policy
        algorithms learn nothing from a rollout that was stopped in that way.
        """
        self.call.request_stop()

    @checked
    def save_resume(self, path: str | os.PathLike[str]) -> None:
        """
        Write all that a run needs to go on bit for bit: the model, the online buffer, ``VecNormalize``, random
        generators, phase, callbacks and the environment's state. A folder; one that exists is replaced whole.

        Called inside ``learn`` or ``pretrain``, as by a callback, it is written at the next point where nothing is
        half-done: before the next rollout or update, or at the end of the call.

        :param path: the folder
        :raises OSError: if it cannot be written
        """
        self.call.at_clean_point(lambda: bundle.save(self, path), os.fspath(path))

    @classmethod
    @checked
    def load_resume(
        cls,
        path: str | os.PathLike[str],
        env: Annotated[GymEnv, ENVIRONMENT],
        device: Device = "auto",
        **kwargs: Any,
    ) -> Self:
        """
        Read what :meth:`save_resume` wrote, or the newest whole one of the bundles of a
        :class:`~sb3_o2o.resume.ResumeBundle`, and print which that is. Go on with
        ``learn(remaining, reset_num_timesteps=False)``, or
        ``pretrain(dataset, remaining, reset_gradient_steps=False)``, and callbacks of the same kinds in the same order:
        they get their state back when the call starts.

        :param path: the folder of the bundle, or of the bundles
        :param env: an environment of the same kind
        :param device: where the networks live
        :param kwargs: as for ``load``; ``trust=True`` opens a bundle that may run any code, as one with objects of
            your own classes has to
        :return: the model
        :raises UntrustedError: if it holds such objects, without ``trust=True``
        :raises ValueError: if there is no resume bundle, if it is damaged, or of another version or class; it says what
            is missing, and has opened nothing then
        """
        found = newest_bundle(path)
        if found is None:
            raise ValueError(
                f"{path} is no resume bundle (it has no manifest.json) and holds none: save_resume and ResumeBundle "
                "write them."
            )
        folder, manifest, faults = found
        for fault in faults:
            warn(f"{fault} The one before it is read.")
        if folder != Path(path):
            print(f"Going on from {folder}: {manifest}")
        return bundle.load(cls, folder, manifest, env, device, **kwargs)  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return copying.state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        copying.set_state(self, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copying.deep_copy(self, memo)  # type: ignore[no-any-return]

    @checked
    def save(
        self,
        path: Annotated[Any, WRITABLE],
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
        *,
        allow_nonfinite: bool = False,
    ) -> None:
        """
        Stable-Baselines3's ``save``, in a file of plain data, which opens without running code. The file replaces what
        was there when it is complete and on the disk. The statistics of ``VecNormalize``, without which the policy
        cannot act, go along. Lambdas, and classes that are not of this package, Stable-Baselines3 or its relatives,
        are saved as well: to open them again takes ``trust=True``.

        :param path: of the zip, whose ending may be left out, or a binary file
        :param exclude: attributes to leave out as well
        :param include: attributes to save although they are left out otherwise
        :param allow_nonfinite: save weights that hold NaN or infinity as well, to look at them elsewhere
        :raises OSError: if it cannot be written
        :raises NonFiniteError: if weights hold NaN or infinity; nothing is written then
        """
        if self.env is not None:
            self.saved_normalizer = Normalizer.of(self._vec_normalize_env)
        if not allow_nonfinite:
            refuse_not_finite(self, "Not saved", "save(path, allow_nonfinite=True) writes it as it is.")
        if not isinstance(path, str | os.PathLike):
            write_model(path, self, exclude, include)
            return
        target = Path(path)
        if target.suffix == "":
            target = target.with_name(f"{target.name}.zip")
        with whole_file(target) as file:
            write_model(file, self, exclude, include)

    def _excluded_save_params(self) -> list[str]:
        ours = ["hooks", "call", "loop", "draws", "offline_buffer", "pretrained_on", "offline_objective"]
        ours += ["finetuning_objective", "phase_in_progress", "_target_parameters"]
        by_reference = isinstance(self.dataset, OfflineDataset) and self.dataset.reopenable
        if not (self.dataset is None or by_reference or isinstance(self.dataset, str | os.PathLike)):
            ours.append("dataset")  # data in memory: megabytes that are no weights
        return [*super()._excluded_save_params(), *ours]

    def _objective_state_names(self) -> Iterator[str]:
        """Objectives with a state, parameters or buffers that are persistent, each once."""
        if self.offline_objective.state_dict():
            yield "offline_objective"
        same = self.finetuning_objective is self.offline_objective
        if not same and self.finetuning_objective.state_dict():
            yield "finetuning_objective"

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        for name in self._objective_state_names():
            state_dicts.append(name)
            state_dicts += [f"{name}.optimizers.{key}" for key in getattr(self, name).optimizers]
        return state_dicts, variables
