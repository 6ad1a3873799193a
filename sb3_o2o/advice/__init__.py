"""
Where to start: from a dataset and a policy to a recipe, the reasons for it and the commands. Rules and measurements are
kept apart: :mod:`~sb3_o2o.advice.rules` knows numbers alone.
"""

from sb3_o2o.advice.advising import Advice, advise
from sb3_o2o.advice.facts import DatasetFacts, PolicyFacts
from sb3_o2o.advice.rules import Choice, Reason, choose, regime

__all__ = ["Advice", "Choice", "DatasetFacts", "PolicyFacts", "Reason", "advise", "choose", "regime"]
