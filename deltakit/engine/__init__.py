"""From a recipe to a merged model folder: plan, execute, report."""

from deltakit.engine.executor import Report, execute
from deltakit.engine.plan import Expert, Plan, make_plan

__all__ = ["Expert", "Plan", "Report", "execute", "make_plan"]
