// Small pieces of HTML. Whatever comes from a run goes through `escapeHtml`.

export const escapeHtml = (text: string) =>
  text
    // Marks that turn the direction of text, and controls, would change what is around them.
    .replace(/(?![\t\n])[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, "\ufffd")
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");

/** 0.0123 → "+0.0123": a difference of losses. */
export const signed = (value: number) =>
  `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(4)}`;

/** A cell: text, or HTML that is there already. */
export type Cell = string | { html: string };

const cellHtml = (cell: Cell) => (typeof cell === "string" ? escapeHtml(cell) : cell.html);
/** A row's or column's name, which may be long. */
const nameHtml = (name: string) => `<span class="name">${escapeHtml(name)}</span>`;

export interface Table {
  caption: string;
  head: readonly string[];
  /** The first cell of a row names it. */
  rows: readonly (readonly Cell[])[];
  /** Columns of numbers, flush right. */
  numeric?: readonly number[];
}

/** A table with headers for rows and columns, in a part of the page that scrolls on its own where it is too wide. */
export function tableHtml({ caption, head, rows, numeric = [] }: Table): string {
  const kind = (i: number) => (numeric.includes(i) ? ' class="number"' : "");
  const headRow = head.map((cell, i) => `<th scope="col"${kind(i)}>${nameHtml(cell)}</th>`).join("");
  const body = rows.map((row) => {
    const cells = row.map((cell, i) =>
      i === 0
        ? `<th scope="row">${typeof cell === "string" ? nameHtml(cell) : cell.html}</th>`
        : `<td${kind(i)}>${cellHtml(cell)}</td>`,
    );
    return `<tr>${cells.join("")}</tr>`;
  });
  const label = escapeHtml(caption);
  return (
    `<div class="wide" role="region" tabindex="0" aria-label="${label}"><table><caption>${label}</caption>` +
    `<thead><tr>${headRow}</tr></thead><tbody>${body.join("\n")}</tbody></table></div>`
  );
}

/** A run's color and dash, beside its name. */
export function runLabel(name: string, index: number): string {
  return `<span class="key ${seriesClass(index)}"><svg aria-hidden="true" viewBox="0 0 22 8"><path d="M1 4H21"/></svg>${nameHtml(name)}</span>`;
}

/** Colors repeat after six runs, then with another dash. */
const COLORS = 6;
const DASHES = 4;

export function seriesClass(index: number): string {
  const dash = Math.floor(index / COLORS) % DASHES;
  return `c${index % COLORS}${dash === 0 ? "" : ` d${dash}`}`;
}
