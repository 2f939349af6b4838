// --columns: what the fields of rows are called in the data.

import { type Fields, isObject, RowProblem } from "./fields.ts";

/** What fields are called in the data, by the names that formats know. */
export type ColumnNames = Readonly<Record<string, string>>;

/** A row with its columns under the names that formats know; the others stay. Throws RowProblem where one is missing. */
export function renamed(value: unknown, columns: ColumnNames): unknown {
  if (!isObject(value)) return value;
  const taken = new Set(Object.values(columns));
  const row: Record<string, unknown> = Object.fromEntries(
    Object.entries(value as Fields).filter(([name]) => !taken.has(name)),
  );
  for (const [field, column] of Object.entries(columns)) {
    if (!Object.hasOwn(value, column)) {
      const got = Object.keys(value).slice(0, 8).join(", ");
      throw new RowProblem(
        `--columns ${field}=${column}: the row has no ${column}; it has ${got || "no fields"}`,
      );
    }
    row[field] = value[column];
  }
  return row;
}
