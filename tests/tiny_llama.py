"""A random Llama with a byte-level tokenizer, made in a second, for tests that need a real one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS = 0, 1
TEXTS = [
    "The marketing team asked for a remote control that is easy to use.",
    "Größe, naïve, café: the summary keeps every letter as it was.",
    "Question: is the following claim true?\nAnswer: yes, no, maybe.",
] * 5


def tiny_tokenizer(
    bos: bool = True, words: Any = None, texts: Sequence[str] = TEXTS, **model: Any
) -> Any:
    """360 tokens; `words` cuts texts into words (GPT-2's way), `model` are settings of the BPE."""
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = words or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>" if bos else None, eos_token="</s>"
    )


def save_tiny_llama(
    folder: Path, context: int = 256, bos: bool = True, tokenizer: Any = None, **changes: Any
) -> Path:
    """A model directory for `hf:`; without `bos` texts begin after the end token.

    `changes` are settings of the config: heads, theta, tied embeddings.
    """
    (tokenizer or tiny_tokenizer(bos)).save_pretrained(folder)
    torch.manual_seed(5)
    settings: dict[str, Any] = {
        "vocab_size": 360,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "initializer_range": 0.4,
    }
    config = transformers.LlamaConfig(**(settings | changes))
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_tiny_lora(folder: Path, base: Path, **settings: Any) -> Path:
    """A LoRA over `base` that changes much: nothing in it begins at zero."""
    import peft

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
    }
    tuned = peft.get_peft_model(model, peft.LoraConfig(**(defaults | settings)))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    tuned.save_pretrained(folder)
    return folder
