#!/usr/bin/env python3
"""What each part of a tokenizer.json does, by Hugging Face's tokenizers 0.23.3: tokenizer-parts.json.

    tokenizer-parts.py llama.json bytes.json > tokenizer-parts.json

The two files are llamaTokenizerJson() and byteTokenizerJson() of test/data/tiny-tokenizer.ts. `spans` are the starts and
ends of tokens in UTF-16 units; `plain` are the ids where special tokens are text, where they differ.
"""
import json, sys
from tokenizers import Tokenizer

BASES = {name: json.load(open(path)) for name, path in zip(("llama", "bytes"), sys.argv[1:3])}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN = BYTE_LEVEL | {"use_regex": False}
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


def bytes_after(*parts):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*parts, PLAIN]}}


def split(pattern, behavior, invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def metaspace(scheme, splits):
    part = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": splits}
    return {"normalizer": None, "pre_tokenizer": part, "decoder": part}


def normalizers(*parts):
    return {"normalizer": {"type": "Sequence", "normalizers": list(parts)}}


def added(*tokens):
    return {"added": [{"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False} | token for token in tokens]}


NFC, LOWER = {"type": "NFC"}, {"type": "Lowercase"}
REPLACE = {"type": "Replace", "pattern": {"Regex": " {2,}|ca"}, "content": "the "}
VARIANTS = [
    ("llama", "Llama 2", {}),
    ("llama", "unknown tokens for characters", {"model": {"byte_fallback": False}}),
    ("llama", "an unknown token for each character", {"model": {"byte_fallback": False, "fuse_unk": False}}),
    *(("llama", f"Metaspace {scheme} {splits}", metaspace(scheme, splits)) for scheme in ("always", "first", "never") for splits in (True, False)),
    ("llama", "NFC, then a prefix of two", normalizers(NFC, {"type": "Prepend", "prepend": "▁a"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})),
    ("llama", "added tokens, normalized", added({"content": "cat", "single_word": True}, {"content": "mat", "normalized": True}, {"content": "<l>", "lstrip": True}, {"content": "<r>", "rstrip": True, "special": True}, {"content": "é", "single_word": True, "rstrip": True}) | metaspace("first", True)),
    ("bytes", "Llama 3", {}),
    ("bytes", "merges before whole words", {"model": {"ignore_merges": False}}),
    ("bytes", "ByteLevel with a space in front", {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}),
    ("bytes", "ByteLevel before Digits", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL, {"type": "Digits", "individual_digits": True}]}}),
    ("bytes", "Digits apart", bytes_after({"type": "Digits", "individual_digits": True})),
    ("bytes", "Digits together", bytes_after({"type": "Digits", "individual_digits": False})),
    ("bytes", "Tekken", bytes_after(split(TEKKEN, "Isolated"))),
    ("bytes", "cl100k with possessive quantifiers", bytes_after(split(CL100K, "Isolated"))),
    *(("bytes", f"Split {behavior}", bytes_after(split(r"\s|\d", behavior))) for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")),
    ("bytes", "Split by words in classes", bytes_after(split(r"[\w-]+|\w+|[^\W_]", "Isolated"))),
    ("bytes", "Split by case, options and anchors", bytes_after(split(r"(?i:the|ſ)|^\s+|(?<=a)t$|\bx\B|\p{^L}\h?|[a-m&&[^e-g]]{2,}", "Isolated"))),
    ("bytes", "Split, inverted", bytes_after(split(r"\w+|[^\w\s]+", "Removed", True))),
    ("bytes", "Split by a string", bytes_after(split(" t", "MergedWithNext", False, "String"))),
    ("bytes", "Split with empty matches", bytes_after(split(r"x*|\b", "Isolated"))),
    ("bytes", "Whitespace", bytes_after({"type": "Whitespace"})),
    ("bytes", "WhitespaceSplit", bytes_after({"type": "WhitespaceSplit"})),
    ("bytes", "Punctuation", bytes_after({"type": "Punctuation", "behavior": "Contiguous"})),
    *(("bytes", form, {"normalizer": {"type": form}}) for form in ("NFC", "NFD", "NFKC", "NFKD")),
    ("bytes", "NFD, StripAccents, Lowercase", normalizers({"type": "NFD"}, {"type": "StripAccents"}, LOWER)),
    ("bytes", "Strip and Replace", normalizers({"type": "Strip", "strip_left": True, "strip_right": True}, REPLACE)),
    ("bytes", "added tokens", added({"content": "cat", "single_word": True}, {"content": "e\u0301", "normalized": True}, {"content": "<l>", "lstrip": True}, {"content": "<r>", "rstrip": True, "special": True}, {"content": "<l><r"}, {"content": "½"}) | {"normalizer": NFC}),
    ("bytes", "no decoder", {"decoder": None}),
]
TEXTS = [
    "", " ", "the cat sat", " the  cat\n\nsat ", "hello\r\n  world\t!", "the½cat ①② 12345 ١٢٣", "a\u0085b \ufeffc\u2003d\u3000", "e\u0301 é ẛ\u0323 \uac01 \u1100\u1161\u11a8 ﬁ ㍍",
    "a\u0323\u0301 a\u0301\u0323 \u0301x \u1acf\u0301", "👋🏽 世界 x👋", "It's I'LL we'Re 'ſ ʼs", "▁the▁▁cat </s><s> <unk> <0x0A>", "xcat cat cat2 écat cat—é é1", "a <l> <r>  b<l><r> <l><r", "mat the mat \u200d\u0300 \u2d3f\u0345", "naïve CAFÉ ΑΣ Ⅷ İ",
]


def units(text):
    at, places = 0, []
    for character in text:
        places.append(at)
        at += 2 if ord(character) > 0xFFFF else 1
    return places + [at]


def main():
    out = []
    for base, name, change in VARIANTS:
        tokenizer = json.loads(json.dumps(BASES[base])) | {key: value for key, value in change.items() if key not in ("added", "model")}
        tokenizer["model"] |= change.get("model", {})
        first = len(tokenizer["model"]["vocab"])
        known = {token["content"] for token in tokenizer["added_tokens"]} - set(tokenizer["model"]["vocab"])
        tokenizer["added_tokens"] += [token | {"id": first + len(known) + i} for i, token in enumerate(change.get("added", []))]
        special, plain = (Tokenizer.from_str(json.dumps(tokenizer | {"post_processor": None})) for _ in range(2))
        plain.encode_special_tokens = True
        cases = []
        for text in TEXTS:
            encoding, ids_plain, places = special.encode(text), plain.encode(text).ids, units(text)
            case = {"text": text, "ids": encoding.ids, "spans": [[places[a], places[b]] for a, b in encoding.offsets]}
            case["decoded"] = special.decode(encoding.ids, skip_special_tokens=False)
            cases.append(case | ({} if ids_plain == encoding.ids else {"plain": ids_plain}))
        changed = {key: tokenizer[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "decoder")}
        out.append({"name": name, "base": base, "model": change.get("model", {}), "change": changed, "cases": cases})
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":"))
    print(text.replace('{"name"', '\n{"name"').replace('{"text"', '\n {"text"'))


main()
