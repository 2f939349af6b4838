// Damage to text with a syntax of its own: templates, TOML, YAML, CSV.

import { mutateBytes } from "./mutate-bytes.ts";
import { oddNumber, oddText } from "./odd-values.ts";
import type { Random } from "./random.ts";

/** What each syntax is made of. */
export const words = {
  jinja: [
    ...[
      "{{",
      "}}",
      "{%",
      "%}",
      "{#",
      "#}",
      "-%}",
      "{%-",
      "{% endfor %}",
      "{% endif %}",
      "{% if x %}",
      "{% else %}",
    ],
    ...[
      "{% for m in messages %}",
      "{% for i in range(100000) %}",
      "{% set ns = namespace(x=0) %}",
      "{{ messages }}",
    ],
    ...[
      "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
      "{{ raise_exception('x') }}",
      "{{ 'x' * 100000000 }}",
    ],
    ...[
      "{{ messages[0].content.content.content }}",
      "{{ messages[-1] }}",
      "{{ undefined.x }}",
      "{{ strftime_now('%Y') }}",
    ],
    ...[
      "| trim",
      "| tojson",
      "| join(',')",
      "| length",
      "| safe",
      ".split('x')",
      "[::-1]",
      "[1:]",
      ".__class__",
      "{{ 1/0 }}",
    ],
    ...[
      "{{ bos_token }}",
      "{{ eos_token }}",
      "{% generation %}",
      "{% endgeneration %}",
      "{% break %}",
      "loop.index0",
      "~",
    ],
    ...[
      "{{ 'a'.replace('', 'b' * 1000) }}",
      "{{ range(10**9) | list | length }}",
      "{{ (1).__add__ }}",
      "not",
      "is defined",
    ],
  ],
  toml: [
    ...[
      "[",
      "]",
      "[[",
      "]]",
      "=",
      ".",
      "'''",
      '"""',
      "{",
      "}",
      "#",
      "\\",
      "a.b.c = 1",
      "[a]",
      "[[a]]",
      "x = {a = 1, a = 2}",
    ],
    ...[
      "1979-05-27T07:32:00Z",
      "inf",
      "nan",
      "0xffffffffffffffffff",
      "0b2",
      "1_000_",
      "true",
      "\0",
      "\r",
      "__proto__ = 1",
    ],
    ...["[__proto__]", "a = [[[[[[[[[[", '"" = 1', "é = 1"],
  ],
  yaml: [
    ...[
      ":",
      "- ",
      "? ",
      "|",
      ">",
      "&a ",
      "*a",
      "<<: *a",
      "---",
      "...",
      "!!binary ",
      "!!js/function ",
      "!x ",
      "%YAML 1.1",
      "~",
    ],
    ...[
      "{",
      "}",
      "[",
      "]",
      '"',
      "'",
      "\t",
      "#",
      "@",
      "`",
      "yes",
      "0o17",
      ".inf",
      ".nan",
      "2026-01-01",
      "__proto__: 1",
      "\0",
    ],
    ...["a: &a [*a, *a]", "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]"],
  ],
  csv: [
    ...[
      '"',
      '""',
      '"""',
      ",",
      ",,",
      "\n",
      "\r",
      "\r\n",
      "\t",
      ";",
      "\0",
      "\ufeff",
      "\u2028",
      "instruction",
      "output",
      "text",
    ],
    ...["prompt", "a".repeat(100_000), ",".repeat(10_000), '"\n', "\\"],
  ],
} as const;

export type Syntax = keyof typeof words;

/** One change. */
export function mutateText(text: string, random: Random, syntax: Syntax): string {
  const at = random.below(text.length + 1);
  const lines = text.split("\n");
  const line = random.below(lines.length);
  switch (random.below(9)) {
    case 0:
    case 1:
    case 2:
      return text.slice(0, at) + random.pick(words[syntax]) + text.slice(at + random.pick([0, 0, 1, 5]));
    case 3:
      return lines.toSpliced(line, 1).join("\n");
    case 4:
      return lines.toSpliced(line, 0, lines[random.below(lines.length)]!).join("\n");
    case 5: {
      const numbers = [...text.matchAll(/\d+/g)];
      const number = random.pick(numbers);
      if (number === undefined) return text + oddNumber(random);
      return text.slice(0, number.index) + oddNumber(random) + text.slice(number.index + number[0].length);
    }
    case 6:
      return text.slice(0, at) + oddText(random) + text.slice(at);
    case 7: {
      const word = random.pick(words[syntax]);
      return (
        text.slice(0, at) + word.repeat(Math.min(5000, Math.ceil(20_000 / word.length))) + text.slice(at)
      );
    }
    default:
      return Buffer.from(mutateBytes(Buffer.from(text), random)).toString("latin1");
  }
}
