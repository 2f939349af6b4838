// A device: one context of a native library, its memory, and the one place where a status becomes an error.

import { CString, ptr } from "bun:ffi";
import { NeftuneError } from "../errors.ts";
import { decodeFloats } from "../floats.ts";
import type { Argument, FunctionName, NativeLibrary } from "./bindings.ts";
import { loadCpuLibrary, loadCudaLibrary } from "./library.ts";
import { type MappedFile, MappedFiles } from "./mapped-files.ts";
import { NativeError } from "./native-error.ts";
import { probe } from "./probe.ts";
import { Readback } from "./readback.ts";
import { type DType, dtypeBytes, dtypeCode, sizeOf, Tensor } from "./tensor.ts";
import { addLaunches, type RecordedCall } from "./timeline.ts";

/** What nt_describe tells. Bytes and counts. */
export interface DeviceInfo {
  backend: "cpu" | "cuda" | "emulated";
  name: string;
  isa: string;
  threads: number;
  total_memory: number;
  free_memory: number;
  /** Of the GPU. */
  uuid?: string;
  /** On a GPU: products of 2²⁷ multiplications and more that cuBLASLt had no algorithm for. */
  big_plain_products?: number;
}

/** What nt_probe tells of the CUDA backend on this machine, without opening a device. */
export interface CudaProbe {
  backend: "cuda" | "emulated";
  /** Why no device can be opened, with the remedy. */
  problem: string | null;
  /** CUDA versions: of the library, and what the driver supports. */
  runtime: string;
  driver: string | null;
  /** Compute capabilities with machine code in the library, e.g. 90. */
  architectures: number[];
  devices: { index: number; name: string; compute_capability: string; total_memory: number }[];
  cublaslt: { path: string | null; version: string | null; looked: string[] };
}

/** Asks the CUDA library what it finds. Loads it first; throws NeftuneError where this build has none. */
export function probeCuda(library: NativeLibrary = loadCudaLibrary()): CudaProbe {
  return probe<CudaProbe>(library);
}

export interface DeviceOptions {
  kind?: "cpu" | "cuda";
  /** Which CUDA device, counted from 0. */
  index?: number;
  /** CPU threads; 0 or none: all that the process may use. */
  threads?: number;
  /** Instead of the library built for this machine. */
  library?: NativeLibrary;
}

/** What frees memory is called on the way out of an error, too: it must not throw that error again. */
const releases: ReadonlySet<FunctionName> = new Set([
  "nt_free",
  "nt_host_free",
  "nt_weight_destroy",
  "nt_file_unmap",
]);

/** Milliseconds between two questions for a GPU's memory in use. */
const PEAK_INTERVAL = 1000;

export type HostArray = Float32Array | Int32Array | Uint16Array | Uint8Array;

export class Device {
  readonly info: DeviceInfo;
  /**
   * Seconds and calls by native function while profiling is on; null when it is off. They are the host's: on a GPU a call
   * returns when its work is enqueued (record() says what that takes).
   */
  profile: Map<string, { seconds: number; calls: number }> | null = null;
  #recorded: RecordedCall[] | null = null;
  readonly #library: NativeLibrary;
  readonly #context: number;
  readonly #freeAtStart: number;
  readonly #mapped = new MappedFiles();
  readonly #readback = new Readback(this);
  #isLent = false;
  #peak = 0;
  #askPeakAt = 0;

  private constructor(library: NativeLibrary, context: number) {
    this.#library = library;
    this.#context = context;
    this.info = this.#describe();
    this.#freeAtStart = this.info.free_memory;
  }

  /** Loads the backend and opens the device. Throws NativeError, or NeftuneError where the library cannot load. */
  static open(options: DeviceOptions = {}): Device {
    const library = options.library ?? (options.kind === "cuda" ? loadCudaLibrary() : loadCpuLibrary());
    const out = new BigUint64Array(1);
    library.selected = 0; // also where it fails, nt_create may have turned to another GPU
    const status = library.functions.nt_create(options.index ?? 0, options.threads ?? 0, out);
    if (status !== 0) throw new NativeError("nt_create", status, library.lastError());
    library.selected = Number(out[0]);
    return new Device(library, library.selected);
  }

