// Files that are mapped, and what may happen to them meanwhile: cut short, unreadable, changed in place. Touching a page
// that is gone is survived (kernels/faults) and found here before anyone believes a result.

import { FFIType, linkSymbols, type Pointer, toArrayBuffer } from "bun:ffi";
import { statSync } from "node:fs";
import { faultsLibrary } from "#embedded";
import { NeftuneError } from "../errors.ts";
import { loadFromMemory, openLibc, openLoader, zeroTerminated } from "./from-memory.ts";

/** A mapped file: host memory, on the CPU device memory too. */
export interface MappedFile {
  path: string;
  address: number;
  bytes: number;
  isDevice: boolean;
}

interface Watched {
  file: MappedFile;
  /** Where faults in it are looked for; -1: nowhere. */
  slot: number;
  /** As it was when it was mapped. */
  state: FileState | null;
}

interface FileState {
  inode: string;
  size: bigint;
  changed: bigint;
}

/** The mapped files of one device. */
export class MappedFiles {
  readonly #files = new Map<number, Watched>();

  /** Watches a file that was just mapped. */
  add(file: MappedFile): void {
    const slot = faults().watch(file.address, file.bytes);
    this.#files.set(file.address, { file, slot, state: stateOf(file.path) });
  }

  /** To call before the file is unmapped. */
  remove({ address }: MappedFile): void {
    const watched = this.#files.get(address);
    if (watched !== undefined) faults().forget(watched.slot);
    this.#files.delete(address);
  }

  /** Throws NeftuneError (code "changed") where a page of a file was gone when it was needed. Costs next to nothing. */
  expectNoFault(): void {
    if (this.#files.size === 0) return;
    const slot = faults().flag[0]! - 1;
    if (slot < 0) return;
    for (const { file, slot: own } of this.#files.values()) {
      if (own !== slot) continue;
      throw new NeftuneError(
        "changed",
        `${file.path} was cut short, or could not be read any more, while it was in use; results since then cannot be relied on and are not written. Restore the file and run again (a training run: with --resume)`,
      );
    }
  }

  /**
   * Throws NeftuneError (code "changed") where a file was written to since it was mapped, by its size and time of change.
   * One that was removed or replaced does no harm: what is mapped is the old one.
   */
  expectUnchanged(which: "all" | "in place"): void {
    this.expectNoFault();
    for (const { file, state } of this.#files.values()) {
      if (which === "in place" && !file.isDevice) continue;
      const now = stateOf(file.path);
      if (state === null || now === null || now.inode !== state.inode) continue;
      if (now.size === state.size && now.changed === state.changed) continue;
      const what = now.size === state.size ? "written to" : `changed from ${state.size} to ${now.size} bytes`;
      throw new NeftuneError(
        "changed",
        `${file.path} was ${what} while it was in use; results since then cannot be relied on and are not written. Restore the file and run again (a training run: with --resume)`,
      );
    }
  }
}

function stateOf(path: string): FileState | null {
  const status = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (status === undefined) return null;
  return { inode: `${status.dev}:${status.ino}`, size: status.size, changed: status.mtimeNs };
}

interface Faults {
  watch(address: number, bytes: number): number;
  forget(slot: number): void;
  /** The slot of the first fault, counted from 1; 0: none. */
  flag: Int32Array;
}

let loaded: Faults | null = null;

/** Takes over SIGBUS for mapped files, once. */
function faults(): Faults {
  if (loaded !== null) return loaded;
  const loader = openLoader();
  const handle = loadFromMemory("libneftune-faults.so", faultsLibrary, openLibc(), loader);
  const symbol = (name: string) => loader.dlsym(handle, zeroTerminated(name)) as Pointer;
  const { symbols } = linkSymbols({
    nt_faults_install: { args: [], returns: FFIType.i32, ptr: symbol("nt_faults_install") },
    nt_faults_watch: {
      args: [FFIType.ptr, FFIType.i64],
      returns: FFIType.i32,
      ptr: symbol("nt_faults_watch"),
    },
    nt_faults_forget: { args: [FFIType.i32], returns: FFIType.void, ptr: symbol("nt_faults_forget") },
    nt_faults_flag: { args: [], returns: FFIType.ptr, ptr: symbol("nt_faults_flag") },
  });
  symbols.nt_faults_install();
  loaded = {
    watch: (address, bytes) => symbols.nt_faults_watch(address as Pointer, bytes),
    forget: (slot) => {
      symbols.nt_faults_forget(slot);
    },
    flag: new Int32Array(toArrayBuffer(symbols.nt_faults_flag() as Pointer, 0, 4)),
  };
  return loaded;
}
