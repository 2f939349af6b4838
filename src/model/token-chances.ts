// Log probabilities of tokens, from a row of logits.

export interface TokenChances {
  /** Natural logarithm of the token's probability. */
  logprob: number;
  /** The likeliest tokens, most likely first; of equals, the lower id. */
  top: { id: number; logprob: number }[];
}

/** ln softmax(logits) of `token`, and of the `count` likeliest. logits: float32 [vocabulary]. */
export function chancesOf(logits: Float32Array, token: number, count: number): TokenChances {
  let most = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) most = Math.max(most, logits[i]!);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - most);
  const logSum = most + Math.log(sum);
  const top = greatest(logits, count).map((id) => ({ id, logprob: logits[id]! - logSum }));
  return { logprob: logits[token]! - logSum, top };
}

/** Indices of the `count` greatest values, in order: few, so that sorted insertion is enough. */
function greatest(values: Float32Array, count: number): number[] {
  const best: number[] = [];
  for (let i = 0; count > 0 && i < values.length; i++) {
    const value = values[i]!;
    if (best.length === count && !(value > values[best.at(-1)!]!)) continue;
    let at = best.length;
    while (at > 0 && value > values[best[at - 1]!]!) at--;
    best.splice(at, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}
