"""Reports: what several runs came to, as one page to read and one to put into a repository."""

from sb3_o2o.reporting.writing import Report, make_report, write_report

__all__ = ["Report", "make_report", "write_report"]
