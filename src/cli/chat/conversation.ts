// What was said in a chat, and the commands that change it.

import { existsSync } from "node:fs";
import { NeftuneError, UsageError } from "../../errors.ts";
import { writeTextAtomically } from "../../formats/io.ts";
import { suggestion } from "../../nearest.ts";
import { readText } from "../arguments/options.ts";
import { samplingOptions } from "../arguments/sampling-options.ts";
import { escapeJson } from "../terminal/text.ts";

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatSettings {
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  repetitionPenalty: number;
  seed: number;
  maxNewTokens: number;
}

/** What becomes of a line. */
export interface Reply {
  /** The model is to answer. */
  isQuestion?: true;
  isExit?: true;
  /** To be said on standard error. */
  note?: string;
}

const settable = {
  ...samplingOptions,
  "max-new-tokens": { type: "int", min: 1, help: "" },
} as const;

const fields = {
  temperature: "temperature",
  "top-p": "topP",
  "top-k": "topK",
  "min-p": "minP",
  "repetition-penalty": "repetitionPenalty",
  seed: "seed",
  "max-new-tokens": "maxNewTokens",
} as const satisfies Record<keyof typeof settable, keyof ChatSettings>;

export const chatHelp = `Lines that begin with a slash are commands:
/reset begins a new conversation
/system TEXT sets the system message and begins a new conversation; without TEXT there is none
/regenerate answers the last message again
/set NAME VALUE changes ${Object.keys(fields).join(", ")}
/save FILE writes the conversation as a row of JSON Lines, which neftune trains on
/help shows this
/exit ends the chat
Begin a message with two slashes to send one that starts with a slash.`;

export class Chat {
  /** What answers are made with. */
  readonly settings: ChatSettings;
  #system: string | null;
  #turns: ChatMessage[] = [];
  #draws = 0;

  constructor(system: string | null, settings: ChatSettings) {
    this.#system = system;
    this.settings = settings;
  }

  get messages(): ChatMessage[] {
    return [
      ...(this.#system === null ? [] : [{ role: "system", content: this.#system } as const]),
      ...this.#turns,
    ];
  }

  /** Another number for every answer, so that one that is sampled again differs. */
  nextDraw(): number {
    return this.#draws++;
  }

  /** The model's answer. */
  add(content: string): void {
    this.#turns.push({ role: "assistant", content });
  }

  /** Forgets the last question, which could not be answered. */
  takeBack(): void {
    this.#turns.pop();
  }

  /** A line that was typed: a question, or a command. */
  take(line: string): Reply {
    const command = /^\/([a-z]*)(?:\s+(.*\S))?\s*$/s.exec(line);
    if (command === null || line.startsWith("//")) {
      this.#turns.push({ role: "user", content: line.startsWith("//") ? line.slice(1) : line });
      return { isQuestion: true };
    }
    try {
      return this.#command(command[1]!, command[2]);
    } catch (error) {
      if (error instanceof NeftuneError) return { note: error.message };
      throw error;
    }
  }

  #command(name: string, rest: string | undefined): Reply {
    switch (name) {
      case "reset":
        this.#turns = [];
        return { note: "a new conversation" };
      case "system":
        this.#turns = [];
        this.#system = rest ?? null;
        return { note: `a new conversation, ${rest === undefined ? "without" : "with"} a system message` };
      case "regenerate":
        if (this.#turns.at(-1)?.role !== "assistant") return { note: "there is no answer yet" };
        this.#turns.pop();
        return { isQuestion: true };
      case "set":
        return this.#set(rest ?? "");
      case "save":
        return this.#save(rest);
      case "help":
        return { note: chatHelp };
      case "exit":
      case "quit":
        return { isExit: true };
      default: {
        const names = ["reset", "system", "regenerate", "set", "save", "help", "exit"];
        return {
          note: `unknown command /${name}${suggestion(name, names, "/help lists the commands", "/")}`,
        };
      }
    }
  }

  #set(rest: string): Reply {
    const [name = "", text, ...more] = rest.split(/\s+/);
    if (!Object.hasOwn(fields, name) || text === undefined || more.length > 0)
      return { note: `/set takes a name and a value: ${this.#shown()}` };
    const own = name as keyof typeof fields;
    this.settings[fields[own]] = readText(`/set ${own}`, settable[own], text) as number;
    return { note: this.#shown() };
  }

  #shown(): string {
    return Object.entries(fields)
      .map(([name, field]) => `${name} ${this.settings[field]}`)
      .join(", ");
  }

  #save(path: string | undefined): Reply {
    if (path === undefined) return { note: "/save takes the name of a file" };
    if (this.#turns.length === 0) return { note: "nothing has been said yet" };
    if (existsSync(path)) throw new UsageError(`${path} already exists; choose another name`);
    writeTextAtomically(path, `${escapeJson(JSON.stringify({ messages: this.messages }))}\n`);
    return { note: `saved as ${path}` };
  }
}
