"""From a recipe to a merged model folder: plan, execute, report."""

from deltakit.engine.checks import Expert
from deltakit.engine.executor import check_execution, execute
from deltakit.engine.limits import Limits
from deltakit.engine.plan import Plan
from deltakit.engine.planning import make_plan
from deltakit.engine.report import Report

__all__ = ["Expert", "Limits", "Plan", "Report", "check_execution", "execute", "make_plan"]
