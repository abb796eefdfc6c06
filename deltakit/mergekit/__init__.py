"""mergekit's own YAML, read as a recipe: what means the same is translated, the rest refused."""

from deltakit.mergekit.config import is_mergekit
from deltakit.mergekit.translate import Translated, translate

__all__ = ["Translated", "is_mergekit", "translate"]
