// The live line of a download on a terminal; a line every now and then elsewhere.

import type { DownloadReporter } from "../formats/hub/index.ts";
import type { Context } from "./command.ts";
import { countOf, formatBytes, formatSeconds } from "./format.ts";

const LIVE_MILLISECONDS = 100;
const PLAIN_MILLISECONDS = 10_000;
/** The speed shown is the mean over the last WINDOW milliseconds. */
const WINDOW = 5000;

export function downloadReporter(context: Pick<Context, "note" | "draw" | "isTerminal">): DownloadReporter {
  let id = "";
  let shownAt = 0;
  let startedAt = 0;
  let startBytes = 0;
  let last = { bytes: 0, total: 0 };
  let marks: { at: number; bytes: number }[] = [];
  return {
    onStart({ id: name, files, bytes, held, folder }) {
      id = name;
      startedAt = performance.now();
      shownAt = startedAt;
      startBytes = held;
      last = { bytes: held, total: bytes };
      marks = [{ at: startedAt, bytes: held }];
      const resumed = held > 0 ? `, ${formatBytes(held)} of it here already` : "";
      context.note(
        `downloading ${id}: ${countOf(files, "file")}, ${formatBytes(bytes)}${resumed}, into ${folder}`,
      );
    },
    onProgress(bytes, total) {
      last = { bytes, total };
      const now = performance.now();
      if (now - shownAt < (context.isTerminal ? LIVE_MILLISECONDS : PLAIN_MILLISECONDS)) return;
      shownAt = now;
      marks.push({ at: now, bytes });
      while (marks.length > 2 && now - marks[0]!.at > WINDOW) marks.shift();
      const [first] = marks;
      const rate = ((bytes - first!.bytes) / (now - first!.at)) * 1000;
      const left = rate > 0 ? `, ${formatSeconds((total - bytes) / rate)} left` : "";
      const line = `${id}: ${formatBytes(bytes)} of ${formatBytes(total)}, ${formatBytes(Math.max(0, rate))}/s${left}`;
      if (context.isTerminal) context.draw(line);
      else context.note(line);
    },
    onDone() {
      context.draw("");
      if (last.bytes < last.total) return;
      const seconds = (performance.now() - startedAt) / 1000;
      context.note(`${id}: ${formatBytes(last.total - startBytes)} in ${formatSeconds(seconds)}`);
    },
    note: (text) => context.note(text),
  };
}
