// The options of `neftune train`: those of a training run, and --recipe, which stands for several of them.

import { dataOptions } from "../../options/data.ts";
import { inGroup } from "../../options/spec.ts";
import { trainingOptions } from "../../options/table.ts";
import { recipes } from "../../presets/presets.ts";

export const trainOptions = {
  ...dataOptions,
  // Behind the data in --help.
  ...inGroup("Recipe", {
    recipe: {
      type: "enum",
      values: recipes.map(({ name }) => name),
      help: `a paper's settings: ${recipes.map(({ name, title }) => `${name} (${title})`).join("; ")}. Options given on the command line or in the config file win`,
    },
  }),
  ...trainingOptions,
} as const;
