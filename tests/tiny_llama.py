"""A random Llama with a byte-level tokenizer, made in a second, for tests that need a real one."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS = 0, 1
TEXTS = [
    "The marketing team asked for a remote control that is easy to use.",
    "Größe, naïve, café: the summary keeps every letter as it was.",
    "Question: is the following claim true?\nAnswer: yes, no, maybe.",
] * 5


def save_tiny_llama(folder: Path, context: int = 256, bos: bool = True) -> Path:
    """A model directory for `hf:`; without `bos` texts begin after the end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>" if bos else None, eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=360,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.4,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
