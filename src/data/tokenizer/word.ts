// One word while it is merged: its symbols as a linked list in arrays, and the merges that may come next in a heap. Words
// of millions of characters come too (text without spaces), so that no symbol is an object.

import type { PairRanks } from "./pair-ranks.ts";

/** A queued merge is rank · 2^30 + place, exact in float64 while ranks stay below 2^23. */
const PLACE = 2 ** 30;
/** Symbols whose arrays are kept for the next word. */
const MOST_KEPT = 1 << 16;

export class Word {
  count = 0;
  ids = new Int32Array(64); // [symbols], −1 where a merge took a symbol into the one before
  widths = new Int32Array(64); // [symbols], bytes
  private next = new Int32Array(64); // [symbols], −1 behind the last
  private previous = new Int32Array(64); // [symbols]
  private queue = new Float64Array(128);
  private queued = 0;

  clear(): void {
    this.count = 0;
    if (this.ids.length <= MOST_KEPT) return;
    this.ids = new Int32Array(64);
    this.widths = new Int32Array(64);
    this.next = new Int32Array(64);
    this.previous = new Int32Array(64);
    this.queue = new Float64Array(128);
  }

  add(id: number, width: number): void {
    if (this.count === this.ids.length) {
      this.ids = grown(this.ids, new Int32Array(2 * this.count));
      this.widths = grown(this.widths, new Int32Array(2 * this.count));
    }
    this.ids[this.count] = id;
    this.widths[this.count++] = width;
  }

  /** Merges what can be merged; `merged` are the ids that the ranks make. */
  merge(ranks: PairRanks, merged: Int32Array): void {
    const { count, ids, widths } = this;
    if (this.next.length < count) {
      this.next = new Int32Array(ids.length);
      this.previous = new Int32Array(ids.length);
    }
    const { next, previous } = this;
    for (let place = 0; place < count; place++) {
      next[place] = place + 1 < count ? place + 1 : -1;
      previous[place] = place - 1;
    }
    this.queued = 0;
    for (let place = 0; place + 1 < count; place++) {
      const rank = ranks.get(ids[place]!, ids[place + 1]!);
      if (rank >= 0) this.push(rank * PLACE + place);
    }
    while (this.queued > 0) {
      const entry = this.pop();
      const rank = Math.floor(entry / PLACE);
      const place = entry - rank * PLACE;
      const right = next[place]!;
      // an entry is stale when a merge since then took one of its two sides
      if (ids[place]! < 0 || right < 0 || ranks.get(ids[place]!, ids[right]!) !== rank) continue;
      const after = next[right]!;
      ids[place] = merged[rank]!;
      widths[place]! += widths[right]!;
      ids[right] = -1;
      next[place] = after;
      if (after >= 0) previous[after] = place;
      const before = previous[place]!;
      if (before >= 0) this.enqueue(ranks, before, place);
      if (after >= 0) this.enqueue(ranks, place, after);
    }
  }

  private enqueue(ranks: PairRanks, left: number, right: number): void {
    const rank = ranks.get(this.ids[left]!, this.ids[right]!);
    if (rank >= 0) this.push(rank * PLACE + left);
  }

  private push(item: number): void {
    if (this.queued === this.queue.length) {
      this.queue = grown(this.queue, new Float64Array(2 * this.queued));
    }
    const { queue } = this;
    let at = this.queued++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (queue[parent]! <= item) break;
      queue[at] = queue[parent]!;
      at = parent;
    }
    queue[at] = item;
  }

  /** Takes the least; there has to be one. */
  private pop(): number {
    const { queue } = this;
    const top = queue[0]!;
    const last = queue[--this.queued]!;
    const { queued } = this;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= queued) break;
      if (child + 1 < queued && queue[child + 1]! < queue[child]!) child++;
      if (queue[child]! >= last) break;
      queue[at] = queue[child]!;
      at = child;
    }
    queue[at] = last;
    return top;
  }
}

function grown<T extends Int32Array | Float64Array>(values: T, into: T): T {
  into.set(values);
  return into;
}
