// Checkpoints whose files say things in another way: names without a prefix, a head beside a tied embedding, pointers.

import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeBatch } from "../../src/data/batch.ts";
import { Tokenizer } from "../../src/data/tokenizer.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { readTensorData, type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { checkpointSource, Llama, type ModelOptions, readConfig } from "../../src/model/index.ts";
import { Device } from "../../src/native/index.ts";

const scratch = mkdtempSync(join(tmpdir(), "checkpoint-names-"));
const device = Device.open({ threads: 1 });
afterAll(() => {
  device.close();
  rmSync(scratch, { recursive: true });
});

const golden = join(import.meta.dir, "../golden/models/tiny-mha-f32");

/** A copy of the golden model with other config fields and tensors. */
function modelWith(
  name: string,
  changes: Record<string, unknown>,
  rename: (tensors: TensorSource[]) => TensorSource[],
): string {
  const dir = join(scratch, name);
  cpSync(golden, dir, { recursive: true });
  const path = join(dir, "config.json");
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...changes }));
  const tensors = [...openCheckpoint(golden).tensors].map(([name, { file, entry }]) => ({
    ...{ name, dtype: entry.dtype, shape: entry.shape },
    data: readTensorData(file, name),
  }));
  writeSafetensors(join(dir, "model.safetensors"), rename(tensors));
  return dir;
}

const options: ModelOptions = {
  ...{ dtype: "f32", tune: "none", recompute: "none", maxTokens: 8, maxTargets: 8, maxPosition: 8, seed: 0 },
};

function lossesOf(dir: string): number[] {
  const model = Llama.load(device, checkpointSource(dir), options);
  try {
    const batch = makeBatch(
      [{ ids: Int32Array.of(1, 5, 9), labels: Int32Array.of(1, 5, 9), truncated: false }],
      { packing: true },
    );
    return [...model.evaluate(batch)];
  } finally {
    model.close();
  }
}

const isHead = ({ name }: TensorSource) => name === "lm_head.weight";
const isEmbedding = ({ name }: TensorSource) => name === "model.embed_tokens.weight";

test("names without model. load as those with it", () => {
  const dir = modelWith("bare", {}, (tensors) =>
    tensors.map((tensor) => ({ ...tensor, name: tensor.name.replace(/^model\./, "") })),
  );
  expect(lossesOf(dir)).toEqual(lossesOf(golden));
});

test("a name with and without model. is one too many", () => {
  const dir = modelWith("both", {}, (tensors) => [
    ...tensors,
    { ...tensors.find(({ name }) => name === "model.norm.weight")!, name: "norm.weight" },
  ]);
  expect(() => checkpointSource(dir)).toThrow("holds norm.weight");
});

describe("a config that ties the head", () => {
  test("beside another lm_head.weight: that one is used, and said", () => {
    const dir = modelWith("untied", { tie_word_embeddings: true }, (tensors) => tensors);
    const source = checkpointSource(dir);
    expect(source.config.tieWordEmbeddings).toBe(false);
    expect(source.notes).toEqual([
      expect.stringContaining("another lm_head.weight is stored; it is used, untied"),
    ]);
    expect(lossesOf(dir)).toEqual(lossesOf(golden));
  });

  test("beside an equal lm_head.weight, or with only one of the two: tied, without a word", () => {
    const tied = modelWith("tied", { tie_word_embeddings: true }, (tensors) =>
      tensors.filter((one) => !isHead(one)),
    );
    const equal = modelWith("equal", { tie_word_embeddings: true }, (tensors) => [
      ...tensors.filter((one) => !isHead(one)),
      { ...tensors.find(isEmbedding)!, name: "lm_head.weight" },
    ]);
    const headAlone = modelWith("head-alone", { tie_word_embeddings: true }, (tensors) =>
      tensors
        .filter((one) => !isHead(one))
        .map((one) => (isEmbedding(one) ? { ...one, name: "lm_head.weight" } : one)),
    );
    for (const dir of [equal, headAlone]) {
      const source = checkpointSource(dir);
      expect(source.notes).toEqual([]);
      expect([...source.checkpoint.tensors.keys()]).not.toContain("lm_head.weight");
      expect(lossesOf(dir)).toEqual(lossesOf(tied));
    }
    expect(lossesOf(tied)).not.toEqual(lossesOf(golden));
  });
});

test.each(["config.json", "tokenizer.json", "model.safetensors"])(
  "a Git LFS pointer in place of %s is called that",
  (name) => {
    const dir = join(scratch, `lfs-${name}`);
    cpSync(golden, dir, { recursive: true });
    writeFileSync(join(dir, name), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n");
    const read = name.startsWith("tokenizer") ? () => Tokenizer.load(dir) : () => checkpointSource(dir);
    expect(read).toThrow(`${join(dir, name)} is a Git LFS pointer, not the file itself`);
  },
);

test("what Transformers ignores is ignored: pretraining_tp; torch_dtype counts where dtype is null", () => {
  const dir = modelWith(
    "ignored",
    { pretraining_tp: 2, dtype: null, torch_dtype: "bfloat16" },
    (tensors) => tensors,
  );
  expect(readConfig(dir).dtype).toBe("bf16");
  expect(lossesOf(dir)).toEqual(lossesOf(golden));
});
