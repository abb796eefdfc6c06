"""Configurations of models whose tokenizers differ: models.py says how."""

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
