// One training sample, as every part of src/data hands it on.

/** The label of a token that is not a target, as in Hugging Face and PyTorch. */
export const IGNORE = -100;

/**
 * A tokenized row. `labels` is as long as `ids`; IGNORE marks what is not learned, any other label is what the
 * position before it has to predict. `labels[0]` therefore never counts: nothing predicts the first token.
 */
export interface Sample {
  ids: Int32Array; // [length]
  labels: Int32Array; // [length]
  truncated: boolean;
  /** What was given to the tokenizer, where somebody asked for it. BOS and EOS that are added as ids are not in it. */
  text?: string;
}

/** How many predictions a sample asks for: its labels but the first that are not IGNORE. */
export function countTargets(labels: Int32Array): number {
  let targets = 0;
  for (let i = 1; i < labels.length; i++) if (labels[i] !== IGNORE) targets++;
  return targets;
}
