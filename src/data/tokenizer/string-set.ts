// Finds a fixed set of strings in a text: the leftmost first, and of those that begin there the longest.

/** A prefix that some strings share: those at [begin, end) of the sorted list, to `depth` units. */
interface Node {
  begin: number;
  end: number;
  depth: number;
  children: Map<number, Node> | null; // by the unit behind the prefix; null until somebody looks
}

export class StringSet {
  private readonly strings: string[]; // sorted, each once
  private readonly root: Node;
  private readonly first = new Uint8Array(0x10000); // 1 where a string begins with the unit

  constructor(strings: Iterable<string>) {
    this.strings = [...new Set(strings)].filter((one) => one !== "").sort();
    this.root = { begin: 0, end: this.strings.length, depth: 0, children: null };
    for (const one of this.strings) this.first[one.charCodeAt(0)] = 1;
  }

  /** The first string in a text at or behind `from`: where it begins, and the string. */
  find(text: string, from: number): { begin: number; found: string } | null {
    if (this.strings.length === 0) return null;
    for (let begin = from; begin < text.length; begin++) {
      if (this.first[text.charCodeAt(begin)] === 0) continue;
      const found = this.longestAt(text, begin);
      if (found !== null) return { begin, found };
    }
    return null;
  }

  private longestAt(text: string, at: number): string | null {
    let longest: string | null = null;
    for (let node = this.root; ; ) {
      const next = this.childrenOf(node).get(text.charCodeAt(at + node.depth));
      if (next === undefined) return longest;
      const shortest = this.strings[next.begin]!;
      for (let i = node.depth + 1; i < next.depth; i++) {
        if (text.charCodeAt(at + i) !== shortest.charCodeAt(i)) return longest;
      }
      if (shortest.length === next.depth) longest = shortest;
      node = next;
    }
  }

  /** Built when first asked for: most of a large set is never met in a text. */
  private childrenOf(node: Node): Map<number, Node> {
    if (node.children !== null) return node.children;
    node.children = new Map();
    let { begin } = node;
    if (this.strings[begin]?.length === node.depth) begin++;
    while (begin < node.end) {
      const unit = this.strings[begin]!.charCodeAt(node.depth);
      let end = begin + 1;
      while (end < node.end && this.strings[end]!.charCodeAt(node.depth) === unit) end++;
      const [least, most] = [this.strings[begin]!, this.strings[end - 1]!];
      let depth = node.depth + 1;
      while (depth < least.length && least[depth] === most[depth]) depth++;
      node.children.set(unit, { begin, end, depth, children: null });
      begin = end;
    }
    return node.children;
  }
}
