"""A random T5 with a SentencePiece-like tokenizer, made in a second."""

from pathlib import Path

import torch
import transformers
from tiny_llama import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ["<pad>", "</s>", "<unk>"]


def unigram(texts: list[str], vocabulary: int) -> Tokenizer:
    """Words begin with a space mark, EOS at the end; the same from run to run.

    The library's trainer of such models is not: it would make another random model each time. So
    the pieces are those of byte-pair merges, the earlier the likelier.
    """
    space = pre_tokenizers.Metaspace()
    merged = Tokenizer(models.BPE())
    merged.pre_tokenizer = space
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False
    )
    merged.train_from_iterator(texts, trainer)
    pieces = sorted(merged.get_vocab(), key=merged.get_vocab().__getitem__)
    scores = [(piece, -10.0 - 0.01 * rank) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=SPECIAL.index("<unk>")))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = space
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def save_tiny_t5(
    folder: Path, texts: list[str] = TEXTS, vocabulary: int = 300, width: int = 32
) -> Path:
    """A model directory for `hf:`: gated MLP, tied head, no dropout; pad 0, end 1."""
    tokenizer = unigram(texts, vocabulary)
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
