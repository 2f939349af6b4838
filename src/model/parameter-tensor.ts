// What is trained, tensor by tensor, and where each lies.

/** What is trained together: LoRA's matrices, a model's own weights, the scale of NEFTune's noise. */
export type PartName = "lora" | "weights" | "noise";

/** What a learning rate may be given for: a part, or of LoRA's the matrices B, as LoRA+ does (arXiv 2402.12354). */
export type RateName = PartName | "lora_B";

export interface ParameterTensor {
  name: string;
  part: PartName;
  shape: readonly number[];
  /** Its shape in the flat block; larger where kernels want whole vectors. What is beyond `shape` is and stays zero. */
  laid: readonly number[];
  /** Elements before it in the flat block. */
  offset: number;
  /** Of `laid`. */
  size: number;
  /** Whether weight decay acts on it: matrices yes, norms and biases no. */
  decay: boolean;
}

export type ParameterSpec = Pick<ParameterTensor, "name" | "shape"> & Partial<Pick<ParameterTensor, "laid">>;

export const isMatrix = (spec: ParameterSpec) => spec.shape.length > 1;

/** The part of a tensor that a rank holds. */
export interface Piece {
  tensor: ParameterTensor;
  /** Its first value in the tensor. */
  begin: number;
  count: number;
  /** Values before it in the flat block that it lies in. */
  offset: number;
}

/** A tensor that is not divided. */
export const wholePiece = (tensor: ParameterTensor): Piece => ({
  tensor,
  begin: 0,
  count: tensor.size,
  offset: tensor.offset,
});
