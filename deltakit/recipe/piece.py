"""Piece: a mask or an automatic weighting, as a user writes it."""

from __future__ import annotations

from typing import Any

import msgspec

from deltakit.errors import BadValue


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A mask or an automatic weighting: its name and its settings.

    >>> Piece.parse("importance:density=0.1,by=map").settings
    {'density': '0.1', 'by': 'map'}

    `tasks` are settings of a mask that hold for single tasks, in place of those for all.
    """

    name: str
    settings: dict[str, Any] = {}
    tasks: dict[str, dict[str, Any]] = {}

    @classmethod
    def parse(cls, text: str) -> Piece:
        """Return the piece a user wrote as NAME or NAME:KEY=VALUE,..."""
        name, colon, rest = text.partition(":")
        settings = {}
        for part in rest.split(",") if colon else ():
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise BadValue(
                    "settings are not written as KEY=VALUE", expected="NAME:KEY=VALUE,...", got=text
                )
            settings[key.strip()] = value.strip()
        return cls(name, settings)

    @classmethod
    def auto(cls, text: str) -> Piece:
        """Return the automatic weighting written as auto:NAME or auto:NAME:KEY=VALUE,..."""
        auto, colon, rest = text.partition(":")
        if auto != "auto" or not colon:
            raise BadValue("weights are one text", expected="numbers, or auto:NAME", got=text)
        return cls.parse(rest)
