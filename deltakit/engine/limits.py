"""How much of the machine a merge may use: threads, block size, memory."""

from __future__ import annotations

from dataclasses import dataclass

from deltakit.apart import PART
from deltakit.bracket import MOST_HELD
from deltakit.engine.room import LARGE_ROOMS, ROOMS
from deltakit.errors import BadValue
from deltakit.strategies._settings import Unit
from deltakit.strategies._whole import LONG, MOST_TOGETHER
from deltakit.threads import usual_threads

DEFAULT_BLOCK = 1 << 17  # entries, where they do not take more than ...
DEFAULT_SCRATCH = 24 << 20  # ... so many bytes of a thread: deltas of up to 3 models do not
KERNEL_BLOCK = 1 << 21  # of which the kernels hold a small part at a time
SMALLEST_BLOCK = 1 << 12
MOST_AT_ONCE = 96 << 20  # bytes of a thread that merges parameters at once, where nothing is said


@dataclass(frozen=True)
class Limits:
    """Threads, entries a block, and bytes of scratch memory; None leaves the choice to deltakit.

    No limit changes a bit of the result.
    """

    threads: int | None = None
    block: int | None = None
    memory: int | None = None

    def settle(
        self,
        entry: int,
        largest: int,
        looked: int = 0,
        least: int = 0,
        usual: int = DEFAULT_BLOCK,
    ) -> tuple[int, int]:
        """Return threads and block size for a merge, or raise BadValue.

        `entry` is the scratch bytes that an entry of a block needs, `largest` the entries of the
        largest tensor, `looked` the bytes a thread holds while it looks at a whole tensor, `least`
        the entries that one block must hold: a whole tensor, or a row, of a strategy that needs
        them; `usual` those that it holds where nothing is said.
        """
        if self.threads is not None and self.threads < 1:
            raise BadValue("the number of threads is not above 0", got=f"{self.threads}")
        if self.block is not None and self.block < 1:
            raise BadValue("the block size is not above 0", got=f"{self.block}")
        threads = self.threads or usual_threads()
        block = self.block or usual
        if self.memory is not None:
            block = min(block, self._fitting(self.memory, threads, entry, looked, least))
        block = min(block, max(DEFAULT_BLOCK, largest))
        # A multiple of 8 entries is whole bytes for every dtype, bits included.
        return threads, max(8, block // 8 * 8, -(-least // 8) * 8)

    def at_once(self, used: int, threads: int, entry: float) -> int:
        """Return the entries of the largest parameter that a thread may merge at once.

        Each needs `entry` bytes, beside the `used` bytes of all threads.
        """
        memory = MOST_AT_ONCE if self.memory is None else (self.memory - used) // threads
        entries = int(memory / entry)
        return entries if self.block is None else min(entries, self.block)

    @staticmethod
    def _fitting(memory: int, threads: int, entry: int, looked: int, least: int) -> int:
        """Return the largest block whose scratch stays within `memory` bytes."""
        block = (memory // threads - looked) // entry
        smallest = max(SMALLEST_BLOCK, least)
        if block < smallest:
            needed = threads * (entry * smallest + looked)
            raise BadValue(
                f"{memory} bytes of memory are too few for {threads} threads",
                expected=f"at least {needed} bytes",
                remedy="give more --memory or fewer --threads",
            )
        return block


def look_bytes(held: int, experts: int, *, computed: bool = False) -> int:
    """Return the bytes a thread holds at most while it looks at tensors of `held` entries.

    For cuts: patterns and places of the experts it looks at together, in memory that doubles, a
    copy of those of one, and what is found in one block. Where what it looks at is `computed`, and
    not left to the kernels, also a block of the base and of every expert, as stored and widened.
    """
    together, block = min(experts, MOST_TOGETHER), min(held, LONG)
    each = min(held, MOST_HELD // min(2, together))
    blocks = 12 * block * (experts + 1) if computed else 0
    return together * (32 * each + 8 * block) + blocks


def at_once_bytes(experts: int, size: int) -> float:
    """Return the bytes that an entry of a parameter needs at most where it is merged at once.

    `size` bytes are stored of each: results of two parameters, one on its way to the disk. Of an
    entry set apart, what is stored of base and experts and what becomes of it, its place, its
    magnitude, its place among these, and where that is level with the cut.
    """
    apart = size * (experts + 2) + 4 + 4 + 4 + 8
    return LARGE_ROOMS * size + apart / PART


def entry_bytes(experts: int, unit: Unit = "element", wide: bool = False) -> int:
    """Return the scratch bytes one entry of a block needs: raw, base, stack and temporaries.

    Of a whole `tensor` also what factoring it takes: factors of each task, and LAPACK's own. In a
    `row`, entries are ordered, with 64 bits for each. What is allocated anew for every block leaves
    holes as large as itself, until they are given back. `wide`: deltas are summed in float64.
    """
    number = 8 if wide else 4
    entry = 8 + 8 + number * (4 * experts + 6)
    if unit == "tensor":
        return entry + number * (2 * experts + 8)
    return 2 * (entry + (16 * experts if unit == "row" else 0))


def kernel_entry_bytes(experts: int) -> int:
    """Return the scratch bytes one entry of a block needs at most where the kernels do all.

    Results on their way to the disk; and base and experts, where they are not read a little at a
    time but a block at once: what lies in no plain piece of a file, and what goes to a device,
    twice, since it is copied there from pinned memory.
    """
    return 4 * ROOMS + 8 * (experts + 1)
