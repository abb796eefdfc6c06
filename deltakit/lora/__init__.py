"""LoRA adapters: read, merged, baked and extracted by their factors, never loaded into a model."""

from deltakit.lora.opening import is_adapter, open_adapter

__all__ = ["is_adapter", "open_adapter"]
