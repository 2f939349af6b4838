// The known name that an unknown one was probably meant to be.

/** Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbors. */
function distance(a: string, b: string): number {
  let beforePrevious: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let best = Math.min(previous[j]! + 1, row[j - 1]! + 1, substitution);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) best = Math.min(best, beforePrevious[j - 2]! + 1);
      row.push(best);
    }
    beforePrevious = previous;
    previous = row;
  }
  return previous[b.length]!;
}

/** Longer ones are not mistyped names. */
const LONGEST_NAME = 100;

const initials = (name: string) =>
  name
    .split("-")
    .map((word) => word[0] ?? "")
    .join("");

/**
 * The nearest of `known` to `name`, or null where none is near: at most a third of the letters differ, or one holds the
 * other as whole words (num-train-epochs: epochs), or `name` is the initials (lr: learning-rate).
 */
export function nearest(name: string, known: readonly string[]): string | null {
  if (name.length > LONGEST_NAME) return null;
  const wanted = name.toLowerCase().replaceAll("_", "-");
  let best: string | null = null;
  let bestDistance = Math.max(1, Math.floor(wanted.length / 3)) + 1;
  for (const candidate of known) {
    const d = distance(wanted, candidate.toLowerCase());
    if (d < bestDistance) {
      best = candidate;
      bestDistance = d;
    }
  }
  if (best !== null) return best;
  const abbreviated = known.find((candidate) => candidate.includes("-") && initials(candidate) === wanted);
  if (abbreviated !== undefined) return abbreviated;
  const holds = (outer: string, inner: string) => inner.length > 2 && `-${outer}-`.includes(`-${inner}-`);
  const related = known.filter((candidate) => holds(wanted, candidate) || holds(candidate, wanted));
  return related.sort((a, b) => b.length - a.length)[0] ?? null;
}

/** "; did you mean X?" or what lists the known names. */
export function suggestion(name: string, known: readonly string[], otherwise: string, prefix = ""): string {
  const near = nearest(name, known);
  return near === null ? `; ${otherwise}` : `; did you mean ${prefix}${near}?`;
}
