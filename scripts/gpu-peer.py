#!/usr/bin/env python3
"""LoRA training steps of PyTorch + Transformers + PEFT, or of Unsloth, on random weights: what `neftune bench` is held
against on the same card. For each line "SHAPE MODE BATCH LENGTH ..." of --works it writes peer-PROGRAM-….json to --results
as soon as it is there; a work that fails is told on standard error, and the next one runs.

A step: forward with labels on dense rows, backward, clipping to 1.0, fused AdamW on the adapters (r 16, all seven linears)
over bf16 weights; mode qlora has the weights in bitsandbytes' NF4. Median of the measured steps."""
import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import traceback

SHAPES = {  # hidden, intermediate, layers, heads, key/value heads, vocabulary, tied
    "m25": (384, 1024, 8, 6, 6, 32000, False),
    "s135m": (576, 1536, 30, 9, 3, 49152, True),
    "llama2-7b": (4096, 11008, 32, 32, 32, 32000, False),
    "llama3-8b": (4096, 14336, 32, 32, 8, 128256, False),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def random_model(shape, device):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=4096,
        use_cache=False, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")


def to_nf4(model, device):
    """Puts the layers' linears into NF4, as from_pretrained with load_in_4bit does."""
    import bitsandbytes
    import torch

    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if not isinstance(linear, torch.nn.Linear):
                    continue
                packed = bitsandbytes.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16,
                    compress_statistics=True, quant_type="nf4",
                )
                packed.weight = bitsandbytes.nn.Params4bit(
                    linear.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                setattr(block, name, packed.to(device))
    return model


def peft_model(shape, mode, device, length):
    from peft import LoraConfig, get_peft_model

    model = random_model(shape, device)
    if mode == "qlora":
        model = to_nf4(model, device)
    lora = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=TARGETS)
    return get_peft_model(model, lora)


def unsloth_model(shape, mode, device, length):
    from unsloth import FastLanguageModel

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # it loads from files alone
        random_model(shape, device).save_pretrained(folder)
        model, _ = FastLanguageModel.from_pretrained(
            folder, max_seq_length=length, dtype=None, load_in_4bit=mode == "qlora", local_files_only=True
        )
    return FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, lora_dropout=0, bias="none", target_modules=TARGETS,
        use_gradient_checkpointing=False,
    )


def measure(model, shape, batch, length, device, steps, warmup):
    import torch

    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds, losses = [], []
    for step in range(warmup + steps):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(3, SHAPES[shape][5], (batch, length), generator=generator).to(device)
        wait()
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        wait()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    return statistics.median(seconds[warmup:]), losses


def run(program, shape, mode, batch, length, arguments):
    import torch

    device = arguments.device
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    build = unsloth_model if program == "unsloth" else peft_model
    model = build(shape, mode, device, length)
    step, losses = measure(model, shape, batch, length, device, arguments.steps, arguments.warmup)
    return {
        "program": program, "shape": shape, "mode": mode, "batch_size": batch, "max_length": length,
        "step_seconds_median": step, "tokens_per_second": batch * length / step, "losses": losses,
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU", "torch": torch.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", choices=["peft", "unsloth"], default="peft")
    parser.add_argument("--works", required=True)
    parser.add_argument("--results", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if arguments.program == "unsloth":
        import unsloth  # noqa: F401 (before transformers, as it asks)
    import torch

    with open(arguments.works) as file:
        works = [line.split()[:4] for line in file if line.strip()]
    for shape, mode, batch, length in works:
        name = f"peer-{arguments.program}-{shape}-{mode}-{batch}x{length}.json"
        try:
            result = run(arguments.program, shape, mode, int(batch), int(length), arguments)
            path = os.path.join(arguments.results, name)
            with open(path + ".part", "w") as file:
                json.dump(result, file)
            os.replace(path + ".part", path)
            print(f"{name}: {result['tokens_per_second']:.0f} tokens/s", flush=True)
        except Exception:  # the next work may run
            traceback.print_exc()
            print(f"{name}: failed", file=sys.stderr, flush=True)
        gc.collect()
        if arguments.device == "cuda":
            torch.cuda.empty_cache()


main()
