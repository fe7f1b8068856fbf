"""Writes vocab.json and merges.txt of the demo's tokenizer, CLIP's kind of BPE, in which every word is one token.

python -m lab.demo.build_tokenizer
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer

from pfv_demo.sizes import VOCABULARY

from .captions import all_words

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
PRINTABLE = [chr(code) for code in range(33, 127)]
END_OF_WORD = "</w>"
MORE_THAN_ENOUGH = 10_000  # tokens; training stops when every word is one


def build(folder: Path) -> None:
    """Train on the grammar's words until each is one token; any other printable text is spelt out.

    The library breaks ties between merges as they come, so another run may number the tokens differently: weights belong to
    the files they were trained with.
    """
    tokenizer = Tokenizer(BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=MORE_THAN_ENOUGH, min_frequency=0, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    tokenizer.train_from_iterator(all_words(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    tokens = [*PRINTABLE, *(char + END_OF_WORD for char in PRINTABLE), *(pair.replace(" ", "") for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, BEGIN, END]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build(VOCABULARY)
