// The demo's small world: people, places, things and words, from which every text of the demo is made.

export interface Person {
  name: string;
  village: string;
  job: string;
  pet: string;
  color: string;
}

// biome-ignore format: a table
const names = [
  "Ada", "Bela", "Cole", "Dora", "Egon", "Fay", "Gil", "Hana", "Ivo", "Jana", "Kai", "Lena",
  "Milo", "Nora", "Otto", "Pia", "Quin", "Rosa", "Sven", "Tara", "Ugo", "Vera", "Wim", "Yara",
] as const;
const villages = ["Tarn", "Morley", "Elm", "Stone", "Harrow", "Lakeside"] as const;
const jobs = ["baker", "farmer", "teacher", "painter", "doctor", "singer", "miller"] as const;
const pets = ["dog", "cat", "goat", "parrot", "horse"] as const;
const colors = ["red", "blue", "green", "yellow", "white"] as const;

/** Different strides through lists of different lengths: no attribute follows from another. */
export const people: readonly Person[] = names.map((name, i) => ({
  name,
  village: villages[(i * 5 + Math.floor(i / 6)) % villages.length]!,
  job: jobs[(i * 3) % jobs.length]!,
  pet: pets[(i * 2 + Math.floor(i / 5)) % pets.length]!,
  color: colors[(i * 3 + Math.floor(i / 7)) % colors.length]!,
}));

/** Kind → its members. */
export const kinds: Readonly<Record<string, readonly string[]>> = {
  animal: ["dog", "cat", "goat", "parrot", "horse", "cow", "fox", "hen"],
  fruit: ["apple", "pear", "plum", "cherry", "lemon", "grape"],
  tool: ["hammer", "saw", "spade", "knife", "needle", "brush"],
  color: [...colors, "black"],
};

export const opposites: readonly (readonly [string, string])[] = [
  ["hot", "cold"],
  ["big", "small"],
  ["fast", "slow"],
  ["old", "new"],
  ["high", "low"],
  ["day", "night"],
  ["open", "closed"],
  ["full", "empty"],
  ["light", "dark"],
  ["rich", "poor"],
  ["wet", "dry"],
  ["loud", "quiet"],
  ["early", "late"],
  ["sweet", "sour"],
];

/** Present and past of what people do. */
export const verbs: readonly (readonly [present: string, past: string])[] = [
  ["walks to", "walked to"],
  ["looks at", "looked at"],
  ["talks about", "talked about"],
  ["waits for", "waited for"],
  ["goes to", "went to"],
  ["sees", "saw"],
  ["finds", "found"],
  ["paints", "painted"],
];

export const places = [
  "the market",
  "the mill",
  "the lake",
  "the school",
  "the bridge",
  "the garden",
] as const;

// biome-ignore format: a table
export const numbers = [
  "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
  "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
] as const;

/** "an apple", "a dog". */
export const withArticle = (noun: string) => `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;

export const plural = (noun: string) => {
  if (noun === "knife") return "knives";
  if (noun.endsWith("y")) return `${noun.slice(0, -1)}ies`;
  return /(x|s|sh|ch)$/.test(noun) ? `${noun}es` : `${noun}s`;
};
