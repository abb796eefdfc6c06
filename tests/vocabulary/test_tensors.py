"""The tensors with a row for each token are found, and no others."""

import pytest

from deltakit.tensors.header import TensorInfo
from deltakit.vocabulary.tensors import rows_of, vocabulary_tensors, width_of, with_rows


def infos(**shapes):
    return {
        name.replace("__", "."): TensorInfo("I64" if name == "ids" else "BF16", shape)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    "shapes",
    [
        {"model__embed_tokens__weight": (90, 8), "lm_head__weight": (90, 8)},
        {"transformer__wte__weight": (90, 8)},
        {
            "bert__embeddings__word_embeddings__weight": (90, 8),
            "cls__predictions__bias": (90,),
            "cls__predictions__decoder__weight": (90, 8),
            "cls__predictions__decoder__bias": (90,),
        },
        {"model__shared__weight": (90, 8), "final_logits_bias": (1, 90)},
        {"model__decoder__embed_tokens__weight": (90, 8), "proj_out__weight": (90, 8)},
        {"gpt_neox__embed_in__weight": (90, 8), "embed_out__weight": (90, 8)},
        {"backbone__embeddings__weight": (90, 8), "lm_head__weight": (90, 8)},
    ],
)
def test_embeddings_and_heads_of_the_families_are_known(shapes):
    layers = infos(position_embeddings__weight=(32, 8), layer__decoder__weight=(8, 8), norm=(8,))
    wanted = infos(**shapes)
    found = vocabulary_tensors({**wanted, **layers}, {"vocab_size": 90, "hidden_size": 8})
    assert set(found) == set(wanted)
    assert found[0] == min(
        wanted,
        key=lambda name: "head" in name or "cls" in name or "out" in name or "logits" in name,
    )


def test_without_a_config_the_names_tell():
    found = vocabulary_tensors(infos(wte__weight=(90, 8), odd=(90, 8), lm_head__weight=(90, 8)), {})
    assert found == ["wte.weight", "lm_head.weight"]


def test_another_name_counts_by_its_rows_where_no_other_size_is_that_number():
    tensors = infos(wte__weight=(90, 8), odd__weight=(90, 8), ids=(90,))
    assert vocabulary_tensors(tensors, {"vocab_size": 90}) == ["wte.weight", "odd.weight"]
    assert vocabulary_tensors(tensors, {"vocab_size": 90, "n_inner": 90}) == ["wte.weight"]


def test_the_text_part_of_a_config_tells_its_vocabulary():
    tensors = infos(text__embed_tokens__weight=(90, 8), codec__embed_tokens__weight=(40, 8))
    config = {"text_config": {"vocab_size": 90}, "hidden_size": 40}
    assert vocabulary_tensors(tensors, config) == ["text.embed_tokens.weight"]


def test_a_model_without_tokens_has_none():
    assert vocabulary_tensors(infos(conv__weight=(90, 8)), {"hidden_size": 90}) == []


def test_rows_lie_on_the_first_axis_or_on_the_second_of_one():
    for shape, rows, width, more in [
        ((90, 8), 90, 8, (91, 8)),
        ((90,), 90, 1, (91,)),
        ((1, 90), 90, 1, (1, 91)),
    ]:
        info = TensorInfo("F32", shape)
        assert (rows_of(info), width_of(info), with_rows(info, 91).shape) == (rows, width, more)
