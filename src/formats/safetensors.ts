// safetensors: parser and writer of our own, as strict as the format's text.
export { SAFETENSORS_DTYPES, type SafetensorsDType, tensorBytes } from "./safetensors/dtype.ts";
export { countNonFiniteBytes } from "./safetensors/finite.ts";
export { parseSafetensorsHeader, type SafetensorsHeader, type TensorEntry } from "./safetensors/header.ts";
export {
  readSafetensorsHeader,
  readTensorData,
  readTensorPart,
  readTensorPieces,
} from "./safetensors/reader.ts";
export {
  type TensorSource,
  type TensorSources,
  writeSafetensors,
  writeSafetensorsInSteps,
} from "./safetensors/writer.ts";
