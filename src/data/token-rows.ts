// Rows that are tokens already: input_ids, with labels and masks or without.

import { type Fields, has, kindOf, RowProblem } from "./fields.ts";
import { IGNORE } from "./sample.ts";

export interface TokensRow {
  format: "tokens";
  inputIds: Int32Array; // [tokens], padding taken out
  labels: Int32Array; // [tokens]
}

/** Fields that such a row may have. */
export const TOKEN_FIELDS = [
  ...["input_ids", "labels", "attention_mask", "completion_mask", "assistant_masks"],
] as const;

/** Where they say that a row is several samples laid end to end, it is refused: the samples would see each other. */
export const PACKING_FIELDS = ["position_ids", "seq_lengths"] as const;

/** Masks of 0 and 1: where one is 0, the token is not a target. */
const TARGET_MASKS = ["completion_mask", "assistant_masks"] as const;

/**
 * Reads the row. Tokens at which attention_mask is 0 are padding and are taken out; where a mask of targets is 0, the
 * label becomes IGNORE. Ids lie below `vocabSize`. Throws RowProblem.
 */
export function tokensRow(fields: Fields, vocabSize: number): TokensRow {
  const ids = listOf(fields, "input_ids", "integers");
  if (ids.length === 0) throw new RowProblem('field "input_ids": the list is empty');
  const attended = maskOf(fields, "attention_mask", ids.length);
  const places = Array.from(ids, (_, i) => i).filter((i) => attended === null || attended[i] === 1);
  if (places.length === 0) throw new RowProblem('field "attention_mask": all tokens are padding');
  expectOneSample(fields, places);
  const inputIds = idsAt(ids, places, "input_ids", 0, vocabSize);
  if (has(fields, "labels")) expectLength(listOf(fields, "labels", "integers"), "labels", ids.length);
  const labels = has(fields, "labels")
    ? idsAt(fields.labels as unknown[], places, "labels", IGNORE, vocabSize)
    : Int32Array.from(inputIds);
  for (const name of TARGET_MASKS) {
    const mask = maskOf(fields, name, ids.length);
    if (mask === null) continue;
    places.forEach((place, i) => {
      if (mask[place] === 0) labels[i] = IGNORE;
    });
  }
  return { format: "tokens", inputIds, labels };
}

/** Throws RowProblem where the tokens at `places` are several samples: positions that begin anew, or several lengths. */
function expectOneSample(fields: Fields, places: readonly number[]): void {
  const { position_ids: positions, seq_lengths: lengths } = fields;
  const isReset = Array.isArray(positions) && places.some((place, i) => positions[place] !== i);
  const name = isReset ? "position_ids" : Array.isArray(lengths) && lengths.length > 1 ? "seq_lengths" : null;
  if (name === null) return;
  throw new RowProblem(
    `field "${name}": the row is several samples, or does not begin at position 0; give each sample as a row of its own (--packing, on by default, lays them end to end)`,
  );
}

function listOf(fields: Fields, name: string, of: string): unknown[] {
  const value = fields[name];
  if (Array.isArray(value)) return value;
  throw new RowProblem(`field "${name}": expected a list of ${of}, got ${kindOf(value)}`);
}

function expectLength(list: ArrayLike<unknown>, name: string, length: number): void {
  if (list.length === length) return;
  throw new RowProblem(`field "${name}": expected as many as input_ids, ${length}, got ${list.length}`);
}

/** A mask of as many zeros and ones as there are ids, or null where the row has none of this name. */
function maskOf(fields: Fields, name: string, length: number): Uint8Array | null {
  if (!has(fields, name)) return null;
  const value = listOf(fields, name, "0 and 1");
  expectLength(value, name, length);
  const mask = new Uint8Array(length);
  for (let i = 0; i < length; i++) {
    const bit: unknown = value[i];
    if (bit !== 0 && bit !== 1 && typeof bit !== "boolean") {
      throw new RowProblem(`${name}[${i}]: expected 0 or 1, got ${kindOf(bit)}`);
    }
    mask[i] = Number(bit);
  }
  return mask;
}

/** The ids at some places of a list; `least` is 0, or IGNORE where that one value below 0 is allowed too. */
function idsAt(
  list: readonly unknown[],
  places: readonly number[],
  field: string,
  least: number,
  vocabSize: number,
): Int32Array {
  return Int32Array.from(places, (place) => {
    const id = list[place];
    const isId = typeof id === "number" && Number.isInteger(id);
    if (isId && id < vocabSize && (id >= 0 || id === least)) return id;
    const limit = Number.isFinite(vocabSize) ? `from 0 to ${vocabSize - 1}` : "of at least 0";
    const range = `an integer ${limit}${least < 0 ? ` or ${least}` : ""}`;
    throw new RowProblem(
      `${field}[${place}]: expected ${range}, got ${typeof id === "number" ? id : kindOf(id)}`,
    );
  });
}
