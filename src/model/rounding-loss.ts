// What rounding a merged weight takes of the adapter's change: measured over rows spread over each weight.

/** So many values of a weight are looked at, at least. */
const SAMPLE_VALUES = 2 ** 18;

export class RoundingLoss {
  /** Σ Δ², and Σ (what was written − W − Δ)², over the values looked at, scaled to all of a weight. */
  #change = 0;
  #lost = 0;

  /** Every which row of a weight is looked at. */
  static stride(shape: readonly number[]): number {
    return Math.max(1, Math.floor((shape[0]! * shape[1]!) / SAMPLE_VALUES));
  }

  /** Some values before and after the change, and as written; each stands for `weight` values. */
  add(before: Float32Array, after: Float32Array, written: Float32Array, weight: number): void {
    let [change, lost] = [0, 0];
    for (let i = 0; i < after.length; i++) {
      change += (after[i]! - before[i]!) ** 2;
      lost += (written[i]! - after[i]!) ** 2;
    }
    this.#change += change * weight;
    this.#lost += lost * weight;
  }

  /** ‖lost‖ / ‖change‖; null where nothing changed. */
  get share(): number | null {
    return this.#change === 0 ? null : Math.sqrt(this.#lost / this.#change);
  }
}
