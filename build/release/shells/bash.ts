// Completions for bash, without the bash-completion package.

import type { LoadedCommand } from "../../../src/cli/commands.ts";
import { allOptions, choices } from "../commands.ts";

const words = (list: readonly string[]) => list.join(" ");

/** One line of a `case` per command: its options, and what each of them takes. */
function commandCase(command: LoadedCommand): string[] {
  const options = allOptions(command);
  const values = options.flatMap(([name, spec]) => {
    const known = choices(spec);
    if (known.length > 0) return [`        --${name}) values='${words(known)}' ;;`];
    const isNoFile = ["int", "float", "date"].includes(spec.type);
    return [`        --${name}) ${isNoFile ? "values=' '" : "files=1"} ;;`];
  });
  return [
    `    ${command.name})`,
    `      options='${words([...options.map(([name]) => `--${name}`), "--help"])}'`,
    '      case "$previous" in',
    ...values,
    "      esac",
    "      ;;",
  ];
}

export function bashCompletion(commands: readonly LoadedCommand[]): string {
  const names = commands.map(({ name }) => name);
  return `# Completions of neftune for bash; source this file, or put it into ~/.local/share/bash-completion/completions.
_neftune() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD - 1]}"
  local command=train options='' values='' files=''
  # bash splits --option=value into three words.
  if [[ $current == = ]]; then
    current=''
  elif [[ $previous == = && $COMP_CWORD -gt 2 ]]; then
    previous="\${COMP_WORDS[COMP_CWORD - 2]}"
  fi
  if [[ $COMP_CWORD -gt 1 && \${COMP_WORDS[1]} != -* ]]; then command="\${COMP_WORDS[1]}"; fi
  case "$command" in
${commands.flatMap(commandCase).join("\n")}
    help)
      options='${words(names)}'
      values="$options"
      ;;
  esac
  if [[ $values == *[!\\ ]* && $current != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$values" -- "$current")
  elif [[ $current == -* ]]; then
    [[ $COMP_CWORD -eq 1 ]] && options+=' --version'
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
  elif [[ $COMP_CWORD -eq 1 ]]; then
    mapfile -t COMPREPLY < <(compgen -W '${words([...names, "help"])}' -- "$current")
  elif [[ -n $files || -z $values ]]; then
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  fi
}
complete -F _neftune neftune
`;
}
