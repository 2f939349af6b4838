// Numbers drawn from a seed, the same ones on every machine.

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
    // Neighboring seeds start alike without this.
    for (let i = 0; i < 4; i++) this.below(2);
  }

  /** A whole number of at least 0 and less than `limit` (mulberry32). */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let x = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return Math.floor((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * limit);
  }

  /** True once in `n` draws. */
  once(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }
}
