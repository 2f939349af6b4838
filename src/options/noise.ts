// NEFTune's noise.

import { inGroup } from "./spec.ts";

export const noiseOptions = inGroup("NEFTune", {
  alpha: {
    type: "float",
    default: 5,
    min: 0,
    help: "noise strength: embeddings get noise of scale alpha / sqrt(L d); 0 turns noise off. A data preset brings the paper's alpha unless you give one (neftune datasets lists them)",
    trainer: true,
    identity: "value",
    aliases: ["neftune-noise-alpha", "noisy-embedding-alpha"],
  },
  "neft-noise": {
    type: "enum",
    values: ["uniform", "bernoulli", "gaussian", "none"],
    default: "uniform",
    help: "noise distribution; none turns noise off",
    trainer: true,
    identity: "value",
  },
  "neft-length": {
    type: "enum",
    values: ["true", "padded"],
    default: "true",
    help: "the L of the noise scale: tokens in the sample, or the padded width of the batch (needs --packing off)",
    trainer: true,
    identity: "value",
  },
  "neft-scale": {
    type: "enum",
    values: ["fixed", "learned"],
    default: "fixed",
    help: "size of the noise: set by --alpha alone (fixed), or times a trained factor for each hidden dimension, starting at 1 (learned)",
    trainer: true,
    identity: "derived",
  },
  "neft-scale-learning-rate": {
    type: "float",
    min: 0,
    help: "peak learning rate of the learned noise scale (default: --learning-rate)",
    trainer: true,
    identity: "value",
    onlyWith: { option: "neft-scale", value: "learned" },
  },
});
