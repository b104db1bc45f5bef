"""Prompts to token ids: the chat template, a beginning to continue, and text that stays text.

A template is filled in as text and tokenised as a whole, so a transcript that contains
`<|im_end|>` would end its own message. Such a literal gets a zero-width space after its first
character: it reads the same and means nothing to the model.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from featherweight.engines.hf_vocabulary import Vocabulary
from featherweight.engines.text import ZERO_WIDTH_SPACE, check_prompt, split_beginning
from featherweight.engines.types import Message, Prompt
from featherweight.errors import EngineError


class Encoded(NamedTuple):
    """Token ids that the model reads before its own first token.

    `beginning` is what an encoder-decoder's decoder reads after its start token; a decoder-only
    model has it at the end of `ids`.
    """

    ids: list[int]
    beginning: list[int]

    def __len__(self) -> int:
        return len(self.ids) + len(self.beginning)


class Prompts:
    """Reads prompts with one tokenizer, for a decoder-only model or an encoder-decoder."""

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, seq2seq: bool, name: str) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._seq2seq = seq2seq
        self._name = name
        self._adds_end = self._ids("a", True)[-1] in vocabulary.end

    def encode(self, prompt: Prompt) -> Encoded:
        """The prompt as the model reads it, template and special tokens included."""
        text, special, beginning = self._text(prompt)
        ids = self._ids(text, special)
        if special and not self._seq2seq and len(ids) > 1 and self._adds_end:
            ids.pop()  # a prompt that already ended would get no answer
        return Encoded(ids, self._target_ids(beginning))

    def split(self, prompt: Prompt, continuation: str) -> tuple[Encoded, list[int]]:
        """Ids of the prompt and of the continuation; a token across the boundary is the latter's.

        An encoder-decoder's continuation begins anew, or joins the beginning that it continues.
        """
        check_prompt(self._name, continuation)
        text, special, beginning = self._text(prompt)
        if self._seq2seq:
            found, target = self._cut(beginning, continuation, False)
            return Encoded(self._ids(text, special), found), target
        found, target = self._cut(text, continuation, special)
        if not found and target:
            found = [self.start_id]
        return Encoded(found, []), target

    @property
    def template(self) -> str:
        """The tokenizer's chat template; where it has several, all by name as JSON."""
        found = self._tokenizer.chat_template or ""
        return found if isinstance(found, str) else json.dumps(found, sort_keys=True)

    @property
    def start_id(self) -> int:
        """What a text without a prompt begins after: the BOS token, else an end token."""
        start: int | None = self._tokenizer.bos_token_id
        return min(self._vocabulary.end) if start is None else start

    def plain(self, text: str) -> list[int]:
        """Ids of text alone: no template, no special tokens added."""
        check_prompt(self._name, text)
        return self._ids(text, False)

    def harmless(self, text: str) -> str:
        """`text` so that no part of it is read as a control token; most texts as they are."""
        control = self._vocabulary.control
        while found := control.keys() & set(self._ids(text, False)):
            safe = text
            for literal in (control[token] for token in found):
                safe = safe.replace(literal, literal[0] + ZERO_WIDTH_SPACE + literal[1:])
            if safe == text:  # written otherwise, and made equal by the tokenizer's normaliser
                raise EngineError(
                    f"{self._name}: a message holds text that the tokenizer reads as the control "
                    f"token {control[min(found)]}; take it out."
                )
            text = safe
        return text

    def _text(self, prompt: Prompt) -> tuple[str, bool, str]:
        """One string; whether special tokens are added to it; what the decoder begins with."""
        check_prompt(self._name, prompt)
        if isinstance(prompt, str):
            return prompt, True, ""
        messages = [Message(role=m["role"], content=self.harmless(m["content"])) for m in prompt]
        messages, beginning = split_beginning(messages)
        if not self._seq2seq and beginning:
            messages, beginning = [*messages, Message(role="assistant", content=beginning)], ""
        if not self._tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in messages), True, beginning
        return chat_text(self._tokenizer, messages, self._name), False, beginning

    def _ids(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        return ids

    def _target_ids(self, text: str) -> list[int]:
        return self._cut("", text, False)[1] if text else []

    def _cut(self, before: str, after: str, special: bool) -> tuple[list[int], list[int]]:
        """Ids of `before` and of `after`, tokenised joined."""
        joined = {"text_target" if self._seq2seq else "text": before + after}
        encoded = self._tokenizer(
            **joined,
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=special,
            verbose=False,
        )
        ids, ends = encoded.input_ids, [end for _, end in encoded.offset_mapping]
        while special and ids and encoded.special_tokens_mask[len(ids) - 1] and self._adds_end:
            ids.pop()
            ends.pop()
        if not before and not special:
            return [], ids
        cut = next((i for i, end in enumerate(ends) if end > len(before)), len(ids))
        return ids[:cut], ids[cut:]


def chat_text(tokenizer: Any, messages: Sequence[Message], name: str) -> str:
    """`messages` through the tokenizer's template, up to where the model goes on."""
    continued = messages[-1]["role"] == "assistant" if messages else False
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
        )
    except Exception as error:  # a template raises what it likes: a role it does not know, ...
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EngineError(
            f"{name}: its chat template refuses these messages ({reason}); "
            "change their roles or order, or name a directory that has a template."
        ) from error
    return text
