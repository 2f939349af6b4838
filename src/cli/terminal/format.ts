// Numbers and tables as people read them.

import { displayWidth, escapeJson, shown, wrap } from "./text.ts";

export { countOf, formatBytes, formatCount, formatSeconds } from "../../numbers.ts";

/** Columns of a cell; a longer one loses its middle. */
const MOST_OF_CELL = 200;

const GAP = 2;

function widthsOf(rows: readonly (readonly string[])[]): number[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, displayWidth(cell));
    });
  }
  return widths;
}

/**
 * A table with a column of names for a terminal of `width` columns (undefined: any): what does not fit beside the names
 * follows in tables below, with the names again.
 */
export function fitTable(
  table: readonly (readonly string[])[],
  right: readonly number[],
  width: number | undefined,
): string {
  const rows = table.map((row) => row.map((cell) => shown(cell, MOST_OF_CELL)));
  const [names = 0, ...widths] = widthsOf(rows);
  const pages: number[][] = [[]];
  let left = (width ?? Number.POSITIVE_INFINITY) - names;
  widths.forEach((columns, i) => {
    if (columns + GAP > left && pages.at(-1)!.length > 0) {
      pages.push([]);
      left = width! - names;
    }
    left -= columns + GAP;
    pages.at(-1)!.push(i + 1);
  });
  return pages
    .map((page) => {
      const columns = [0, ...page];
      const flush = columns.flatMap((column, i) => (right.includes(column) ? [i] : []));
      return formatTable(
        rows.map((row) => columns.map((column) => row[column] ?? "")),
        flush,
      );
    })
    .join("\n\n");
}

/** Names at the left, what there is to say of each at the right, wrapped to `width` columns (undefined: any). */
export function formatList(rows: readonly (readonly [string, string])[], width: number | undefined): string {
  const at = GAP + rows.reduce((most, [name]) => Math.max(most, displayWidth(name)), 0);
  return rows
    .flatMap(([name, text]) => {
      const cell = shown(text, 1000);
      const lines = width === undefined ? [cell] : wrap(cell, Math.max(20, width - at));
      return lines.map((line, i) => (i === 0 ? name : "").padEnd(at) + line);
    })
    .join("\n");
}

/** Columns padded to their widest cell; the columns named in `right` are flush right. Cells may hold what a file holds. */
export function formatTable(table: readonly (readonly string[])[], right: readonly number[] = []): string {
  const rows = table.map((row) => row.map((cell) => shown(cell, MOST_OF_CELL)));
  const widths = widthsOf(rows);
  const line = (row: readonly string[]) =>
    row
      .map((cell, i) => {
        const padding = " ".repeat(widths[i]! - displayWidth(cell));
        return right.includes(i) ? padding + cell : cell + padding;
      })
      .join(" ".repeat(GAP))
      .trimEnd();
  return rows.map(line).join("\n");
}

/** Pretty JSON for standard output; what would steer a terminal is a \u escape in it. */
export function toJson(value: unknown): string {
  return escapeJson(JSON.stringify(value, null, 2));
}
