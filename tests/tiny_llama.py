"""A two-layer Llama over bytes, random but decided, and LoRA adapters for it: real weights in a few kilobytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evolvent.memory.quiet import quiet_transformers

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_base(folder: Path, *, seed: int = 0, **settings: Any) -> str:
    """Weights and a tokenizer in `folder`, as a path."""
    vocabulary = {
        token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": len(vocabulary),
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 2_000,
            "initializer_range": 0.4,
            "eos_token_id": 1,
            "bos_token_id": None,
            "pad_token_id": None,
            **settings,
        }
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[1] = 0  # its turns never end by themselves, whatever the rounding
    with quiet_transformers():
        model.save_pretrained(folder)
    return str(folder)


def write_adapter(base: str, folder: Path, *, seed: int = 1, **settings: Any) -> str:
    """A LoRA adapter that changes every reply, saved by PEFT; as a path."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings})
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tuned = get_peft_model(model, config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(tuned.named_parameters()):
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=random) * 0.1)
            elif "lora_A" in name:
                weight.copy_(torch.randn(weight.shape, generator=random) * 0.2)
            elif "magnitude" in name:
                weight.mul_(1 + 0.2 * torch.rand(weight.shape, generator=random))
    tuned.save_pretrained(folder, save_embedding_layers=False)
    return str(folder)
