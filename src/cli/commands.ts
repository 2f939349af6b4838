// The commands, in the order of --help. Main, help and docs read this list.

import type { Command } from "./command.ts";

export interface CommandEntry {
  name: string;
  /** One line, for the list of commands. */
  summary: string;
  /** Only a command that is asked for is loaded, so that --help does not wait for the others. */
  load: () => Promise<Command>;
}

/** A command, with what the list says of it. */
export type LoadedCommand = Command & Pick<CommandEntry, "name" | "summary">;

export const commands: readonly CommandEntry[] = [
  {
    name: "train",
    summary: "fine-tune a model with LoRA or in full, with NEFTune noise",
    load: async () => (await import("./train.ts")).train,
  },
  {
    name: "eval",
    summary: "measure a model's loss and perplexity on a data set, with noise off",
    load: async () => (await import("./eval.ts")).evalCommand,
  },
  {
    name: "generate",
    summary: "complete a prompt, or every row of a data set into a file",
    load: async () => (await import("./generate.ts")).generateCommand,
  },
  {
    name: "chat",
    summary: "talk to a model in the terminal",
    load: async () => (await import("./chat.ts")).chatCommand,
  },
  {
    name: "serve",
    summary: "answer OpenAI's API over HTTP, with a chat page",
    load: async () => (await import("./serve.ts")).serveCommand,
  },
  {
    name: "preview",
    summary: "show how rows are rendered, tokenized, masked and cut",
    load: async () => (await import("./preview.ts")).preview,
  },
  {
    name: "models",
    summary: "list the model presets, which --model takes by name",
    load: async () => (await import("./models.ts")).models,
  },
  {
    name: "datasets",
    summary: "list the data presets, which --dataset takes by name",
    load: async () => (await import("./datasets.ts")).datasets,
  },
  {
    name: "sweep",
    summary: "train with several values of alpha or another option and compare the runs",
    load: async () => (await import("./sweep.ts")).sweep,
  },
  {
    name: "report",
    summary: "show the curves, losses and answers of one or more training runs",
    load: async () => (await import("./report.ts")).report,
  },
  {
    name: "analyze",
    summary: "measure length, repetition, diversity and reference overlap of model outputs",
    load: async () => (await import("./analyze.ts")).analyze,
  },
  {
    name: "inspect",
    summary: "list the tensors of a safetensors file or a checkpoint folder",
    load: async () => (await import("./inspect.ts")).inspect,
  },
  {
    name: "merge",
    summary: "merge an adapter into its base model and write a full checkpoint",
    load: async () => (await import("./merge.ts")).merge,
  },
  {
    name: "export",
    summary: "write a model as one GGUF file for llama.cpp, Ollama and LM Studio",
    load: async () => (await import("./export.ts")).exportCommand,
  },
  {
    name: "push",
    summary: "upload a run or a model to the Hugging Face Hub",
    load: async () => (await import("./push.ts")).push,
  },
  {
    name: "quantize",
    summary: "write a copy of a model with its linear layers in 4 bits (NF4)",
    load: async () => (await import("./quantize.ts")).quantize,
  },
  {
    name: "init",
    summary: "create a model with random weights",
    load: async () => (await import("./init.ts")).init,
  },
  {
    name: "bench",
    summary: "measure training speed on random weights, next to this machine's matmul rate",
    load: async () => (await import("./bench.ts")).bench,
  },
  {
    name: "doctor",
    summary: "show devices, instruction sets, libraries, memory and folders",
    load: async () => (await import("./doctor.ts")).doctor,
  },
  {
    name: "demo",
    summary: "train and compare small models in a minute or two, data included",
    load: async () => (await import("./demo.ts")).demo,
  },
];

export async function loadCommand({ name, summary, load }: CommandEntry): Promise<LoadedCommand> {
  return { ...(await load()), name, summary };
}
