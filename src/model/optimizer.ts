/** How AdamW's moments are kept: in float32, or in 8 bits with bitsandbytes' dynamic maps (arXiv 2110.02861). */
export const optimizers = ["adamw", "adamw8bit"] as const;
export type Optimizer = (typeof optimizers)[number];
