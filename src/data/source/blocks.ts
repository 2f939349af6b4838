// Rows in blocks, each with the places that errors name.

/** Rows that follow one another in a file. */
export interface RowBlock {
  /** The number of its first row, from 0. */
  first: number;
  rows: unknown[];
  /** Rows that could not be read, by their place in `rows`, and why. */
  broken: Map<number, string>;
  /** The line each row begins in, from 1; empty where a file has no lines. */
  lines: number[];
  /** Columns of the file that were not read, since no format has them. */
  unread?: readonly string[];
}

/** A block ends at this many rows or bytes of text, whichever comes first. */
const BLOCK_ROWS = 1024;
const BLOCK_BYTES = 1 << 20;

/** The longest row: a file that seems to hold a longer one is mislabeled, or made to fill the memory. */
export const MOST_ROW_BYTES = 1 << 28;
export const LONG_ROW = `a row is longer than ${MOST_ROW_BYTES >> 20} MiB`;

/** Gathers rows into blocks. */
export class BlockBuilder {
  #block: RowBlock = newBlock(0);
  #bytes = 0;

  /** Adds a row of `bytes` bytes, or what is wrong with it; returns true once the block is full and `take` is due. */
  add(row: unknown, line: number | null, bytes: number, problem: string | null = null): boolean {
    const block = this.#block;
    if (problem !== null) block.broken.set(block.rows.length, problem);
    block.rows.push(problem === null ? row : undefined);
    if (line !== null) block.lines.push(line);
    this.#bytes += bytes;
    return block.rows.length >= BLOCK_ROWS || this.#bytes >= BLOCK_BYTES;
  }

  get isEmpty(): boolean {
    return this.#block.rows.length === 0;
  }

  take(): RowBlock {
    const block = this.#block;
    this.#block = newBlock(block.first + block.rows.length);
    this.#bytes = 0;
    return block;
  }
}

function newBlock(first: number): RowBlock {
  return { first, rows: [], broken: new Map(), lines: [] };
}

/** `:line: row n` of a row of the block, by its place in `rows`, to go behind the file's path. */
export function placeOf(block: RowBlock, i: number): string {
  const line = block.lines[i];
  return `${line === undefined ? "" : `:${line}`}: row ${block.first + i + 1}`;
}
