"""What has no counterpart here is refused by the key that mergekit has for it."""

from pathlib import Path

import pytest

from deltakit.errors import BadFile, BadValue
from deltakit.mergekit import translate
from tests.mergekit.configs import HEAD, SLERP, STACK, WEIGHED, read

REFUSED = [
    (HEAD, "weight is missing for"),
    (WEIGHED + "chat_template: llama3", "known here"),
    (WEIGHED + "modules: {x: {}}", "exactly one of models, slices and modules"),
    (WEIGHED + "tokenizer: {tokens: {x: {force: true}}}", "without its source"),
    (WEIGHED + "tokenizer: {tokens: {x: {sorce: a}}}", "unknown key 'sorce'"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: {kind: zeros}}}}", "of another kind"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: {kind: zero, token: b}}}}", "key 'token'"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}", "exactly one"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: .}}}", "a model that is not merged"),
    (STACK + "tokenizer: {tokens: {x: {source: a}}}", "rows of stacked layers"),
    (WEIGHED + "tokenizer: {source: a}\ntokenizer_source: a", "both there"),
    (STACK + "tokenizer: {pad_to_multiple_of: 8}", "rows of stacked layers"),
    (WEIGHED + "tokeniser_source: base", "unknown key 'tokeniser_source'"),
    (WEIGHED.replace("density", "densty"), "has no 'densty'"),
    (WEIGHED.replace("ties", "tise", 1), "'tise' has no counterpart"),
    ("merge_method: passthrough\nmodels: [{model: a}, {model: b}]", "one source a slice"),
    ("merge_method: linear\nmodules: {x: {models: [{model: a}]}, y: {}}", "part by part"),
    ("merge_method: linear\nmodules: {x: {}}", "exactly one of models and slices"),
    ("merge_method: linear\nmodules: {}", "exactly one of models and slices"),
    (
        WEIGHED.replace("weight: 1,", "weight: 1, rescale: true,"),
        "rescale: True has no counterpart",
    ),
    (WEIGHED.replace("base_model: base\n", ""), "base_model is missing"),
    (WEIGHED.replace("{model: a}", "{model: org/name}"), "no such folder"),
    (WEIGHED.replace("{model: a}", "{model: a+lora}"), "an adapter on it"),
    (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
        "parameters: {normalize: false, weight: 2}\nbase_model: b",
        "base_model is not among the models",
    ),
    (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n"
        "- {model: b, parameters: {weight: 1}}\nparameters: {normalize: false}",
        "do not sum to 1",
    ),
    (SLERP + "- sources: [{model: b, layer_range: [0, 4]}]", "slerp of one source"),
    (
        SLERP + "- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 3]}]",
        "different numbers of layers",
    ),
    (
        SLERP + "- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]\n"
        "- sources: [{model: a, layer_range: [0, 4]}, {model: base, layer_range: [0, 4]},"
        " {model: b, layer_range: [0, 4]}]",
        "each slice is to be made of as many",
    ),
    (STACK.replace("0, 4", "4, 4"), "without layers"),
    (STACK.replace("0, 4", "0, 9"), "not in the model"),
    (STACK + "tokenizer_source: b\n", "the tokenizer of their base"),
    (STACK.replace("passthrough", "ties"), "base_model is missing"),
    (STACK.replace("passthrough", "linear") + "parameters: {weight: 0}", "other than the source"),
]


@pytest.mark.parametrize(("text", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_has_no_counterpart_is_refused_by_its_key(text: str, match: str, models: Path):
    with pytest.raises((BadFile, BadValue), match=match):
        translate(read(text))
