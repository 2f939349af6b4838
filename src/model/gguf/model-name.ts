// What a model's name tells, as llama.cpp's converters read it: "Llama-3.2-1B-Instruct" is a basename, a version, a size
// and a fine-tune.

export interface NameParts {
  title: string;
  organization: string | null;
  basename: string | null;
  finetune: string | null;
  version: string | null;
  sizeLabel: string | null;
}

type Role = "basename" | "size" | "finetune" | "version" | "type";

const VERSION = /^(?:v|iter)?\d+(?:\.\d+)*$/i;
const TYPE = /^(?:i?q\d(?:_\w)*|b?fp?(?:16|32))$/i;
const SIZE = /^(?:(?:a|\d+x)?\d+(?:[._]\d+)?[kmbt]\d?|small|mini|medium|large|x?xl)$/i;
const FINETUNE = /^(?:chat|instruct|vision|lora)$/i;

/** Reads "org/name" or "name". `parameters`: of the model, negative for an adapter's, which are not all of its base's. */
export function nameParts(id: string, parameters: number): NameParts {
  const slash = id.indexOf("/");
  const organization = slash < 0 || id.startsWith(".") ? null : titleOf(id.slice(0, slash));
  const name = id.slice(slash + 1);
  const nothing = { basename: null, finetune: null, version: null, sizeLabel: null };
  if (id.includes(" ")) return { title: titleOf(id), organization: null, ...nothing };
  const parts = name.split("-").filter((part) => part !== "");
  const roles = parts.map((part, i) => roleOf(part, i, parameters));
  const texts = parts.map((part, i) => written(part, roles[i]!, parameters));
  // A size in words counts where there is none in digits.
  if (texts.some((text, i) => roles[i]!.has("size") && /\d/.test(text)))
    for (const [i, text] of texts.entries()) if (/^\p{L}+$/u.test(text)) roles[i]!.delete("size");
  let atStart = true;
  for (const [i, text] of texts.entries()) {
    const own = roles[i]!;
    if (atStart && ((own.size === 0 && /^\p{L}/u.test(text)) || own.has("version"))) own.add("basename");
    else {
      atStart = false;
      if (own.size === 0) own.add("finetune");
    }
  }
  // Versions at the end of the basename are none of its parts.
  for (let i = roles.length - 1; i >= 0 && roles[i]!.has("basename") && roles[i]!.size > 1; i--)
    roles[i]!.delete("basename");
  const join = (keep: (own: ReadonlySet<Role>) => boolean) =>
    [...texts].filter((_, i) => keep(roles[i]!)).join("-") || null;
  const sizes = [...new Set(texts.filter((_, i) => roles[i]!.has("size")))].join("-") || null;
  const finetune = join((own) => own.has("finetune"));
  const version = join((own) => own.has("version") && !own.has("basename"));
  const isTelling = sizes !== null || finetune !== null || version !== null;
  const basename = isTelling ? join((own) => own.has("basename")) : null;
  return { title: titleOf(name), organization, basename, finetune, version, sizeLabel: sizes };
}

function roleOf(part: string, i: number, parameters: number): Set<Role> {
  if (VERSION.test(part)) return new Set<Role>(["version"]);
  if (TYPE.test(part)) return new Set<Role>(["type"]);
  if (i > 0 && SIZE.test(part)) return new Set<Role>([isSizeOf(part, parameters) ? "size" : "finetune"]);
  if (i === 0 || !FINETUNE.test(part)) return new Set<Role>();
  return new Set<Role>([parameters < 0 && /^lora$/i.test(part) ? "type" : "finetune"]);
}

/** False for a number that is far from the model's size, such as a context length (128k). */
function isSizeOf(part: string, parameters: number): boolean {
  const label = labelOf(part);
  const count = Number(label.slice(0, -1)) * 1000 ** " KMBT".indexOf(label.at(-1)!);
  if (parameters === 0 || !/^[\d.]/.test(label) || Number.isNaN(count)) return true;
  if (parameters < 0) return count >= Math.floor(-parameters / 8);
  return Math.abs(count - parameters) <= Math.floor((7 * parameters) / 8);
}

/** "7b1" as "7.1B", "1_5b" as "1.5B". */
function labelOf(part: string): string {
  const text = part.replaceAll("_", ".").replace(/([a-z])(\d)$/i, ".$2$1");
  return /\d[kmbt]$/.test(text) ? text.slice(0, -1) + text.at(-1)!.toUpperCase() : text;
}

function written(part: string, own: ReadonlySet<Role>, parameters: number): string {
  if (own.has("type") && TYPE.test(part)) return part.toUpperCase();
  if (own.has("size")) return labelOf(part);
  if (own.has("finetune") && SIZE.test(part) && parameters !== 0) {
    const label = labelOf(part);
    return label.slice(0, -1) + label.at(-1)!.toLowerCase();
  }
  return part;
}

/** Words with a capital, but for names that have their own spelling, versions and numbers. */
const titleOf = (name: string) =>
  name
    .trim()
    .replaceAll("-", " ")
    .split(/\s+/)
    .map((word) =>
      word === word.toLowerCase() && /\p{L}/u.test(word) && !/^(?:v\d+(?:\.\d+)*|\d.*)$/.test(word)
        ? word.replace(/\p{L}+/gu, (letters) => letters[0]!.toUpperCase() + letters.slice(1))
        : word,
    )
    .join(" ");

/** "135M": thousands, millions, … of parameters in at least two digits. */
export function sizeLabel(parameters: number): string {
  const [unit, suffix] = (
    [
      [1e12, "T"],
      [1e9, "B"],
      [1e6, "M"],
    ] as const
  ).find(([one]) => parameters > one) ?? [1e3, "K"];
  const scaled = parameters / unit;
  const whole = String(roundHalfEven(scaled)).replace(/^0+/, "");
  return `${scaled.toFixed(Math.max(0, 2 - whole.length))}${suffix}`;
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}
