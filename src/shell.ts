// Words of commands as a person types or pastes them.

/** A word for the shell: in quotes where it holds anything that a shell would read, as zsh reads a leading `=`. */
export function shellWord(word: string): string {
  return /^[\w@%+:,./-][\w@%+=:,./-]*$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
