import { expect, test } from "bun:test";
import { join } from "node:path";

// oneDNN's small libgcc_s and libstdc++ are ours alone: cuBLASLt, say, is loaded after them and needs the system's.
test("what is loaded after the CPU backend finds the system's libraries", () => {
  const source = join(import.meta.dir, "..", "..", "src", "native", "index.ts");
  const script = `
    import { dlopen, ptr } from "bun:ffi";
    import { Device } from ${JSON.stringify(source)};
    Device.open({ threads: 1 }).close();
    dlopen("libgcc_s.so.1", { _Unwind_Backtrace: { args: ["ptr", "ptr"], returns: "i32" } });
    dlopen("libstdc++.so.6", { _ZNSt6localeC1Ev: { args: ["ptr"], returns: "void" } });
    // Nor does it call ours under the system's names.
    const { dlsym } = dlopen("libc.so.6", { dlsym: { args: ["u64", "ptr"], returns: "ptr" } }).symbols;
    const ours = ["_Unwind_Resume", "_ZNSo3putEc", "GOMP_barrier", "dnnl_primitive_execute", "nt_create"];
    console.log("found", ...ours.filter((name) => dlsym(0, ptr(Buffer.from(name + "\\0"))) !== null));`;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", script], { env: process.env });
  expect(stderr.toString()).toBe("");
  expect(stdout.toString()).toBe("found\n");
});
