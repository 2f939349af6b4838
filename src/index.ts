// The library: `import { Llama, NoisyTrainer } from "neftune"`. The commands of src/cli are made of the same parts.

export type { Dataset } from "./data/dataset.ts";
export { type Holdout, splitHoldout } from "./data/holdout.ts";
export { type LoadOptions, loadDataset } from "./data/load-dataset.ts";
export type { DataRequest, EncodingOptions } from "./data/load-mix.ts";
export { IGNORE, type Sample } from "./data/sample.ts";
export { Tokenizer } from "./data/tokenizer.ts";
export { FormatError, InterruptedError, NeftuneError, UsageError } from "./errors.ts";
export { openAdapter } from "./formats/peft.ts";
export {
  adapterLoraOptions,
  checkpointSource,
  type EmbeddingBatch,
  type EmbeddingHook,
  type GenerateOptions,
  GenerationSession,
  generate,
  Llama,
  type LlamaConfig,
  type LoraOptions,
  linearModules,
  loadAdapter,
  loadForInference,
  loadModel,
  type ModelOptions,
  type Quantization,
  type QuantizationRequest,
  randomSource,
  readConfig,
  type Sequence,
  type SequenceOptions,
} from "./model/index.ts";
export { Device, NativeError } from "./native/index.ts";
export * from "./train/index.ts";
