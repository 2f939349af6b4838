import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32c, EventFile } from "../../src/track/event-file.ts";
import { tensorboardTracker } from "../../src/track/tensorboard.ts";
import type { StepMetrics } from "../../src/train/index.ts";

const folder = mkdtempSync(join(tmpdir(), "neftune-events-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A Python with the package tensorboard; TensorFlow is not needed. */
const python = process.env.NEFTUNE_TENSORBOARD_PYTHON ?? "";
const noPython = "no NEFTUNE_TENSORBOARD_PYTHON: a Python that has the package tensorboard";

test("CRC-32C of the check string (RFC 3720) and of nothing", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array())).toBe(0);
});

test("frames: length, data and the checksums of both, one after the other to the end", () => {
  const file = new EventFile(join(folder, "frames"), 1_700_000_000);
  file.scalars(3, { "train/loss": 1.5 }, 1);
  file.close();
  const bytes = readFileSync(file.path);
  const masked = (part: Uint8Array) => {
    const c = crc32c(part);
    return (((c >>> 15) | (c << 17)) + 0xa282ead8) >>> 0;
  };
  const events: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(masked(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(masked(data));
    events.push(data);
    at += 16 + length;
  }
  expect(events).toHaveLength(2);
  // wall_time 1.0, step 3, summary {value {tag "train/loss", simple_value 1.5}}, byte by byte.
  expect(events[1]!.toHex()).toBe(
    `09000000000000f03f1003${"2a13"}${"0a11"}${"0a0a"}${Buffer.from("train/loss").toHex()}${"150000c03f"}`,
  );
});

test.skipIf(!existsSync(python))(
  `read back by TensorBoard${existsSync(python) ? "" : `: ${noPython}`}`,
  () => {
    const dir = join(folder, "read");
    const first = new EventFile(dir, 1_700_000_000);
    first.text("options", "| a | b |\n| --- | --- |\n| ü | 2 |");
    for (let step = 1; step <= 5; step++) first.scalars(step, { "train/loss": 4 / step });
    first.scalars(2 ** 33, { "eval/loss": 1.25 });
    first.close();
    const again = new EventFile(dir, 1_700_000_100);
    again.restart(4);
    again.scalars(4, { "train/loss": 9 });
    again.close();
    const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
a = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0}); a.Reload()
print(json.dumps({**{t: [[e.step, e.value] for e in a.Scalars(t)] for t in a.Tags()["scalars"]},
  **{t: [tensor_util.make_ndarray(e.tensor_proto)[0].decode() for e in a.Tensors(t)] for t in a.Tags()["tensors"]}}))`;
    const { stdout, stderr } = Bun.spawnSync([python, "-c", script, dir]);
    const read = JSON.parse(stdout.toString() || stderr.toString());
    expect(read["train/loss"]).toEqual([
      [1, 4],
      [2, 2],
      [3, Math.fround(4 / 3)],
      [4, 9],
    ]);
    expect(read["options/text_summary"]).toEqual(["| a | b |\n| --- | --- |\n| ü | 2 |"]);
  },
  60_000,
);

test("a folder that cannot be written is told of once, and nothing is thrown", async () => {
  const notes: string[] = [];
  const tracker = tensorboardTracker("/proc/nowhere", {}, (text) => notes.push(text));
  tracker.onPlan(0);
  tracker.onStep({ step: 1, loss: 1, neftScale: null } as StepMetrics);
  await tracker.close("finished", {});
  expect(notes).toHaveLength(1);
  expect(notes[0]).toContain("the run goes on without it");
});
