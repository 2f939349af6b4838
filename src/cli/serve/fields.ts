// The fields of a request, read with a complaint that names the field.

import { about } from "../../errors.ts";
import { ApiError } from "./errors.ts";

export class RequestFields {
  readonly #json: Record<string, unknown>;

  /** Throws ApiError unless the body is a JSON object. */
  constructor(json: unknown) {
    if (typeof json !== "object" || json === null || Array.isArray(json))
      throw new ApiError(400, "the body must be a JSON object");
    this.#json = json as Record<string, unknown>;
  }

  /** Undefined where it is absent or null. */
  get(name: string): unknown {
    return (Object.hasOwn(this.#json, name) ? this.#json[name] : undefined) ?? undefined;
  }

  fail(name: string, message: string): never {
    throw new ApiError(400, about(name, message), { param: name });
  }

  number(name: string, fallback: number, least: number, most: number, isWhole = false): number {
    const value = this.get(name) ?? fallback;
    const isRight =
      typeof value === "number" && (isWhole ? Number.isSafeInteger(value) : Number.isFinite(value));
    if (!isRight || value < least || value > most) {
      const noun = isWhole ? "a whole number" : "a number";
      const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
      this.fail(name, `expected ${noun} ${range}, got ${shown(value)}`);
    }
    return value as number;
  }

  whole(name: string, fallback: number, least: number, most = Number.MAX_SAFE_INTEGER): number {
    return this.number(name, fallback, least, most, true);
  }

  flag(name: string, fallback = false): boolean {
    const value = this.get(name) ?? fallback;
    if (typeof value !== "boolean") this.fail(name, `expected true or false, got ${shown(value)}`);
    return value;
  }

  text(name: string): string {
    const value = this.get(name);
    if (typeof value !== "string") this.fail(name, `expected a text, got ${shown(value)}`);
    return value;
  }

  /** A text or a list of at most `most` of them, none empty. */
  texts(name: string, most: number): string[] {
    const value = this.get(name) ?? [];
    const list = Array.isArray(value) ? value : [value];
    if (list.length > most || !list.every((one) => typeof one === "string" && one !== ""))
      this.fail(name, `expected a text or a list of at most ${most}, none empty`);
    return list as string[];
  }

  /** Refuses a field that would change the answer and is not followed, unless it has a value that changes nothing. */
  refuseUnless(name: string, harmless: readonly unknown[]): void {
    const value = this.get(name);
    if (value === undefined || harmless.some((one) => Bun.deepEquals(one, value))) return;
    this.fail(name, "is not supported; leave it out");
  }
}

function shown(value: unknown): string {
  const text = value === undefined ? "nothing" : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
