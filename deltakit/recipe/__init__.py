"""Recipes: everything a merge depends on; equal recipes over equal inputs give equal bytes."""

from deltakit.recipe.piece import Piece
from deltakit.recipe.recipe import DEFAULT_SHARD_SIZE, Recipe
from deltakit.recipe.task import Task

__all__ = ["DEFAULT_SHARD_SIZE", "Piece", "Recipe", "Task"]
