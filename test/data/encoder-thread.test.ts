import { expect, test } from "bun:test";
import type { EncoderOptions } from "../../src/data/encode.ts";
import { openEncoder, withEncoder } from "../../src/data/encoder-thread.ts";
import { RowProblem } from "../../src/data/formats.ts";
import { InterruptedError } from "../../src/errors.ts";
import { plainEncoding } from "./encoders.ts";
import { byteFolder, folderOf } from "./tiny-tokenizer.ts";

const options = plainEncoding;
const never = new AbortController().signal;
const talk = {
  messages: [
    { role: "user", content: "hello" },
    { role: "assistant", content: "world" },
  ],
};

test("a thread encodes as the encoder does, and goes on after a bad row", async () => {
  const dir = byteFolder();
  const here = openEncoder(dir, options);
  await withEncoder(dir, options, never, async (encoder) => {
    expect(await encoder.encode(talk)).toEqual(here.encode(talk));
    expect(await encoder.encode({ text: 5 }).catch((error: unknown) => error)).toBeInstanceOf(RowProblem);
    expect(await encoder.encodePrompt(talk)).toEqual(here.encodePrompt(talk));
    expect(await encoder.endOfTurnId()).toBe(here.endOfTurnId());
    expect(await encoder.endOfTurnId()).not.toBeNull();
  });
});

test("a folder without a tokenizer serves rows of ids, and names what others need", async () => {
  await withEncoder(folderOf({}), options, never, async (encoder) => {
    expect((await encoder.encode({ input_ids: [5, 6] })).ids).toEqual(Int32Array.of(5, 6));
    const missing = await encoder.encode(talk).catch((error: unknown) => error);
    expect(String(missing)).toContain("no tokenizer.json there");
  });
});

test("a signal ends it while a template runs", async () => {
  const source = "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}";
  const looping: EncoderOptions = { ...options, template: { kind: "file", path: "loop.jinja", source } };
  const controller = new AbortController();
  const work = withEncoder(byteFolder(), looping, controller.signal, (encoder) => encoder.encode(talk));
  work.catch(() => {});
  await Bun.sleep(300);
  controller.abort();
  expect(await work.catch((error: unknown) => error)).toBeInstanceOf(InterruptedError);
});
