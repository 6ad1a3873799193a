"""Between which returns the scores of a run are measured."""

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from sb3_o2o.data.formats.reading import READING_OPTIONS, Reading
from sb3_o2o.data.sources import open_source
from sb3_o2o.errors import warn
from sb3_o2o.evaluation import ReferenceScore, reference_score


class HasReferences(Protocol):
    """A dataset, or what was read of one so far."""

    @property
    def ref_min_score(self) -> float | None: ...

    @property
    def ref_max_score(self) -> float | None: ...


def reference_for(dataset: HasReferences | None, name: str | None, env_id: str) -> ReferenceScore | None:
    """
    The dataset's own references, else the table's.

    :param dataset: None for a run without one
    :param name: of the dataset
    :param env_id: Gymnasium id
    :return: None where neither knows any
    """
    if dataset is not None and dataset.ref_min_score is not None and dataset.ref_max_score is not None:
        return ReferenceScore(dataset.ref_min_score, dataset.ref_max_score, f"metadata of {name}")
    return reference_score(env_id)


def recorded_reference(dataset: str | None, dataset_kwargs: Mapping[str, Any], env_id: str) -> ReferenceScore | None:
    """
    The references of a run that was made earlier, from the description of its dataset alone. Warns where that is no
    longer on this machine.

    :param dataset: Minari id or path; None for a run without one
    :param dataset_kwargs: arguments of ``OfflineDataset.load``, of which only those about reading matter
    :param env_id: Gymnasium id
    :return: None where neither dataset nor table knows any
    """
    if dataset is None:
        return reference_for(None, None, env_id)
    reading = {name: value for name, value in dataset_kwargs.items() if name in READING_OPTIONS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were the training's
            source = open_source(dataset, Reading(**reading))
    except (ValueError, OSError, ImportError) as error:
        warn(f"The run's dataset tells no reference returns any more: {error}")
        return reference_for(None, None, env_id)
    return reference_for(source, source.name, env_id)
