// `import path from "….zst" with { type: "file" }` gives the path of a file that is embedded in the executable.
declare module "*.zst" {
  const path: string;
  export default path;
}
