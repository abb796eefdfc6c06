"""Configurations as people write them, one for each form that is translated."""

import re
from pathlib import Path

FORMS = {
    "linear": """
merge_method: linear
models:
- {model: a, parameters: {weight: 1.0}}
- {model: b, parameters: {weight: 0.3}}
dtype: float32
""",
    "linear-sum": """
merge_method: linear
models:
- {model: a, parameters: {weight: 0.75}}
- {model: b, parameters: {weight: 0.25}}
parameters: {normalize: false}
""",
    "task_arithmetic": """
merge_method: task_arithmetic
base_model: base
models:
- {model: a, parameters: {weight: 0.5}}
- {model: b, parameters: {weight: -0.25}}
parameters: {lambda: 0.7}
""",
    "task_arithmetic-normalized": """
merge_method: task_arithmetic
base_model: base
models:
- {model: base}
- {model: a, parameters: {weight: 0.5}}
- {model: b, parameters: {weight: 0.25}}
parameters: {normalize: true}
""",
    "ties": """
merge_method: ties
base_model: base
models:
- {model: a, parameters: {weight: 1.0}}
- {model: b, parameters: {weight: 0.5}}
parameters: {density: 0.5}
""",
    "ties-sum": """
merge_method: ties
base_model: base
models:
- {model: a, parameters: {weight: 0.5}}
- {model: b, parameters: {weight: 0.3}}
parameters: {density: 0.25, normalize: false, lambda: 2}
""",
    "breadcrumbs": """
merge_method: breadcrumbs
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.5, gamma: 0.125}
""",
    "breadcrumbs_ties": """
merge_method: breadcrumbs_ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.5, gamma: 0.125}
""",
    "slerp": """
merge_method: slerp
base_model: a
slices:
- sources:
  - {model: a, layer_range: [0, 6]}
  - {model: b, layer_range: [0, 6]}
parameters:
  t:
  - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
  - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
  - {value: 0.5}
""",
    "gradient": """
merge_method: task_arithmetic
base_model: base
models:
- {model: a, parameters: {weight: [0.0, 1.0]}}
- {model: b, parameters: {weight: [{filter: mlp.down_proj, value: [1, 0.5, 0]}, {value: 0.1}]}}
""",
    "filters": """
merge_method: ties
base_model: base
models:
- model: a
  parameters:
    weight: [{filter: mlp, value: 0.5}, {filter: lm_head, value: 2}, {value: 1}]
- model: b
  parameters: {weight: [{filter: down_proj, value: [0.5, 1.5]}, {value: 0.4}]}
parameters:
  density: [{filter: layernorm, value: 1.0}, {value: 0.5}]
  lambda: [{filter: mlp, value: 0.5}]
""",
    "slices": """
merge_method: task_arithmetic
base_model: base
slices:
- sources:
  - {model: a, layer_range: [0, 2], parameters: {weight: 1.0}}
  - {model: b, layer_range: [0, 2], parameters: {weight: 0.25}}
  - {model: base, layer_range: [0, 2]}
- sources:
  - {model: a, layer_range: [2, 6], parameters: {weight: [0.0, 0.9]}}
  - {model: b, layer_range: [2, 6]}
  - {model: base, layer_range: [2, 6]}
  parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.2}]}
""",
    "stacked": """
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 4]}]
- sources: [{model: b, layer_range: [2, 6]}]
dtype: float32
""",
    "stacked-scale": """
merge_method: passthrough
slices:
- sources: [{model: base, layer_range: [0, 4]}]
- sources:
  - model: base
    layer_range: [2, 4]
    parameters:
      scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: [0.0, 0.5]}, {value: 1.0}]
- sources: [{model: b, layer_range: [4, 6], parameters: {scale: 0.75}}]
""",
    "stacked-slerp": """
merge_method: slerp
base_model: a
slices:
- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]
- sources: [{model: a, layer_range: [2, 6]}, {model: b, layer_range: [1, 5]}]
  parameters: {t: [{filter: mlp, value: [0.2, 0.8]}, {value: 0.4}]}
parameters: {t: 0.3}
""",
    "stacked-linear": """
merge_method: linear
slices:
- sources:
  - {model: a, layer_range: [0, 2], parameters: {weight: 1}}
  - {model: b, layer_range: [0, 2], parameters: {weight: 0}}
- sources: [{model: base, layer_range: [1, 4], parameters: {weight: 1}}]
- sources:
  - {model: b, layer_range: [3, 6], parameters: {weight: 0.5}}
  - {model: base, layer_range: [2, 5], parameters: {weight: [0.25, 1]}}
""",
    "stacked-ties": """
merge_method: ties
base_model: base
slices:
- sources:
  - {model: base, layer_range: [1, 5]}
  - {model: a, layer_range: [1, 5], parameters: {weight: 1.0}}
  - {model: b, layer_range: [2, 6], parameters: {weight: 0.5}}
- sources: [{model: base, layer_range: [0, 2]}]
- sources:
  - {model: base, layer_range: [4, 6]}
  - {model: b, layer_range: [4, 6], parameters: {weight: 1.5}}
  - {model: a, layer_range: [3, 5], parameters: {weight: 0.5}}
parameters: {density: 0.5}
""",
    "stacked-others": """
merge_method: ties
base_model: base
slices:
- sources:
  - {model: base, layer_range: [0, 3]}
  - {model: a, layer_range: [0, 3], parameters: {weight: 0.5}}
  - {model: b, layer_range: [0, 3]}
- sources:
  - {model: base, layer_range: [2, 5]}
  - {model: b, layer_range: [3, 6]}
- sources: [{model: a, layer_range: [1, 3]}]
  base_model: a
parameters: {density: 0.5, weight: 0.75}
""",
    "stacked-bases": """
merge_method: task_arithmetic
base_model: base
slices:
- sources:
  - {model: base, layer_range: [0, 3]}
  - {model: a, layer_range: [0, 3], parameters: {weight: 0.5}}
  - {model: b, layer_range: [1, 4], parameters: {weight: 0.25}}
- sources:
  - {model: a, layer_range: [2, 5]}
  - {model: b, layer_range: [3, 6], parameters: {weight: [0.25, 1]}}
  - {model: base, layer_range: [3, 6], parameters: {weight: -0.5}}
  base_model: a
  residual_weight: 0.1
parameters: {lambda: [1.0, 0.5]}
""",
    "stacked-slerps": """
merge_method: slerp
base_model: a
slices:
- sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]
- sources: [{model: base, layer_range: [1, 3]}, {model: a, layer_range: [2, 4]}]
- sources: [{model: b, layer_range: [3, 6]}, {model: base, layer_range: [3, 6]}]
  base_model: b
  parameters: {t: [0.1, 0.9]}
parameters: {t: 0.3}
""",
    "stacked-stock": """
merge_method: model_stock
slices:
- sources:
  - {model: base, layer_range: [0, 3]}
  - {model: a, layer_range: [0, 3]}
  - {model: b, layer_range: [0, 3]}
  base_model: base
- sources:
  - {model: b, layer_range: [2, 5]}
  - {model: a, layer_range: [2, 5]}
  - {model: base, layer_range: [2, 5]}
  base_model: b
base_model: base
""",
    "stacked-sce": """
merge_method: sce
base_model: base
slices:
- sources: [{model: base, layer_range: [0, 4]}, {model: a, layer_range: [0, 4]}]
- sources: [{model: base, layer_range: [2, 4]}, {model: b, layer_range: [4, 6]}]
parameters: {select_topk: 1.0}
""",
    "modules": """
merge_method: task_arithmetic
base_model: base
modules:
  default:
    slices:
    - sources:
      - {model: base, layer_range: [0, 6]}
      - {model: a, layer_range: [0, 6]}
      - {model: b, layer_range: [0, 6], parameters: {weight: 0.25}}
    parameters: {weight: 0.5}
parameters: {lambda: 0.7, weight: 3}
""",
    "model_stock": """
merge_method: model_stock
base_model: base
models: [{model: a}, {model: b}]
""",
    "sce": """
merge_method: sce
base_model: base
models: [{model: a}, {model: b}]
parameters: {select_topk: 0.5}
""",
}


