// Words of commands as a person types or pastes them.

/** A word for the shell: in quotes where it holds spaces or anything else that the shell would read. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