  /** Does nothing while the device is lent. */
  close(): void {
    if (this.#isLent) return;
    this.#readback.close();
    this.#library.functions.nt_destroy(this.#context);
    this.#library.selected = 0;
  }

  /** Keeps the device open whatever its users do, until the returned function closes it. */
  lend(): () => void {
    this.#isLent = true;
    return () => {
      this.#isLent = false;
      this.close();
    };
  }

  /**
   * Calls a native function with this device's context first. Throws NativeError unless it returns NT_OK, NeftuneError
   * (code "changed") where a mapped file lost what was to be read.
   */
  call(name: FunctionName, ...args: Argument[]): void {
    const { functions } = this.#library;
    const isMeasured = this.profile !== null || this.#recorded !== null;
    if (this.#recorded !== null) functions.nt_timeline_mark(this.#context, this.#recorded.length);
    const start = isMeasured ? performance.now() : 0;
    let status = this.#select();
    if (status === 0) status = functions[name](this.#context, ...args);
    if (isMeasured) this.#count(name, args, (performance.now() - start) / 1000);
    if (!releases.has(name)) this.#mapped.expectNoFault();
    if (status !== 0) throw new NativeError(name, status, this.#library.lastError());
  }

  /**
   * Throws NeftuneError (code "changed") where a mapped file was written to or cut short since it was mapped. To call
   * before results are written. "in place": of files that the device reads where they are mapped; what was copied from
   * the others is not changed by what happens to them.
   */
  expectFilesUnchanged(which: "all" | "in place"): void {
    this.#mapped.expectUnchanged(which);
  }

  /** Several devices may be open: what is called is meant for this one. */
  #select(): number {
    if (this.#library.selected === this.#context) return 0;
    const status = this.#library.functions.nt_select(this.#context);
    if (status === 0) this.#library.selected = this.#context;
    return status;
  }

  /**
   * Runs `work` on a GPU, and notes every native call it makes and what the GPU ran for it (timeline.ts). Events stand
   * around each kernel, which costs a little time; nothing is waited for before the end.
   */
  record<T>(work: () => T): { result: T; calls: RecordedCall[] } {
    const calls: RecordedCall[] = [];
    const read = (json: Uint8Array, bytes: BigInt64Array) =>
      this.call("nt_timeline_read", json, json.length, bytes);
    this.call("nt_timeline_mark", 0);
    this.#recorded = calls;
    let result: T;
    try {
      result = work();
    } finally {
      this.#recorded = null;
      this.call("nt_timeline_mark", -1);
    }
    const bytes = new BigInt64Array(1);
    read(new Uint8Array(1), bytes);
    const json = new Uint8Array(Number(bytes[0]));
    read(json, bytes);
    addLaunches(calls, new CString(ptr(json)).toString());
    return { result, calls };
  }

  #count(name: FunctionName, args: readonly Argument[], seconds: number): void {
    this.#recorded?.push({ name, args, hostSeconds: seconds, launches: [] });
    const entry = this.profile?.get(name);
    if (entry === undefined) {
      this.profile?.set(name, { seconds, calls: 1 });
    } else {
      entry.seconds += seconds;
      entry.calls += 1;
    }
  }

  /** Whether device memory is the host's. */
  get isHost(): boolean {
    return this.info.backend === "cpu";
  }

  /**
   * The most memory in use so far: on the CPU the process's resident set, on a GPU what was allocated since the device
   * was opened (all of it is, before the first step), other processes' share in that time included. A GPU's driver is
   * asked once a second at most, and after memory was taken: it may have to wait for the GPU.
   */
  peakMemory(): number {
    if (this.isHost) return process.resourceUsage().maxRSS * 1024;
    const now = performance.now();
    if (now >= this.#askPeakAt) {
      this.#peak = Math.max(this.#peak, this.#freeAtStart - this.freeMemory());
      this.#askPeakAt = now + PEAK_INTERVAL;
    }
    return this.#peak;
  }

  /**
   * The algorithms of matrix products that were timed and chosen so far, as a text; "" where none are (see
   * NEFTUNE_TUNE_MATMUL).
   */
  matmulChoices(): string {
    const length = new BigInt64Array(1);
    let text = new Uint8Array(1);
    this.call("nt_matmul_choices", text, text.length, length);
    if (length[0] === 0n) return "";
    text = new Uint8Array(Number(length[0]) + 1);
    this.call("nt_matmul_choices", text, text.length, length);
    return new TextDecoder().decode(text.subarray(0, text.length - 1));
  }

  /** Goes by such a text from here on. Throws NativeError where it is another library's or device's. */
  useMatmulChoices(text: string): void {
    this.call("nt_use_matmul_choices", Buffer.from(`${text}\0`));
  }

  synchronize(): void {
    this.call("nt_synchronize");
  }

  /** Bytes of free memory now. */
  freeMemory(): number {
    return this.#describe().free_memory;
  }

  /** How many products of 2²⁷ multiplications and more a slow kernel had to make so far. */
  bigPlainProducts(): number {
    return this.#describe().big_plain_products ?? 0;
  }

  #describe(): DeviceInfo {
    const json = new Uint8Array(4096);
    this.call("nt_describe", json, json.length);
    return JSON.parse(new CString(ptr(json)).toString()) as DeviceInfo;
  }

  /** Memory of its own, to be given to free(). Most memory comes from an Arena instead. */
  malloc(bytes: number): number {
    const out = new BigUint64Array(1);
    this.call("nt_malloc", bytes, out);
    this.#askPeakAt = 0;
    return Number(out[0]);
  }

  free(address: number): void {
    this.call("nt_free", address);
  }

  /** A tensor with memory of its own, contents undefined; for tests and small things. */
  allocate(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(this.malloc(sizeOf(shape) * dtypeBytes[dtype]), dtype, shape);
  }

  fill(tensor: Tensor, byte: number): void {
    this.call("nt_memset", tensor.ptr, byte, tensor.bytes);
  }

  /** Copies host values as they are (bf16 as Uint16Array bits). Sizes in bytes must agree. */
  write(tensor: Tensor, values: HostArray): void {
    if (!tensor.contiguous || values.byteLength !== tensor.bytes) {
      throw new NeftuneError(
        "shape",
        `${values.byteLength} bytes cannot fill ${tensor} (${tensor.bytes} bytes)`,
      );
    }
    if (values.byteLength > 0) this.call("nt_copy_to_device", tensor.ptr, values, values.byteLength);
  }

  /** Float32 values into a tensor of any float dtype, rounded to nearest even. */
  writeFloats(tensor: Tensor, values: Float32Array): void {
    if (tensor.dtype === "i32" || !tensor.contiguous || values.length !== tensor.size) {
      throw new NeftuneError("shape", `${values.length} floats cannot fill ${tensor}`);
    }
    if (values.length > 0) {
      this.call("nt_upload", tensor.ptr, dtypeCode[tensor.dtype], values, dtypeCode.f32, values.length);
    }
  }

  /** The tensor's bytes; waits for the work enqueued before. */
  readBytes(tensor: Tensor): Uint8Array<ArrayBuffer> {
    if (!tensor.contiguous) throw new NeftuneError("shape", `${tensor} is not contiguous`);
    const bytes = new Uint8Array(tensor.bytes);
    if (bytes.length > 0) this.call("nt_copy_to_host", bytes, tensor.ptr, bytes.length);
    return bytes;
  }

  /** The tensor's values as float32; bf16 widened. Waits for the work enqueued before. */
  readFloats(tensor: Tensor): Float32Array<ArrayBuffer> {
    const bytes = this.readBytes(tensor);
    if (tensor.dtype === "f32") return new Float32Array(bytes.buffer);
    if (tensor.dtype !== "bf16") throw new NeftuneError("dtype", `${tensor} has no float32 view`);
    return decodeFloats("bf16", bytes);
  }

  /**
   * The same for a float32 tensor without waiting now: what is returned gives the values, and waits then. To be called
   * once. What is enqueued after this may change the tensor.
   */
  readFloatsLater(tensor: Tensor): () => Float32Array<ArrayBuffer> {
    if (tensor.dtype !== "f32" || !tensor.contiguous)
      throw new NeftuneError("dtype", `${tensor}: only contiguous float32 tensors are read later`);
    return this.#readback.read(tensor);
  }

  readInts(tensor: Tensor): Int32Array<ArrayBuffer> {
    return new Int32Array(this.readBytes(tensor).buffer);
  }

  /** Maps a file read-only. */
  mapFile(path: string): MappedFile {
    const address = new BigUint64Array(1);
    const bytes = new BigInt64Array(1);
    const isDevice = new Int32Array(1);
    this.call("nt_file_map", Buffer.from(`${path}\0`), address, bytes, isDevice);
    const file: MappedFile = {
      path,
      address: Number(address[0]),
      bytes: Number(bytes[0]),
      isDevice: isDevice[0] === 1,
    };
    this.#mapped.add(file);
    return file;
  }

  unmapFile(file: MappedFile): void {
    this.#mapped.remove(file);
    this.call("nt_file_unmap", file.address, file.bytes);
  }

  /** Lets go of the memory that bytes of a mapped file take; they are read again where they are touched again. */
  forgetFile(address: number, bytes: number): void {
    this.call("nt_file_forget", address, bytes);
  }
}
