"""Models of different tokenizers: which row of an embedding is which token's."""

from deltakit.vocabulary.alike import check_same_tokens
from deltakit.vocabulary.chat import chat_files, check_template
from deltakit.vocabulary.match import Matched, match
from deltakit.vocabulary.members import model_of
from deltakit.vocabulary.token_row import BASE, TokenRow, check_token_rows

__all__ = [
    "BASE",
    "Matched",
    "TokenRow",
    "chat_files",
    "check_same_tokens",
    "check_template",
    "check_token_rows",
    "match",
    "model_of",
]
