"""Writes goldens.json: python make.py, with rouge-score 0.1.2 and sacrebleu 2.6.0 installed.

ROUGE-L is rouge_score's F-measure without stemming (the best of several references), BLEU sacrebleu's default corpus
score. Repetition and log-diversity are counted here with Python's own sets, from the formulas.
"""
import json
import math

import sacrebleu
from rouge_score import rouge_scorer

PAIRS = [
    ("The cat sat on the mat.", ["The cat sat on the mat."]),
    ("The cat sat on the mat.", ["A cat was sitting on the mat.", "The cat sat down on a mat."]),
    ("the the the the the the the", ["The cat is on the mat.", "There is a cat on the mat."]),
    ("Hello, world!", ["Hello world"]),
    ("Hello", ["Hello"]),
    ("", ["An empty answer is an answer, too."]),
    ("Nothing in common here", ["Completely different words throughout"]),
    ("It costs $3.50, or 1,000 yen (about 7-8 euros); see p. 12-14.", ["It costs $3.50 or 1,000 yen, about 7 euros: see p. 12."]),
    ("1. First\n2. Second\n3. Third\n\n- a dash\n- another", ["1. First\n2. Second\n3. Fourth\n"]),
    ("Use `a < b && c > d` &amp; \"quotes\" &quot;too&quot; &lt;tag&gt;.", ["Use `a < b` and \"quotes\"."]),
    ("Über naïve café façade — “curly” quotes… don’t", ["Uber naive cafe facade - \"straight\" quotes... don't"]),
    ("世界 你好 世界 👋 👋🏽 end", ["世界 hello 世界 👋 end"]),
    ("İstanbul KELVIN K ﬁne ſharp", ["istanbul kelvin k fine sharp"]),
    ("tabs\tand\u00a0no-break\u2003wide\x1cspaces\x85here ", ["tabs and no-break wide spaces here"]),
    ("trailing hyphen at line-\nend joins words-\nhere", ["trailing hyphen at lineend joins wordshere"]),
    ("a b c d e f g h i j", ["a b c d e f g h i j k l m n o p q r s t"]),
    ("a b c d e f g h i j k l m n o p q r s t", ["a b c d e f g h i j"]),
    ("a c e g i k", ["a b c d e f g h i j k"]),
    ("one two three four one two three four one two three four", ["one two three four"]),
    ("I'm sorry, I can't; you're right: it's 5.0% (or .5)?", ["I am sorry, I cannot; it is 5% (or 0.5)."]),
    ("<skipped> nothing <skipped> to see {here} [or] ~there~ ^_^ \\o/", ["nothing to see here or there"]),
    ("e-mail: someone@example.org, https://example.org/a?b=c#d", ["Write to someone@example.org or see example.org."]),
    ("3.14 is pi, 2.718 is e,and 1,618 is not.5", ["3.14 is pi and 2.718 is e"]),
    ("Short one.", ["A much, much longer reference that the short output cannot possibly match well.", "Short one!"]),
    ("The quick brown fox jumps over the lazy dog. The quick brown fox sleeps.", ["A quick brown fox jumped over a lazy dog and slept."]),
]

LONG = [
    " ".join(f"w{(i * i) % m}" for i in range(n))
    for n, m in [(1, 5), (2, 5), (3, 5), (4, 7), (5, 3), (20, 11), (60, 13), (120, 97), (200, 31), (400, 1009)]
]


def words(text):
    return text.split()


def repetition(tokens, n):
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return None if not grams else 1 - len(set(grams)) / len(grams)


def log_diversity(tokens):
    rates = [repetition(tokens, n) for n in (2, 3, 4)]
    if None in rates:
        return None
    diversity = math.prod(1 - rate for rate in rates)
    return -math.log(max(1 - diversity, math.exp(-20)))


scorer = rouge_scorer.RougeScorer(["rougeL"])
bleu = sacrebleu.BLEU()


def corpus(pairs):
    most = max(len(references) for _, references in pairs)
    streams = [[references[i] if i < len(references) else None for _, references in pairs] for i in range(most)]
    return bleu.corpus_score([text for text, _ in pairs], streams).score


rows = []
for text, references in PAIRS + [(text, [LONG[-1]]) for text in LONG]:
    tokens = words(text)
    rows.append(
        {
            "output": text,
            "references": references,
            "words": len(tokens),
            "characters": len(text),
            "repetition": [repetition(tokens, n) for n in (2, 3, 4)],
            "log_diversity": log_diversity(tokens),
            "rouge_l": scorer.score_multi(references, text)["rougeL"].fmeasure,
            "bleu": corpus([(text, references)]),
            "bleu_tokens": sacrebleu.tokenizers.tokenizer_13a.Tokenizer13a()(text.rstrip()),
        }
    )

pairs = [(row["output"], row["references"]) for row in rows]
goldens = {
    "rows": rows,
    "corpus_bleu": {"all": corpus(pairs), "first ten": corpus(pairs[:10]), "last ten": corpus(pairs[-10:])},
}
with open("goldens.json", "w", encoding="utf-8") as file:
    json.dump(goldens, file, ensure_ascii=True, indent=1)
    file.write("\n")
