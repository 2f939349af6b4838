// Where a thread's script lies.

/**
 * The script of `src/<name>.ts`: beside the others, or inside the executable, where every module lies in one bundle and
 * a script is an entry point of its own, which build.ts names.
 */
export function workerUrl(name: string): URL {
  const compiled = import.meta.url.includes("/$bunfs/");
  return new URL(compiled ? `./${name}.js` : `../${name}.ts`, import.meta.url);
}
