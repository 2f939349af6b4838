// The model's weights on the device: frozen ones mapped where they lie, converted into the arena or in NF4, trained ones
// as views of the flat parameters.

import {
  type Allocator,
  blockWords,
  type CopiedBlock,
  copyBlocks,
  type Device,
  dtypeBytes,
  type Nf4,
  sizeOf,
  Tensor,
  Weight,
} from "../native/index.ts";
import {
  EMBEDDING,
  FINAL_NORM,
  type GroupName,
  groupModules,
  groupNames,
  headOf,
  type Layer,
  type LinearModule,
  layerOf,
  type TensorSpec,
  tensorSpecs,
} from "./architecture.ts";
import { FiniteCheck } from "./finite.ts";
import {
  adapterBlocks,
  expander,
  type FoldedGroup,
  foldedGroups,
  foldedProducts,
  foldedSizes,
  foldOf,
} from "./fold.ts";
import type { FoldedProducts, GroupLinear, GroupProduct, LinearGroup, LoraStack } from "./linear-group.ts";
import { type LoraOptions, laidRank, loraA, loraB, loraScale, stackModules, type Tune } from "./lora.ts";
import { loraPart } from "./lora-part.ts";
import { noiseScalePart } from "./noise-scale.ts";
import type { Norm } from "./norm.ts";
import type { Optimizer } from "./optimizer.ts";
import { type ParameterBlock, Parameters, type TrainedPart } from "./parameters.ts";
import { allocateQuantized, fillQuantized, type Quantization, type QuantizedStorage } from "./quantize.ts";
import { bucketNames, type Shares } from "./shard-layout.ts";
import { ShardedParameters } from "./sharded-parameters.ts";
import type { ModelSource } from "./source.ts";

export interface LayerWeights {
  norm1: Norm;
  norm2: Norm;
  /** Of the heads of q and k; null: none. */
  headNorms: { q: Norm; k: Norm } | null;
  groups: Record<GroupName, LinearGroup>;
}

/** What of a model there has to be. */
export interface WeightOptions {
  /** Of frozen tensors that products read, and of all products. */
  dtype: "f32" | "bf16";
  tune: Tune;
  lora: LoraOptions | null;
  /** Of linears that the source does not have quantized; null: none. */
  quantization: Quantization | null;
  /** Gradients and optimizer state too. */
  training: boolean;
  /** A trained scale of the embedding's noise. */
  learnedNoise?: boolean;
  /** How AdamW's moments are kept; absent: in float32. */
  optim?: Optimizer;
  /** With tune "full": the ranks that divide gradients and what AdamW keeps; absent: none do. */
  partners?: Shares;
  /** Frozen weights that another model of this source has on the device: they are used, not loaded again. */
  shared?: WeightStorage | null;
}

/** Tensors laid out but not yet filled, unless they are another model's. */
export interface WeightStorage {
  /** Frozen tensors that need memory of their own. */
  frozen: Map<string, Tensor>;
  quantized: QuantizedStorage;
  folded: FoldedStorage;
  parameters: ParameterBlock | null;
}

/** Groups to be folded (fold.ts), and matrices that their frozen tensors are parts of, by each one's first weight. */
interface FoldedStorage {
  groups: ReadonlyMap<string, FoldedGroup>;
  matrices: ReadonlyMap<string, Tensor>; // [out + g, in + u]
  /** Room for the largest weight in them, on its way there; null: there are none. */
  staging: Tensor | null;
  /** For what is neither A nor B beside weights in NF4; null: there are none. */
  zeros: Tensor | null;
}

const nothingFolded: FoldedStorage = { groups: new Map(), matrices: new Map(), staging: null, zeros: null };

/** A linear of a group before it is known which of them make one product. */
interface LinearPart {
  data: Tensor | Nf4;
  bias: Tensor | null;
  column: number;
}

/** Frozen tensors that products read have the activations' dtype; norms and biases are float32. */
const storageType = (shape: readonly number[], dtype: "f32" | "bf16") => (shape.length > 1 ? dtype : "f32");

/**
 * Tensors in lists that are to lie on top of each other: the weights, and the biases, of linears that read the same
 * input, so that one product serves them all; each other tensor alone.
 */
