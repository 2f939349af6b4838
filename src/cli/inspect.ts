// neftune inspect: the tensors of a file or folder, headers only.

import { describeTensors, type TensorListing } from "../formats/describe.ts";
import { nf4WeightOf } from "../formats/nf4.ts";
import { defineCommand } from "./command.ts";
import { fitTable, formatBytes, formatCount, toJson } from "./terminal/format.ts";
import { folded, shown } from "./terminal/text.ts";

/** Columns of a metadata value; --json has all of it. */
const MOST_OF_VALUE = 400;

export const inspect = defineCommand({
  positionals: {
    usage: "FILE|DIR",
    min: 1,
    max: 1,
    help: "FILE is a .safetensors file; DIR is the folder of a model (one file, or shards with an index) or of a PEFT adapter.",
  },
  description:
    "Shows the name, dtype, shape and size of every tensor, and the metadata. Only headers are read, and checked: an error says what is wrong with a malformed file. An NF4 weight takes one line, with the shape and dtype it had before quantization; --json lists its stored parts and, under nf4, the weight.",
  options: {},
  examples: [
    ["neftune inspect model.safetensors", "lists the tensors of a file"],
    ["neftune inspect runs/llama2-7b-alpaca_data-1 --json", "an adapter's tensors as JSON"],
  ],
  async run(values, context) {
    const listing = describeTensors(context.positionals[0]!);
    if (values.json) {
      context.print(toJson(listing));
      return;
    }
    const { metadata } = listing;
    const tensors = rowsOf(listing);
    const rows = tensors.map(({ name, dtype, shape, bytes }) => [
      name,
      dtype,
      `[${shape.join(", ")}]`,
      formatBytes(bytes),
    ]);
    const elements = tensors.reduce(
      (sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1),
      0,
    );
    const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
    for (const [key, value] of Object.entries(metadata))
      context.print(folded(`${shown(key)}: ${shown(value, MOST_OF_VALUE)}`, context.columns));
    if (rows.length > 0) context.print(fitTable(rows, [3], context.columns));
    context.print(`${tensors.length} tensors, ${formatCount(elements)} values, ${formatBytes(bytes)}`);
  },
});

interface Row {
  name: string;
  dtype: string;
  shape: number[];
  bytes: number;
}

/** The tensors, but for a weight in NF4 one row in place of its parts. */
function rowsOf({ tensors, nf4 = [] }: TensorListing): Row[] {
  const weights = new Map(nf4.map((weight) => [weight.name, weight]));
  return tensors.flatMap((tensor): Row[] => {
    const weight = weights.get(tensor.name);
    if (weight !== undefined) {
      const kind = `NF4${weight.double_quantization ? " double" : ""} of ${weight.dtype.toUpperCase()}`;
      return [{ ...weight, dtype: kind }];
    }
    return weights.has(nf4WeightOf(tensor.name) ?? "") ? [] : [tensor];
  });
}
