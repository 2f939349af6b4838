// Where a run goes, and what it writes when.

import { inGroup } from "./spec.ts";

export const saveDtypes = ["auto", "f32", "bf16", "f16"] as const;

/** Trackers that a run can report to. */
export const trackers = ["tensorboard", "mlflow"] as const;

export const outputOptions = inGroup("Output", {
  output: {
    type: "path",
    value: "DIR",
    help: "folder for the run (default runs/<model>-<dataset>-<n>); must not hold another run unless --resume is given",
    aliases: ["output-dir"],
  },
  "save-steps": {
    type: "int",
    default: 500,
    min: 1,
    help: "save a checkpoint every N steps",
    trainer: true,
  },
  "save-total-limit": {
    type: "int",
    default: 3,
    min: 1,
    help: "keep the N newest checkpoints",
    trainer: true,
  },
  "save-dtype": {
    type: "enum",
    values: saveDtypes,
    default: "auto",
    help: "type of the weights that --tune full writes; auto keeps the base checkpoint's",
    trainer: true,
    onlyWith: { option: "tune", value: "full" },
  },
  "eval-steps": {
    type: "int",
    min: 1,
    help: "evaluate every N steps (default: once per epoch)",
    trainer: true,
  },
  "logging-steps": {
    type: "int",
    default: 1,
    min: 1,
    help: "write a line to metrics.jsonl every N steps",
    trainer: true,
  },
  report: {
    type: "bool",
    default: true,
    help: "write report.html, a page of curves and figures, into the run's folder when it ends",
  },
  "report-to": {
    type: "list",
    values: trackers,
    all: ["all"],
    default: [],
    help: "also send the run's numbers to tensorboard (files in the run's folder) or mlflow (the server that MLFLOW_TRACKING_URI names); a tracker that cannot be reached never stops a run",
  },
  resume: {
    type: "bool",
    default: false,
    help: "continue from the newest checkpoint in --output, or start over if there is none",
  },
});