# Of models whose tokenizers differ: tests/mergekit/models.py says how.
TOKENS = {
    "tokens-union": """
merge_method: task_arithmetic
base_model: plain
models:
- {model: chat, parameters: {weight: 0.5}}
- {model: more, parameters: {weight: 0.25}}
tokenizer:
  source: union
  tokens:
    <|im_start|>: {source: chat, force: true}
    <|im_end|>: {source: more}
    w3: {source: more, force: true}
    w9: {source: chat}
    w4: {source: {kind: model_token, model: plain, token_id: 7}, force: true}
    <new>: {source: {kind: model_token, model: chat, token: w5}}
    <zero>: {source: {kind: zero}}
""",
    "tokens-linear": """
merge_method: linear
models:
- {model: plain, parameters: {weight: 0.5}}
- {model: chat, parameters: {weight: 0.25}}
- {model: more, parameters: {weight: 2}}
tokenizer:
  source: union
  tokens:
    <|im_end|>: {source: more}
    <|im_start|>: {source: {kind: zero}}
    w9: {source: {kind: zero}}
    w31: {source: chat, force: true}
""",
    "tokens-slerp": """
merge_method: slerp
base_model: plain
models: [{model: plain}, {model: chat}]
parameters: {t: 0.4}
tokenizer:
  source: union
  tokens:
    <|im_start|>: {source: chat, force: true}
    w3: {source: chat, force: true}
""",
    "tokens-ties": """
merge_method: ties
base_model: plain
models: [{model: chat}, {model: more}]
parameters: {weight: 0.5, density: 0.5}
tokenizer:
  source: chat
  tokens:
    <|im_end|>: {source: chat}
    w9: {source: chat}
    <own>: {source: {kind: model_token, model: more, token_id: 32}, force: true}
""",
}


def form(name: str, folder: Path) -> str:
    """Return a configuration with its models in a folder."""
    text = {**FORMS, **TOKENS}[name]
    text = re.sub(r"(model: )(base|a|b|plain|chat|more)\b", rf"\g<1>{folder}/\2", text)
    return re.sub(r"(source: )(chat|more)\b", rf"\g<1>{folder}/\2", text)
