// The archive for people and for install.sh: a folder with the executable and what goes with it.

import type { LoadedCommand } from "../../src/cli/commands.ts";
import { manPage } from "./man.ts";
import { bashCompletion } from "./shells/bash.ts";
import { fishCompletion } from "./shells/fish.ts";
import { zshCompletion } from "./shells/zsh.ts";
import { type Entry, tarGz } from "./tar.ts";

/** Man page and completions, the same for every platform. */
export function shellFiles(commands: readonly LoadedCommand[], version: string, seconds: number): Entry[] {
  const file = (path: string, text: string): Entry => ({ path, bytes: Buffer.from(text) });
  return [
    file("neftune.1", manPage(commands, version, seconds)),
    file("completions/neftune.bash", bashCompletion(commands)),
    file("completions/_neftune", zshCompletion(commands)),
    file("completions/neftune.fish", fishCompletion(commands)),
  ];
}

/** NAME.tar.gz, whose files lie in the folder NAME. */
export function tarball(
  name: string,
  executable: Uint8Array,
  files: readonly Entry[],
  seconds: number,
): Buffer {
  const entries = [{ path: "neftune", bytes: executable, isExecutable: true }, ...files];
  return tarGz(
    entries.map((entry) => ({ ...entry, path: `${name}/${entry.path}` })),
    seconds,
  );
}
