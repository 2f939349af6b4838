// A curve and what is done to it before it is drawn: an exponential mean, and thinning that keeps the extremes.

/** Points by rising step. `y` is null where a step has no finite value. */
export interface Curve {
  x: readonly number[]; // [points]
  y: readonly (number | null)[]; // [points]
}

/** The first and the last step; nothing of a curve without points. */
export function endsOf({ x }: Curve): number[] {
  return x.length === 0 ? [] : [x[0]!, x.at(-1)!];
}

/** The points that no line reaches, since none beside them has a value. */
export function isolatedPoints({ x, y }: Curve): Curve {
  const has = (i: number) => y[i] !== null && y[i] !== undefined;
  const order = [...x.keys()].filter((i) => has(i) && !has(i - 1) && !has(i + 1));
  return { x: order.map((i) => x[i]!), y: order.map((i) => y[i]!) };
}

/** Steps that an exponential mean looks back over, by the length of the run: a fiftieth of it. */
export function meanSpan(points: number): number {
  return Math.max(10, Math.round(points / 50));
}

/**
 * The exponential mean of a curve with weight 2 / (span + 1) for the newest point, bias-corrected as in Adam, so that
 * the first points are not drawn towards zero. Points without a value stay gaps: a mean there would hide them.
 */
export function exponentialMean({ x, y }: Curve, span: number): Curve {
  const weight = 2 / (span + 1);
  let [sum, total] = [0, 0];
  const mean = y.map((value) => {
    if (value === null) return null;
    sum += weight * (value - sum);
    total += weight * (1 - total);
    return sum / total;
  });
  return { x, y: mean };
}

/**
 * At most about 2 · `buckets` points: the lowest and the highest of every bucket of steps, in order, and the first and
 * last point. A bucket with a point that has no value keeps one of those, so that the gap stays.
 */
export function thin({ x, y }: Curve, buckets: number): Curve {
  const count = x.length;
  if (count <= 2 * buckets) return { x, y };
  const [first, last] = [x[0]!, x[count - 1]!];
  const bucketOf = (i: number) =>
    Math.min(buckets - 1, Math.floor(((x[i]! - first) / (last - first)) * buckets));
  const kept = new Set<number>([0, count - 1]);
  for (let begin = 0; begin < count; ) {
    const bucket = bucketOf(begin);
    let [lowest, highest, end] = [-1, -1, begin];
    for (; end < count && bucketOf(end) === bucket; end++) {
      const value = y[end];
      if (value === null || value === undefined) kept.add(end);
      else {
        if (lowest < 0 || value < y[lowest]!) lowest = end;
        if (highest < 0 || value > y[highest]!) highest = end;
      }
    }
    if (lowest >= 0) kept.add(lowest).add(highest);
    begin = end;
  }
  const order = withoutGapRepeats(
    [...kept].sort((a, b) => a - b),
    y,
  );
  return { x: order.map((i) => x[i]!), y: order.map((i) => y[i]!) };
}

/** One point of each row of points without a value is enough. */
function withoutGapRepeats(order: readonly number[], y: Curve["y"]): number[] {
  return order.filter((i, at) => y[i] !== null || at === 0 || y[order[at - 1]!] !== null);
}

/** The curve without points inside a level stretch, which a line draws as well. */
export function withoutLevels({ x, y }: Curve): Curve {
  const order = x.flatMap((_, i) =>
    i > 0 && i < x.length - 1 && y[i] === y[i - 1] && y[i] === y[i + 1] ? [] : [i],
  );
  return { x: order.map((i) => x[i]!), y: order.map((i) => y[i]!) };
}
