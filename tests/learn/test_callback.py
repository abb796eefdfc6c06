"""The Trainer callback, inside a real Trainer, against a loop written by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.data import Dataset

from deltakit.errors import AlreadyThere, BadValue, DeltakitError
from deltakit.importance import ImportanceMap
from deltakit.learn.callback import KlfImportanceCallback
from deltakit.learn.klf_importance import KlfImportance
from tests.learn import tiny

CLIP, RATE = 0.05, 0.1


class Rows(Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(row)
        ids = torch.randint(2, len(tiny.WORDS), (5,), generator=draw)
        return {"input_ids": ids, "attention_mask": torch.ones(5).long(), "labels": row % 2}


def without_dropout() -> Any:
    return tiny.classifier(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def loss_of(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """The share of one batch in the mean over a step's four rows."""
    return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / 4


def trainer(model: Any, folder: Path, callback: KlfImportanceCallback, **settings: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=CLIP,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_steps=3,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **settings,
    )
    return transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(),
        callbacks=[callback],
        compute_loss_func=loss_of,
    )


def by_hand(model: Any, batches: list[dict[str, Any]], timing: str) -> ImportanceMap:
    """Two batches a step, clipped: what the Trainer above is asked to do."""
    capture = KlfImportance.attach(model, timing=timing)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    model.train()
    for step in range(3):
        for batch in batches[2 * step : 2 * step + 2]:
            loss_of(model(**batch), batch["labels"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if timing == "before":
            capture.step()
        optimizer.step()
        if timing == "after":
            capture.step()
        optimizer.zero_grad()
    return capture.map("toy")


@pytest.mark.parametrize("timing", ["before", "after"])
def test_accumulated_and_clipped_steps_equal_a_manual_loop(tmp_path, timing):
    file = tmp_path / "toy.safetensors"
    run = trainer(
        without_dropout(),
        tmp_path,
        KlfImportanceCallback(file, task="toy", timing=timing),
        train_sampling_strategy="sequential",
    )
    run.train()
    found = ImportanceMap.open(file)
    batches = [dict(batch) for batch in run.get_train_dataloader()]
    assert len(batches) == 6
    expected = by_hand(without_dropout(), batches, timing)
    assert found.provenance == expected.provenance
    assert found.provenance["steps"] == ("3" if timing == "before" else "2")
    torch.testing.assert_close(dict(found), dict(expected), rtol=1e-4, atol=1e-12)
    assert max(found.values()) > 0


def test_every_nth_step_and_buffers_on_the_cpu_are_settings_too(tmp_path):
    maps = {}
    for every in (1, 2):
        file = tmp_path / f"{every}.safetensors"
        callback = KlfImportanceCallback(file, task="toy", every=every, buffers="cpu")
        trainer(without_dropout(), tmp_path, callback).train()
        maps[every] = ImportanceMap.open(file)
    assert (maps[1].provenance["steps"], maps[2].provenance["steps"]) == ("3", "2")
    assert dict(maps[1]) != dict(maps[2])


def test_a_window_of_all_steps_is_as_long_as_the_training(tmp_path):
    for every, a in ((1, 1 - 1 / 3), (2, 0.5)):
        file = tmp_path / f"{every}.safetensors"
        callback = KlfImportanceCallback(file, task="toy", every=every, window="all")
        trainer(without_dropout(), tmp_path, callback).train()
        found = ImportanceMap.open(file).provenance
        assert (found["a1"], found["a2"]) == (repr(a), repr(a))


def test_bf16_autocast_is_captured_at_full_precision(tmp_path):
    file = tmp_path / "toy.safetensors"
    callback = KlfImportanceCallback(file, task="toy")
    trainer(without_dropout(), tmp_path, callback, bf16=True).train()
    means = callback.importance._recurrence.means["bert.embeddings.word_embeddings.weight"]
    assert means.state.dtype == means.spread.dtype == torch.float32
    assert ImportanceMap.open(file).provenance["steps"] == "3"


def test_a_second_training_starts_from_zero(tmp_path):
    maps = []
    callback = KlfImportanceCallback(tmp_path / "m", task="toy", replace=True)
    for _ in range(2):
        trainer(without_dropout(), tmp_path, callback).train()
        maps.append(dict(ImportanceMap.open(tmp_path / "m")))
    assert maps[0] == maps[1]


def test_an_existing_map_is_refused_before_training(tmp_path):
    file = tmp_path / "toy.safetensors"
    file.write_text("precious")
    model = without_dropout()
    before = model.classifier.weight.clone()
    with pytest.raises(AlreadyThere, match=r"toy\.safetensors"):
        trainer(model, tmp_path, KlfImportanceCallback(file, task="toy")).train()
    assert torch.equal(model.classifier.weight, before)
    assert file.read_text() == "precious"


def test_a_wrong_setting_is_refused_before_training(tmp_path):
    callback = KlfImportanceCallback(tmp_path / "m", task="toy", score="frist")
    with pytest.raises(BadValue, match="unknown importance score"):
        trainer(without_dropout(), tmp_path, callback).train()


def test_a_callback_added_too_late_says_so(tmp_path):
    callback = KlfImportanceCallback(tmp_path / "m", task="toy")
    with pytest.raises(DeltakitError, match="before train"):
        callback.on_pre_optimizer_step(None, None, None)
