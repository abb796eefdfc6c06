"""Importance captured while a model trains, or measured afterwards on labelled data."""
