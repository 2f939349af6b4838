// neftune push: upload a run or a model to the Hugging Face Hub.

import { basename, join, resolve } from "node:path";
import { UsageError } from "../errors.ts";
import { type PushReporter, pushFiles } from "../formats/hub/index.ts";
import { parseRepoName } from "../formats/hub-cache.ts";
import { readText } from "../formats/io.ts";
import { cardOfRepository } from "../report/index.ts";
import { type Context, defineCommand } from "./command.ts";
import { pushableFiles } from "./outputs/push-files.ts";
import { CARD_FILE } from "./run/files.ts";
import { countOf, formatBytes, formatSeconds, toJson } from "./terminal/format.ts";
import { folded } from "./terminal/text.ts";
import { transferProgress } from "./terminal/transfer-progress.ts";

/** org/name as the Hub takes it. Throws UsageError. */
function expectRepo(name: string): string {
  const parsed = parseRepoName(name);
  if (parsed !== null && name === parsed.id && name.includes("/") && name.length <= 96) return name;
  const hint = name.includes("@") ? "; a branch is given as --revision" : "";
  throw new UsageError(
    `${JSON.stringify(name)} is not the name of a repository; expected org/name, such as my-account/my-model, of letters, digits, "-", "_" and "."${hint}`,
  );
}

function expectBranch(name: string): string {
  if (parseRepoName(`org/name@${name}`) !== null) return name;
  throw new UsageError(`--revision ${JSON.stringify(name)}: expected the name of a branch, such as main`);
}

/** What goes up in place of what files hold: a card that says where the run is. */
function textsOf(
  folder: string,
  names: readonly string[],
  { id, branch }: { id: string; branch: string },
): Map<string, string> {
  if (!names.includes(CARD_FILE)) return new Map();
  const own = readText(join(folder, CARD_FILE));
  const card = cardOfRepository(own, id, branch);
  return card === own ? new Map() : new Map([[CARD_FILE, card]]);
}

function pushReporter(context: Pick<Context, "note" | "draw" | "isTerminal">): PushReporter {
  const progress = transferProgress(context);
  return {
    onRead: (bytes, total) => context.draw(`reading ${formatBytes(bytes)} of ${formatBytes(total)}`),
    onStart({ id, files, bytes, held }) {
      context.draw("");
      const there = held > 0 ? `, ${formatBytes(held)} of it there already` : "";
      context.note(`uploading to ${id}: ${countOf(files, "file")}, ${formatBytes(bytes)}${there}`);
      progress.start(id, held, bytes);
    },
    onProgress: (bytes, total) => progress.show(bytes, total),
    onDone: () => progress.end(),
    note: (text) => context.note(text),
  };
}

export const push = defineCommand({
  positionals: {
    usage: "RUN org/name",
    min: 2,
    max: 2,
    help: "RUN is the folder of a finished run, or of a model such as merge writes; org/name is a model repository, created if it does not exist.",
  },
  description:
    "Uploads adapter or model, configs, tokenizer, model card and report as one commit; checkpoints and metrics stay here. Needs a token with write permission, as HF_TOKEN or saved by hf auth login. HF_ENDPOINT names another Hub. After an interruption the same command skips the files that have arrived.",
  options: {
    private: {
      type: "bool",
      default: false,
      help: "create the repository as a private one; an existing one must be private",
    },
    revision: {
      type: "string",
      default: "main",
      value: "BRANCH",
      help: "branch to commit to; created if it does not exist",
    },
    message: { type: "string", value: "TEXT", help: "commit message (default: Upload RUN with neftune)" },
  },
  examples: [
    ["neftune push runs/first my-account/first --private", "a run's adapter with its card and report"],
    ["neftune push merged my-account/merged", "a merged model"],
  ],
  interruptible: true,
  async run(values, context) {
    const [folder = "", repo = ""] = context.positionals;
    const id = expectRepo(repo);
    const branch = expectBranch(values.revision);
    const { kind, names } = pushableFiles(folder);
    const start = performance.now();
    const pushed = await pushFiles(
      {
        ...{ id, branch, folder, names, isPrivate: values.private },
        texts: textsOf(folder, names, { id, branch }),
        message: values.message ?? `Upload ${basename(resolve(folder))} with neftune`,
      },
      { env: context.env, signal: context.signal, reporter: pushReporter(context) },
    );
    const ignored = pushed.files.filter(({ state }) => state === "ignored").map(({ name }) => name);
    if (ignored.length > 0) context.note(`left out by the repository's .gitignore: ${ignored.join(", ")}`);
    const sent = pushed.files.filter(({ state }) => state === "sent");
    const sentBytes = sent.reduce((bytes, file) => bytes + file.bytes, 0);
    const seconds = (performance.now() - start) / 1000;
    if (values.json) {
      const { url, commit, files } = pushed;
      context.print(
        toJson({ repo: id, revision: branch, kind, url, commit, files, sent_bytes: sentBytes, seconds }),
      );
      return;
    }
    const said =
      pushed.commit === null
        ? `${pushed.url}: nothing to upload, ${branch} has these files as they are`
        : `${pushed.url}: ${countOf(sent.length, "file")}, ${formatBytes(sentBytes)}, in ${formatSeconds(seconds)}; commit ${pushed.commit}`;
    context.print(folded(said, context.columns));
  },
});
