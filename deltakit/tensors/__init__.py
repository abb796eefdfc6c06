"""Reading and writing tensors as bytes: safetensors files, model folders, sparse codecs."""
