// Text generation with a key/value cache: prompts are prefilled packed, then every unfinished sequence advances by
// one token a step, as one batch. Noise never acts here.

import { NeftuneError } from "../errors.ts";
import {
  Arena,
  attentionDecode,
  attentionForward,
  dtypeBytes,
  type KvCache,
  kvAppend,
  type SamplingOptions,
  sample,
  type Tensor,
} from "../native/index.ts";
import { finish, type Steps } from "../steps.ts";
import type { Attend } from "./layer.ts";
import type { Llama } from "./llama.ts";

export interface GenerateOptions extends Partial<SamplingOptions> {
  maxNewTokens: number;
  /** Any of these ends a sequence; it is kept as its last token. Empty: every sequence runs to maxNewTokens. */
  eosIds: readonly number[];
  /** Index of the first prompt in the whole run: random draws do not depend on how prompts are batched. */
  firstDraw?: number;
  /** Called for every new token, sequence by sequence, as it comes. */
  onToken?: (sequence: number, token: number) => void;
}

interface Sequence {
  index: number;
  prompt: Int32Array;
  output: number[];
}

/** Rows of one forward pass: a batch without targets. */
function inputBatch(rows: readonly { tokens: ArrayLike<number>; start: number }[]) {
  const total = rows.reduce((sum, row) => sum + row.tokens.length, 0);
  const ids = new Int32Array(total);
  const positions = new Int32Array(total);
  const cuSeqlens = new Int32Array(rows.length + 1);
  const lengths = new Int32Array(rows.length);
  let at = 0;
  for (const [i, { tokens, start }] of rows.entries()) {
    for (let t = 0; t < tokens.length; t++, at++) {
      ids[at] = tokens[t]!;
      positions[at] = start + t;
    }
    cuSeqlens[i + 1] = at;
    lengths[i] = tokens.length;
  }
  return {
    ids,
    positions,
    cuSeqlens,
    lengths,
    targetRows: new Int32Array(0),
    targets: new Int32Array(0),
    tokens: total,
  };
}

class Generator {
  readonly #model: Llama;
  readonly #arena: Arena;
  readonly #caches: KvCache[];
  readonly #options: GenerateOptions;
  readonly #sampling: SamplingOptions;

