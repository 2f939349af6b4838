// NF4 weights in safetensors, as bitsandbytes and Transformers keep them.
export { encodeQuantState, nf4Suffix, nf4WeightOf, quantStateBytes } from "./nf4/keys.ts";
export { type Nf4Stored, nf4Entries } from "./nf4/read.ts";
export { nf4Codebook, nf4DynamicMap } from "./nf4/tables.ts";
