"""Tiny random encoders with real tokenizers, saved as a user would have them."""

import json
from pathlib import Path
from typing import Any

TEXTS = [
    "The marketing team asked for a remote control that is easy to use.",
    "Größe, naïve, café: the summary keeps every letter 🎉🇫🇷 as it was.",
    "We decided to postpone the meeting; nobody objected to the new budget.",
] * 5
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,
}


def word_piece(folder: Path) -> None:
    """BERT's kind of tokenizer, one that states no limit."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, special, strict=True))
    ).save_pretrained(folder)


def byte_level(folder: Path, **settings: Any) -> None:
    """RoBERTa's own tokenizer class."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    transformers.RobertaTokenizer(vocab=learnt["vocab"], merges=merges, **settings).save_pretrained(
        folder
    )


def bert(folder: Path) -> Path:
    """As after masked-language training: a head that nobody here reads, and no pooler."""
    import torch
    import transformers

    word_piece(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=200, **SHAPE)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def roberta(folder: Path) -> Path:
    import torch
    import transformers

    byte_level(folder)
    torch.manual_seed(1)
    config = transformers.RobertaConfig(vocab_size=400, **SHAPE)
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def nli(folder: Path, labels: list[str]) -> Path:
    """A BERT with a classification head; its answers are random, but far from each other."""
    import torch
    import transformers

    word_piece(folder)
    torch.manual_seed(2)
    config = transformers.BertConfig(
        vocab_size=200,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **SHAPE,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
