// How far a download is.

import type { DownloadReporter } from "../../formats/hub/index.ts";
import type { Context } from "../command.ts";
import { countOf, formatBytes } from "./format.ts";
import { transferProgress } from "./transfer-progress.ts";

export function downloadReporter(context: Pick<Context, "note" | "draw" | "isTerminal">): DownloadReporter {
  const progress = transferProgress(context);
  return {
    onStart({ id, files, bytes, held, folder }) {
      const resumed = held > 0 ? `, ${formatBytes(held)} of it here already` : "";
      context.note(
        `downloading ${id}: ${countOf(files, "file")}, ${formatBytes(bytes)}${resumed}, into ${folder}`,
      );
      progress.start(id, held, bytes);
    },
    onProgress: (bytes, total) => progress.show(bytes, total),
    onDone: () => progress.end(),
    note: (text) => context.note(text),
  };
}
