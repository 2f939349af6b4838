import { CString, ptr } from "bun:ffi";
import type { NativeLibrary } from "./bindings.ts";
import { NativeError } from "./native-error.ts";

/** What a library finds on this machine, without opening a device: nt_probe's object. */
export function probe<T>(library: NativeLibrary): T {
  const json = new Uint8Array(16384);
  const status = library.functions.nt_probe(json, json.length);
  if (status !== 0) throw new NativeError("nt_probe", status, library.lastError());
  return JSON.parse(new CString(ptr(json)).toString()) as T;
}
