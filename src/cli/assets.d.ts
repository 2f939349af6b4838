// `import table from "….toml"`: parsed when the executable is built.
declare module "*.toml" {
  const table: Record<string, unknown>;
  export default table;
}
