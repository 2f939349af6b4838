// Values that code forgets: extreme numbers, strange texts, deep nesting. As JSON source, so that they may be what no
// JSON writer would write.

import type { Random } from "./random.ts";

const NUMBERS = [
  ...[
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "0.5",
    "1e-400",
    "1e400",
    "-1e400",
    "1e308",
    "NaN",
    "Infinity",
    "1e5",
    "1000000",
  ],
  ...[
    "255",
    "256",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967296",
    "1e10",
    "9007199254740991",
  ],
  ...[
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551616",
    `1${"0".repeat(400)}`,
    "01",
    "+1",
    ".5",
    "0x10",
  ],
];

const TEXTS = [
  ...[
    "",
    " ",
    "x",
    "\\u0000",
    "\\ud800",
    "\\udc00x",
    "\\u202e",
    "\\u001b[31m",
    "\\u009b",
    "\\ufeff",
    "é",
    "e\\u0301",
  ],
  ...[
    "👩‍👩‍👧",
    "İ",
    "ß",
    "\\n",
    "\\r\\n",
    "\\u2028",
    "</s>",
    "<s>",
    "<unk>",
    "<0x00>",
    "▁",
    "__proto__",
    "constructor",
  ],
  ...[
    "toString",
    "length",
    "../../etc/passwd",
    "/dev/null",
    "/dev/zero",
    ".",
    "nan",
    "null",
    "llama",
    "mistral",
    "F32",
  ],
  ...[
    "{{",
    "{% for i in range(100000000) %}x{% endfor %}",
    "(a+)+$",
    "[",
    "(?<",
    "\\\\p{L}",
    ".*".repeat(50),
  ],
  ...[
    "-1",
    "1e999",
    "cpu",
    "cuda",
    "float32",
    "bfloat16",
    "int4",
    "default",
    "linear",
    "dynamic",
    "yarn",
    "llama3",
  ],
];

const OTHERS = ["null", "true", "false", "[]", "{}", "[[]]", "[{}]", "[null]", '{"":0}', "[0]", "[-1,1e9]"];

const DEPTHS = [100, 3000, 100_000];

/** A text as a JSON string. */
export function oddText(random: Random): string {
  const text = random.pick(TEXTS);
  if (random.once(12)) return `"${text.repeat(random.pick([100, 10_000]))}"`;
  return random.once(6) ? `"${text}${random.pick(TEXTS)}"` : `"${text}"`;
}

export function oddNumber(random: Random): string {
  return random.pick(NUMBERS);
}

/** Any value. */
export function oddValue(random: Random): string {
  switch (random.below(8)) {
    case 0:
    case 1:
    case 2:
      return oddNumber(random);
    case 3:
    case 4:
      return oddText(random);
    case 5: {
      const depth = random.pick(DEPTHS);
      const [open, close] = random.pick([
        ["[", "]"],
        ['{"a":', "}"],
      ] as const);
      return `${open.repeat(depth)}0${random.once(4) ? "" : close.repeat(depth)}`;
    }
    default:
      return random.pick(OTHERS);
  }
}
