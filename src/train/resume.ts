// What --resume goes on with: the newest checkpoint that is whole.

import { FormatError, NeftuneError, UsageError } from "../errors.ts";
import { NativeError } from "../native/index.ts";
import { type CheckpointFolder, type Marks, type Progress, readProgress } from "./checkpoint.ts";
import { expectSameIdentity, roundingNote } from "./identity.ts";
import type { TrainableModel, TrainedParameters } from "./model.ts";
import { checkTrainingState, readTrainingState } from "./saved-weights.ts";

export interface Resumed {
  checkpoint: string;
  progress: Progress;
  /** What a person should know. */
  notes: string[];
}

function expectFinite(checkpoint: string, parameters: TrainedParameters): void {
  for (const kind of ["values", "m", "v"] as const) {
    const name = parameters.findNonFinite(kind);
    if (name !== null)
      throw new FormatError(checkpoint, `${name} has values that are NaN or infinite (${kind})`);
  }
}

/**
 * Reads the newest whole checkpoint into `parameters`; null where there is none at all. Newer ones that are damaged
 * are set aside. Throws UsageError where it is another run's, NeftuneError that names all where none is whole.
 */
export function restoreNewest(
  checkpoints: CheckpointFolder,
  marks: Marks,
  totalSteps: number,
  model: TrainableModel,
  parameters: TrainedParameters,
): Resumed | null {
  const damaged: { path: string; reason: string }[] = [];
  for (const checkpoint of checkpoints.all().reverse()) {
    try {
      const saved = readProgress(checkpoint);
      expectSameIdentity(checkpoint, saved.identity, marks.identity);
      if (saved.progress.step > totalSteps) {
        throw new UsageError(
          `--resume: ${checkpoint} is beyond the ${totalSteps} steps asked for; give more --max-steps or --epochs`,
        );
      }
      checkTrainingState(checkpoint, model, parameters);
      readTrainingState(checkpoint, model, parameters);
      expectFinite(checkpoint, parameters);
      const passed = damaged.map(
        ({ path, reason }) =>
          `--resume: ${path} is incomplete or damaged (${reason}); kept as ${checkpoints.setAside(path)}`,
      );
      const rounding = roundingNote(saved.rounding, marks.rounding);
      return {
        checkpoint,
        progress: saved.progress,
        notes: rounding === null ? passed : [...passed, rounding],
      };
    } catch (error) {
      // What the device or another rank fails at says nothing about the checkpoint.
      if (!(error instanceof NeftuneError) || error instanceof UsageError || error instanceof NativeError)
        throw error;
      damaged.push({ path: checkpoint, reason: error.message });
    }
  }
  if (damaged.length === 0) return null;
  const list = damaged.map(({ path, reason }) => `${path} (${reason})`).join("; ");
  throw new NeftuneError(
    "checkpoint",
    `--resume: no checkpoint is usable: ${list}. Restore one from a copy, or remove them all to start from step 0`,
  );
}
