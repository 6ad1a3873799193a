"""What a report shows, whatever it is written in."""

from collections.abc import Sequence
from dataclasses import dataclass

from sb3_o2o.reporting.report_pictures import Picture
from sb3_o2o.reporting.report_tables import Table
from sb3_o2o.runs.records import RunRecord

METHOD = (
    "Evaluations are whole episodes of the deterministic policy, with seeds of their own. Normalised scores are "
    "D4RL's: 0 is the random policy, 100 the reference expert. Intervals are over seeds, not over episodes."
)


@dataclass(frozen=True)
class Page:
    """
    :param title: of the report
    :param subtitle: what it is about, in one line
    :param curves: a picture for each task
    :param over_tasks: pictures of aggregates
    :param tables: with numbers
    :param remarks: what is missing, a sentence for each
    :param records: the runs
    """

    title: str
    subtitle: str
    curves: Sequence[Picture]
    over_tasks: Sequence[Picture]
    tables: Sequence[Table]
    remarks: Sequence[str]
    records: Sequence[RunRecord]

    @property
    def pictures(self) -> list[Picture]:
        """All of them."""
        return [*self.curves, *self.over_tasks]
