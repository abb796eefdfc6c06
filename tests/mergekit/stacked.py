"""Configurations as people write them, of slices that stack layers."""

STACKED = {
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
}
