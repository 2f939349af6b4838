// Ranks of pairs of ids: a hash table with open addressing, several times quicker here than a Map of numbers.

export class PairRanks {
  private readonly mask: number;
  private readonly lefts: Int32Array; // [slots], −1 where a slot is free
  private readonly rights: Int32Array; // [slots]
  private readonly ranks: Int32Array; // [slots]

  /** Holds up to `count` pairs. */
  constructor(count: number) {
    let slots = 8;
    while (slots < 2 * count) slots *= 2;
    this.mask = slots - 1;
    this.lefts = new Int32Array(slots).fill(-1);
    this.rights = new Int32Array(slots);
    this.ranks = new Int32Array(slots);
  }

  /** The rank of a pair; −1 where it has none. */
  get(left: number, right: number): number {
    const slot = this.slot(left, right);
    return this.lefts[slot] === -1 ? -1 : this.ranks[slot]!;
  }

  set(left: number, right: number, rank: number): void {
    const slot = this.slot(left, right);
    this.lefts[slot] = left;
    this.rights[slot] = right;
    this.ranks[slot] = rank;
  }

  /** Where a pair is, or would be. */
  private slot(left: number, right: number): number {
    const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    let slot = (mixed ^ (mixed >>> 15)) & this.mask;
    while (this.lefts[slot] !== -1 && (this.lefts[slot] !== left || this.rights[slot] !== right)) {
      slot = (slot + 1) & this.mask;
    }
    return slot;
  }
}