  constructor(model: Llama, slots: number, capacity: number, options: GenerateOptions) {
    this.#model = model;
    this.#options = options;
    this.#sampling = { temperature: 0, topK: 0, topP: 1, repetitionPenalty: 1, seed: 0, ...options };
    const { kvHeads, headDim } = model.attentionShape(0);
    const shape = [slots, kvHeads, capacity, headDim];
    const bytes = slots * kvHeads * capacity * headDim * dtypeBytes[model.options.dtype];
    const free = model.device.freeMemory();
    const total = 2 * model.config.numHiddenLayers * bytes;
    if (total > free) {
      const gib = (size: number) => `${(size / 2 ** 30).toFixed(1)} GiB`;
      throw new NeftuneError(
        "out-of-memory",
        `the keys and values of ${slots} sequences of up to ${capacity} tokens need ${gib(total)}, ${gib(free)} free: ` +
          "--max-new-tokens or --batch-size can be smaller",
      );
    }
    this.#arena = new Arena(model.device, 2 * model.config.numHiddenLayers * (bytes + 256));
    const part = () => this.#arena.allocate("activations", model.options.dtype, shape);
    this.#caches = Array.from({ length: model.config.numHiddenLayers }, () => ({
      k: part(),
      v: part(),
      capacity,
    }));
  }

  free(): void {
    this.#arena.free();
  }

  /** Feeds `rows` to the model, their keys going to the caches, and picks each sequence's next token. */
  #advance(sequences: readonly Sequence[], slots: Int32Array, prefill: boolean, step: number): Int32Array {
    const model = this.#model;
    const rows = sequences.map(({ prompt, output }) =>
      prefill
        ? { tokens: prompt, start: 0 }
        : { tokens: [output.at(-1)!], start: prompt.length + output.length - 1 },
    );
    const batch = inputBatch(rows);
    const starts = Int32Array.from(rows, (row) => row.start);
    const lengths = Int32Array.from(rows, (row) => row.start + row.tokens.length);
    const attend: Attend = (layer, { qkv, attention: out }) => {
      const shape = model.attentionShape(layer);
      kvAppend(model.device, this.#caches[layer]!, qkv, batch, slots, starts, shape);
      if (prefill) attentionForward(model.device, out, null, qkv, batch, shape);
      else attentionDecode(model.device, out, qkv, this.#caches[layer]!, slots, lengths, shape);
    };
    const hidden = model.forwardHidden(batch, attend);
    const last = Int32Array.from(rows, (_, i) => batch.cuSeqlens[i + 1]! - 1);
    const { hiddenSize, vocabSize } = model.config;
    const arena = new Arena(model.device, rows.length * (hiddenSize + vocabSize + 1) * 4 + 4096);
    try {
      const logits = model.headLogits(hidden, last, arena);
      return this.#pick(sequences, logits, arena, step);
    } finally {
      arena.free();
    }
  }

  #pick(sequences: readonly Sequence[], logits: Tensor, arena: Arena, step: number): Int32Array {
    const { device } = this.#model;
    const offsets = new BigInt64Array(sequences.length + 1);
    const seen: number[] = [];
    for (const [i, { prompt, output }] of sequences.entries()) {
      if (this.#sampling.repetitionPenalty !== 1) for (const id of [...prompt, ...output]) seen.push(id);
      offsets[i + 1] = BigInt(seen.length);
    }
    const draws = BigInt64Array.from(sequences, ({ index }) =>
      BigInt(index + (this.#options.firstDraw ?? 0)),
    );
    const tokens = arena.allocate("activations", "i32", [sequences.length]);
    sample(device, tokens, logits, this.#sampling, { ids: Int32Array.from(seen), offsets }, draws, step);
    return device.readInts(tokens);
  }

  *run(sequences: Sequence[]): Steps<void> {
    const slotOf = new Map(sequences.map((sequence, slot) => [sequence, slot]));
    let active = sequences;
    for (let step = 0; step < this.#options.maxNewTokens && active.length > 0; step++) {
      const slots = Int32Array.from(active, (sequence) => slotOf.get(sequence)!);
      const tokens = step === 0 ? this.#prefill(active, slots) : this.#advance(active, slots, false, step);
      for (const [i, sequence] of active.entries()) {
        sequence.output.push(tokens[i]!);
        this.#options.onToken?.(sequence.index, tokens[i]!);
      }
      active = active.filter(({ output }) => !this.#options.eosIds.includes(output.at(-1)!));
      yield;
    }
  }

  /** All prompts, as many at a time as the model's buffers hold. */
  #prefill(sequences: readonly Sequence[], slots: Int32Array): Int32Array {
    const picked = new Int32Array(sequences.length);
    let begin = 0;
    while (begin < sequences.length) {
      let end = begin;
      let tokens = 0;
      while (
        end < sequences.length &&
        (end === begin || tokens + sequences[end]!.prompt.length <= this.#model.options.maxTokens)
      ) {
        tokens += sequences[end++]!.prompt.length;
      }
      picked.set(this.#advance(sequences.slice(begin, end), slots.slice(begin, end), true, 0), begin);
      begin = end;
    }
    return picked;
  }
}

/**
 * Continues each prompt (token ids, at least one) and returns the new tokens, the ending EOS included. All prompts
 * are in the cache at once: callers with many pass them in batches. Greedy unless a temperature is given.
 */
export function generate(
  model: Llama,
  prompts: readonly Int32Array[],
  options: GenerateOptions,
): Int32Array[] {
  return finish(generateInSteps(model, prompts, options));
}

/** `generate`, a token of each prompt at a time. Its return() frees the caches. */
export function* generateInSteps(
  model: Llama,
  prompts: readonly Int32Array[],
  options: GenerateOptions,
): Steps<Int32Array[]> {
  if (prompts.length === 0 || options.maxNewTokens < 1) return prompts.map(() => new Int32Array(0));
  for (const [i, prompt] of prompts.entries()) {
    if (prompt.length === 0)
      throw new NeftuneError("generate", `prompt ${i} is empty: at least one token (BOS) is needed`);
  }
  const longest = prompts.reduce((most, prompt) => Math.max(most, prompt.length), 0);
  const generator = new Generator(model, prompts.length, longest + options.maxNewTokens, options);
  const sequences = prompts.map((prompt, index) => ({ index, prompt, output: [] as number[] }));
  try {
    yield* generator.run(sequences);
  } finally {
    generator.free();
  }
  return sequences.map(({ output }) => Int32Array.from(output));
}
