"""The embedded model's tokenizer: words, single letters, digits and signs, each with or without
a space before it."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

PAD, MASK, EOS, UNKNOWN = "<|pad|>", "<|mdm_mask|>", "<|endoftext|>", "<|unk|>"
SIGNS = "+-*/=:;,.?!{}[]()\"'<>_#"
# A word or one other character, with its leading space; a trailing colon stays with its word.
_PIECE = r" ?[A-Za-z]+:?| ?[^A-Za-z]"


def build(words: tuple[str, ...], task_prefixes: tuple[str, ...]) -> Tokenizer:
    """A tokenizer that knows `words` whole and spells all others."""
    singles = [*"abcdefghijklmnopqrstuvwxyz0123456789", *SIGNS]
    spaced = [f" {piece}" for piece in (*singles, *words)]
    pieces = [PAD, MASK, EOS, UNKNOWN, *task_prefixes, " ", *singles, *words, *spaced]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    # ignore_merges: a piece of the vocabulary is one token although nothing was ever merged.
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, ignore_merges=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, MASK, EOS, UNKNOWN])
    return tokenizer
