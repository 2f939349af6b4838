// Places in a session's cache: which one a new prompt goes to, and how much of what it holds the prompt uses.

import type { ProductRows } from "../native/index.ts";
import { Sequence, type SequenceOptions } from "./sequence.ts";

/** A place in the cache for one sequence. */
export interface Slot {
  index: number;
  /** The tokens whose keys and values it holds, from position 0 on. */
  tokens: number[];
  /** How many of them, from the first on, are as reading a prompt in this way makes them. */
  read: { count: number; rows: PromptRows };
  /** How what is new in its sequence's prompt is read. */
  rows: PromptRows;
  sequence: Sequence | null;
  /** When its last sequence left: the one that is free longest is given away first. */
  freeSince: number;
}

export type PromptRows = Exclude<ProductRows, "together">;

/** Up to so many tokens of a prompt are read as new tokens are; more, in tiles, which take as long for one as for all. */
const SHORT_PROMPT = 16;
const rowsOf = (tokens: number): PromptRows => (tokens <= SHORT_PROMPT ? "each" : "tiled");

/** What of a slot a prompt can use: its `common` first tokens; and whether reading the prompt anew would make the same of them. */
export interface Match {
  slot: Slot;
  common: number;
  isAsReadAnew: boolean;
}

function matchOf(slot: Slot, prompt: ArrayLike<number>): Match {
  // The last token of the prompt is always read, as its logits are needed.
  const most = Math.min(slot.tokens.length, prompt.length - 1);
  let common = 0;
  while (common < most && slot.tokens[common] === prompt[common]) common++;
  const isAsReadAnew = slot.read.rows === rowsOf(prompt.length) && common <= slot.read.count;
  return { slot, common: isAsReadAnew || common > SHORT_PROMPT ? common : 0, isAsReadAnew };
}

/**
 * The free slot that has most of the prompt's beginning and would not have to forget more than that; of equals, such as
 * slots that are of no use, the one that is free longest.
 */
export function bestSlot(slots: readonly Slot[], prompt: ArrayLike<number>): Match | null {
  let best: (Match & { worth: number }) | null = null;
  for (const slot of slots) {
    if (slot.sequence !== null) continue;
    const match = matchOf(slot, prompt);
    // Conversations begin alike, with a template and a system prompt: another one must not end this one's.
    const worth = slot.tokens.length - match.common > match.common ? 0 : match.common;
    const isBetter =
      best === null || worth > best.worth || (worth === best.worth && slot.freeSince < best.slot.freeSince);
    if (isBetter) best = { ...match, worth };
  }
  return best;
}

export const emptySlot = (index: number): Slot => ({
  index,
  tokens: [],
  read: { count: 0, rows: "each" },
  rows: "each",
  sequence: null,
  freeSince: 0,
});

/** Gives the slot to a new sequence, which keeps of its tokens what the prompt begins with. */
export function takeSlot(
  { slot, common: most, isAsReadAnew }: Match,
  prompt: Int32Array,
  options: SequenceOptions,
): Sequence {
  const common = options.promptLogprobs === true ? 0 : most;
  if (isAsReadAnew || common === 0) {
    slot.rows = rowsOf(prompt.length);
    slot.read = { count: prompt.length, rows: slot.rows };
  } else {
    slot.rows = rowsOf(prompt.length - common);
  }
  slot.tokens.length = common;
  slot.sequence = new Sequence(prompt, options, common);
  return slot.sequence;
}
