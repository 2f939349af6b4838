// Between a PEFT adapter on disk and the trained parameters in memory. PEFT's names are the parameters' own behind
// one prefix.

import { join } from "node:path";
import { FormatError } from "../errors.ts";
import { decodeFloats, floatTypeNamed } from "../floats.ts";
import { ADAPTER_CONFIG_FILE, type AdapterConfig, type openAdapter } from "../formats/peft.ts";
import { countNonFiniteBytes, readTensorData, type TensorSource } from "../formats/safetensors.ts";
import { targetedModules } from "./adapter-targets.ts";
import type { LlamaConfig } from "./config.ts";
import { notFinite } from "./finite.ts";
import { type LoraOptions, loraOnLayers, loraParameterSpecs } from "./lora.ts";
import type { Parameters } from "./parameters.ts";

const prefix = "base_model.model.";

type Adapter = ReturnType<typeof openAdapter>;

/** The LoRA options that the adapter of a folder was trained with. */
export function adapterLoraOptions(dir: string, config: AdapterConfig, model: LlamaConfig): LoraOptions {
  const { r, loraAlpha: alpha, loraDropout: dropout, useRslora } = config;
  const layers = targetedModules(join(dir, ADAPTER_CONFIG_FILE), config, model);
  return loraOnLayers({ r, alpha, dropout, useRslora }, layers);
}

const readable: ReadonlySet<string> = new Set(["F32", "F16", "BF16"]);

/** Throws FormatError unless the adapter holds exactly the tensors of `specs`, which have names without PEFT's prefix. */
export function expectAdapterTensors(
  { weights: { path, tensors } }: Adapter,
  specs: readonly { name: string; shape: readonly number[] }[],
): void {
  const expected = new Set(specs.map(({ name }) => prefix + name));
  for (const name of tensors.keys()) {
    if (!expected.has(name))
      throw new FormatError(path, `holds ${name}, which this model with these target_modules does not have`);
  }
  for (const { name, shape } of specs) {
    const entry = tensors.get(prefix + name);
    if (entry === undefined) throw new FormatError(path, `lacks ${prefix}${name}`);
    if (entry.shape.length !== shape.length || entry.shape.some((n, i) => n !== shape[i])) {
      throw new FormatError(
        path,
        `${prefix}${name} has shape [${entry.shape}], but this model needs [${shape}]`,
      );
    }
    if (!readable.has(entry.dtype)) {
      throw new FormatError(
        path,
        `${prefix}${name} is ${entry.dtype}; F32, F16 and BF16 adapters can be read`,
      );
    }
  }
}

/** Throws FormatError unless the adapter fits a model with this config. */
export function expectAdapter(adapter: Adapter, config: LlamaConfig): void {
  expectAdapterTensors(
    adapter,
    loraParameterSpecs(config, adapterLoraOptions(adapter.dir, adapter.config, config)),
  );
}

/** The values of one of the tensors that expectAdapterTensors has found in order. */
export function adapterValues({ weights }: Adapter, name: string): Float32Array {
  const { dtype } = weights.tensors.get(prefix + name)!;
  const bytes = readTensorData(weights, prefix + name);
  const odd = countNonFiniteBytes(dtype, bytes);
  if (odd > 0) throw notFinite(`${weights.path}: ${prefix}${name}`, odd);
  return decodeFloats(floatTypeNamed("safetensors", dtype)!, bytes);
}

/** Replaces the trained values by an adapter's. Throws FormatError unless names and shapes agree exactly. */
export function loadAdapter(
  parameters: Pick<Parameters, "part" | "write" | "afterWrite">,
  adapter: Adapter,
): void {
  const tensors = parameters.part("lora");
  expectAdapterTensors(adapter, tensors);
  for (const { name } of tensors) parameters.write(name, adapterValues(adapter, name));
  parameters.afterWrite();
}

/** The trained values under PEFT's names, float32, for writeSafetensors. */
export function adapterTensors(
  parameters: Pick<Parameters, "part" | "read">,
): (Omit<TensorSource, "data"> & { data: () => Uint8Array })[] {
  return parameters.part("lora").map(({ name, shape }) => ({
    name: prefix + name,
    dtype: "F32",
    shape: [...shape],
    data: () => new Uint8Array(parameters.read(name).buffer),
  }));
}
