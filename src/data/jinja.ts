// Jinja templates, run within limits: what a template does is as foreign as the data it renders.

import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { FormatError } from "../errors.ts";
import { Evaluated, type Node, pythonMeaning } from "./jinja-python.ts";

/** Characters of any text that a template makes. */
const MOST_TEXT = 64 << 20;
/** Numbers that range() gives, as Jinja's own sandbox has it, and members of other lists. */
const MOST_RANGE = 100_000;
const MOST_MEMBERS = 1 << 20;
/** Steps between looks at the clock. */
const STEPS = 256;

/** A template went past a limit. */
export class TemplateLimit extends Error {}

/** Functions that templates may call, by name; their arguments are plain values. */
export type TemplateFunctions = Readonly<Record<string, (...args: never[]) => unknown>>;

const constants = { true: true, True: true, false: false, False: false, none: null, None: null };

/** Jinja as Transformers runs it: trim_blocks, lstrip_blocks, raise_exception. */
export class JinjaTemplate {
  readonly #template: Template;

  /** Throws FormatError with `name` where the source is not a template. */
  constructor(source: string, name: string) {
    try {
      // Jinja reads every line end as a line feed
      this.#template = new Template(source.replace(/\r\n?/g, "\n"));
    } catch (error) {
      // the parser runs past its last token, or out of stack
      const reason =
        error instanceof TypeError
          ? "it ends inside {{ … }} or a block that has no end"
          : error instanceof RangeError
            ? "it is nested too deeply"
            : (error as Error).message.replace(/^Parser Error: /, "");
      throw new FormatError(name, `not a Jinja template: ${reason}`, { cause: error });
    }
  }

  /**
   * The text for some variables. Throws TemplateLimit where that takes longer than until `deadline` (as threadTime()
   * counts) or more text than 64 MiB, and whatever the template itself raises.
   */
  render(
    variables: Readonly<Record<string, unknown>>,
    functions: TemplateFunctions,
    deadline: number,
  ): string {
    const environment = new Environment();
    const all = { ...constants, raise_exception: raise, range, ...functions, ...variables };
    for (const [name, value] of Object.entries(all)) environment.set(name, value);
    let rendered: unknown;
    try {
      rendered = new LimitedInterpreter(environment, deadline).run(this.#template.parsed).value;
    } catch (error) {
      // the engine refuses strings of 2 GiB
      if (error instanceof RangeError && /memory|length/i.test(error.message)) throw tooMuchText();
      if (error instanceof RangeError && /call stack/i.test(error.message)) {
        throw new TemplateLimit("calls itself without end, or is nested too deeply");
      }
      throw error;
    }
    if (typeof rendered !== "string") throw new Error("it gives no text");
    return rendered;
  }
}

/** Milliseconds that this thread has computed: a process may be stopped for minutes. */
export function threadTime(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}

class LimitedInterpreter extends Interpreter {
  readonly #deadline: number;
  #steps = 0;

  constructor(environment: Environment, deadline: number) {
    super(environment);
    this.#deadline = deadline;
  }

  override evaluate(...[statement, environment]: Parameters<Interpreter["evaluate"]>) {
    // a loop's turns take no step where it is empty
    const isDue = ++this.#steps % STEPS === 0 || statement?.type === "For";
    if (isDue && threadTime() > this.#deadline) throw new TemplateLimit("takes too long");
    const result = this.#evaluate(statement, environment);
    const { value } = result;
    if (typeof value === "string" && value.length > MOST_TEXT) throw tooMuchText();
    if (Array.isArray(value) && value.length > MOST_MEMBERS) {
      throw new TemplateLimit(`makes a list of more than ${MOST_MEMBERS} members`);
    }
    return result;
  }

  #evaluate(statement: Node | undefined, environment: Environment) {
    if (statement instanceof Evaluated) return statement.value;
    if (statement === undefined) return super.evaluate(statement, environment);
    const meant = pythonMeaning(statement, environment, (node, scope) => this.evaluate(node, scope));
    if (meant === null) return super.evaluate(statement, environment);
    return "value" in meant ? meant.value : super.evaluate(meant.node, environment);
  }
}

function tooMuchText(): TemplateLimit {
  return new TemplateLimit(`makes a text of more than ${MOST_TEXT >> 20} MiB`);
}

function raise(message: unknown): never {
  throw new Error(String(message));
}

/** Python's range. */
function range(...args: number[]): number[] {
  const [start, stop, step = 1] = args.length === 1 ? [0, args[0]!] : (args as [number, number, number?]);
  if (step === 0) throw new Error("range() has a step of 0");
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > MOST_RANGE) throw new TemplateLimit(`has a range() of more than ${MOST_RANGE} numbers`);
  return Array.from({ length }, (_, i) => start + i * step);
}
