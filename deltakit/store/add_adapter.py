"""Adding an adapter: its factors as they are, tied to a registered base where one is named."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.errors import DeltakitError
from deltakit.lora import open_adapter
from deltakit.lora.fit import fit
from deltakit.lora.stored import write_stored
from deltakit.store.attach import check_importance_of_adapter
from deltakit.store.bases import Progress, open_base
from deltakit.store.home import Home
from deltakit.store.manifest import Revision, now
from deltakit.store.new_task import new_task, printable
from deltakit.store.tasks import TaskRecord

if TYPE_CHECKING:
    from deltakit.importance import ImportanceMap


def add_adapter(
    home: Home,
    task: str,
    path: Path,
    *,
    base: str | None = None,
    importance: ImportanceMap | None = None,
    progress: Progress | None = None,
) -> TaskRecord:
    """Keep an adapter's folder or file as a new task."""
    with new_task(home, task) as new, contextlib.ExitStack() as opened:
        adapter = open_adapter(path, home.files)
        opened.callback(adapter.close)
        table = adapter.base
        if base is not None:
            source, table = open_base(home, base, progress)
            opened.callback(source.close)
            try:
                fit(adapter, source)
            except DeltakitError as error:
                raise error.at(f"base {base!r}") from None
            if adapter.base is not None:
                adapter.base.check_same(table, f"the adapter {adapter.label}", source.label)
        if importance is not None:
            check_importance_of_adapter(importance, adapter, table)
            new.keep("importance", lambda path: importance.save(path, files=home.files))
        new.keep("adapter", lambda path: write_stored(path, adapter, task, table, home.files))
        new.keep_layout(adapter.source, adapter.path)
        adapter.check_unchanged()
        told = {"adapter": printable(adapter.path.absolute())}
        trained_on = adapter.config.fields.get("base_model_name_or_path")
        if isinstance(trained_on, str) and trained_on:
            told["trained_on"] = printable(Path(trained_on))
        return new.commit(
            Revision(
                parent=None,
                created=now(),
                reason="add",
                base=base,
                base_fingerprint=None if table is None else table.fingerprint,
                role="adapter",
                density=None,
                exact=True,
                model_nbytes=sum(shard.state.size for shard in adapter.source.shards),
                delta=new.names["adapter"],
                importance=new.names.get("importance"),
                checkpoint=new.names["checkpoint"],
                provenance={**told, **new.provenance},
            )
        )
