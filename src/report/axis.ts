// An axis: a range that fits the data, round ticks, and their labels.

export interface Axis {
  /** Of what is drawn: log10 of the values on a logarithmic axis. */
  min: number;
  max: number;
  isLog: boolean;
  ticks: readonly { at: number; label: string }[];
}

const MOST_TICKS = 6;
/** An axis of values that span more than this becomes logarithmic, if it may. */
const LOG_SPAN = 100;

/** Where a value lies on the axis's own scale. */
export function placeOf(axis: Pick<Axis, "isLog">, value: number): number {
  return axis.isLog ? Math.log10(value) : value;
}

/** 1, 2 or 5 times a power of ten: the smallest that leaves at most `most` ticks in `span`. */
function roundStep(span: number, most: number): number {
  const power = 10 ** Math.floor(Math.log10(span / most));
  // 1e-9: a span that is a whole number of steps must not gain one by rounding.
  return [1, 2, 5, 10, 20].map((digit) => digit * power).find((step) => span / step <= most - 1 + 1e-9)!;
}

function roundTicks(min: number, max: number, isWhole: boolean): number[] {
  const step = Math.max(isWhole ? 1 : 0, roundStep(max - min, MOST_TICKS));
  const first = Math.ceil(min / step - 1e-9);
  const count = Math.floor(max / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => (first + i) * step);
}

/** 1.2000000000000002 → "1.2", all ticks with equally many decimals; 0.0002 → "2e-4"; 20000 → "20,000". */
function labelsOf(ticks: readonly number[]): string[] {
  const largest = Math.max(...ticks.map(Math.abs));
  if (largest > 0 && (largest < 0.01 || largest >= 1e7)) {
    return ticks.map((tick) =>
      tick === 0 ? "0" : Number(tick.toPrecision(3)).toExponential().replace("+", ""),
    );
  }
  const step = ticks.length > 1 ? ticks[1]! - ticks[0]! : largest;
  const decimals = step > 0 ? Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) : 0;
  return ticks.map((tick) =>
    tick.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }),
  );
}

const extent = (values: Iterable<number>): [min: number, max: number] => {
  let [min, max] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) {
    if (value < min) min = value;
    if (value > max) max = value;
  }
  return min <= max ? [min, max] : [0, 1];
};

/** The horizontal axis: steps, from the first to the last. */
export function stepAxis(steps: Iterable<number>): Axis {
  const [min, max] = extent(steps);
  const [low, high] = min === max ? [Math.max(0, min - 1), max + 1] : [min, max];
  const ticks = roundTicks(low, high, true);
  const labels = labelsOf(ticks);
  return { min: low, max: high, isLog: false, ticks: ticks.map((at, i) => ({ at, label: labels[i]! })) };
}

export interface ValueAxisOptions {
  /** The axis starts at 0: for amounts, of which a part means something. */
  fromZero?: boolean;
  /** Values that span more than two powers of ten go on a logarithmic axis. */
  mayBeLog?: boolean;
}

/** The vertical axis, a little wider than the values. */
export function valueAxis(values: Iterable<number>, options: ValueAxisOptions = {}): Axis {
  const [lowest, highest] = extent(values);
  if (options.mayBeLog === true && lowest > 0 && highest / lowest > LOG_SPAN) return logAxis(lowest, highest);
  const room = 0.06 * (highest - lowest) || 0.06 * Math.abs(highest) || 1;
  const min = options.fromZero === true && lowest >= 0 ? 0 : lowest - room;
  const max = highest + room;
  const ticks = roundTicks(min, max, false);
  const labels = labelsOf(ticks);
  return { min, max, isLog: false, ticks: ticks.map((at, i) => ({ at, label: labels[i]! })) };
}

function logAxis(lowest: number, highest: number): Axis {
  const [min, max] = [Math.log10(lowest) - 0.1, Math.log10(highest) + 0.1];
  const powers = roundTicks(min, max, true);
  return { min, max, isLog: true, ticks: powers.map((at) => ({ at, label: powerLabel(at) })) };
}

/** 10^power: "0.01" to "10,000" in full, others as "1e-5". */
function powerLabel(power: number): string {
  if (power < -3 || power > 4) return `1e${power}`;
  return power < 0 ? (10 ** power).toFixed(-power) : (10 ** power).toLocaleString("en-US");
}
