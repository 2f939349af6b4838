// Special text inside a conversation, made unlike a special token while its template runs: a mark (a private-use
// character that occurs nowhere else) goes behind its first character. What still looks special afterwards, the template
// wrote.

import type { Message } from "./messages.ts";
import type { Section, Tokenizer } from "./tokenizer.ts";

/** What a chat template renders. */
export interface Conversation {
  messages: readonly Message[];
  /** Null for none. */
  tools: readonly unknown[] | null;
}

export class Disguise {
  readonly conversation: Conversation;
  readonly mark: string;

  constructor(conversation: Conversation, source: string, tokenizer: Tokenizer, parseSpecial: boolean) {
    const { messages, tools } = conversation;
    const texts = [source, ...messages.map(({ content }) => content ?? "")];
    // what is not text has the character as it is, too, in its JSON
    const others = messages.map(({ extra }) => extra).filter((extra) => extra !== undefined);
    if (tools !== null || others.length > 0) texts.push(JSON.stringify([tools, others]));
    let code = 0xe000;
    while (code < 0xf8ff && texts.some((text) => text.includes(String.fromCharCode(code)))) code++;
    const mark = String.fromCharCode(code);
    this.mark = mark;
    const hide = (text: string): string => {
      let hidden = text;
      // twice: what is left of a broken token may hold a shorter one
      for (let pass = 0; pass < 2 && tokenizer.hasSpecial(hidden); pass++) {
        hidden = tokenizer.replaceSpecial(hidden, (token) => token[0] + mark + token.slice(1));
      }
      return hidden;
    };
    this.conversation = parseSpecial ? conversation : hiddenIn(conversation, hide);
  }

  reveal(text: string): string {
    return text.replaceAll(this.mark, "");
  }

  /** A rendering's text without marks, and its sections: what still looks special in the rendering is. */
  revealed(rendered: string, tokenizer: Tokenizer): { text: string; sections: Section[] } {
    const sections: Section[] = [];
    let begin = 0;
    for (const section of tokenizer.sections(rendered, true)) {
      const text = this.reveal(section.text);
      sections.push({ text, begin, id: section.id });
      begin += text.length;
    }
    return { text: this.reveal(rendered), sections };
  }
}

function hiddenIn({ messages, tools }: Conversation, hide: (text: string) => string): Conversation {
  return {
    messages: messages.map((message): Message => {
      const content = typeof message.content === "string" ? { content: hide(message.content) } : {};
      const { extra } = message;
      return {
        ...message,
        ...content,
        ...(extra === undefined ? {} : { extra: mapTexts(extra, hide) as NonNullable<Message["extra"]> }),
      };
    }),
    tools: tools === null ? null : (mapTexts(tools, hide) as unknown[]),
  };
}

/** A value like JSON with every text in it changed, names of members too. */
function mapTexts(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((member) => mapTexts(member, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [change(name), mapTexts(member, change)]),
  );
}
