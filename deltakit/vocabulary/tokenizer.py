"""A tokenizer's files, read for one thing: which token has which id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile, DeltakitError
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.header import unique_keys
from deltakit.tensors.index import check_link
from deltakit.vocabulary.ids import MOST_TOKENS, Ids
from deltakit.vocabulary.sentencepiece import pieces

SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
_FAST = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_CHAT = ("chat_template.json", "chat_template.jinja")
# Files that without a tokenizer.json tell the tokens, and beside one tell them again.
OLDER_FILES = (
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.tiktoken",
    "qwen.tiktoken",
    *SENTENCEPIECE,
)
TOKENIZER_FILES = (*_FAST, *_CHAT, *OLDER_FILES)
MOST_BYTES = 100_000_000  # the largest tokenizer.json in use takes some 40 MB
_MOST_PIECES = 1 << 25  # bytes; sentencepiece models in use take some 5 MB


@dataclass(frozen=True)
class Tokenizer:
    """The tokens of one model, each with its id, which is its row in the embedding.

    >>> Tokenizer.of({"a": 0, "b": 1}).tokens[1]
    'b'

    `added` holds what a tokenizer says of tokens that were added to its model, `table` is
    tokenizer.json, None for a tokenizer that has only older files, `kind` what its model is.
    """

    label: str
    ids: Mapping[str, int]
    kind: str
    added: Mapping[str, Mapping[str, Any]]
    table: Mapping[str, Any] | None

    @classmethod
    def of(cls, ids: Mapping[str, int], label: str = "tokens") -> Tokenizer:
        """Return the tokenizer that only knows these tokens."""
        return cls(label, ids, "", {}, None)

    @property
    def tokens(self) -> dict[int, str]:
        """The token of each id."""
        return {number: token for token, number in self.ids.items()}

    @property
    def size(self) -> int:
        """The rows an embedding needs: the highest id and one."""
        return max(self.ids.values(), default=-1) + 1

    @classmethod
    def open(cls, folder: Path, files: Files = LOCAL) -> Tokenizer | None:
        """Read the tokenizer in a model's folder; None where there is none.

        tokenizer.json, else vocab.json, vocab.txt or a sentencepiece model, with added_tokens.json;
        added_tokens_decoder of tokenizer_config.json. Raises BadFile for a file that is not what
        its format says, ids that are no row of any model, a token of two ids, an id of two tokens.
        """
        try:
            return _Reader(folder, files).read()
        except DeltakitError as error:
            raise error.at(str(folder)) from None


class _Reader:
    """Reads one folder."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files
        self._ids = Ids()
        self._added: dict[str, Mapping[str, Any]] = {}

    def read(self) -> Tokenizer | None:
        table = self._json("tokenizer.json")
        if table is not None:
            kind = self._fast(table)
        else:
            found = self._slow()
            if found is None:
                return None
            kind = found
            self._ids.take((self._json("added_tokens.json") or {}).items(), "added_tokens.json")
            self._added |= {token: {} for token in self._json("added_tokens.json") or {}}
        config = self._json("tokenizer_config.json") or {}
        self._decoder(config.get("added_tokens_decoder"))
        if not self._ids.of:
            raise BadFile("the tokenizer has no tokens")
        return Tokenizer(str(self._folder), self._ids.of, kind, self._added, table)

    def _fast(self, table: Mapping[str, Any]) -> str:
        where = "tokenizer.json"
        model, added = table.get("model"), table.get("added_tokens", [])
        if not isinstance(model, dict) or not isinstance(added, list):
            raise BadFile("not a tokenizer: no model, or no list of added tokens", where=where)
        vocab = model.get("vocab")
        if isinstance(vocab, dict):
            self._ids.take(vocab.items(), where)
        elif isinstance(vocab, list) and all(isinstance(p, list) and len(p) == 2 for p in vocab):
            self._ids.take(((p[0], number) for number, p in enumerate(vocab)), where)
        else:
            raise BadFile("the tokenizer's model has no vocabulary", where=where)
        for entry in added:
            if not isinstance(entry, dict):
                raise BadFile("an added token is no object", where=where, got=f"{entry}"[:80])
            self._ids.take([(entry.get("content"), entry.get("id"))], where)
            self._added[entry["content"]] = entry
        kind = model.get("type")
        return kind if isinstance(kind, str) else ("Unigram" if isinstance(vocab, list) else "BPE")

    def _slow(self) -> str | None:
        vocab = self._json("vocab.json")
        if vocab is not None:
            self._ids.take(vocab.items(), "vocab.json")
            return "BPE"
        if self._has("vocab.txt"):
            text = self._text("vocab.txt").removesuffix("\n")
            if text.count("\n") >= MOST_TOKENS:
                raise BadFile(f"over {MOST_TOKENS} tokens", where="vocab.txt")
            lines = text.split("\n")
            self._ids.take(((t.rstrip("\r"), n) for n, t in enumerate(lines)), "vocab.txt")
            return "WordPiece"
        for name in SENTENCEPIECE:
            if self._has(name):
                found = pieces(self._bytes(name, _MOST_PIECES), name)
                self._ids.take(((piece, number) for number, piece in enumerate(found)), name)
                return "Unigram"
        return None

    def _decoder(self, decoder: Any) -> None:
        where = "tokenizer_config.json"
        if decoder is None:
            return
        if not isinstance(decoder, dict):
            raise BadFile("added_tokens_decoder is no object", where=where)
        for number, entry in decoder.items():
            if not (number.isdecimal() and len(number) < 20 and isinstance(entry, dict)):
                raise BadFile("an added token has no id", where=where, got=f"{number!r}"[:80])
            self._ids.take([(entry.get("content"), int(number))], where)
            self._added.setdefault(entry["content"], entry)

    def _has(self, name: str) -> bool:
        return self._files.exists(self._folder / name)

    def _bytes(self, name: str, most: int = MOST_BYTES) -> bytes:
        return read_whole(check_link(self._folder / name, self._folder), self._files, most)

    def _text(self, name: str) -> str:
        try:
            return self._bytes(name).decode()
        except UnicodeDecodeError:
            raise BadFile("not UTF-8", where=name) from None

    def _json(self, name: str) -> dict[str, Any] | None:
        """Return a file's object, None where there is no such file."""
        if not self._has(name):
            return None
        text = self._text(name)
        try:
            table = json.loads(text, object_pairs_hook=unique_keys)
            json.dumps(table, ensure_ascii=False).encode() if "\\ud" in text.lower() else None
        except DeltakitError as error:
            raise error.at(name) from None
        except (ValueError, RecursionError) as error:
            raise BadFile(f"not valid JSON: {error}", where=name) from None
        if not isinstance(table, dict):
            raise BadFile("not a JSON object", where=name)
        return table
