// Completions for zsh.

import type { LoadedCommand } from "../../../src/cli/commands.ts";
import type { OptionSpec } from "../../../src/options/spec.ts";
import { allOptions, choices } from "../commands.ts";

/** Text within single quotes. */
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

/** Text where brackets and colons would end a part of a specification of _arguments. */
const plain = (text: string) => text.replace(/[\\[\]:]/g, "\\$&");

/** What the value is: a message, and the words or files it is chosen from. */
function action(name: string, spec: OptionSpec): string {
  const known = choices(spec);
  const message = plain(spec.value ?? name);
  if (spec.type === "list" && known.length > 0)
    return `:${message}:_values -s , ${plain(name)} ${known.map((word) => `"${word}"`).join(" ")}`;
  if (known.length > 0) return `${spec.type === "bool" ? "::" : ":"}${message}:(${known.join(" ")})`;
  return `:${message}:${["path", "string"].includes(spec.type) ? "_files" : " "}`;
}

function option([name, spec]: [string, OptionSpec]): string {
  const times = spec.type === "repeated" ? "*" : "";
  const joint = spec.type === "bool" ? "" : "="; // --quiet alone is complete, --alpha is not
  return quoted(`${times}--${name}${joint}[${plain(spec.help)}]${action(name, spec)}`);
}

function commandCase(command: LoadedCommand): string[] {
  const rest =
    command.positionals === undefined ? [] : [quoted(`*:${plain(command.positionals.usage)}:_files`)];
  const lines = [...allOptions(command).map(option), ...rest];
  return [
    `    ${command.name})`,
    "      _arguments -S \\",
    ...lines.map((line) => `        ${line} \\`),
    "        '(-h --help)'{-h,--help}'[show the help of this command]'",
    "      ;;",
  ];
}

export function zshCompletion(commands: readonly LoadedCommand[]): string {
  const described = commands.map(({ name, summary }) => `    ${quoted(`${name}:${plain(summary)}`)}`);
  return `#compdef neftune
# Completions of neftune for zsh; put this file into a folder of $fpath.
_neftune() {
  local command=train
  local -a commands=(
${described.join("\n")}
  )
  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
    _describe command commands
    return
  fi
  if [[ $words[2] != -* ]]; then
    command=$words[2]
    shift words
    (( CURRENT-- ))
  fi
  case $command in
${commands.flatMap(commandCase).join("\n")}
    help) _describe command commands ;;
  esac
}
if [[ $funcstack[1] == _neftune ]]; then _neftune "$@"; else compdef _neftune neftune; fi
`;
}
