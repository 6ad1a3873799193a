"""Going on after an interruption."""

from sb3_o2o.resume.bundle_callback import ResumeBundle
from sb3_o2o.resume.series import newest_bundle
from sb3_o2o.resume.signals import stop_on_signals
from sb3_o2o.resume.streams import draw_other_numbers

__all__ = ["ResumeBundle", "draw_other_numbers", "newest_bundle", "stop_on_signals"]
