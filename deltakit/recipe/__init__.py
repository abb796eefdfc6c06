"""Recipes: everything a merge depends on; equal recipes over equal inputs give equal bytes."""

from deltakit.recipe.effective import Effective, Rules
from deltakit.recipe.gradient import Number
from deltakit.recipe.pattern import Regex
from deltakit.recipe.piece import Piece
from deltakit.recipe.recipe import DEFAULT_SHARD_SIZE, Recipe
from deltakit.recipe.rule import Rule
from deltakit.recipe.slice import ModelLayers, Slice
from deltakit.recipe.task import Task
from deltakit.vocabulary import BASE, TokenRow

__all__ = [
    "BASE",
    "DEFAULT_SHARD_SIZE",
    "Effective",
    "ModelLayers",
    "Number",
    "Piece",
    "Recipe",
    "Regex",
    "Rule",
    "Rules",
    "Slice",
    "Task",
    "TokenRow",
]
