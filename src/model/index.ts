// The model, as training, evaluation and generation use it.

export type { Recompute } from "./activations.ts";
export { adapterLoraOptions, adapterTensors, expectAdapter, loadAdapter } from "./adapter.ts";
export {
  groupModules,
  groupNames,
  type LinearModule,
  layerOf,
  layerWeights,
  linearModules,
  linearShape,
  tensorSpecs,
} from "./architecture.ts";
export { baseFingerprint } from "./base-fingerprint.ts";
export { configToJson, type LlamaConfig, parseConfig, type RopeScaling, readConfig } from "./config.ts";
export { Embedding, type EmbeddingBatch, type EmbeddingHook } from "./embedding.ts";
export { type GenerateOptions, generate, generateInSteps } from "./generate.ts";
export { Llama, type ModelOptions } from "./llama.ts";
export {
  type LoadReporter,
  type LoadRequest,
  loadForInference,
  loadModel,
  type QuantizationRequest,
  type WeightsOrigin,
} from "./load.ts";
export { type LoraOptions, loraScale, type Tune, targetNames } from "./lora.ts";
export { storedNf4Tensors } from "./nf4-tensors.ts";
export { type Optimizer, optimizers } from "./optimizer.ts";
export { momentKinds, type StateTensor } from "./optimizer-state.ts";
export type { ParameterTensor, PartName, RateName } from "./parameter-tensor.ts";
export type { ParameterBlock, StateKind } from "./parameters.ts";
export {
  type BatchSize,
  choosePlan,
  chooseSize,
  type ModelPlan,
  planFor,
  type SharedMemory,
} from "./plan.ts";

export { type Quantization, quantizableWeights } from "./quantize.ts";
export { QuantizedCache } from "./quantized-cache.ts";
export type { Partners } from "./rank-exchange.ts";
export { type FinishReason, Sequence, type SequenceOptions } from "./sequence.ts";
export { GenerationSession, type SessionOptions } from "./session.ts";
export type { Shares } from "./shard-layout.ts";
export { checkpointSource, type FolderSource, type ModelSource, randomSource } from "./source.ts";
export type { TokenChances } from "./token-chances.ts";
