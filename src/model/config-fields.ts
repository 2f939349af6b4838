// Fields of a JSON object from a stranger, read with a complaint that names the file and the field.

import { FormatError } from "../errors.ts";

export class Fields {
  readonly #path: string;
  readonly #json: Record<string, unknown>;

  constructor(path: string, json: unknown) {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new FormatError(path, "must be a JSON object");
    }
    this.#path = path;
    this.#json = json as Record<string, unknown>;
  }

  get(name: string): unknown {
    return Object.hasOwn(this.#json, name) ? this.#json[name] : undefined;
  }

  get isEmpty(): boolean {
    return Object.keys(this.#json).length === 0;
  }

  fail(message: string): never {
    throw new FormatError(this.#path, message);
  }

  /** A whole number above 0, at most `most`. */
  count(name: string, fallback?: number, most: number = Number.MAX_SAFE_INTEGER): number {
    const value = this.get(name) ?? fallback;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1) {
      this.fail(`${name} must be a whole number above 0, got ${show(value)}`);
    }
    if (value > most) this.fail(`${name} is ${value}; at most ${most} is supported`);
    return value;
  }

  positive(name: string, fallback?: number): number {
    const value = this.get(name) ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) {
      this.fail(`${name} must be a number above 0, got ${show(value)}`);
    }
    return value;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.get(name) ?? fallback;
    if (typeof value !== "boolean") this.fail(`${name} must be true or false, got ${show(value)}`);
    return value;
  }

  /** Refuses any value of the field but the ones that change nothing. */
  refuseUnless(name: string, harmless: readonly unknown[], why: string): void {
    const value = this.get(name);
    if (value === undefined || value === null || harmless.includes(value)) return;
    this.fail(`${name} = ${show(value)} is not supported (${why})`);
  }
}

/** A value as short JSON for a message. */
export function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value);
  return text.length > 100 ? `${text.slice(0, 97)}...` : text;
}