function stackable<T extends { name: string }>(specs: readonly T[]): T[][] {
  const lists = new Map<string, T[]>();
  for (const spec of specs) {
    const [, layer, module, kind] = /^(.*)\.(\w+_proj)\.(weight|bias)$/.exec(spec.name) ?? [];
    const group = groupNames.find((name) => groupModules[name].includes(module as LinearModule));
    const key = group === undefined ? spec.name : `${layer} ${group} ${kind}`;
    lists.set(key, [...(lists.get(key) ?? []), spec]);
  }
  return [...lists.values()];
}

/** Tensors that follow each other in memory, seen as one; null where they do not, or where there are none. */
function joined(tensors: readonly (Tensor | null)[]): Tensor | null {
  const [first] = tensors;
  if (first === null || first === undefined) return null;
  let end = first.ptr;
  for (const tensor of tensors) {
    if (tensor === null || tensor.ptr !== end || tensor.rowStride !== first.rowStride) return null;
    end += tensor.rowCount * tensor.rowStride * dtypeBytes[tensor.dtype];
  }
  const rows = tensors.reduce((sum, tensor) => sum + tensor!.rowCount, 0);
  return new Tensor(first.ptr, first.dtype, [rows, ...first.shape.slice(1)], first.rowStride);
}

/** The biases of all parts as one, null if none has any; undefined where they do not follow each other in memory. */
function biasOf(parts: readonly LinearPart[]): Tensor | null | undefined {
  const biases = parts.map(({ bias }) => bias);
  return biases.every((bias) => bias === null) ? null : (joined(biases) ?? undefined);
}

/** Allocates what the weights need. `inPlace` tells which tensors the device reads where the file is mapped. */
export function allocateWeights(
  device: Device,
  allocator: Allocator,
  source: ModelSource,
  options: WeightOptions,
): WeightStorage {
  const { tune, lora, dtype, quantization, training, learnedNoise = false, optim, partners } = options;
  const { config } = source;
  const noise = learnedNoise ? [noiseScalePart(config)] : [];
  const trained = (part: TrainedPart) =>
    new Parameters(device, allocator, [part, ...noise], dtype, training, optim);
  const specs = tensorSpecs(config);
  const frozen = new Map<string, Tensor>();
  if (tune === "full") {
    const quantized = { tensors: new Map<string, Nf4>(), scratch: null };
    const part: TrainedPart = { name: "weights", specs };
    const parameters =
      partners === undefined
        ? trained(part)
        : new ShardedParameters(
            device,
            allocator,
            [part, ...noise],
            bucketNames(config),
            dtype,
            partners,
            optim,
          );
    return { frozen, quantized, folded: nothingFolded, parameters };
  }
  const adapted = () =>
    tune === "none" || lora === null ? null : trained(loraPart(config, lora, laidRank(device, lora, dtype)));
  if (options.shared != null) return { ...options.shared, folded: nothingFolded, parameters: adapted() };
  const fold = foldOf(device, config, options);
  const sizes = fold === null ? { matrix: 0, part: 0 } : foldedSizes(config, fold);
  const quantized = allocateQuantized(allocator, source, quantization, dtype, sizes.matrix);
  const copied = specs.filter(
    ({ name, shape }) =>
      !quantized.tensors.has(name) && source.inPlace(device, name, shape, storageType(shape, dtype)) === null,
  );
  const groups = fold === null ? new Map<string, FoldedGroup>() : foldedGroups(config, lora!, fold);
  const matrices = new Map<string, Tensor>();
  let largest = 0;
  for (const tensors of stackable(copied)) {
    const [{ name: first, shape: firstShape }] = tensors as [TensorSpec, ...TensorSpec[]];
    const type = storageType(firstShape, dtype);
    const rows = tensors.reduce((sum, { shape }) => sum + shape[0]!, 0);
    const [, ...tail] = firstShape;
    const group = groups.get(first);
    const behind = group?.weights === tensors.length ? group : undefined;
    const laid = behind === undefined ? [rows, ...tail] : [rows + behind.g, tail[0]! + behind.u];
    const whole = allocator.allocate("weights", type, laid);
    const values = behind === undefined ? whole : whole.columns(0, tail[0]!);
    let row = 0;
    for (const { name, shape } of tensors) {
      frozen.set(name, values.rows(row, shape[0]!));
      row += shape[0]!;
      if (behind !== undefined) largest = Math.max(largest, sizeOf(shape));
    }
    if (behind !== undefined) matrices.set(first, whole);
  }
  const staging = largest === 0 ? null : allocator.allocate("workspace", dtype, [largest]);
  const hasZeros = fold !== null && quantized.tensors.size > 0;
  const zeros = hasZeros ? allocator.allocate("workspace", dtype, [sizes.part]) : null;
  return { frozen, quantized, folded: { groups, matrices, staging, zeros }, parameters: adapted() };
}

