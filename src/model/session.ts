// Generation with a key/value cache for several sequences that come and go. Each step reads prompts, a chunk at a time,
// and advances every sequence that has been read by one token, as one batch. A sequence that ends leaves its keys and
// values behind: one that begins with the same tokens reads only what is new. Noise never acts here.
//
// The bits that a sequence gets follow from its tokens and options, whatever else is in the session and whatever was
// before. There is one exception: what continues tokens that the model made, and was not given, goes on from their keys and
// values as they are, which reading them anew would round otherwise.
//
// Owns the cache and its scratch memory, until close(). The model is borrowed.

import { NeftuneError } from "../errors.ts";
import {
  Arena,
  attentionCached,
  attentionDecode,
  dtypeBytes,
  type KvCache,
  kvAppend,
  sample,
  type Tensor,
} from "../native/index.ts";
import type { Attend } from "./layer.ts";
import type { Llama } from "./llama.ts";
import type { FinishReason, Sequence, SequenceOptions } from "./sequence.ts";
import { bestSlot, emptySlot, type PromptRows, type Slot, takeSlot } from "./slots.ts";
import { chancesOf } from "./token-chances.ts";

/** Tokens of one sequence that are read in one pass, from position `start` on. */
interface Part {
  slot: Slot;
  start: number;
  tokens: ArrayLike<number>;
}

export interface SessionOptions {
  /** Sequences at once. */
  slots: number;
  /** Tokens of a prompt and its continuation together, at most. */
  capacity: number;
}

/** Rows of logits that are made at once; more than `slots` only where a prompt's log probabilities are asked for. */
const LEAST_LOGIT_ROWS = 8;

export class GenerationSession {
  readonly options: SessionOptions;
  readonly #model: Llama;
  readonly #cacheMemory: Arena;
  readonly #scratch: Arena;
  readonly #logitRows: number;
  readonly #caches: KvCache[];
  readonly #slots: Slot[];
  #clock = 0;

