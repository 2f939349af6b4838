// Where a thread's script lies.

/** Whether this is the built executable, in which all modules lie. */
export const isCompiled = import.meta.url.includes("/$bunfs/");

/**
 * The script of `src/<name>.ts`: beside the others, or inside the executable, where every module lies in one bundle and
 * a script is an entry point of its own, which build.ts names.
 */
export function workerUrl(name: string): URL {
  return new URL(isCompiled ? `./${name}.js` : `../${name}.ts`, import.meta.url);
}
