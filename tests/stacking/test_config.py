"""What config.json says of a layer holds of it wherever it now stands, or is refused by its key."""

import pytest

from deltakit.errors import BadValue
from deltakit.stacking import Level, differences, stacked_config


def levels(*layers, model="base"):
    return [Level(0, model, layer, {}) for layer in layers]


def config(**more):
    return {"num_hidden_layers": 4, "hidden_size": 8, **more}


def test_the_number_of_layers_follows_and_the_rest_stays():
    given = config(eos_token_id=[1, 2, 3, 4], max_window_layers=4)
    found = stacked_config(given, 4, levels(0, 1, 2, 1, 2, 3), {})
    assert found == {**given, "num_hidden_layers": 6, "max_window_layers": 6}
    assert given["num_hidden_layers"] == 4


def test_it_may_lie_in_a_part_of_the_config():
    found = stacked_config({"text_config": {"n_layer": 4}, "x": 1}, 4, levels(0), {})
    assert found == {"text_config": {"n_layer": 1}, "x": 1}


def test_what_is_listed_of_each_layer_goes_with_it():
    given = config(layer_types=list("abab"), mlp_only_layers=[0, 3])
    found = stacked_config(given, 4, levels(2, 3, 0, 0), {})
    assert found["layer_types"] == ["a", "b", "a", "a"]
    assert found["mlp_only_layers"] == [1, 2, 3]
    other = {"b": config(layer_types=list("cdcd"))}
    found = stacked_config(given, 4, levels(1) + levels(1, model="b"), other)
    assert found["layer_types"] == ["b", "d"]
    assert found["mlp_only_layers"] == []


@pytest.mark.parametrize(
    ("more", "moved", "refused"),
    [
        ({"sliding_window_pattern": 2}, (0, 1, 0, 1), False),
        ({"sliding_window_pattern": 2}, (0, 1, 1, 2), True),
        ({"sliding_window_pattern": 2, "layer_types": list("abab")}, (0, 1, 1, 2), False),
        ({"model_type": "gemma2"}, (0, 1, 3), True),
        ({"model_type": "gemma2"}, (2, 3, 0), False),
        ({"first_k_dense_replace": 1}, (0, 1, 2, 1, 2, 3), False),
        ({"first_k_dense_replace": 1}, (0, 1, 0, 1), True),
        ({"first_k_dense_replace": 0}, (0, 1, 0, 1), False),
        ({"max_window_layers": 2, "use_sliding_window": True}, (0, 1, 2, 1), True),
        ({"max_window_layers": 2, "use_sliding_window": False}, (0, 1, 2, 1), False),
        ({"attn_layer_period": 2}, (0, 2), True),
    ],
)
def test_a_key_that_counts_layers_is_refused_where_a_layer_would_change(more, moved, refused):
    if not refused:
        assert stacked_config(config(**more), 4, levels(*moved), {})
        return
    with pytest.raises(BadValue, match=r"of config\.json counts layers"):
        stacked_config(config(**more), 4, levels(*moved), {})


def test_a_config_that_does_not_count_the_layers_is_refused():
    with pytest.raises(BadValue, match="does not give the number of layers"):
        stacked_config(config(), 5, levels(0), {})
    with pytest.raises(BadValue, match="layer_types"):
        stacked_config(config(layer_types=list("abab")), 4, levels(0, model="b"), {"b": {}})


def test_differences_are_of_what_a_layer_computes():
    other = config(rope_theta=2, torch_dtype="float16", num_hidden_layers=9, vocab_size=3)
    ours = config(rope_theta=1, torch_dtype="bfloat16", vocab_size=2)
    assert differences(ours, other) == ["rope_theta"]
