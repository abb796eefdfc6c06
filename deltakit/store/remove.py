"""Removing a task: its commit point goes, its files wait for gc."""

from __future__ import annotations

from deltakit.store.home import Home
from deltakit.store.names import check_name
from deltakit.store.tasks import unknown


def remove_task(home: Home, name: str) -> None:
    """Delete task.json, also one that is damaged; from then on the task does not exist."""
    check_name(name, "task")
    with home.task_lock(name), home.commit_lock():
        path = home.task_file(name)
        if not home.files.exists(path):
            raise unknown(home, name)
        home.files.delete(path)
        home.files.sync_folder(path.parent)
