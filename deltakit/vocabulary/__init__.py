"""Models of different tokenizers: which row of an embedding is which token's."""

from deltakit.vocabulary.alike import check_same_tokens
from deltakit.vocabulary.match import Matched, match
from deltakit.vocabulary.sources import MatchedBase

__all__ = ["Matched", "MatchedBase", "check_same_tokens", "match"]
