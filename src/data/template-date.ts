// The day that a chat template's strftime_now gives. It is an input like any other, so that a run that goes on
// tomorrow sees today's tokens.

/** `YYYY-MM-DD`. */
export type TemplateDate = string;

const MONTHS = [
  ...["January", "February", "March", "April", "May", "June", "July"],
  ...["August", "September", "October", "November", "December"],
];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** The day in this machine's time zone, as Transformers takes it. */
export function today(now = new Date()): TemplateDate {
  const two = (n: number): string => String(n).padStart(2, "0");
  return `${String(now.getFullYear()).padStart(4, "0")}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
}

/** True for what is written as a date, whether there is such a day or not. */
export const hasDateForm = (text: string): boolean => /^\d{4}-\d\d-\d\d$/.test(text);

/** True for a day that there is. */
export function isTemplateDate(value: unknown): value is TemplateDate {
  if (typeof value !== "string" || !hasDateForm(value)) return false;
  const time = Date.parse(value);
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(value);
}

/** Python's strftime at midnight of a day, English names. Throws for a field that it does not know. */
export function strftime(date: TemplateDate, format: string): string {
  const [year, month, day] = date.split("-") as [string, string, string];
  const monthName = MONTHS[Number(month) - 1]!;
  const weekday = DAYS[new Date(date).getUTCDay()]!;
  const fields: Readonly<Record<string, string>> = {
    Y: year,
    y: year.slice(-2),
    m: month,
    d: day,
    e: day.replace(/^0/, " "),
    "-d": day.replace(/^0/, ""),
    "-m": month.replace(/^0/, ""),
    B: monthName,
    b: monthName.slice(0, 3),
    A: weekday,
    a: weekday.slice(0, 3),
    F: date,
    H: "00",
    M: "00",
    S: "00",
    "%": "%",
  };
  return format.replace(/%(-?.)/g, (whole, name: string) => {
    const value = fields[name];
    if (value === undefined) throw new Error(`strftime_now: ${whole} is not supported`);
    return value;
  });
}
