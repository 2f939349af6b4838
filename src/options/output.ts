// Where a run goes, and what it writes when.

import { inGroup } from "./spec.ts";

const saveDtypes = ["auto", "f32", "bf16", "f16"] as const;

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
    help: "keep the N newest checkpoints, and with --load-best-model-at-end the best one as well",
    trainer: true,
  },
  "save-only-model": {
    type: "bool",
    default: false,
    help: "leave the AdamW state out of checkpoints: they are a third as large, but --resume cannot continue from them",
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
  "eval-on-start": {
    type: "bool",
    default: false,
    help: "also evaluate before the first step",
    trainer: true,
  },
  "load-best-model-at-end": {
    type: "bool",
    default: false,
    help: "save a checkpoint at every evaluation that is the best so far, keep the best one, and write its weights as the run's result",
    trainer: true,
  },
  "metric-for-best-model": {
    type: "enum",
    values: ["eval_loss", "eval_perplexity"],
    default: "eval_loss",
    help: "evaluation metric that decides which model is best; lower is better",
    trainer: true,
    valueAliases: { loss: "eval_loss", perplexity: "eval_perplexity" },
  },
  "early-stopping-patience": {
    type: "int",
    min: 1,
    help: "stop after N evaluations in a row that do not improve on the best one",
    trainer: true,
  },
  "early-stopping-threshold": {
    type: "float",
    default: 0,
    min: 0,
    help: "an evaluation improves on the best one only if it is lower by more than this",
    trainer: true,
  },
  "sample-prompts": {
    type: "path",
    value: "FILE",
    help: "data file whose rows the model answers greedily while it trains, into samples.jsonl and the report",
  },
  "sample-steps": {
    type: "int",
    default: 100,
    min: 1,
    help: "answer the rows of --sample-prompts every N steps, and after the last",
    onlyWith: { option: "sample-prompts", value: null },
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
    none: ["none"],
    default: [],
    help: "also send the run's numbers to tensorboard (files in the run's folder) or mlflow (the server that MLFLOW_TRACKING_URI names); a tracker that cannot be reached never stops a run",
  },
  resume: {
    type: "bool",
    default: false,
    help: "continue from the newest checkpoint in --output, or start over if there is none",
  },
});
