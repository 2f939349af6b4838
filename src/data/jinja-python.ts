// What Jinja means where it is Python's: text methods and operators that the Jinja library takes for JavaScript's.

import type { Environment, Interpreter } from "@huggingface/jinja";

type Value = ReturnType<Interpreter["evaluate"]>;
export type Node = NonNullable<Parameters<Interpreter["evaluate"]>[0]>;
type Evaluate = (node: Node, environment: Environment) => Value;

/** A node whose value is known: what is evaluated already goes back into the library's own evaluation as one. */
export class Evaluated {
  readonly type = "Evaluated";
  readonly value: Value;

  constructor(value: Value) {
    this.value = value;
  }
}

interface Call {
  callee: { type: string; object?: Node; property?: { value: unknown }; value?: unknown; computed?: boolean };
  args: readonly Node[];
}

/** What Python's strip() removes: what str.isspace() is true for. */
const SPACES = new Set(
  "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000",
);
const STRIPPING: Readonly<Record<string, readonly [left: boolean, right: boolean]>> = {
  strip: [true, true],
  lstrip: [true, false],
  rstrip: [false, true],
};

/**
 * What a node means to Python where that differs: its value, or another node to evaluate in its place; null where the
 * library's own evaluation is right. Throws where Python does.
 */
export function pythonMeaning(
  node: Node,
  environment: Environment,
  evaluate: Evaluate,
): { value: Value } | { node: Node } | null {
  if (node.type === "CallExpression") {
    const { callee, args } = node as Node & Call;
    const sides = callee.computed === true ? undefined : STRIPPING[String(callee.property?.value)];
    if (callee.type !== "MemberExpression" || sides === undefined) return null;
    const text = evaluate(callee.object!, environment);
    if (typeof text.value !== "string") return null;
    return { value: stripped(text.value, sides, args, environment, evaluate) };
  }
  if (node.type === "FilterExpression") {
    const { operand, filter } = node as Node & {
      operand: Node;
      filter: Node & Partial<Call> & { value?: unknown };
    };
    if ((filter.callee?.value ?? filter.value) !== "trim") return null;
    const text = evaluate(operand, environment);
    if (typeof text.value === "string") {
      return { value: stripped(text.value, [true, true], filter.args ?? [], environment, evaluate) };
    }
    return { node: { ...node, operand: new Evaluated(text) } as Node };
  }
  if (node.type === "BinaryExpression") return concatenation(node, environment, evaluate);
  return null;
}

function stripped(
  text: string,
  [left, right]: readonly [boolean, boolean],
  args: readonly Node[],
  environment: Environment,
  evaluate: Evaluate,
): Value {
  const chars = args[0] === undefined ? null : evaluate(args[0], environment).value;
  const set = typeof chars === "string" ? new Set(chars) : SPACES;
  const points = Array.from(text);
  let [begin, end] = [0, points.length];
  while (left && begin < end && set.has(points[begin]!)) begin++;
  while (right && end > begin && set.has(points[end - 1]!)) end--;
  return textValue(environment, points.slice(begin, end).join(""));
}

/** `+` joins texts with texts alone, and `~` has no JSON of lists and objects: they would come out as "[object Map]". */
function concatenation(node: Node, environment: Environment, evaluate: Evaluate): { node: Node } | null {
  const { operator, left, right } = node as Node & { operator: { value: string }; left: Node; right: Node };
  if (operator.value !== "+" && operator.value !== "~") return null;
  const values = [evaluate(left, environment), evaluate(right, environment)] as const;
  const isText = ({ value }: Value): boolean => typeof value === "string";
  const other = values.find((value) => !isText(value));
  const isMixed = operator.value === "+" && values.some(isText) && other !== undefined;
  if (isMixed) throw new Error(`cannot add ${kindOf(other)} to a text`);
  if (operator.value === "~" && values.some(({ value }) => typeof value === "object" && value !== null)) {
    throw new Error("cannot join a list or an object with a text; use tojson");
  }
  return { node: { ...node, left: new Evaluated(values[0]), right: new Evaluated(values[1]) } as Node };
}

function kindOf({ type }: Value): string {
  const kinds: Readonly<Record<string, string>> = {
    NullValue: "none",
    UndefinedValue: "an undefined value",
    ObjectValue: "an object",
    ArrayValue: "a list",
  };
  return kinds[type] ?? "a value that is not a text";
}

/** A text as the library holds it. */
function textValue(environment: Environment, text: string): Value {
  const Scope = environment.constructor as new () => Environment;
  return new Scope().set("text", text);
}
