// Rows of tokens: masks, labels, and what says that a row is several samples.

import { describe, expect, test } from "bun:test";
import { Encoder } from "../../src/data/encode.ts";
import { parseRow } from "../../src/data/formats.ts";

describe("rows of tokens", () => {
  const row = (more: object) => parseRow({ input_ids: [5, 6, 7, 8], ...more }, { vocabSize: 9 });
  const ids = (...values: number[]) => Int32Array.from(values);

  test("padding is taken out, whatever its ids are; masks of 0 are no targets", () => {
    expect(row({ attention_mask: [0, 1, 1, 1] })).toMatchObject({
      inputIds: ids(6, 7, 8),
      labels: ids(6, 7, 8),
    });
    const padded = { input_ids: [5, 6, 9, -1], attention_mask: [1, 1, 0, 0], labels: [-100, 6, 50, -100] };
    expect(row(padded)).toMatchObject({ inputIds: ids(5, 6), labels: ids(-100, 6) });
    expect(row({ position_ids: [0, 1, 2, 3], seq_lengths: [4] })).toMatchObject({ labels: ids(5, 6, 7, 8) });
    expect(row({ position_ids: [9, 0, 1, 2], attention_mask: [0, 1, 1, 1] })).toMatchObject({
      labels: ids(6, 7, 8),
    });
    for (const more of [{ position_ids: [0, 1, 0, 1] }, { seq_lengths: [2, 2] }])
      expect(() => row(more)).toThrow(/^field ".*": the row is several samples/);
    expect(row({ completion_mask: [0, 0, 1, 1] })).toMatchObject({ labels: ids(-100, -100, 7, 8) });
    expect(row({ assistant_masks: [0, 1, 1, 0], labels: [5, -100, 7, 8] })).toMatchObject({
      labels: ids(-100, -100, 7, -100),
    });
    expect(row({ completion_mask: [1, 1, 0, 1], assistant_masks: [0, 1, 1, 1] })).toMatchObject({
      inputIds: ids(5, 6, 7, 8),
      labels: ids(-100, 6, -100, 8),
    });
    expect(row({ attention_mask: [1, 0, 1, 1], completion_mask: [0, 1, 0, 1] })).toMatchObject({
      inputIds: ids(5, 7, 8),
      labels: ids(-100, -100, 8),
    });
  });

  test("masks are refused by name and place", () => {
    expect(() => row({ attention_mask: [0, 0, 0, 0] })).toThrow(/attention_mask": all tokens are padding/);
    expect(() => row({ attention_mask: [1, 1] })).toThrow(
      /attention_mask": expected as many as input_ids, 4, got 2/,
    );
    expect(() => row({ completion_mask: [1, 2, 1, 1] })).toThrow(
      /completion_mask\[1\]: expected 0 or 1, got the number 2/,
    );
    expect(() => row({ assistant_masks: "1111" })).toThrow(/assistant_masks": expected a list of 0 and 1/);
    expect(() => row({ labels: [1, 2, 3] })).toThrow(/labels": expected as many/);
  });

  test("need no tokenizer", () => {
    const none = new Encoder(
      () => {
        throw new Error("no tokenizer");
      },
      { template: { kind: "chat" }, maxLength: null, parseSpecial: false, vocabSize: 9 },
    );
    expect(none.encode({ input_ids: [5, 6] }).ids).toEqual(ids(5, 6));
    expect(none.encodePrompt({ input_ids: [5, 6] }).ids).toEqual(ids(5, 6));
    expect(() => none.encode({ text: "a" })).toThrow(/no tokenizer/);
  });
});
