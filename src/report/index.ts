// Reports: runs read from their folders, compared, and shown as a page or in a terminal.

export type { Answer } from "./answers.ts";
export { ANSWERS_FILE, SAMPLES_FILE } from "./answers.ts";
export { type CardFacts, cardOfRepository, modelCard } from "./card.ts";
export { compare, differingOptions, type Figures } from "./compare.ts";
export { EVAL_LOSSES_FILE, evalLossesText } from "./eval-losses.ts";
export { measureRows } from "./measures.ts";
export { type Extras, reportHtml } from "./page.ts";
export { namesOf, optionsOf, type Run, readRun } from "./run.ts";
export { markOf, plotText } from "./text.ts";
