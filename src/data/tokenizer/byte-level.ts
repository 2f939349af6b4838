// GPT-2's way to write bytes as characters: printable ones stand for themselves, the others for U+0100 and up. Its
// vocabularies hold text in UTF-8 written so.

import type { AlignedText } from "./aligned-text.ts";

/** Character of each byte. */
export const BYTE_CHARACTERS: readonly string[] = byteCharacters(); // [256]
const BYTES = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]));
const utf8 = new TextEncoder();

function byteCharacters(): string[] {
  let extra = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : extra++);
  });
}

/** The characters of a text's bytes. */
export function bytesAsCharacters(text: string): string {
  let out = "";
  for (const byte of utf8.encode(text)) out += BYTE_CHARACTERS[byte]!;
  return out;
}

/** The same, each byte in its character's place. */
export function alignedBytes(text: AlignedText): AlignedText {
  const characters: string[] = [];
  const changes: number[] = [];
  for (const character of text.text) {
    utf8.encode(character).forEach((byte, i) => {
      characters.push(BYTE_CHARACTERS[byte]!);
      changes.push(i === 0 ? 0 : 1);
    });
  }
  return text.transform(characters, changes);
}

/** The text of tokens written as bytes; a token that is not stands for itself. What is not UTF-8 becomes U+FFFD. */
export function decodeBytes(tokens: readonly string[]): string {
  const bytes: number[] = [];
  for (const token of tokens) {
    const own = Array.from(token, (character) => BYTES.get(character));
    if (own.includes(undefined)) bytes.push(...utf8.encode(token));
    else bytes.push(...(own as number[]));
  }
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}
