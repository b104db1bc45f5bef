"""A random T5 with a SentencePiece-like tokenizer, made in a second."""

from pathlib import Path

import torch
import transformers
from tiny_llama import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers


def save_tiny_t5(
    folder: Path, texts: list[str] = TEXTS, vocabulary: int = 300, width: int = 32
) -> Path:
    """A model directory for `hf:`: gated MLP, tied head, no dropout; pad 0, end 1."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(5)
    config = transformers.T5Config(
        vocab_size=max(300, len(tokenizer.get_vocab())),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder
