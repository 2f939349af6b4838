"""Writes tokenizer.json and cases.json of this folder with Transformers 5.24.0 and tokenizers 0.23.3: python make.py

Each case is a conversation and a template: a name that --prompt-template knows, whose text is put together here from what
the models' makers publish, or a Jinja file beside this one, rendered by Transformers. `labels`: a token is a target where
it holds a character of what the template marks as generated, as in Transformers' assistant mask; -100 elsewhere.
"""
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).resolve().parent
BOS, EOS = "<s>", "</s>"
SPECIAL = [
    *[BOS, EOS, "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>"],
    *["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
]
WORDS = "the tool adds one and two, the answer is three; what is the sum of one and two? system user assistant"


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(arguments):
    return {"type": "function", "function": {"name": "add", "arguments": arguments}}


TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds “two” numbers <b>", "parameters": {"a": 1}}}]
RESULT = {"role": "tool", "content": "3"}
PLAIN = {
    "one turn": [user("hi"), assistant("the answer")],
    "spaces": [user(" what \n"), assistant("  the sum\n\n is 3 ")],
    "unicode": [user("½ 世界 👋"), assistant("é\tthree 👍🏽")],
    "system": [system("Be brief.\nBe kind."), user("hi"), assistant("one"), user("and?"), assistant("two")],
}
THOUGHT = "<think>\none and two\n</think>\n\nIt is three."
REASONED = {
    "reasoning": [user("1+2?"), assistant(THOUGHT)],
    "reasoning twice": [user("1+2?"), assistant(THOUGHT), user("sure?"), assistant("<think>\nyes\n</think>\n\n It is.")],
}
WITH_TOOLS = {
    "tools": [user("1+2?"), assistant("", tool_calls=[call({"a": 1, "b": "é"})]), RESULT, assistant("three")],
    "tools, text": [system("Add."), user("1+2?"), assistant("I add.", tool_calls=[call('{"a": 1}')] * 2), RESULT, assistant("3")],
    "reasoning field": [user("1+2?"), assistant("three", reasoning_content="one and two")],
}


def pieces_llama3(messages):
    """Header, blank line, trimmed content, <|eot_id|>."""
    yield BOS, False
    for turn in messages:
        yield f"<|start_header_id|>{turn['role']}<|end_header_id|>\n\n", False
        yield turn["content"].strip() + "<|eot_id|>", turn["role"] == "assistant"


def pieces_chatml(messages):
    for turn in messages:
        yield f"<|im_start|>{turn['role']}\n", False
        yield turn["content"] + "<|im_end|>", turn["role"] == "assistant"
        yield "\n", False


def pieces_mistral(messages):
    """One BOS; the system's words before the first question, in its [INST]."""
    yield BOS, False
    preface = ""
    for turn in messages:
        if turn["role"] == "system":
            preface = turn["content"] + "\n\n"
        elif turn["role"] == "user":
            yield f"[INST] {preface}{turn['content']} [/INST]", False
            preface = ""
        else:
            yield f" {turn['content']}{EOS}", True


NAMED = {"llama3": pieces_llama3, "chatml": pieces_chatml, "mistral": pieces_mistral}


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([WORDS] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def encoded(tokenizer, pieces):
    """Ids and labels of a text in pieces."""
    text = "".join(piece for piece, _ in pieces)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    spans, at = [], 0
    for piece, is_generated in pieces:
        if is_generated:
            spans.append((at, at + len(piece)))
        at += len(piece)
    return text, labeled(encoding, spans)


def labeled(encoding, spans):
    def is_target(start, end):
        return any(start < stop and max(end, start + 1) > begin for begin, stop in spans)

    labels = [i if is_target(*offsets) else -100 for i, offsets in zip(encoding.ids, encoding.offsets)]
    return {"ids": encoding.ids, "labels": labels}


def main():
    tokenizer = make_tokenizer()
    tokenizer.save(str(HERE / "tokenizer.json"))
    cases = []
    for name, make in NAMED.items():
        for conversation, messages in PLAIN.items():
            text, tokens = encoded(tokenizer, list(make(messages)))
            cases.append({"template": name, "conversation": conversation, "messages": messages, "text": text, **tokens})
    for path in sorted(HERE.glob("*.jinja")):
        conversations = {**PLAIN, **REASONED, **(WITH_TOOLS if "tools" in path.name else {})}
        for conversation, messages in conversations.items():
            tools = TOOLS if conversation.startswith("tools") else None
            template = path.read_text()
            settings = {"tools": tools, "chat_template": template, "bos_token": BOS, "eos_token": EOS}
            texts, marks = render_jinja_template([messages], return_assistant_tokens_mask=True, **settings)
            asked, _ = render_jinja_template([messages[:-1]], add_generation_prompt=True, **settings)
            tokens = labeled(tokenizer.encode(texts[0], add_special_tokens=False), marks[0])
            case = {"template": path.name, "conversation": conversation, "messages": messages, "tools": tools}
            cases.append({**case, "text": texts[0], **tokens, "prompt": asked[0]})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
