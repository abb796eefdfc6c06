"""Importance capture for a transformers Trainer, in two lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from deltakit.errors import AlreadyThere, DeltakitError
from deltakit.learn import scores
from deltakit.learn.klf_importance import KlfImportance


class KlfImportanceCallback(TrainerCallback):
    """Capture importance through one `Trainer.train()` and write the map at its end.

    >>> from deltakit.learn.callback import KlfImportanceCallback      # doctest: +SKIP
    >>> trainer.add_callback(
    ...     KlfImportanceCallback("trec.importance.safetensors", task="trec"))  # doctest: +SKIP

    Runs at `on_pre_optimizer_step`: once per optimizer step whatever the gradient accumulation,
    with gradients unscaled and clipped (`timing="after"` runs right after the optimizer instead).
    A step that a GradScaler drops for overflow is skipped and counted. The other settings are
    those of `KlfImportance.attach`; `window="all"` is as long as the training. State starts at zero
    with every call of `train()`, a resumed one included. Under DistributedDataParallel the first
    process writes the map. A file that exists is refused before training begins, not after it,
    unless `replace`.
    """

    def __init__(
        self, path: str | Path, *, task: str, replace: bool = False, **settings: Any
    ) -> None:
        self.path = Path(path)
        self.task = task
        self.replace = replace
        self.settings = settings
        self.importance: KlfImportance | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.path.exists() and not self.replace:
            raise AlreadyThere(
                "the importance map exists",
                where=str(self.path),
                remedy="give another path, or replace=True",
            )
        window = scores.window_of(
            self.settings.get("window"), state.max_steps, self.settings.get("every", 1)
        )
        settings = {**self.settings, "window": window}
        self.importance = KlfImportance.attach(kwargs["model"], **settings)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._attached().timing == "before":
            self._attached().step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._attached().timing == "after":
            self._attached().step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._attached().save(self.path, self.task, replace=self.replace)

    def _attached(self) -> KlfImportance:
        if self.importance is None:
            raise DeltakitError(
                "the callback was added while training runs",
                where="KlfImportanceCallback",
                remedy="add it to the Trainer before train()",
            )
        return self.importance
