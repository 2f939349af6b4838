// Everything the model needs of the native side.

export { type Allocator, Arena, MemoryPlan, type MemoryUse } from "./arena.ts";
export { checkProduct, type ProductCheck } from "./check-product.ts";
export {
  Communicator,
  makeCommunicatorId,
  probeTransport,
  type Seat,
  type Transport,
} from "./communicator.ts";
export {
  type CudaProbe,
  Device,
  type DeviceInfo,
  type DeviceOptions,
  probeCuda,
} from "./device.ts";
export { ceilingEffect, type IsaCeiling, isaCeiling } from "./isa-ceiling.ts";
export { hasCudaLibrary } from "./library.ts";
export { NativeError } from "./native-error.ts";
export * from "./ops/adamw.ts";
export * from "./ops/attention.ts";
export * from "./ops/copy.ts";
export * from "./ops/cross-entropy.ts";
export * from "./ops/dropout.ts";
export * from "./ops/embedding.ts";
export * from "./ops/finite.ts";
export * from "./ops/linear.ts";
export * from "./ops/lora.ts";
export * from "./ops/nf4.ts";
export * from "./ops/random.ts";
export * from "./ops/rmsnorm.ts";
export * from "./ops/rope.ts";
export * from "./ops/sample-borders.ts";
export * from "./ops/sampling.ts";
export * from "./ops/swiglu.ts";
export * from "./ops/weight.ts";
export { type DType, dtypeBytes, dtypeCode, sizeOf, Tensor } from "./tensor.ts";
export { type Launch, type Product, type RecordedCall, waitingSeconds } from "./timeline.ts";
export { type KernelRun, kernelRuns, productWork, type Work } from "./work.ts";
