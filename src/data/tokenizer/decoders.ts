// Decoders: from the texts of tokens to the text that they make.

import { decodeBytes } from "./byte-level.ts";
import { flattened, type Part, partOf, patternOf, textOf, unsupported } from "./part.ts";

/** Makes fewer or other texts of the texts of tokens; put end to end they are the text. */
type Step = (tokens: string[]) => string[];

/** The decoder of a tokenizer.json; null where it has none. Throws an Error that names what is not supported. */
export function decoderOf(value: unknown): ((tokens: string[]) => string) | null {
  const steps = flattened(partOf(value, "decoder"), "decoders", "decoder").map(stepOf);
  if (value === null || value === undefined) return null;
  return (tokens) => steps.reduce((done, step) => step(done), tokens).join("");
}

function stepOf(part: Part): Step {
  switch (part.type) {
    case "ByteLevel":
      return (tokens) => [decodeBytes(tokens)];
    case "ByteFallback":
      return byteFallback;
    case "Fuse":
      return (tokens) => [tokens.join("")];
    case "Strip":
      return strip(textOf(part, "content"), countOf(part, "start"), countOf(part, "stop"));
    case "Replace": {
      const pattern = patternOf(part);
      const content = textOf(part, "content");
      return (tokens) => tokens.map((token) => token.replace(pattern, () => content));
    }
    case "Metaspace": {
      const mark = textOf(part, "replacement");
      const prepends = part.prepend_scheme !== "never" && part.add_prefix_space !== false;
      return (tokens) => tokens.map((token, i) => token.replaceAll(mark, i === 0 && prepends ? "" : " "));
    }
    default:
      throw unsupported("decoder", part);
  }
}

/** Runs of <0xNN> as the text that their bytes are; a run that is not UTF-8 is a U+FFFD for each byte. */
function byteFallback(tokens: string[]): string[] {
  const out: string[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length === 0) return;
    try {
      const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
      out.push(utf8.decode(Uint8Array.from(run)));
    } catch {
      for (const _ of run) out.push("\ufffd");
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = /^<0x([0-9a-fA-F]{2})>$/.exec(token)?.[1];
    if (byte !== undefined) run.push(Number.parseInt(byte, 16));
    else {
      flush();
      out.push(token);
    }
  }
  flush();
  return out;
}

/** Takes up to `start` and `stop` times `content` from the ends of each text. */
function strip(content: string, start: number, stop: number): Step {
  return (tokens) =>
    tokens.map((token) => {
      let begin = 0;
      let end = token.length;
      for (let i = 0; i < start && token.startsWith(content, begin); i++) begin += content.length;
      for (let i = 0; i < stop && end > begin && token.endsWith(content, end); i++) end -= content.length;
      return token.slice(begin, end);
    });
}

function countOf(part: Part, field: string): number {
  const value = part[field];
  if (!Number.isInteger(value)) throw new Error(`${String(part.type)}: ${field} is not a number`);
  return value as number;
}
