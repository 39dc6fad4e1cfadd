"""Small vocabularies to write constrained texts with."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dllmc.spec import DenoiserSpec

PAD, MASK, EOS = 0, 1, 2
SPECIAL = ["<pad>", "<mask>", "<eos>"]


def of_pieces(*pieces: str) -> tuple[Tokenizer, DenoiserSpec]:
    """Special tokens 0 to 2, then `pieces`; a text is the pieces one after the other."""
    vocabulary = {piece: token for token, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer, spec_of(tokenizer)


def byte_level(texts: list[str], size: int) -> tuple[Tokenizer, DenoiserSpec]:
    """A byte-level vocabulary as Qwen's, trained on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer, spec_of(tokenizer)


def spec_of(tokenizer: Tokenizer) -> DenoiserSpec:
    """Of a model whose head is three tokens wider than its vocabulary, as heads often are."""
    return DenoiserSpec(
        mask_id=MASK,
        vocab_size=tokenizer.get_vocab_size() + 3,
        max_length=64,
        eos_ids=(EOS,),
        pad_id=PAD,
        prompt_slots=32,
    )


def decoded(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text of a response, as `Engine.decode` gives it."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()
