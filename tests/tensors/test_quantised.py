"""Quantised models are refused by name, in the layouts that are met in files."""

import pytest
import torch

import deltakit
from deltakit.errors import BadFile
from deltakit.lora.extraction import plan_extract
from tests.lora.folders import factors, write_folder
from tests.models import write_model

FP8 = torch.float8_e4m3fn
BYTES, WORDS = torch.uint8, torch.int32
M = "model.layers.0.self_attn.q_proj"
OUT, IN = 256, 128


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=torch.float32).to(dtype)


# layout -> (the tensors of one module of 256 x 128, quantization_config, words of the refusal)
LAYOUTS = {
    "bitsandbytes nf4": (
        {
            ".weight": ones(OUT * IN // 2, 1, dtype=BYTES),
            ".weight.absmax": ones(OUT * IN // 64),
            ".weight.quant_map": ones(16),
            ".weight.quant_state.bitsandbytes__nf4": ones(80, dtype=BYTES),
        },
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "bitsandbytes 4-bit",
    ),
    "bitsandbytes nf4, twice": (
        {
            ".weight": ones(OUT * IN // 2, 1, dtype=BYTES),
            ".weight.absmax": ones(OUT * IN // 64, dtype=BYTES),
            ".weight.nested_absmax": ones(2),
            ".weight.nested_quant_map": ones(256),
            ".weight.quant_map": ones(16),
            ".weight.quant_state.bitsandbytes__nf4": ones(120, dtype=BYTES),
        },
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "bitsandbytes 4-bit",
    ),
    "bitsandbytes int8": (
        {
            ".weight": ones(OUT, IN, dtype=torch.int8),
            ".SCB": ones(OUT),
            ".weight_format": ones(1, dtype=BYTES)[0],
        },
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "bitsandbytes 8-bit",
    ),
    "GPTQ": (
        {
            ".qweight": ones(IN // 8, OUT, dtype=WORDS),
            ".qzeros": ones(1, OUT // 8, dtype=WORDS),
            ".scales": ones(1, OUT, dtype=torch.float16),
            ".g_idx": ones(IN, dtype=WORDS),
        },
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        "GPTQ or AWQ; its config says gptq",
    ),
    "AWQ": (
        {
            ".qweight": ones(IN, OUT // 8, dtype=WORDS),
            ".qzeros": ones(1, OUT // 8, dtype=WORDS),
            ".scales": ones(1, OUT, dtype=torch.float16),
        },
        {"quant_method": "awq", "bits": 4, "version": "gemm"},
        "GPTQ or AWQ; its config says awq",
    ),
    "FP8, blocks of 128 x 128": (
        {".weight": ones(OUT, IN, dtype=FP8), ".weight_scale_inv": ones(2, 1)},
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
        "FP8 with a scale a block",
    ),
    "FP8, a scale a row": (
        {".weight": ones(OUT, IN, dtype=FP8), ".weight_scale": ones(OUT, 1)},
        {"quant_method": "fbgemm_fp8"},
        "FP8 or INT8 with scales",
    ),
    "FP8, one scale": (
        {".weight": ones(OUT, IN, dtype=FP8), ".weight_scale": ones(1), ".input_scale": ones(1)},
        None,
        "FP8 or INT8 with scales",
    ),
    "FP8, said by the config alone": (
        {".weight": ones(OUT, IN, dtype=FP8)},
        {"quant_method": "fp8"},
        r"\(fp8\)",
    ),
    "compressed-tensors, packed": (
        {
            ".weight_packed": ones(OUT, IN // 8, dtype=WORDS),
            ".weight_scale": ones(OUT, 1, dtype=torch.bfloat16),
            ".weight_shape": ones(2, dtype=torch.int64),
        },
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "config says compressed-tensors",
    ),
    "compressed-tensors, int8": (
        {
            ".weight": ones(OUT, IN, dtype=torch.int8),
            ".weight_scale": ones(OUT, 1, dtype=torch.bfloat16),
        },
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        "FP8 or INT8 with scales; its config says compressed-tensors",
    ),
    "MXFP4": (
        {"_blocks": ones(OUT, 4, 16, dtype=BYTES), "_scales": ones(OUT, 4, dtype=BYTES)},
        {"quant_method": "mxfp4"},
        "MXFP4",
    ),
}
BY_CONFIG = "FP8, said by the config alone"


def write(folder, module, config):
    tensors = {f"{M}{end}": value for end, value in module.items()}
    config = {} if config is None else {"quantization_config": config}
    tensors["model.norm.weight"] = ones(IN)
    return write_model(folder, tensors, config=config)


@pytest.fixture
def adapter(tmp_path):
    return write_folder(tmp_path / "lora", factors(M, 1, 2, OUT, IN), r=2)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "MXFP4"])
def test_no_adapter_is_baked_into_it(tmp_path, adapter, layout):
    module, config, words = LAYOUTS[layout]
    base = write(tmp_path / "base", module, config)
    with pytest.raises(BadFile, match=rf"quantised(.|\n)*{words}(.|\n)*dequantise"):
        deltakit.merge([f"{adapter}"], "task_arithmetic", tmp_path / "m", base=f"{base}")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != BY_CONFIG])
def test_models_of_it_are_not_merged_and_no_adapter_is_extracted(tmp_path, layout):
    module, config, words = LAYOUTS[layout]
    base = write(tmp_path / "base", module, config)
    other = {end: value.float().mul(2).to(value.dtype) for end, value in module.items()}
    tuned = write(tmp_path / "tuned", other, config)
    with pytest.raises(BadFile, match=words):
        deltakit.merge([f"{tuned}"], "task_arithmetic", tmp_path / "m", base=f"{base}")
    with pytest.raises(BadFile, match=words):
        plan_extract(base, tuned)


def test_it_is_named_though_the_modules_are_called_otherwise(tmp_path):
    module, config, words = LAYOUTS["GPTQ"]
    base = write(tmp_path / "base", module, config)
    adapter = write_folder(tmp_path / "lora", factors(f"x.{M}", 1, 2, OUT, IN), r=2)
    with pytest.raises(BadFile, match=words):
        deltakit.merge([f"{adapter}"], "task_arithmetic", tmp_path / "m", base=f"{base}")


def test_what_is_not_quantised_of_such_a_model_is_merged(tmp_path):
    module, config, _ = LAYOUTS["FP8, blocks of 128 x 128"]
    base = write(tmp_path / "base", module, config)
    adapter = write_folder(
        tmp_path / "lora", {"model.norm.weight": ones(IN) * 3}, r=2, modules_to_save=["norm"]
    )
    report = deltakit.merge([f"{adapter}"], "task_arithmetic", tmp_path / "m", base=f"{base}")
    assert report.changed == 1


def test_a_plain_float8_weight_is_a_float(tmp_path, adapter):
    base = write(tmp_path / "base", {".weight": ones(OUT, IN, dtype=FP8)}, None)
    deltakit.merge([f"{adapter}"], "task_arithmetic", tmp_path / "m", base=f"{base}")
