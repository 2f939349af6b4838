// Where samples come from: a loaded data set, or any array of them.

import type { Sample } from "../data/sample.ts";

export type Samples = readonly Sample[] | { readonly length: number; get(i: number): Sample };

export function samplesOf(source: Samples): readonly Sample[] {
  return "get" in source ? Array.from({ length: source.length }, (_, i) => source.get(i)) : source;
}
