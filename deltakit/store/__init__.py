"""Tasks by name, on a local disk.

    .deltakit/
      format.json                   the store's format, checked first
      bases/<name>.json             path, fingerprint, digest of each tensor, size and time of files
      tasks/<task>/task.json        THE commit point: the task's revisions and the files they name
      tasks/<task>/delta-<blake3>.safetensors
      tasks/<task>/adapter-<blake3>.safetensors      a LoRA as it is, instead of a delta
      tasks/<task>/importance-<blake3>.safetensors
      tasks/<task>/checkpoint-<blake3>.safetensors   what restores: original headers, side files
      locks/                        empty files that processes lock

Data files are immutable and named for their content. Manifests are strict JSON, canonical, with
their own digest. Everything is written as a temporary file, synced, renamed, and its folder synced.

A writer locks its task from its first byte to its commit, and all writers lock the store for the
moment of a commit. gc locks the store, and then each task it can lock at once; a task it cannot
lock is being written and is left alone. So no file is collected between its write and its commit.
"""

from deltakit.store.bases import BaseRecord
from deltakit.store.store import Store
from deltakit.store.tasks import TaskRecord

__all__ = ["BaseRecord", "Store", "TaskRecord"]
