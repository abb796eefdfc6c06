"""What a process took, and what one that fails says."""

import sys

import pytest

from benchmarks.process import Process
from deltakit.errors import DeltakitError


def python(text: str) -> Process:
    return Process.run([sys.executable, "-c", text])


def test_the_peak_is_of_anonymous_memory_also_when_it_was_given_back():
    held = python("import time; x = bytearray(80_000_000); time.sleep(.1); del x; time.sleep(.1)")
    assert 80_000_000 < held.peak < 120_000_000
    assert python("import time; time.sleep(.1)").peak < 40_000_000


def test_processor_time_is_not_wall_time():
    assert python("import time; time.sleep(.5)").cpu < 0.4
    busy = python("import time\nwhile time.process_time() < .3: pass")
    assert busy.cpu >= 0.3
    assert busy.wall > 0


def test_a_command_that_fails_is_an_error_with_its_words():
    with pytest.raises(DeltakitError, match="exit code 3") as caught:
        python("import sys; print('no such thing', file=sys.stderr); sys.exit(3)")
    assert "no such thing" in str(caught.value)