export class ModelWeights {
  readonly embedding: Tensor; // [V, H]
  readonly dembedding: Tensor | null; // f32 [V, H]
  readonly layers: LayerWeights[];
  readonly norm: Norm;
  readonly head: Weight; // [V, H]
  readonly dhead: Tensor | null; // f32 [V, H]
  readonly #owned: Weight[] = [];
  readonly #device: Device;
  /** Where A and B of folded groups are copied from and to. */
  readonly #adapters: BigInt64Array<ArrayBuffer>;

  /** Fills the storage from the source and builds the groups. */
  constructor(device: Device, source: ModelSource, storage: WeightStorage, options: WeightOptions) {
    const { tune, lora, dtype, shared = null } = options;
    const { config } = source;
    const { parameters, quantized, folded } = storage;
    const shapes = new Map(tensorSpecs(config).map(({ name, shape }) => [name, shape]));
    const full = tune === "full" && parameters !== null ? parameters : null;
    for (const whole of folded.matrices.values()) device.fill(whole, 0);
    if (folded.zeros !== null) device.fill(folded.zeros, 0);
    const adapters: CopiedBlock[] = [];
    const finite = new FiniteCheck(device, shapes.size);
    if (full !== null) {
      for (const name of shapes.keys()) {
        full.load(name, (values) => {
          source.fill(device, name, values);
          finite.add(name, values);
        });
      }
    }
    const tensor = (name: string): Tensor => {
      const shape = shapes.get(name)!;
      if (full !== null) return shape.length > 1 ? full.working(name) : full.master(name);
      const own = storage.frozen.get(name);
      if (own === undefined) {
        const inPlace = source.inPlace(device, name, shape, storageType(shape, dtype))!;
        if (shared === null) finite.add(name, inPlace);
        return inPlace;
      }
      if (shared !== null) return own;
      const values = own.contiguous ? own : folded.staging!.reshapeTo(shape);
      source.fill(device, name, values);
      finite.add(name, values);
      source.forget(device, name);
      if (values !== own) copyBlocks(device, blockWords([{ destination: own, source: values }]));
      return own;
    };
    const linear = (name: string): Tensor | Nf4 => {
      const nf4 = quantized.tensors.get(name);
      if (nf4 === undefined) return tensor(name);
      if (shared !== null) return nf4;
      fillQuantized(device, source, name, nf4, quantized.scratch!, finite);
      return nf4;
    };
    const gradient = (name: string) => full?.gradient(name) ?? null;
    const weight = (data: Tensor | Nf4): Weight => {
      const made =
        data instanceof Tensor
          ? Weight.dense(device, data)
          : Weight.nf4(device, data, new Tensor(quantized.scratch!.ptr, dtype, data.shape));
      this.#owned.push(made);
      return made;
    };
    const eps = config.rmsNormEps;
    const norm = (name: string): Norm => ({ weight: tensor(name), dweight: gradient(name), eps });

    const products = (parts: LinearPart[]): GroupProduct[] => {
      const data = joined(parts.map((part) => (part.data instanceof Tensor ? part.data : null)));
      const bias = biasOf(parts);
      if (data !== null && bias !== undefined)
        return [{ weight: weight(data), bias, column: parts[0]!.column }];
      const each = parts.map((part) => ({ weight: weight(part.data), bias: part.bias, column: part.column }));
      // A GPU multiplies a stack's parts one by one, and its recorder (work.ts) counts one product a call.
      if (!device.isHost || bias === undefined || each.length === 1) return each;
      const stack = Weight.stack(
        device,
        each.map((product) => product.weight),
      );
      this.#owned.push(stack);
      return [{ weight: stack, bias, column: parts[0]!.column }];
    };
    /** Of the group that begins with the weight `first` and has these stacks; null: it is not folded. */
    const foldedInto = (first: string, parts: LinearPart[], stacks: LoraStack[]): FoldedProducts | null => {
      const columns = folded.groups.get(first);
      const bias = biasOf(parts);
      const [stack] = stacks;
      if (columns === undefined || stack === undefined || bias === undefined) return null;
      const matrix = folded.matrices.get(first);
      const weights = parts.flatMap(({ data, column }) =>
        data instanceof Tensor ? [] : [{ nf4: data, row: column }],
      );
      if (matrix === undefined && weights.length < parts.length) return null;
      const inputs = stack.a.columnCount;
      const out = weights.reduce((sum, { nf4 }) => sum + nf4.shape[0]!, 0);
      const whole =
        matrix ?? new Tensor(quantized.scratch!.ptr, dtype, [out + columns.g, inputs + columns.u]);
      if (matrix !== undefined) {
        const { a, b } = adapterBlocks(whole, columns, stacks);
        adapters.push(...a, ...b);
      }
      const expand =
        matrix === undefined ? expander(device, whole, columns, weights, stacks, folded.zeros!) : null;
      const products = foldedProducts(device, whole, columns, bias, expand);
      this.#owned.push(products.forward, products.backward);
      return products;
    };
    const rank = lora === null ? 0 : laidRank(device, lora, dtype);
    const group = (index: number, { linears: all }: Layer, name: GroupName): LinearGroup => {
      const stacks = tune === "lora" ? stackModules(name, lora, index) : [];
      const linears = new Map<LinearModule, GroupLinear>();
      const parts: LinearPart[] = [];
      let column = 0;
      for (const module of groupModules[name]) {
        const { path, out, bias: hasBias } = all[module];
        const bias = hasBias ? tensor(`${path}.bias`) : null;
        linears.set(module, {
          column,
          out,
          dweight: gradient(`${path}.weight`),
          dbias: bias === null ? null : gradient(`${path}.bias`),
        });
        parts.push({ data: linear(`${path}.weight`), bias, column });
        column += out;
      }
      const stack = (modules: LinearModule[], position: number): LoraStack => {
        const names = modules.map((module) => loraA(all[module].path));
        return {
          a: parameters!.working(...names),
          da: parameters!.gradient(...names),
          column: position * modules.length * rank, // every stack has as many linears
          targets: modules.map((module, i) => {
            const b = loraB(all[module].path);
            return {
              linear: linears.get(module)!,
              b: parameters!.working(b),
              db: parameters!.gradient(b),
              column: i * rank,
            };
          }),
          module: all[modules[0]!].index,
        };
      };
      const made = stacks.map(stack);
      return {
        linears: [...linears.values()],
        // With dropout each projection reads its own x, so each has a product of its own.
        products: stacks.length > 1 ? parts.flatMap((part) => products([part])) : products(parts),
        folded: foldedInto(`${all[groupModules[name][0]!].path}.weight`, parts, made),
        stacks: made,
        loraScale: lora === null ? 1 : loraScale(lora),
        in: all[groupModules[name][0]!].in,
        out: column,
      };
    };

    this.embedding = tensor(EMBEDDING);
    this.dembedding = gradient(EMBEDDING);
    this.layers = Array.from({ length: config.numHiddenLayers }, (_, i) => {
      const layer = layerOf(config, i);
      const groups = groupNames.map((name) => [name, group(i, layer, name)]);
      return {
        norm1: norm(layer.norm1),
        norm2: norm(layer.norm2),
        headNorms: layer.headNorms && { q: norm(layer.headNorms.q), k: norm(layer.headNorms.k) },
        groups: Object.fromEntries(groups) as Record<GroupName, LinearGroup>,
      };
    });
    this.norm = norm(FINAL_NORM);
    const head = headOf(config);
    this.head = weight(head === EMBEDDING ? this.embedding : tensor(head));
    this.dhead = gradient(head);
    this.#device = device;
    this.#adapters = blockWords(adapters);
    try {
      finite.expectFinite();
      device.expectFilesUnchanged("all");
    } catch (error) {
      this.destroy();
      throw error;
    } finally {
      finite.free();
    }
  }

  /** Brings A and B in the matrices of folded groups up to date. */
  placeAdapters(): void {
    if (this.#adapters.length > 0) copyBlocks(this.#device, this.#adapters);
  }

  destroy(): void {
    for (const weight of this.#owned) weight.destroy();
  }
}
