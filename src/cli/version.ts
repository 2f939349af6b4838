// neftune --version: what was built, from which commit, for what.

/** What the build knows and a run from source does not; written into the executable by build/executable.ts. */
export interface BuildFacts {
  /** The commit's full hash, with "+changes" where files differed from it; null outside a git checkout. */
  commit: string | null;
  /** Compute capabilities without the dot that CUDA machine code is there for, such as "90"; none without CUDA. */
  cudaArchitectures: readonly string[];
}

declare const NEFTUNE_BUILD: BuildFacts | undefined;

/** Version, commit, platform and CUDA architectures, one per line. */
export function versionText(
  version: string,
  build: BuildFacts | undefined = typeof NEFTUNE_BUILD === "undefined" ? undefined : NEFTUNE_BUILD,
): string {
  const architectures = build?.cudaArchitectures ?? [];
  const kernels = architectures.map((sm) => `sm_${sm}`).join(", ");
  const cuda = build === undefined ? "run from source" : "not in this build";
  return [
    `neftune ${version}`,
    `commit    ${build === undefined ? "run from source" : (build.commit ?? "unknown")}`,
    `platform  ${process.platform}-${process.arch}`,
    `CUDA      ${kernels === "" ? cuda : `${kernels}, and PTX for later GPUs`}`,
    "",
  ].join("\n");
}
