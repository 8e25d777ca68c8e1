"""Tokenizers of three kinds with at most 40 tokens, as the ids of ``token_nets`` are."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["the", "cat", "play", "##ing", "##ed", "sat", "on", "mat", ".", "dog", "a", "##s", "猫", "犬", "好"]


def word_piece() -> Tokenizer:
    """As BERT: ## before what goes on, [CLS] and [SEP], types of a pair."""
    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    made.enable_padding(pad_id=0, pad_token="[PAD]")
    return made


def byte_pairs() -> Tokenizer:
    """As GPT-2: a space is Ġ before its word; no special tokens, nothing about padding."""
    letters = ["<unk>", *"thecatplyingsomd.", "Ġ"]
    letters = list(dict.fromkeys(letters))
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("p", "l"), ("pl", "a"), ("Ġ", "pla")]
    vocab = {w: i for i, w in enumerate([*letters, *(a + b for a, b in merges)])}
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def unigram(split: bool) -> Tokenizer:
    """As SentencePiece: ▁ before a word; without ``split`` nothing cuts the text at spaces, so that it counts as one word."""
    pieces = [
        ("<unk>", 0.0),
        ("▁", -4.0),
        ("▁the", -2.0),
        ("▁cat", -2.0),
        ("▁play", -2.5),
        ("ing", -2.5),
        (".", -3.0),
        ("好", -5.0),
        ("猫", -5.0),
    ]
    made = Tokenizer(models.Unigram([*pieces, *((c, -6.0) for c in "thecaplyingsomd")], 0))
    if split:
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made


KINDS = {"WordPiece": word_piece, "BPE": byte_pairs, "Unigram": lambda: unigram(True), "Unigram, unsplit": lambda: unigram(False)}


def all_bytes() -> Tokenizer:
    """One token a byte: any text, its letters in pieces."""
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    return file