  /** Throws NeftuneError ("out-of-memory") where the cache does not fit. */
  constructor(model: Llama, options: SessionOptions) {
    const { slots, capacity } = options;
    const { device, config } = model;
    this.options = options;
    this.#model = model;
    this.#slots = Array.from({ length: slots }, (_, index) => emptySlot(index));
    const { kvHeads, headDim } = model.attentionShape(0);
    const shape = [slots, kvHeads, capacity, headDim];
    const bytes = slots * kvHeads * capacity * headDim * dtypeBytes[model.options.dtype];
    const total = 2 * config.numHiddenLayers * (bytes + 256);
    const free = device.freeMemory();
    if (total > free) {
      const gib = (size: number) => `${(size / 2 ** 30).toFixed(1)} GiB`;
      throw new NeftuneError(
        "out-of-memory",
        `the keys and values of ${slots} sequences of up to ${capacity} tokens need ${gib(total)}, ${gib(free)} free: ` +
          "allow fewer or shorter sequences",
      );
    }
    this.#logitRows = Math.max(slots, LEAST_LOGIT_ROWS);
    this.#cacheMemory = new Arena(device, total);
    this.#scratch = new Arena(
      device,
      this.#logitRows * (config.hiddenSize + config.vocabSize + 1) * 4 + 4096,
    );
    const part = () => this.#cacheMemory.allocate("activations", model.options.dtype, shape);
    this.#caches = Array.from({ length: config.numHiddenLayers }, () => ({ k: part(), v: part(), capacity }));
  }

  close(): void {
    this.#cacheMemory.free();
    this.#scratch.free();
  }

  get freeSlots(): number {
    return this.#slots.filter(({ sequence }) => sequence === null).length;
  }

  get isIdle(): boolean {
    return this.#slots.every(({ sequence }) => sequence === null);
  }

  /**
   * Takes a sequence in: the next steps read its prompt (token ids, at least one) and continue it. Throws NeftuneError
   * where there is no free slot or it is longer than the session allows.
   */
  add(prompt: Int32Array, options: SequenceOptions): Sequence {
    const { capacity, slots } = this.options;
    if (prompt.length === 0)
      throw new NeftuneError("generate", "a prompt is empty: at least one token (BOS) is needed");
    if (prompt.length + options.maxNewTokens > capacity) {
      throw new NeftuneError(
        "generate",
        `a prompt of ${prompt.length} tokens and ${options.maxNewTokens} new ones are more than the ${capacity} that fit`,
      );
    }
    const best = bestSlot(this.#slots, prompt);
    if (best === null)
      throw new NeftuneError("generate", `all ${slots} sequences that fit at once are in use`);
    const sequence = takeSlot(best, prompt, options);
    if (options.maxNewTokens < 1 && options.promptLogprobs !== true) this.remove(sequence, "length");
    return sequence;
  }

  /** Ends a sequence; what was read of it stays in the cache until its slot is needed. */
  remove(sequence: Sequence, reason: FinishReason = "stop"): void {
    const slot = this.#slots.find((one) => one.sequence === sequence);
    sequence.finishReason ??= reason;
    if (slot === undefined) return;
    slot.sequence = null;
    slot.freeSince = ++this.#clock;
  }

  /** Reads a chunk of the prompts that wait, and advances every sequence that has been read by one token. */
  step(): void {
    const running = new Set(this.#slots.map(({ sequence }) => sequence).filter((one) => one?.output.length));
    this.#readPrompts("each");
    this.#readPrompts("tiled");
    const parts = this.#slots
      .filter(({ sequence }) => sequence !== null && running.has(sequence))
      .map((slot): Part => {
        const { output } = slot.sequence!;
        return { slot, start: slot.tokens.length, tokens: [output.at(-1)!] };
      });
    for (let begin = 0; begin < parts.length; begin += this.#model.options.maxTokens) {
      const some = parts.slice(begin, begin + this.#model.options.maxTokens);
      this.#pick(some, this.#forward(some, "each", true));
    }
  }

  /** As much as the model's buffers hold of the prompts that wait to be read in this way. */
  #readPrompts(rows: PromptRows): void {
    const { maxTokens } = this.#model.options;
    const waiting = this.#slots.filter(
      (slot) =>
        slot.sequence !== null && slot.rows === rows && slot.tokens.length < slot.sequence.prompt.length,
    );
    const parts: Part[] = [];
    let room = maxTokens;
    for (const slot of waiting) {
      const { prompt } = slot.sequence!;
      const start = slot.tokens.length;
      const left = prompt.length - start;
      // A prompt that fits is read in one pass; one that does not, chunk by chunk, each in a pass of its own.
      if (left > room && parts.length > 0) break;
      parts.push({ slot, start, tokens: prompt.subarray(start, start + Math.min(left, room)) });
      room -= Math.min(left, room);
      if (room === 0) break;
    }
    if (parts.length > 0) this.#finishPrompts(parts, this.#forward(parts, rows, false));
  }

  /** What follows when parts of prompts have been read: log probabilities, and the first new token of whole ones. */
  #finishPrompts(parts: readonly Part[], hidden: Tensor): void {
    let row = 0;
    const ends: { part: Part; row: number }[] = [];
    for (const part of parts) {
      const { sequence, tokens } = part.slot;
      if (sequence!.options.promptLogprobs === true) this.#promptChances(sequence!, part, hidden, row);
      row += part.tokens.length;
      if (tokens.length < sequence!.prompt.length) continue;
      if (sequence!.options.maxNewTokens < 1) this.remove(sequence!, "length");
      else ends.push({ part, row: row - 1 });
    }
    if (ends.length === 0) return;
    this.#pick(
      ends.map(({ part }) => part),
      hidden,
      ends.map((end) => end.row),
    );
  }

  #promptChances(sequence: Sequence, { start, tokens }: Part, hidden: Tensor, firstRow: number): void {
    const { prompt, promptChances, options } = sequence;
    const targets = Array.from({ length: tokens.length }, (_, i) => start + i + 1).filter(
      (position) => position < prompt.length,
    );
    for (let begin = 0; begin < targets.length; begin += this.#logitRows) {
      const some = targets.slice(begin, begin + this.#logitRows);
      const rows = Int32Array.from(some, (position) => firstRow + position - 1 - start);
      this.#scratch.reuse();
      const logits = this.#model.headLogits(hidden, rows, this.#scratch, "each");
      for (const [i, position] of some.entries()) {
        const values = this.#model.device.readFloats(logits.rows(i, 1));
        promptChances.push(chancesOf(values, prompt[position]!, options.logprobs ?? 0));
      }
    }
  }

  /**
   * Feeds the parts to the model, their keys going to the cache: the final hidden states [rows, H]. Each token attends
   * to what its slot holds up to it. `isNew`: the parts are one new token of each sequence, not parts of prompts.
   */
  #forward(parts: readonly Part[], rows: PromptRows, isNew: boolean): Tensor {
    const model = this.#model;
    const batch = inputBatch(parts);
    const slots = Int32Array.from(parts, ({ slot }) => slot.index);
    const starts = Int32Array.from(parts, ({ start }) => start);
    const lengths = Int32Array.from(parts, ({ start, tokens }) => start + tokens.length);
    const attend: Attend = (layer, { qkv, attention }) => {
      const shape = model.attentionShape(layer);
      const cache = this.#caches[layer]!;
      kvAppend(model.device, cache, qkv, batch, slots, starts, shape);
      if (isNew) attentionDecode(model.device, attention, qkv, cache, slots, lengths, shape);
      else attentionCached(model.device, attention, qkv, cache, batch, slots, lengths, shape);
    };
    const hidden = model.forwardHidden(batch, attend, rows);
    for (const { slot, tokens } of parts)
      for (let i = 0; i < tokens.length; i++) slot.tokens.push(tokens[i]!);
    return hidden;
  }

  /** The next token of each part's sequence, from the row of its last token; by default the parts have one row each. */
  #pick(parts: readonly Part[], hidden: Tensor, rows = parts.map((_, i) => i)): void {
    for (let begin = 0; begin < parts.length; begin += this.#logitRows) {
      const end = begin + this.#logitRows;
      const sequences = parts.slice(begin, end).map(({ slot }) => slot.sequence!);
      const tokens = this.#sampled(sequences, hidden, Int32Array.from(rows.slice(begin, end)));
      for (const [i, sequence] of sequences.entries()) this.#append(sequence, tokens[i]!);
    }
  }

  #append(sequence: Sequence, token: number): void {
    const { output, options } = sequence;
    output.push(token);
    options.onToken?.(token);
    if (sequence.finishReason !== null) return; // its owner has ended it
    if (options.eosIds.includes(token)) this.remove(sequence, "stop");
    else if (output.length >= options.maxNewTokens) this.remove(sequence, "length");
  }

  #sampled(sequences: readonly Sequence[], hidden: Tensor, rows: Int32Array): Int32Array {
    const { device } = this.#model;
    this.#scratch.reuse();
    const logits = this.#model.headLogits(hidden, rows, this.#scratch, "each");
    const tokens = this.#scratch.allocate("activations", "i32", [rows.length]);
    // Sampling changes the logits.
    const kept = sequences.map(({ options }, i) =>
      options.logprobs === undefined ? null : device.readFloats(logits.rows(i, 1)),
    );
    const rowSampling = sequences.map(({ sampling, options, output }) => ({
      options: sampling,
      draw: options.draw ?? 0,
      step: output.length,
    }));
    sample(device, tokens, logits, rowSampling, seenBy(sequences));
    const picked = device.readInts(tokens);
    for (const [i, { options, chances }] of sequences.entries()) {
      const values = kept[i];
      if (values != null) chances.push(chancesOf(values, picked[i]!, options.logprobs!));
    }
    return picked;
  }
}

