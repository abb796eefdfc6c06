"""Real model folders, tiny and random, with a tokenizer of whole words."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

QUESTION = ["who", "where", "what", "is", "this", "a"]
WORDS = ["[PAD]", "[UNK]", *QUESTION, "film", "good", "bad", "person", "place", "red", "blue"]
TEXTS = ["who is this", "where is a place", "what a good film", "a bad film"]

BERT = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
LLAMA = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "tie_word_embeddings": True,
}


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(folder)


def encoder(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.BertModel(transformers.BertConfig(**BERT)).eval()


def classifier(**config: Any) -> Any:
    torch.manual_seed(0)
    config = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}, **config}
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**BERT, **config)
    ).eval()


def masked() -> Any:
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(transformers.BertConfig(**BERT)).eval()


def causal() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()


def save(model: Any, folder: Path) -> Path:
    """Write a complete model folder, as a user's training script would."""
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder
