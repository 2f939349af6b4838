// Files that are cut short, changed, removed or replaced while they are mapped.

import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { Device } from "../../src/native/index.ts";
import { describeBackends } from "../backends.ts";
import { scratchFolder } from "../scratch.ts";

const root = scratchFolder();
let files = 0;
const bytes = 1 << 20;
function newFile(): string {
  const path = join(root, `file-${files++}`);
  writeFileSync(path, new Uint8Array(bytes).fill(7));
  return path;
}

describeBackends((device: Device) => {
  test("a file that is cut short: the call that needs what is gone throws, with the file's name", () => {
    const [path, other] = [newFile(), newFile()];
    const [file, whole] = [device.mapFile(path), device.mapFile(other)];
    const tensor = device.allocate("f32", [bytes / 4]);
    const read = (address: number, count: number) =>
      device.call("nt_copy_to_device", tensor.ptr, address, count);
    read(file.address, bytes);
    truncateSync(path, 8192);
    read(file.address, 8192);
    expect(() => read(file.address, bytes)).toThrow(`${path} was cut short`);
    // It is thrown until the file is let go of, so that nobody believes what was computed since.
    expect(() => device.synchronize()).toThrow(path);
    expect(() => device.expectFilesUnchanged("all")).toThrow(path);
    device.unmapFile(file);
    device.synchronize();
    read(whole.address, bytes);
    expect(device.readBytes(tensor).every((byte) => byte === 7)).toBe(true);
    device.unmapFile(whole);
    device.free(tensor.ptr);
  });

  test.each<[string, (path: string) => void, string | null]>([
    ["written to", (path) => void writeSync(openSync(path, "r+"), "x", 5), "was written to"],
    ["touched", (path) => utimesSync(path, 1, 1), "was written to"],
    ["cut short", (path) => truncateSync(path, bytes - 1), `changed from ${bytes} to ${bytes - 1} bytes`],
    ["made longer", (path) => appendFileSync(path, "x"), `changed from ${bytes} to ${bytes + 1} bytes`],
    ["removed", (path) => rmSync(path), null],
    [
      "replaced",
      (path) => {
        writeFileSync(`${path}.new`, "x");
        renameSync(`${path}.new`, path);
      },
      null,
    ],
    ["left alone", () => {}, null],
  ])("a file that is %s", (_, change, message) => {
    const path = newFile();
    const file = device.mapFile(path);
    change(path);
    const check = () => device.expectFilesUnchanged("all");
    if (message === null) check();
    else {
      expect(check).toThrow(path);
      expect(check).toThrow(message);
      const inPlace = () => device.expectFilesUnchanged("in place");
      if (device.isHost) expect(inPlace).toThrow(path);
      else inPlace();
    }
    device.unmapFile(file);
    check();
  });
});

describe("weights cut short under a model", () => {
  for (const threads of [1, 2])
    for (const dtype of ["bf16", "f32"])
      for (const left of [0, 400_000])
        test(`${threads} threads, ${dtype}, ${left} bytes left`, async () => {
          const dir = mkdtempSync(join(root, "model-"));
          const child = Bun.spawn(
            [
              ...[process.execPath, join(import.meta.dir, "mapped-child.ts"), dir],
              ...[`${threads}`, dtype, `${left}`],
            ],
            { stdout: "pipe", stderr: "pipe" },
          );
          const [out, err] = await Promise.all([
            new Response(child.stdout).text(),
            new Response(child.stderr).text(),
          ]);
          expect(err).toBe("");
          expect(out.split("\n")[0]).toStartWith(`changed: ${dir}/model.safetensors was cut short`);
          expect(out).toEndWith("\nclosed\n");
          expect(await child.exited).toBe(0);
        }, 30_000);
});
