// Counters of a server, in Prometheus' text format.

type Labels = Readonly<Record<string, string>>;

export class Metrics {
  readonly #counters = new Map<string, number>();
  readonly #help = new Map<string, { type: string; help: string }>();

  /** Adds to a counter, which begins at 0. */
  add(name: string, by: number, labels: Labels = {}): void {
    const key = `${name}${labelText(labels)}`;
    this.#counters.set(key, (this.#counters.get(key) ?? 0) + by);
  }

  /** What a name means, and that it is there from the beginning. */
  declare(name: string, help: string, type: "counter" | "summary" = "counter"): void {
    this.#help.set(name, { type, help });
  }

  /** `gauges`: what is so now. */
  text(gauges: Readonly<Record<string, { help: string; value: number }>>): string {
    const lines: string[] = [];
    for (const [name, { type, help }] of this.#help) {
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
      const own = [...this.#counters].filter(
        ([key]) => key.replace(/(?:_sum|_count)?(?:\{.*)?$/, "") === name,
      );
      for (const [key, value] of own) lines.push(`${key} ${value}`);
      if (own.length === 0 && type === "counter") lines.push(`${name} 0`);
    }
    for (const [name, { help, value }] of Object.entries(gauges))
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} gauge`, `${name} ${value}`);
    return `${lines.join("\n")}\n`;
  }
}

function labelText(labels: Labels): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  return parts.length === 0 ? "" : `{${parts.join(",")}}`;
}
