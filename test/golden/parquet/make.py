"""Writes the Parquet files of this folder with pyarrow 26.0.1: python make.py

What they hold is in rows.json, as JSON has it, by the first word of their names.
"""
import json

import pyarrow as pa
import pyarrow.parquet as pq

ALPACA = [
    {
        "instruction": f"Name {n} things that float. 世界 👋",
        "input": "" if n % 2 else f"line one\nline {n}",
        "output": "\n".join(f"{i}. thing" for i in range(n)),
        "text": "not read, as instruction comes first",
        "score": n / 2,
    }
    for n in range(1, 26)
]
TURN = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SHAREGPT = pa.list_(pa.struct([("from", pa.large_string()), ("value", pa.large_string())]))
MESSAGES = [
    {
        "id": n,
        "messages": [
            {"role": "system", "content": "Be brief."},
            *(
                turn
                for i in range(n)
                for turn in (
                    {"role": "user", "content": f"question {i} of {n}?"},
                    {"role": "assistant", "content": f"answer {i}."},
                )
            ),
        ][n % 2 :],
        "meta": {"source": "made", "tags": ["a", "b"][: n % 3]},
    }
    for n in range(1, 8)
]
CONVERSATIONS = [
    {"conversations": [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": f"a{n}"}]} for n in range(5)
]
TOKENS = [{"input_ids": [1, n, 511, 2], "labels": [-100, -100, 511, 2]} for n in range(3, 9)]
NULLS = [
    {"instruction": "a", "input": None, "output": "b", "messages": None},
    {"instruction": "c", "input": "d", "output": "e", "messages": None},
]


def table(rows, **types):
    names = list(rows[0])
    return pa.table({name: pa.array([row[name] for row in rows], types.get(name)) for name in names})


FILES = {
    "alpaca-snappy.parquet": (ALPACA, table(ALPACA), dict(compression="snappy", row_group_size=10)),
    "alpaca-zstd.parquet": (ALPACA, table(ALPACA), dict(compression="zstd", data_page_version="2.0")),
    "alpaca-gzip-plain.parquet": (ALPACA, table(ALPACA), dict(compression="gzip", use_dictionary=False)),
    "alpaca-brotli.parquet": (ALPACA, table(ALPACA), dict(compression="brotli", row_group_size=7)),
    "alpaca-lz4.parquet": (ALPACA, table(ALPACA), dict(compression="lz4")),
    "messages.parquet": (MESSAGES, table(MESSAGES, messages=TURN), dict(compression="snappy", row_group_size=3)),
    "conversations.parquet": (
        CONVERSATIONS,
        table(CONVERSATIONS, conversations=SHAREGPT),
        dict(compression="zstd"),
    ),
    "tokens.parquet": (
        TOKENS,
        table(TOKENS, input_ids=pa.list_(pa.int32()), labels=pa.list_(pa.int64())),
        dict(compression="none"),
    ),
    "nulls.parquet": (NULLS, table(NULLS, input=pa.string(), messages=TURN), dict(compression="snappy")),
    "empty.parquet": ([], pa.table({"text": pa.array([], pa.string())}), dict(compression="snappy")),
    "bytes.parquet": (
        [{"text": "not UTF-8"}],
        pa.table({"text": pa.array([b"a\xff\xfeb"], pa.binary())}),
        dict(compression="none"),
    ),
}

for name, (_, data, options) in FILES.items():
    pq.write_table(data, name, **options)
with open("rows.json", "w", encoding="utf-8") as file:
    json.dump({name.split("-")[0].removesuffix(".parquet"): rows for name, (rows, _, _) in FILES.items()}, file)
    file.write("\n")