/** The tokens that repetition penalties are for. */
function seenBy(sequences: readonly Sequence[]): { ids: Int32Array; offsets: BigInt64Array } {
  const ids: number[] = [];
  const offsets = new BigInt64Array(sequences.length + 1);
  for (const [i, { prompt, output, sampling }] of sequences.entries()) {
    if (sampling.repetitionPenalty !== 1) for (const id of [...prompt, ...output]) ids.push(id);
    offsets[i + 1] = BigInt(ids.length);
  }
  return { ids: Int32Array.from(ids), offsets };
}

/** Rows of one forward pass: a batch without targets. */
function inputBatch(parts: readonly Part[]) {
  const total = parts.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const ids = new Int32Array(total);
  const positions = new Int32Array(total);
  const cuSeqlens = new Int32Array(parts.length + 1);
  const lengths = new Int32Array(parts.length);
  let at = 0;
  for (const [i, { tokens, start }] of parts.entries()) {
    for (let t = 0; t < tokens.length; t++, at++) {
      ids[at] = tokens[t]!;
      positions[at] = start + t;
    }
    cuSeqlens[i + 1] = at;
    lengths[i] = tokens.length;
  }
  const none = new Int32Array(0);
  return { ids, positions, cuSeqlens, lengths, targetRows: none, targets: none, tokens: total };
}
