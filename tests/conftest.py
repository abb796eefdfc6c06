"""What holds for all tests."""

from hypothesis import settings

# By default an example must not take long, which on a busy machine says nothing of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
