// Everything the model needs of the native side.

export { type Allocator, Arena, MemoryPlan, type MemoryUse } from "./arena.ts";
export {
  Communicator,
  makeCommunicatorId,
  probeTransport,
  type Transport,
} from "./communicator.ts";
export {
  type CudaProbe,
  Device,
  type DeviceInfo,
  type DeviceOptions,
  NativeError,
  probeCuda,
} from "./device.ts";
export { hasCudaLibrary } from "./library.ts";
export * from "./ops/attention.ts";
export type { ActivationDType } from "./ops/check.ts";
export * from "./ops/elementwise.ts";
export * from "./ops/finite.ts";
export * from "./ops/linear.ts";
export * from "./ops/nf4.ts";
export * from "./ops/optimizer.ts";
export * from "./ops/rope.ts";
export { type DType, dtypeBytes, dtypeCode, Tensor } from "./tensor.ts";
