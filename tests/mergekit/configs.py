"""Configurations as people write them, one for each form that is translated."""

import re
from pathlib import Path
from typing import Any

from deltakit.recipe.text import parse
from tests.mergekit.stacked import STACKED
from tests.mergekit.worded import TOKENS

MERGED = {
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
    "ties-each": """
merge_method: ties
base_model: base
models:
- {model: a, parameters: {density: [1, 0.75, 0.5, 0.5, 0.25, 0.125], weight: 1.0}}
- model: b
  parameters:
    density: 0.25
    weight: [{filter: mlp, value: 0.5}, {value: 0}]
parameters: {normalize: true, int8_mask: true}
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
    "breadcrumbs-each": """
merge_method: breadcrumbs
base_model: base
models:
- {model: a, parameters: {density: 0.75, gamma: 0.125}}
- {model: b, parameters: {density: 1.0}}
parameters: {weight: 0.5, density: 0.5, gamma: 0.0625}
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


SLERP = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nslices:\n"
STACK = """merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 4]}]
- sources: [{model: b, layer_range: [2, 6]}]
"""

HEAD = "merge_method: ties\nbase_model: base\nmodels:\n- {model: a}\n- {model: b}\n"
WEIGHED = HEAD + "parameters: {weight: 1, density: 0.5}\n"

FORMS = {**MERGED, **STACKED}


def read(text: str) -> Any:
    return parse(text.encode(), is_yaml=True)


def form(name: str, folder: Path) -> str:
    """Return a configuration with its models in a folder."""
    text = {**FORMS, **TOKENS}[name]
    text = re.sub(r"(model: )(base|a|b|plain|chat|more)\b", rf"\g<1>{folder}/\2", text)
    return re.sub(r"(source: )(chat|more)\b", rf"\g<1>{folder}/\2", text)
